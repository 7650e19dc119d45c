//! The thread that makes the log durable: group commit.
//!
//! While one sync is under way the executor goes on appending; the next sync covers all of it.
//! Clients that wait (`appendfsync always`) get a sync as soon as the disk is free; otherwise one
//! every few milliseconds is enough, because peers are fed with durable records only (rule R6).

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use meridian_disk::LogSyncer;
use meridian_keyspace::Durability;
use mio::Waker;

use super::{limits::SYNC_EVERY, shared::Shared};

/// Without anything written the thread looks this often whether to stop.
const PATIENCE: Duration = Duration::from_millis(200);

/// Syncs until the log fails. A failed sync is final: it must never be tried again, since the
/// kernel may have dropped what could not be written.
///
/// # Errors
/// The failed sync; the process must end.
pub fn run(
    syncer: &LogSyncer,
    durability: Durability,
    shared: &Arc<Shared>,
    waker: &Waker,
) -> Result<()> {
    loop {
        shared.wait_for_append(PATIENCE);
        if shared.end() <= syncer.durable() {
            continue;
        }
        let began = Instant::now();
        let durable = syncer.sync().context("syncing the log")?;
        shared.sync_seconds.observe(began.elapsed());
        shared.synced(durable);
        if durability == Durability::Always || shared.check_waits.load(Ordering::Relaxed) {
            waker.wake().context("waking the executor")?;
        }
        syncer.prepare().context("preparing the next log segment")?;
        if durability == Durability::Everysec {
            std::thread::sleep(SYNC_EVERY.saturating_sub(began.elapsed()));
        }
    }
}
