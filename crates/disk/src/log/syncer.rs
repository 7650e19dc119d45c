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
}

impl LogSyncer {
    pub(crate) fn new(shared: Arc<Shared>) -> LogSyncer {
        LogSyncer { shared }
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
            segment.sync_data().map_err(|error| self.shared.failed(error))?;
            self.shared.set_durable(end);
        }
        Ok(self.shared.durable())
    }

    /// How far the log survives the machine.
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        self.shared.durable()
    }

    /// Removes the segments that lie wholly below `position` and are durable. Readers in the
    /// middle of them finish.
    ///
    /// # Errors
    /// [`StoreError::Io`] when a file cannot be removed.
    pub fn release(&self, position: LogPosition) -> Result<(), StoreError> {
        let _in_order = self.shared.releasing.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = self.take_below(position.min(self.shared.durable()));
        if gone.is_empty() {
            return Ok(());
        }
        for segment in gone {
            fs::remove_file(&segment.path).map_err(at("removing", &segment.path))?;
        }
        sync_directory(&self.shared.directory)
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
    use crate::lock::DirectoryLock;
    use crate::log::{handles, recover};
    use meridian_store::conformance::entry;
    use std::path::Path;

    #[test]
    fn the_first_failed_sync_is_final() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Arc::new(DirectoryLock::take(directory.path()).unwrap());
        let log = recover(directory.path(), 4096, None).unwrap();
        let (mut writer, syncer, _) = handles(directory.path().into(), log, 4096, lock);
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
