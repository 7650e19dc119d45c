//! The task that follows Postgres: sessions one after another, until it is stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_cdc::{Batch, Ledger, Position, TableName};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::config::TailerConfig;
use crate::endpoint::Endpoint;
use crate::limits::BACKOFF_MAX_MS;
use crate::status::{State, Status};
use crate::{PostgresError, session};

/// Starts tailers.
#[derive(Debug)]
pub struct Tailer;

/// A running tailer. Dropping it stops the tailer, too.
#[derive(Debug)]
pub struct TailerHandle {
    status: watch::Receiver<Status>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Tailer {
    /// Follows Postgres from `stored`, the position in the mirror (`None`: nothing is stored, copy
    /// everything). Batches go into `batches` in commit order; while that is full the stream waits.
    /// `durable` is the LSN of the newest position that is on disk together with its rows.
    ///
    /// Fails only for a configuration that cannot be used; everything else is retried and shown in
    /// the status. Must be called within a tokio runtime.
    pub fn spawn(
        config: TailerConfig,
        stored: Option<Position>,
        batches: mpsc::Sender<Batch>,
        durable: watch::Receiver<u64>,
    ) -> Result<TailerHandle, PostgresError> {
        config.check()?;
        let endpoints = Endpoint::parse(&config.url, &config.application_name)?;
        let (status_sender, status) = watch::channel(Status::default());
        let (stop, stopped) = watch::channel(false);
        let outlet = Outlet { position: stored, batches, status: status_sender };
        let follower = Follower {
            config,
            endpoints,
            durable,
            outlet,
            given_up: BTreeMap::new(),
            remembered: None,
        };
        let task = tokio::spawn(run(follower, stopped));
        Ok(TailerHandle { status, stop, task })
    }
}

impl TailerHandle {
    /// The status, now and with every change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Stops the tailer and waits until its connections are closed.
    pub async fn stop(self) {
        // An error means that it has ended by itself.
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

/// What lives longer than a session.
pub(crate) struct Follower {
    pub config: TailerConfig,
    pub endpoints: Vec<Endpoint>,
    pub durable: watch::Receiver<u64>,
    pub outlet: Outlet,
    /// Tables that turned out to be impossible; tried again when the process starts anew.
    pub given_up: BTreeMap<TableName, String>,
    /// The ledger, when the publication cannot keep it.
    pub remembered: Option<Ledger>,
}

/// Where batches and news go.
pub(crate) struct Outlet {
    /// Position of the last batch handed on, or the stored one.
    pub position: Option<Position>,
    batches: mpsc::Sender<Batch>,
    status: watch::Sender<Status>,
}

impl Outlet {
    /// Hands on a batch; waits while the receiver is busy.
    pub(crate) async fn send(&mut self, batch: Batch) -> Result<(), PostgresError> {
        let permit = self.reserve().await?;
        self.hand_on(permit, batch);
        Ok(())
    }

    /// Waits for room. Cancel-safe.
    pub(crate) async fn reserve(&self) -> Result<mpsc::OwnedPermit<Batch>, PostgresError> {
        self.batches.clone().reserve_owned().await.map_err(|_| PostgresError::ReceiverGone)
    }

    /// Hands on a batch into that room.
    pub(crate) fn hand_on(&mut self, permit: mpsc::OwnedPermit<Batch>, batch: Batch) {
        self.position = batch.position.or(self.position);
        let (changes, time) = (batch.changes.len() as u64, batch.commit_time_us);
        permit.send(batch);
        self.update(|status| {
            status.handed_on = self.position;
            status.totals.batches += 1;
            status.totals.changes += changes;
            if time > 0 {
                status.last_commit_time_us = time;
            }
        });
    }

    /// Changes the published status.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// Publishes what is being done.
    pub(crate) fn state(&self, state: State) {
        self.update(|status| status.state = state);
    }

    /// Counts a table's copy.
    pub(crate) fn copied(&self, rows: u64) {
        self.update(|status| status.totals.rows_copied += rows);
    }
}

async fn run(mut follower: Follower, mut stop: watch::Receiver<bool>) {
    let mut backoff = Backoff::default();
    loop {
        follower.outlet.state(State::Connecting);
        let sessions = follower.outlet.status.borrow().totals.sessions;
        // The sender's end counts as a stop, too.
        let ended = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            ended = session::run(&mut follower) => ended,
        };
        if follower.outlet.status.borrow().totals.sessions > sessions {
            backoff.reset();
        }
        let Err(error) = ended;
        if matches!(error, PostgresError::ReceiverGone) {
            warn!("the tailer ends: {error}");
            break;
        }
        if matches!(error, PostgresError::TablesChanged) {
            info!("{error}; beginning a new session");
            continue;
        }
        let after_ms = report(&follower.outlet, &error, &mut backoff);
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(Duration::from_millis(after_ms)) => {}
        }
    }
    follower.outlet.state(State::Stopped);
}

/// Publishes why a session ended; gives the pause until the next.
fn report(outlet: &Outlet, error: &PostgresError, backoff: &mut Backoff) -> u64 {
    let text = error.to_string();
    // A lasting trouble is said once, not with every attempt.
    if outlet.status.borrow().last_error.as_ref() != Some(&text) {
        warn!("following postgres: {text}");
    }
    let refused = matches!(error, PostgresError::Refused(_));
    let after_ms = if refused { BACKOFF_MAX_MS } else { backoff.next_ms() };
    outlet.update(|status| {
        status.state = if refused { State::Refused } else { State::Retrying { after_ms } };
        status.last_error = Some(text);
        status.totals.failures += 1;
    });
    after_ms
}
