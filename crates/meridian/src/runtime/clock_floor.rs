//! The thread that writes the clock's floor ahead of its use (docs/adr: clock floors). A few bytes
//! and one sync, twice a second; apart from the log's, so that neither waits for the other.

use std::sync::{Arc, atomic::Ordering, mpsc::Receiver};

use anyhow::{Context, Result};
use meridian_clock::Time;
use meridian_disk::ClockFloor;
use mio::Waker;

use super::shared::Shared;

/// Writes what the executor wants reserved, until there is no executor.
///
/// # Errors
/// When the floor cannot be written; the process must end.
pub fn run(
    mut floor: ClockFloor,
    wanted: &Receiver<Time>,
    shared: &Arc<Shared>,
    waker: &Waker,
) -> Result<()> {
    while let Ok(mut upto) = wanted.recv() {
        // Only the newest counts.
        while let Ok(newer) = wanted.try_recv() {
            upto = newer;
        }
        floor.raise(upto).context("writing the clock's floor")?;
        shared.clock_floor.store(floor.floor().0, Ordering::Release);
        waker.wake().context("waking the executor")?;
    }
    Ok(())
}
