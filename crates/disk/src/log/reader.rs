//! Reading beside the writer: recovery, and a cursor per peer.

use std::sync::Arc;

use meridian_store::{Entries, LogPosition, ScanEnd, StoreError, scan_entries};

use super::{Segment, Shared};
use crate::file::forget_cached_of;
use crate::options::READ_BYTES_MIN;

/// Reads what was appended. Clones share the log.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> LogReader {
        LogReader { shared }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where the log begins and ends.
    #[must_use]
    pub fn bounds(&self) -> (LogPosition, LogPosition) {
        let end = self.shared.end();
        (self.shared.start(), end)
    }

    /// How far the log survives the machine.
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        self.shared.durable()
    }

    /// How many files hold the log.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.shared.segments().len()
    }

    /// Whole entries from `from` on, checked: at least one if there is one, else about
    /// `max_bytes`.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`] outside the bounds, [`StoreError::Corrupt`] for a damaged entry.
    pub fn read(&self, from: LogPosition, max_bytes: usize) -> Result<Vec<u8>, StoreError> {
        self.read_below(self.shared.end(), from, max_bytes)
    }

    /// As [`LogReader::read`], but only what survives the machine (rule R6: nothing else is shown
    /// to other regions).
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read_durable(&self, from: LogPosition, max_bytes: usize) -> Result<Vec<u8>, StoreError> {
        self.read_below(self.shared.durable(), from, max_bytes)
    }

    /// Lets go of what is cached of the segment that holds a position, from there on; not of the
    /// last segment, which is in use.
    pub(crate) fn forget_cached(&self, at: LogPosition) {
        if let Some((segment, Some(_))) = self.shared.segment_at(at) {
            forget_cached_of(segment.file(), at.0 - segment.base);
        }
    }

    /// Where the segment after the one that holds a position begins, if there is one.
    #[must_use]
    pub fn next_segment(&self, at: LogPosition) -> Option<LogPosition> {
        self.shared.segment_at(at)?.1
    }

    fn read_below(
        &self,
        end: LogPosition,
        from: LogPosition,
        max_bytes: usize,
    ) -> Result<Vec<u8>, StoreError> {
        if from > end {
            return Err(StoreError::NotHeld(from));
        }
        let mut out = Vec::new();
        loop {
            let at = LogPosition(from.0 + out.len() as u64);
            let Some((segment, next)) = self.shared.segment_at(at) else {
                // Released just now: what was read until here stands.
                return if out.is_empty() { Err(StoreError::NotHeld(from)) } else { Ok(out) };
            };
            let end = next.map_or(end, |next| next.min(end));
            if at >= end || out.len() >= max_bytes {
                return Ok(out);
            }
            read_entries(&segment, at, end, max_bytes, &mut out)?;
        }
    }
}

/// Appends to `out` whole entries of one segment, at least one, until it has about `max_bytes`.
/// `end` is where an entry ends.
fn read_entries(
    segment: &Segment,
    from: LogPosition,
    end: LogPosition,
    max_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), StoreError> {
    let (had, available) = (out.len(), (end.0 - from.0) as usize);
    let wanted = max_bytes - had;
    let mut length = wanted.max(READ_BYTES_MIN).min(available);
    loop {
        out.resize(had + length, 0);
        segment.read(from, &mut out[had..])?;
        let mut entries = Entries::new(&out[had..], from);
        while entries.consumed() < wanted && entries.next().is_some() {}
        let whole = entries.consumed();
        if whole > 0 {
            out.truncate(had + whole);
            return Ok(());
        }
        if length == available {
            return Err(damage(segment, &out[had..], from));
        }
        // The entry is longer than what was read of it.
        length = length.saturating_mul(4).min(available);
    }
}

/// What is wrong at the start of `bytes`, which was durable or at least written whole.
fn damage(segment: &Segment, bytes: &[u8], from: LogPosition) -> StoreError {
    let reason = match scan_entries(bytes, from, LogPosition(u64::MAX), |_| {}) {
        ScanEnd::Corrupt { reason, .. } | ScanEnd::TornTail { reason, .. } => reason.to_string(),
        ScanEnd::Clean => "changed while it was read".to_owned(),
    };
    segment.corrupt(from.0 - segment.base, reason)
}
