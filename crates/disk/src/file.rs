//! File operations whose errors name the file, and the few that std does not have.

use std::fs::File;
use std::io;
use std::path::Path;

use meridian_store::StoreError;
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

/// `map_err` argument that says what was being done to which file.
pub(crate) fn at(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let what = format!("{doing} {}", path.display());
    move |source| StoreError::Io { what, source }
}

/// Reserves the first `bytes` of a file. The new part reads as zeros. Where the file system
/// cannot reserve, the file only gets that length and appending may find the disk full.
pub(crate) fn preallocate(file: &File, path: &Path, bytes: u64) -> Result<(), StoreError> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let length = file.metadata().map_err(at("looking at", path))?.len();
            file.set_len(length.max(bytes)).map_err(at("extending", path))
        }
        Err(error) => Err(at("reserving disk for", path)(error.into())),
    }
}

/// Lets go of a file's pages in memory, so that the next read asks the disk. What has not been
/// written back stays.
pub(crate) fn forget_cached(path: &Path) -> Result<(), StoreError> {
    let file = File::open(path).map_err(at("opening", path))?;
    forget_cached_of(&file, 0);
    Ok(())
}

/// The same from an offset on. A file system that cannot do it answers from memory.
pub(crate) fn forget_cached_of(file: &File, from: u64) {
    let _ = rustix::fs::fadvise(file, from, None, Advice::DontNeed);
}

/// Makes a directory's entries survive the machine.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at("syncing", path))
}
