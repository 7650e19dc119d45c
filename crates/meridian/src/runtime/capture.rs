//! The tailer's task: it follows Postgres while, and only while, this region is the primary one.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use meridian_postgres::{Status, Tailer, TailerConfig};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    inbound::ToExecutor,
    limits::{CONTROL_TICK, MIRROR_BATCHES},
    network::ExecutorHandle,
    shared::Shared,
};

/// Rows of a former primary are taken to be complete when none has come for this long.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// From where to follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// From the stored position.
    Stored,
    /// From a new copy of all tables.
    Anew,
}

/// Why following ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// This region is not primary any more.
    Primary,
    /// A former primary had written rows that were not known here when this region took over.
    /// They are concurrent with what was written here since, so a row that was deleted may have
    /// come back: a new copy, which has seen them, puts everything right.
    Disturbed,
}

/// Where the tailer's newest status is.
pub type SharedStatus = Arc<Mutex<Option<Status>>>;

/// The tailer's parts.
pub struct Capture {
    /// What to follow.
    pub config: TailerConfig,
    /// Where rows go.
    pub executor: ExecutorHandle,
    /// Whether this region is primary.
    pub shared: Arc<Shared>,
    /// What Postgres may forget.
    pub durable: watch::Receiver<u64>,
    /// Published here.
    pub status: SharedStatus,
}

impl Capture {
    /// Runs until the node ends.
    ///
    /// # Errors
    /// When the executor has ended.
    pub async fn run(self) -> Result<()> {
        let mut tick = tokio::time::interval(CONTROL_TICK);
        loop {
            tick.tick().await;
            if self.is_primary() {
                let mut from = Start::Stored;
                while self.follow(from).await? == Ended::Disturbed {
                    from = Start::Anew;
                }
                *self.status.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }

    fn is_primary(&self) -> bool {
        self.shared.primary.load(Ordering::Acquire)
    }

    fn foreign_ops(&self) -> u64 {
        self.shared.foreign_mirror_ops.load(Ordering::Relaxed)
    }

    /// Follows until this region is no longer primary, or rows of a former primary come in.
    async fn follow(&self, from: Start) -> Result<Ended> {
        let stream = self.config.slot.clone();
        let (reply, answer) = oneshot::channel();
        self.executor.send(ToExecutor::BeginMirror(stream.clone(), reply)).await?;
        let stored = answer.await?.filter(|_| from == Start::Stored);
        tracing::info!(?stored, "this region is primary: following Postgres");
        let mut foreign = (self.foreign_ops(), Instant::now());
        let mut disturbed = false;
        let mut ended = Ended::Primary;
        let (batches, mut received) = mpsc::channel(MIRROR_BATCHES);
        let handle = Tailer::spawn(self.config.clone(), stored, batches, self.durable.clone())
            .context("starting the tailer")?;
        let mut status = handle.status();
        let mut tick = tokio::time::interval(CONTROL_TICK);
        while self.is_primary() {
            if self.foreign_ops() != foreign.0 {
                foreign = (self.foreign_ops(), Instant::now());
                disturbed = true;
            }
            if disturbed && foreign.1.elapsed() >= SETTLED_AFTER {
                tracing::info!("rows of a former primary came in: copying all tables again");
                ended = Ended::Disturbed;
                break;
            }
            tokio::select! {
                _ = tick.tick() => {}
                changed = status.changed() => {
                    if changed.is_ok() {
                        let now = status.borrow_and_update().clone();
                        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
                    }
                }
                batch = received.recv() => match batch {
                    None => break,
                    Some(batch) if self.is_primary() => {
                        self.executor.send(ToExecutor::Mirror(stream.clone(), batch)).await?;
                    }
                    Some(_) => break,
                },
            }
        }
        // Whoever is primary now needs the slot.
        drop(received);
        handle.stop().await;
        tracing::info!("stopped following Postgres");
        Ok(ended)
    }
}
