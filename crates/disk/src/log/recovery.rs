//! What the next process finds: the segments in order, the last one without a torn tail.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_store::{Entries, LogPosition, ScanEnd, StoreError, scan_entries};

use super::Segment;
use super::segment::SPARE;
use crate::file::{at, preallocate, sync_directory};

/// How the log was found, for the log of events and for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the log begins.
    pub start: LogPosition,
    /// Where it ends; all of it is durable now.
    pub end: LogPosition,
    /// What was cut off behind the end, if anything.
    pub torn: Option<TornTail>,
}

/// Bytes that were never durable and belong to no whole entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file that they were cut off from.
    pub file: PathBuf,
    /// Their offset in it.
    pub offset: u64,
    /// How many there were, up to the last that was not zero.
    pub bytes: u64,
    /// What was wrong with them.
    pub reason: String,
}

/// A log that is ready to be appended to.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) end: LogPosition,
    pub(crate) torn: Option<TornTail>,
}

/// Opens the log in `directory`, or begins one. `position` is where the checkpoint wants it to be
/// replayed from: what lies before is not looked at, what lies after is checked byte by byte.
/// `durable` is what is known from elsewhere to have been on disk.
pub(crate) fn recover(
    directory: &Path,
    segment_bytes: u64,
    position: Option<LogPosition>,
    durable: LogPosition,
) -> Result<Log, StoreError> {
    let mut segments = open_segments(directory)?;
    if segments.is_empty() {
        segments.push(Segment::create(directory, 0)?);
    }
    let from = position.unwrap_or(LogPosition(segments[0].base));
    if from.0 < segments[0].base {
        let begins = segments[0].base;
        let reason = format!("the log begins at {begins}, the checkpoint needs it from {from}");
        return Err(segments[0].corrupt(0, reason));
    }
    for pair in segments.windows(2) {
        check_sealed(&pair[0], &pair[1], from)?;
    }
    let last = segments.last().expect("there is at least the one just made");
    let (end, torn) = mend_last(last, from.max(durable))?;
    preallocate(last.file(), &last.path, segment_bytes)?;
    last.sync_all()?;
    sync_directory(directory)?;
    Ok(Log { segments: segments.into_iter().map(Arc::new).collect(), end, torn })
}

/// Begins a log at a position, in a directory that holds none.
pub(crate) fn begin(directory: &Path, position: LogPosition) -> Result<Log, StoreError> {
    let segment = Segment::create(directory, position.0)?;
    segment.sync_all()?;
    sync_directory(directory)?;
    Ok(Log { segments: vec![Arc::new(segment)], end: position, torn: None })
}

fn open_segments(directory: &Path) -> Result<Vec<Segment>, StoreError> {
    let mut bases = Vec::new();
    for found in fs::read_dir(directory).map_err(at("listing", directory))? {
        let name = found.map_err(at("listing", directory))?.file_name();
        let path = directory.join(&name);
        match name.to_str().and_then(Segment::base_of) {
            Some(base) => bases.push(base),
            // It holds nothing, and need not be of the size that is wanted now.
            None if name == SPARE => fs::remove_file(&path).map_err(at("removing", &path))?,
            None => {
                tracing::warn!(file = %path.display(), "not a segment of the log, left alone");
            }
        }
    }
    bases.sort_unstable();
    bases.into_iter().map(|base| Segment::open(directory, base)).collect()
}

/// A segment with a successor ends where that begins, and from `from` on all of it is sound.
fn check_sealed(segment: &Segment, next: &Segment, from: LogPosition) -> Result<(), StoreError> {
    let (length, data) = (segment.length()?, next.base - segment.base);
    if length < data {
        let reason = format!(
            "the segment is {length} bytes long, but the next one in the directory, {}, begins \
             {data} bytes after its start",
            next.path.display()
        );
        return Err(segment.corrupt(length, reason));
    }
    // A crash came before its end was given back. It is walked from its start, since its length
    // does not say that no segment is missing after it.
    let long = length > data;
    let base = if long { segment.base } else { from.0.clamp(segment.base, next.base) };
    let base = LogPosition(base);
    match scan_entries(&read(segment, base, next.base)?, base, LogPosition(next.base), |_| {}) {
        ScanEnd::Clean if long => segment.truncate(LogPosition(next.base)),
        ScanEnd::Clean => Ok(()),
        ScanEnd::TornTail { offset, reason } | ScanEnd::Corrupt { offset, reason } => {
            let offset = base.0 - segment.base + offset as u64;
            Err(segment.corrupt(offset, reason.to_string()))
        }
    }
}

/// Finds the log's end and cuts off what lies behind it. Walks the segment from its start, so
/// that an end before `known` to be durable is noticed even where the file reads as zeros.
fn mend_last(
    segment: &Segment,
    known: LogPosition,
) -> Result<(LogPosition, Option<TornTail>), StoreError> {
    let base = LogPosition(segment.base);
    let bytes = read(segment, base, segment.base + segment.length()?)?;
    let (offset, durable) = walk(&bytes, base, known);
    let (end, rest) = (LogPosition(base.0 + offset as u64), &bytes[offset..]);
    let Some(last_byte) = rest.iter().rposition(|byte| *byte != 0) else {
        if end < durable {
            let reason = format!("the log ends at {end}, but was durable up to {durable}");
            return Err(segment.corrupt(offset as u64, reason));
        }
        return Ok((end, None));
    };
    let reason = match scan_entries(rest, end, durable, |_| {}) {
        ScanEnd::TornTail { reason, .. } => reason.to_string(),
        ScanEnd::Corrupt { reason, .. } => {
            return Err(segment.corrupt(offset as u64, reason.to_string()));
        }
        ScanEnd::Clean => return Err(segment.corrupt(offset as u64, "changes while it is read")),
    };
    let (file, offset) = (segment.path.clone(), offset as u64);
    let torn = TornTail { file, offset, bytes: last_byte as u64 + 1, reason };
    tracing::warn!(
        file = %torn.file.display(), offset, bytes = torn.bytes, reason = %torn.reason,
        "torn tail of the log cut off"
    );
    // Nothing of it may stay: a later entry could end where a whole one of these begins.
    segment.truncate(end)?;
    Ok((end, Some(torn)))
}

/// Bytes of sound entries, and the largest position that is known to have been durable.
fn walk(bytes: &[u8], base: LogPosition, known: LogPosition) -> (usize, LogPosition) {
    let mut entries = Entries::new(bytes, base);
    let durable = entries.by_ref().map(|entry| entry.durable).max();
    (entries.consumed(), known.max(durable.unwrap_or_default()))
}

fn read(segment: &Segment, from: LogPosition, end: u64) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; end.saturating_sub(from.0) as usize];
    segment.read(from, &mut bytes)?;
    Ok(bytes)
}
