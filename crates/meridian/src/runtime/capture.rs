//! The tailer's task: it follows Postgres while, and only while, this region is the primary one.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use anyhow::{Context, Result};
use meridian_postgres::{Status, Tailer, TailerConfig};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    inbound::ToExecutor,
    limits::{CONTROL_TICK, MIRROR_BATCHES},
    network::ExecutorHandle,
    shared::Shared,
};

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
                self.follow().await?;
                *self.status.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }

    fn is_primary(&self) -> bool {
        self.shared.primary.load(Ordering::Acquire)
    }

    /// Follows until this region is no longer primary.
    async fn follow(&self) -> Result<()> {
        let stream = self.config.slot.clone();
        let (reply, answer) = oneshot::channel();
        self.executor.send(ToExecutor::BeginMirror(stream.clone(), reply)).await?;
        let stored = answer.await?;
        tracing::info!(?stored, "this region is primary: following Postgres");
        let (batches, mut received) = mpsc::channel(MIRROR_BATCHES);
        let handle = Tailer::spawn(self.config.clone(), stored, batches, self.durable.clone())
            .context("starting the tailer")?;
        let mut status = handle.status();
        let mut tick = tokio::time::interval(CONTROL_TICK);
        while self.is_primary() {
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
        Ok(())
    }
}
