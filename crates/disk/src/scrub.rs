//! Looking for rot before what has rotted is needed.
//!
//! The disk is what is asked, not the page cache: cached pages of the files are let go of first.
//! The log is read as it is read for peers, entry by entry. Of the checkpoint a link to every file
//! is opened and walked through, so that nothing that the node does meanwhile matters.

use std::path::{Path, PathBuf};

use meridian_store::{LogPosition, StoreError};

use crate::backup::remove_directory;
use crate::checkpoint::Checkpoint;
use crate::file::forget_cached;
use crate::log::LogReader;
use crate::options::COPY_BYTES;

/// Where the checkpoint is linked to while it is looked through, in the data directory.
pub(crate) const SCRUBBED: &str = "scrubbed";

/// Is told how many bytes were read since it was last called; false ends the walk.
pub type Pause<'a> = &'a mut dyn FnMut(u64) -> bool;

/// What can be looked through of a directory that is in use.
#[derive(Clone, Debug)]
pub struct Scrub {
    directory: PathBuf,
    reader: LogReader,
    checkpoint: Checkpoint,
}

impl Scrub {
    /// Of the directory at `directory`.
    #[must_use]
    pub fn new(directory: &Path, reader: LogReader, checkpoint: Checkpoint) -> Scrub {
        Scrub { directory: directory.to_owned(), reader, checkpoint }
    }

    /// Reads the durable log; how many bytes.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the first segment that has rotted and where; what follows in
    /// it was not looked at. [`StoreError::Io`].
    pub fn log(&self, from: LogPosition, pause: Pause<'_>) -> Result<u64, StoreError> {
        let (mut at, end) = (from.max(self.reader.bounds().0), self.reader.durable());
        let mut bytes = 0;
        while at < end {
            self.reader.forget_cached(at);
            let read = match self.reader.read_durable(at, COPY_BYTES) {
                // Released just now.
                Err(StoreError::NotHeld(_)) if at < self.reader.bounds().0 => {
                    at = self.reader.bounds().0;
                    continue;
                }
                read => read?.len() as u64,
            };
            if read == 0 {
                break;
            }
            at.0 += read;
            bytes += read;
            if !pause(read) {
                break;
            }
        }
        Ok(bytes)
    }

    /// Where the log begins.
    #[must_use]
    pub fn log_start(&self) -> LogPosition {
        self.reader.bounds().0
    }

    /// Where the log goes on after the segment that holds `position`; none in the last one.
    #[must_use]
    pub fn next_segment(&self, position: LogPosition) -> Option<LogPosition> {
        self.reader.next_segment(position)
    }

    /// Reads the newest complete checkpoint; how many bytes of elements.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`] names the file as RocksDB does, [`StoreError::Io`].
    pub fn checkpoint(&self, pause: Pause<'_>) -> Result<u64, StoreError> {
        let links = self.directory.join(SCRUBBED);
        remove_directory(&links)?;
        let result = self.walk(&links, pause);
        let removed = remove_directory(&links);
        let bytes = result.map_err(|error| self.by_its_own_name(&links, error))?;
        removed?;
        Ok(bytes)
    }

    fn walk(&self, links: &Path, pause: Pause<'_>) -> Result<u64, StoreError> {
        self.checkpoint.freeze(links)?;
        for (name, _) in Checkpoint::frozen_files(links)? {
            forget_cached(&links.join(name))?;
        }
        let (mut bytes, mut since) = (0, 0);
        let mut goes_on = true;
        let frozen = Checkpoint::open_frozen(links)?;
        let walked = frozen.elements(&mut |key, value| {
            let read = (key.len() + value.len()) as u64;
            bytes += read;
            since += read;
            if since >= COPY_BYTES as u64 {
                goes_on = pause(std::mem::take(&mut since));
            }
            match goes_on {
                true => Ok(()),
                false => Err(StoreError::Refused("ended".to_owned())),
            }
        });
        match walked {
            Err(StoreError::Refused(_)) if !goes_on => Ok(bytes),
            walked => walked.map(|()| bytes),
        }
    }

    /// The links are gone when somebody reads of them.
    fn by_its_own_name(&self, links: &Path, error: StoreError) -> StoreError {
        let rocks = self.checkpoint.path().display().to_string();
        match error {
            StoreError::Checkpoint(text) => {
                StoreError::Checkpoint(text.replace(&links.display().to_string(), &rocks))
            }
            other => other,
        }
    }
}
