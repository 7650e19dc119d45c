//! One file of the log.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use meridian_store::{LogPosition, StoreError};

use crate::file::{at, preallocate, sync_directory};

/// Name of the file that waits to become the next segment.
pub(crate) const SPARE: &str = "spare";

const SUFFIX: &str = ".seg";
const DIGITS: usize = 16;

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Position of the file's first byte.
    pub(crate) base: u64,
    pub(crate) path: PathBuf,
    file: File,
    /// Whether its directory entry survives the machine.
    named: AtomicBool,
    /// Whether what it did not use has been given back.
    trimmed: AtomicBool,
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

    /// Makes a file of `bytes` that can become a segment: reserved, durable, not yet named.
    pub(crate) fn spare(directory: &Path, bytes: u64) -> Result<Segment, StoreError> {
        let path = directory.join(SPARE);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&path).map_err(at("creating", &path))?;
        preallocate(&file, &path, bytes)?;
        file.sync_all().map_err(at("syncing", &path))?;
        Ok(Segment::new(u64::MAX, path, file))
    }

    /// Turns a spare file into the segment that begins at `base`.
    pub(crate) fn renamed(self, directory: &Path, base: u64) -> Result<Segment, StoreError> {
        let path = directory.join(name(base));
        fs::rename(&self.path, &path).map_err(at("renaming a spare file to", &path))?;
        Ok(Segment::new(base, path, self.file))
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

    /// Makes the file's directory entry survive the machine, if it does not yet.
    pub(crate) fn sync_name(&self, directory: &Path) -> Result<(), StoreError> {
        if !self.named.load(Ordering::Acquire) {
            sync_directory(directory)?;
            self.named.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Gives back what lies behind `end`, once; whether that was still to be done.
    pub(crate) fn trim(&self, end: LogPosition) -> Result<bool, StoreError> {
        if self.trimmed.load(Ordering::Acquire) {
            return Ok(false);
        }
        self.truncate(end)?;
        self.trimmed.store(true, Ordering::Release);
        Ok(true)
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
        Segment::new(0, path.into(), file)
    }

    fn with(directory: &Path, base: u64, options: &OpenOptions) -> Result<Segment, StoreError> {
        let path = directory.join(name(base));
        let file = options.open(&path).map_err(at("opening", &path))?;
        Ok(Segment::new(base, path, file))
    }

    fn new(base: u64, path: PathBuf, file: File) -> Segment {
        let (named, trimmed) = (AtomicBool::new(false), AtomicBool::new(false));
        Segment { base, path, file, named, trimmed }
    }
}

fn name(base: u64) -> String {
    format!("{base:0DIGITS$x}{SUFFIX}")
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
