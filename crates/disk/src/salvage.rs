//! Reading what is readable of a damaged log. Nothing is changed, and nothing is trusted but
//! entries whose checksums are right.

use std::fs;
use std::path::{Path, PathBuf};

use meridian_store::{Entries, Entry, LogPosition, StoreError, next_entry};

use crate::file::at;
use crate::log::Segment;

/// A part of a segment that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Shows every sound entry of the log in a data directory, in order, and returns what lies between
/// them. The directory's node must not run.
///
/// # Errors
/// [`StoreError::Io`] when a file cannot be read at all.
pub fn salvage_log(
    directory: &Path,
    mut visit: impl FnMut(&Entry<'_>),
) -> Result<Vec<Gap>, StoreError> {
    let log = directory.join("log");
    let mut segments = Vec::new();
    for found in fs::read_dir(&log).map_err(at("listing", &log))? {
        let name = found.map_err(at("listing", &log))?.file_name();
        if let Some(base) = name.to_str().and_then(Segment::base_of) {
            segments.push((base, log.join(name)));
        }
    }
    segments.sort();
    let mut gaps = Vec::new();
    for (base, file) in segments {
        let bytes = fs::read(&file).map_err(at("reading", &file))?;
        let mut offset = 0;
        while offset < bytes.len() {
            let rest = &bytes[offset..];
            let mut entries = Entries::new(rest, LogPosition(base + offset as u64));
            entries.by_ref().for_each(|entry| visit(&entry));
            let (bad, rest) = (offset + entries.consumed(), &rest[entries.consumed()..]);
            // What is reserved and not used reads as zeros.
            let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { break };
            let length = next_entry(rest).unwrap_or(last + 1);
            gaps.push(Gap { file: file.clone(), offset: bad as u64, bytes: length as u64 });
            offset = bad + length;
        }
    }
    Ok(gaps)
}
