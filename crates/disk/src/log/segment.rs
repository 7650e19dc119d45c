//! One file of the log.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use meridian_store::{LogPosition, StoreError};

use crate::file::at;

const SUFFIX: &str = ".seg";
const DIGITS: usize = 16;

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Position of the file's first byte.
    pub(crate) base: u64,
    pub(crate) path: PathBuf,
    file: File,
}

impl Segment {
    /// Opens an existing file.
    pub(crate) fn open(directory: &Path, base: u64) -> Result<Segment, StoreError> {
        Segment::with(directory, base, OpenOptions::new().read(true).write(true))
    }

    /// Creates an empty file; there must not be one.
    pub(crate) fn create(directory: &Path, base: u64) -> Result<Segment, StoreError> {
        Segment::with(directory, base, OpenOptions::new().read(true).write(true).create_new(true))
    }

    /// The position that a file's name says, if it is a segment's name.
    pub(crate) fn base_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(SUFFIX)?;
        let sound = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != DIGITS || !digits.bytes().all(sound) {
            return None;
        }
        u64::from_str_radix(digits, 16).ok()
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn length(&self) -> Result<u64, StoreError> {
        Ok(self.file.metadata().map_err(at("looking at", &self.path))?.len())
    }

    /// Reads exactly `into.len()` bytes from `from` on.
    pub(crate) fn read(&self, from: LogPosition, into: &mut [u8]) -> Result<(), StoreError> {
        self.file.read_exact_at(into, from.0 - self.base).map_err(at("reading", &self.path))
    }

    pub(crate) fn sync_data(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(at("syncing", &self.path))
    }

    pub(crate) fn sync_all(&self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(at("syncing", &self.path))
    }

    /// Cuts the file off at `end`.
    pub(crate) fn truncate(&self, end: LogPosition) -> Result<(), StoreError> {
        self.file.set_len(end.0 - self.base).map_err(at("truncating", &self.path))
    }

    pub(crate) fn corrupt(&self, offset: u64, reason: impl Into<String>) -> StoreError {
        StoreError::Corrupt { file: self.path.display().to_string(), offset, reason: reason.into() }
    }

    /// A segment whose file is another one, to see what happens when that fails.
    #[cfg(test)]
    pub(crate) fn standing_for(path: &Path) -> Segment {
        let file = OpenOptions::new().write(true).open(path).expect("the file is there");
        Segment { base: 0, path: path.into(), file }
    }

    fn with(directory: &Path, base: u64, options: &OpenOptions) -> Result<Segment, StoreError> {
        let path = directory.join(format!("{base:0DIGITS$x}{SUFFIX}"));
        let file = options.open(&path).map_err(at("opening", &path))?;
        Ok(Segment { base, path, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_positions() {
        assert_eq!(Segment::base_of("00000000000a0001.seg"), Some(0xa_0001));
        for other in ["a.seg", "00000000000A0001.seg", "+0000000000a0001.seg", "LOCK"] {
            assert_eq!(Segment::base_of(other), None, "{other}");
        }
    }
}
