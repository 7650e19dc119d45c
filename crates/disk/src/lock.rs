//! One process per directory. The lock is an `flock`, so it goes with the process, however that
//! ends; the process id in the file only makes the refusal helpful.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use meridian_store::StoreError;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::file::at;
use crate::options::SMALL_FILE_BYTES_MAX;

/// The file's name.
pub(crate) const LOCK_FILE: &str = "LOCK";

/// The right to use a directory, until dropped.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Locks `directory` or says who holds it.
    pub(crate) fn take(directory: &Path) -> Result<DirectoryLock, StoreError> {
        let path = directory.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(at("opening", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(refusal(directory, &file)),
            Err(error) => return Err(at("locking", &path)(error.into())),
        }
        file.set_len(0).map_err(at("writing", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(at("writing", &path))?;
        Ok(DirectoryLock { file })
    }
}

impl Drop for DirectoryLock {
    /// Closing the file would do, but for a child of this process that has been forked and not yet
    /// become another program: it still has the file open, and with it the lock.
    fn drop(&mut self) {
        // What fails here is released by the end of the process at the latest.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

fn refusal(directory: &Path, file: &File) -> StoreError {
    let mut text = String::new();
    let read = file.take(SMALL_FILE_BYTES_MAX).read_to_string(&mut text);
    let holder = match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    };
    StoreError::Refused(format!("data directory {} is in use by {holder}", directory.display()))
}
