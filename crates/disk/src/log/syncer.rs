//! What is slow: making appended bytes durable, and removing what nobody needs.

use std::fs;
use std::sync::{Arc, PoisonError};

use meridian_store::{LogPosition, StoreError};

use super::{Segment, Shared};
use crate::file::{at, sync_directory};

/// Syncs and releases, beside the writer. Clones share the log.
#[derive(Clone, Debug)]
pub struct LogSyncer {
    shared: Arc<Shared>,
    segment_bytes: u64,
}

impl LogSyncer {
    pub(crate) fn new(shared: Arc<Shared>, segment_bytes: u64) -> LogSyncer {
        LogSyncer { shared, segment_bytes }
    }

    /// Makes everything that was appended before the call survive the machine, and returns how
    /// far the log now does.
    ///
    /// # Errors
    /// [`StoreError::Io`]; every later call fails too, for a sync must not be tried again.
    pub fn sync(&self) -> Result<LogPosition, StoreError> {
        self.shared.check()?;
        // The order matters: the segment that is last now, or one that a rotation synced since,
        // holds everything up to the end that was read before.
        let end = self.shared.end();
        if end > self.shared.durable() {
            let segment = self.shared.last_segment();
            let synced = self.shared.make_durable(&segment, end);
            synced.map_err(|error| self.shared.failed(error))?;
        }
        Ok(self.shared.durable())
    }

    /// Makes the file that the next segment will need, when the last one is half full, and gives
    /// back what the ones before it did not use. To be called after every sync, when the replies
    /// that waited for it are on their way: mostly it does nothing, but now and then it takes
    /// some milliseconds, which the writer would otherwise have to wait for.
    ///
    /// # Errors
    /// [`StoreError::Io`]; every later call of anything on the log fails too.
    pub fn prepare(&self) -> Result<(), StoreError> {
        self.shared.check()?;
        let prepared = self.trim_sealed().and_then(|()| self.make_spare());
        prepared.map_err(|error| self.shared.failed(error))
    }

    /// How far the log survives the machine.
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        self.shared.durable()
    }

    /// Removes the segments that lie wholly below `position`, are durable, and that nobody holds
    /// ([`super::LogReader::hold`]). Readers in the middle of them finish.
    ///
    /// # Errors
    /// [`StoreError::Io`] when a file cannot be removed.
    pub fn release(&self, position: LogPosition) -> Result<(), StoreError> {
        let _in_order = self.shared.releasing.lock().unwrap_or_else(PoisonError::into_inner);
        let position = position.min(self.shared.durable()).min(self.shared.held_from());
        let gone = self.take_below(position);
        if gone.is_empty() {
            return Ok(());
        }
        for segment in gone {
            fs::remove_file(&segment.path).map_err(at("removing", &segment.path))?;
        }
        sync_directory(&self.shared.directory)
    }

    /// Newest first, until one that is done.
    fn trim_sealed(&self) -> Result<(), StoreError> {
        let mut last = self.shared.last_segment();
        while let Some(before) = last.base.checked_sub(1) {
            let Some((sealed, _)) = self.shared.segment_at(LogPosition(before)) else { break };
            if !sealed.trim(LogPosition(last.base))? {
                break;
            }
            last = sealed;
        }
        Ok(())
    }

    fn make_spare(&self) -> Result<(), StoreError> {
        let mut spare = self.shared.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.shared.end().0.saturating_sub(self.shared.last_segment().base);
        if spare.is_none() && used > self.segment_bytes / 2 {
            *spare = Some(Segment::spare(&self.shared.directory, self.segment_bytes)?);
        }
        Ok(())
    }

    fn take_below(&self, position: LogPosition) -> Vec<Arc<Segment>> {
        let mut segments = self.shared.segments_mut();
        let kept = segments.partition_point(|segment| segment.base <= position.0);
        let gone = kept.saturating_sub(1);
        segments.drain(..gone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::DurableMark;
    use crate::lock::DirectoryLock;
    use crate::log::{handles, recover};
    use meridian_store::conformance::entry;
    use std::path::Path;

    #[test]
    fn the_first_failed_sync_is_final() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Arc::new(DirectoryLock::take(directory.path()).unwrap());
        let log = recover(directory.path(), 4096, None, LogPosition(0)).unwrap();
        let mark = DurableMark::open(&directory.path().join("DURABLE")).unwrap();
        let (mut writer, syncer, _) = handles(directory.path().into(), log, 4096, mark, lock);
        let end = writer.append(&entry(&[b"a"], LogPosition(0))).unwrap();
        assert_eq!(syncer.sync().unwrap(), end);

        writer.append(&entry(&[b"b"], end)).unwrap();
        let sound = syncer.shared.segments_mut().pop().unwrap();
        let unsyncable = Segment::standing_for(Path::new("/dev/null"));
        syncer.shared.segments_mut().push(Arc::new(unsyncable));
        assert!(matches!(syncer.sync(), Err(StoreError::Io { .. })), "the disk says no");
        assert_eq!(syncer.durable(), end, "nothing more became durable");

        *syncer.shared.segments_mut() = vec![sound];
        let again = syncer.sync().unwrap_err().to_string();
        assert!(again.contains("earlier"), "{again}");
        assert!(writer.append(&entry(&[b"c"], end)).is_err());
        assert_eq!(syncer.durable(), end);
    }
}
