//! The thread that writes checkpoints, so that the log can be cut short and a restart is quick.

use std::{
    sync::{Arc, atomic::Ordering, mpsc::sync_channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use meridian_disk::{Checkpoint, LogReader};
use meridian_node::CheckpointRun;
use meridian_store::{LogPosition, Meta};

use super::{
    inbound::ToExecutor, limits::CHECKPOINT_LOOK, network::ExecutorHandle, shared::Shared,
};

/// A checkpoint is written at least this often while something is written at all.
const AT_LEAST_EVERY: Duration = Duration::from_secs(300);

/// Elements gathered for one batch of RocksDB.
const BATCH_ELEMENTS: usize = 8192;

/// What the checkpointer works with.
pub struct Checkpointer {
    /// Where checkpoints go.
    pub checkpoint: Checkpoint,
    /// The log.
    pub reader: LogReader,
    /// The data.
    pub executor: ExecutorHandle,
    /// Positions.
    pub shared: Arc<Shared>,
    /// The last checkpoint.
    pub last: Meta,
    /// A checkpoint is due when the log has grown by this, in bytes.
    pub trigger: u64,
}

impl Checkpointer {
    /// Runs until the executor ends.
    ///
    /// # Errors
    /// When the checkpoint or the log fails: the process must end.
    pub fn run(mut self) -> Result<()> {
        let mut written = Instant::now();
        loop {
            std::thread::sleep(CHECKPOINT_LOOK);
            let durable = self.reader.durable();
            let grown = durable.0.saturating_sub(self.last.position.0);
            let overdue = grown > 0 && written.elapsed() >= AT_LEAST_EVERY;
            if grown < self.trigger && !overdue {
                continue;
            }
            let began = Instant::now();
            if !self.write(durable)? {
                return Ok(());
            }
            written = Instant::now();
            tracing::info!(position = %self.last.position, took = ?began.elapsed(), "checkpoint");
        }
    }

    /// Writes one; false when the executor has ended.
    fn write(&mut self, durable: LogPosition) -> Result<bool> {
        let reader = &self.reader;
        let plan =
            CheckpointRun::plan(&self.last, durable, |from, max| reader.read_durable(from, max));
        let Some(mut run) = plan.context("reading the log for a checkpoint")? else {
            return Ok(true);
        };
        let mut batch = meridian_store::CheckpointBatch::default();
        loop {
            let portion = run.next_portion();
            let last = portion.is_empty();
            if !last {
                let (reply, answer) = sync_channel(1);
                let sent = self.executor.send_blocking(ToExecutor::Export(portion, reply));
                let Some((part, end)) = sent.ok().and_then(|()| answer.recv().ok()) else {
                    return Ok(false);
                };
                batch.cleared.extend(part.cleared);
                batch.puts.extend(part.puts);
                // Nothing enters the checkpoint that the log could still lose.
                while self.shared.durable() < end {
                    std::thread::yield_now();
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            if last {
                batch.meta = Some(run.meta().encode());
            }
            if last || batch.puts.len() >= BATCH_ELEMENTS {
                let full = std::mem::take(&mut batch);
                self.checkpoint.write(full).context("writing the checkpoint")?;
            }
            if last {
                break;
            }
        }
        self.last = run.meta().clone();
        self.shared.checkpoint.store(self.last.position.0, Ordering::Release);
        self.shared.checkpoints.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}
