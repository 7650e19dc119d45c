//! What the node's threads share: a few positions and counters, and what goes out to peers.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use meridian_clock::VersionVector;
use meridian_node::DataEffect;
use meridian_store::LogPosition;
use tokio::sync::Notify;

/// What the executor tells the network side.
pub enum Outgoing {
    /// An effect of the data node.
    Effect(DataEffect),
    /// The log has grown to this position, with these vectors.
    Mark(LogPosition, Vec<VersionVector>),
}

/// Seen by every thread.
#[derive(Default)]
pub struct Shared {
    appended: AtomicU64,
    durable: AtomicU64,
    /// The sync thread sleeps on this.
    dirty: Mutex<bool>,
    written: Condvar,
    /// Whoever needs the log on disk up to some place sleeps on this.
    syncing: Mutex<()>,
    more_synced: Condvar,
    /// Wakes the shipper when more of the log is durable.
    pub more_durable: Notify,
    /// Whether this region may act as the primary one.
    pub primary: AtomicBool,
    /// This region has what its peers had.
    pub caught_up: AtomicBool,
    /// This region leaves, and every other one durably has all that it has written.
    pub drained: AtomicBool,
    /// The executor's messages that found no room.
    pub outgoing_dropped: AtomicU64,
    /// Batches of peers that the executor did not take in time.
    pub inbound_dropped: AtomicU64,
    /// Commit time of the last mirrored transaction, microseconds since 1970.
    pub last_mirrored_commit_us: AtomicI64,
    /// Operations on mirrored rows that came from other regions.
    pub foreign_mirror_ops: AtomicU64,
    /// How long the executor's turns take.
    pub turn_seconds: Histogram,
    /// How long syncs of the log take.
    pub sync_seconds: Histogram,
    /// Hybrid time up to here is reserved on disk.
    pub clock_floor: AtomicU64,
    /// An end-to-end check waits for the log to be synced.
    pub check_waits: AtomicBool,
    /// Position of the last complete checkpoint.
    pub checkpoint: AtomicU64,
    /// Checkpoints written.
    pub checkpoints: AtomicU64,
    /// The checkpoint or the log after it has rotted: it is to be written anew.
    pub fresh_checkpoint: AtomicBool,
}

impl Shared {
    /// A log that ends at `end`, all of it durable.
    #[must_use]
    pub fn new(end: LogPosition, checkpoint: LogPosition) -> Shared {
        let shared = Shared::default();
        shared.appended.store(end.0, Ordering::Relaxed);
        shared.durable.store(end.0, Ordering::Relaxed);
        shared.checkpoint.store(checkpoint.0, Ordering::Relaxed);
        shared
    }

    /// The log has grown.
    pub fn appended(&self, end: LogPosition) {
        self.appended.store(end.0, Ordering::Release);
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        if !*dirty {
            *dirty = true;
            self.written.notify_one();
        }
    }

    /// Waits until the log has grown since the last call, or `patience` is over.
    pub fn wait_for_append(&self, patience: Duration) {
        let dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.written.wait_timeout_while(dirty, patience, |dirty| !*dirty);
        let (mut dirty, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *dirty = false;
    }

    /// The log's end.
    #[must_use]
    pub fn end(&self) -> LogPosition {
        LogPosition(self.appended.load(Ordering::Acquire))
    }

    /// How far the log is on disk.
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        LogPosition(self.durable.load(Ordering::Acquire))
    }

    /// More of the log is on disk.
    pub fn synced(&self, position: LogPosition) {
        {
            // Under the lock, so that nobody looks before and sleeps after.
            let _guard = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
            self.durable.store(position.0, Ordering::Release);
        }
        self.more_synced.notify_all();
        self.more_durable.notify_one();
    }

    /// Waits until the log is on disk up to `position`, at most for `patience`; whether it is.
    #[must_use]
    pub fn wait_until_durable(&self, position: LogPosition, patience: Duration) -> bool {
        let guard = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_missing = |(): &mut ()| self.durable() < position;
        let waited = self.more_synced.wait_timeout_while(guard, patience, is_missing);
        let (_guard, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }
}

/// Upper bounds of the buckets, in microseconds.
const BOUNDS_US: [u64; 14] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000,
];

/// A histogram of durations that one thread fills and others read.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let us = took.as_micros() as u64;
        let at = BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Upper bounds in seconds with their counts (not cumulative), the last without a bound; and
    /// the sum in seconds.
    #[must_use]
    pub fn read(&self) -> (Vec<(f64, u64)>, f64) {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::MAX]);
        let counts = self.buckets.iter().map(|b| b.load(Ordering::Relaxed));
        (bounds.zip(counts).collect(), self.sum_us.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_the_disk_is_woken_by_the_sync_that_covers_it() {
        let shared = Shared::new(LogPosition(10), LogPosition(0));
        assert!(shared.wait_until_durable(LogPosition(10), Duration::ZERO), "it is there");
        assert!(!shared.wait_until_durable(LogPosition(11), Duration::ZERO));
        let hang = Duration::from_secs(60);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| shared.wait_until_durable(LogPosition(30), hang));
            shared.synced(LogPosition(20));
            shared.synced(LogPosition(30));
            assert!(waiting.join().unwrap());
        });
    }
}
