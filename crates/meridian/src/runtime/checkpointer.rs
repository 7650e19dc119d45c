//! The thread that writes checkpoints, so that the log can be cut short and a restart is quick.

use std::{
    sync::{Arc, atomic::Ordering, mpsc::sync_channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use meridian_disk::{Checkpoint, LogReader};
use meridian_keyspace::SLOTS;
use meridian_node::CheckpointRun;
use meridian_store::{CheckpointBatch, LogPosition, Meta, StoreError};

use super::{
    disk_check::DiskBoard, inbound::ToExecutor, limits::CHECKPOINT_LOOK, network::ExecutorHandle,
    shared::Shared,
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
    /// Told when a checkpoint was written anew.
    pub board: Arc<DiskBoard>,
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
            if self.shared.fresh_checkpoint.swap(false, Ordering::AcqRel) {
                if !self.write_anew()? {
                    return Ok(());
                }
                written = Instant::now();
                continue;
            }
            let durable = self.reader.durable();
            let grown = durable.0.saturating_sub(self.last.position.0);
            let overdue = grown > 0 && written.elapsed() >= AT_LEAST_EVERY;
            if grown < self.trigger && !overdue {
                continue;
            }
            let began = Instant::now();
            match self.write(durable) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if is_rot(&error) => {
                    tracing::error!(error = %format!("{error:#}"), "no checkpoint");
                    self.shared.fresh_checkpoint.store(true, Ordering::Release);
                    continue;
                }
                Err(error) => return Err(error),
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
                self.wait_until_durable(end);
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
        self.complete(run.meta().clone());
        Ok(true)
    }

    /// Writes everything that is in memory beside the old checkpoint and puts it in its place:
    /// nothing of the old one is read. False when the executor has ended.
    fn write_anew(&mut self) -> Result<bool> {
        let began = Instant::now();
        let fresh = self.checkpoint.begin_fresh().context("beginning a new checkpoint")?;
        let (reply, answer) = sync_channel(1);
        let asked = self.executor.send_blocking(ToExecutor::Mark(reply));
        let Some(mark) = asked.ok().and_then(|()| answer.recv().ok()) else { return Ok(false) };
        for slot in 0..SLOTS {
            let (reply, answer) = sync_channel(1);
            let asked = self.executor.send_blocking(ToExecutor::ExportSlot(slot, reply));
            let Some((part, end)) = asked.ok().and_then(|()| answer.recv().ok()) else {
                return Ok(false);
            };
            if part != CheckpointBatch::default() {
                self.wait_until_durable(end);
                fresh.write(part).context("writing a new checkpoint")?;
            }
        }
        self.wait_until_durable(mark.position);
        let (identity, position) = (self.last.identity.clone(), mark.position);
        let meta = Meta { identity, position, vectors: mark.vectors };
        self.checkpoint.adopt(fresh, meta.encode()).context("completing a new checkpoint")?;
        self.complete(meta);
        self.board.rewritten();
        tracing::warn!(position = %self.last.position, took = ?began.elapsed(), "checkpoint written anew");
        Ok(true)
    }

    /// Nothing enters the checkpoint that the log could still lose.
    fn wait_until_durable(&self, end: LogPosition) {
        // A sync that fails ends the process.
        while !self.shared.wait_until_durable(end, CHECKPOINT_LOOK) {}
    }

    fn complete(&mut self, meta: Meta) {
        self.last = meta;
        self.shared.checkpoint.store(self.last.position.0, Ordering::Release);
        self.shared.checkpoints.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether it is the files that are bad. Memory is good then, and the checkpoint can be written
/// anew; if the disk does not even take that, the node ends.
fn is_rot(error: &anyhow::Error) -> bool {
    let rotten = |cause: &StoreError| {
        matches!(cause, StoreError::Corrupt { .. } | StoreError::Checkpoint(_))
    };
    error.chain().filter_map(|cause| cause.downcast_ref()).any(rotten)
}
