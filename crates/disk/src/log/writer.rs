//! Appending: one `pwrite` a call, on the executor's thread.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meridian_store::{ENTRY_HEADER_BYTES, LogPosition, MAX_ENTRY_BYTES, StoreError};

use super::{Segment, Shared};
use crate::file::{at, preallocate};

/// The one that appends to a log.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    /// The last segment.
    segment: Arc<Segment>,
    /// The log's end, as published.
    end: LogPosition,
    segment_bytes: u64,
}

impl LogWriter {
    pub(crate) fn new(shared: Arc<Shared>, segment_bytes: u64) -> LogWriter {
        let (segment, end) = (shared.last_segment(), shared.end());
        LogWriter { shared, segment, end, segment_bytes }
    }

    /// Appends one entry (`meridian_store::encode_entry`) and returns the log's new end. Survives
    /// this process at once, the machine after the next [`super::LogSyncer::sync`].
    ///
    /// # Errors
    /// [`StoreError::Io`]; every later call fails too.
    pub fn append(&mut self, entry: &[u8]) -> Result<LogPosition, StoreError> {
        self.shared.check()?;
        if !(ENTRY_HEADER_BYTES..=MAX_ENTRY_BYTES).contains(&entry.len()) {
            let what = format!("appending an entry of {} bytes to the log", entry.len());
            return Err(StoreError::Io { what, source: std::io::ErrorKind::InvalidInput.into() });
        }
        self.write(entry).map_err(|error| self.shared.failed(error))
    }

    /// The log's end.
    #[must_use]
    pub fn end(&self) -> LogPosition {
        self.end
    }

    fn write(&mut self, entry: &[u8]) -> Result<LogPosition, StoreError> {
        let length = entry.len() as u64;
        let used = self.end.0 - self.segment.base;
        if used > 0 && used + length > self.segment_bytes {
            self.rotate(length)?;
        }
        let segment = &self.segment;
        let offset = self.end.0 - segment.base;
        segment.file().write_all_at(entry, offset).map_err(at("writing", &segment.path))?;
        self.end.0 += length;
        self.shared.end.store(self.end.0, Ordering::Release);
        Ok(self.end)
    }

    /// Ends the segment and begins the next one, which has room for `length` bytes at least.
    fn rotate(&mut self, length: u64) -> Result<(), StoreError> {
        self.shared.make_durable(&self.segment, self.end)?;
        let next = Arc::new(self.next_segment(length)?);
        self.shared.segments_mut().push(Arc::clone(&next));
        self.segment = next;
        Ok(())
    }

    fn next_segment(&self, length: u64) -> Result<Segment, StoreError> {
        let directory = &self.shared.directory;
        // Not worth waiting for one that is just being made. Locked until it has its new name:
        // the next spare is made under the old one.
        let mut locked = self.shared.spare.try_lock().ok();
        let spare = locked.as_mut().and_then(|spare| spare.take());
        let reserved = spare.is_some();
        let next = match spare {
            Some(spare) => spare.renamed(directory, self.end.0)?,
            None => Segment::create(directory, self.end.0)?,
        };
        if !reserved || length > self.segment_bytes {
            preallocate(next.file(), &next.path, self.segment_bytes.max(length))?;
        }
        Ok(next)
    }
}
