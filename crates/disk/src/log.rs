//! The log in files. One writer appends, others sync, read and release beside it; what they share
//! is here.
//!
//! Segments are reserved in full when they begin, because syncing into reserved space is cheaper
//! than growing a file. So a segment is longer than its data: where no entry begins and only
//! zeros follow, it simply ends. It is synced before the next one begins, so only the last one
//! can have a torn tail; what it did not use is given back a little later.
//!
//! The writer never waits for a new file to be made: the syncer keeps a spare one ready, and
//! beginning a segment is a rename.

mod hold;
mod reader;
mod recovery;
mod segment;
mod syncer;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use meridian_store::{LogPosition, StoreError};

use crate::durable::DurableMark;
use crate::lock::DirectoryLock;
pub use hold::LogHold;
pub use reader::LogReader;
pub use recovery::{Recovered, TornTail};
pub(crate) use recovery::{begin, recover};
pub(crate) use segment::Segment;
pub use syncer::LogSyncer;
pub use writer::LogWriter;

/// Positions in the log only grow, so there is one generation of them.
pub(crate) const LOG_GENERATION: u64 = 0;

/// What writer, syncers and readers of one log share.
#[derive(Debug)]
pub(crate) struct Shared {
    directory: PathBuf,
    /// End of what was appended. Bytes below it are in the segments' files.
    end: AtomicU64,
    /// End of what survives the machine; never beyond `end`.
    durable: AtomicU64,
    /// Set by the first write or sync that failed; never unset.
    failed: AtomicBool,
    /// In order, without gaps, never empty. The last one is being appended to.
    segments: RwLock<Vec<Arc<Segment>>>,
    /// Reserved for the next segment, if it has been made. Held while it is being made.
    spare: Mutex<Option<Segment>>,
    /// Held while files are removed, so that they go in order.
    releasing: Mutex<()>,
    /// From where on the log must stay, whoever releases it; by the number of the hold.
    holds: Mutex<BTreeMap<u64, LogPosition>>,
    /// Says after a crash what was durable.
    mark: DurableMark,
    _lock: Arc<DirectoryLock>,
}

/// The handles of a log that recovery found sound.
pub(crate) fn handles(
    directory: PathBuf,
    recovered: recovery::Log,
    segment_bytes: u64,
    mark: DurableMark,
    lock: Arc<DirectoryLock>,
) -> (LogWriter, LogSyncer, LogReader) {
    let end = recovered.end.0;
    let shared = Arc::new(Shared {
        directory,
        end: AtomicU64::new(end),
        durable: AtomicU64::new(end),
        failed: AtomicBool::new(false),
        segments: RwLock::new(recovered.segments),
        spare: Mutex::new(None),
        releasing: Mutex::new(()),
        holds: Mutex::new(BTreeMap::new()),
        mark,
        _lock: lock,
    });
    let writer = LogWriter::new(Arc::clone(&shared), segment_bytes);
    (writer, LogSyncer::new(Arc::clone(&shared), segment_bytes), LogReader::new(shared))
}

impl Shared {
    fn end(&self) -> LogPosition {
        LogPosition(self.end.load(Ordering::Acquire))
    }

    fn durable(&self) -> LogPosition {
        LogPosition(self.durable.load(Ordering::Acquire))
    }

    /// Makes the log durable up to `end`, which lies in `segment` or where that begins. What lies
    /// in the segments before it must be durable.
    fn make_durable(&self, segment: &Segment, end: LogPosition) -> Result<(), StoreError> {
        segment.sync_data()?;
        segment.sync_name(&self.directory)?;
        // A slower thread may come here after a faster one.
        self.durable.fetch_max(end.0, Ordering::AcqRel);
        self.mark.raise(LOG_GENERATION, end.0)
    }

    fn start(&self) -> LogPosition {
        LogPosition(self.segments().first().map_or(0, |segment| segment.base))
    }

    fn segments(&self) -> RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments_mut(&self) -> RwLockWriteGuard<'_, Vec<Arc<Segment>>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The segment that is being appended to.
    fn last_segment(&self) -> Arc<Segment> {
        let segments = self.segments();
        Arc::clone(segments.last().expect("a log has a segment from the start"))
    }

    /// The segment that holds `position`, and where the one after it begins.
    fn segment_at(&self, position: LogPosition) -> Option<(Arc<Segment>, Option<LogPosition>)> {
        let segments = self.segments();
        let after = segments.partition_point(|segment| segment.base <= position.0);
        let segment = Arc::clone(segments.get(after.checked_sub(1)?)?);
        Some((segment, segments.get(after).map(|next| LogPosition(next.base))))
    }

    /// An error if something failed before: after a failed write or sync nobody knows what is on
    /// the disk, and a sync that is tried again may claim success for pages that were dropped.
    fn check(&self) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) {
            let what = format!("using the log in {}", self.directory.display());
            let source = std::io::Error::other("an earlier write or sync failed");
            return Err(StoreError::Io { what, source });
        }
        Ok(())
    }

    /// Remembers a failure for good.
    fn failed(&self, error: StoreError) -> StoreError {
        self.failed.store(true, Ordering::Release);
        error
    }
}
