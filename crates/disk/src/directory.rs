//! Opening a directory: who may, whose it is, and what is in it.

mod build;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use meridian_store::{Identity, LogPosition, Meta, StoreError};

use crate::backup::{FROZEN, remove_directory};
use crate::checkpoint::{self, Checkpoint};
use crate::clock_floor::ClockFloor;
use crate::durable::DurableMark;
use crate::file::{at, sync_directory};
use crate::format::{self, FORMAT_FILE_NEW};
use crate::lock::{DirectoryLock, LOCK_FILE};
use crate::log::{self, LOG_GENERATION, LogReader, LogSyncer, LogWriter, Recovered};
use crate::options::{DiskOptions, SEGMENT_BYTES_MIN};
use crate::scrub::SCRUBBED;

pub(crate) use build::Builder;

const LOG: &str = "log";
const ROCKS: &str = "rocks";
/// How far the log is on disk.
const DURABLE: &str = "DURABLE";

/// A node's directory.
#[derive(Debug)]
pub struct DataDir;

/// What an opened directory offers, a handle per thread. It is locked until all are dropped.
#[derive(Debug)]
pub struct Opened {
    /// For the executor.
    pub writer: LogWriter,
    /// For the thread that syncs.
    pub syncer: LogSyncer,
    /// For recovery, and to be cloned for each peer.
    pub reader: LogReader,
    /// For recovery and the flusher.
    pub checkpoint: Checkpoint,
    /// For the thread that reserves time.
    pub clock_floor: ClockFloor,
    /// How the log was found.
    pub recovered: Recovered,
}

impl DataDir {
    /// Keeps everybody else out of a directory, until dropped.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it is in use, [`StoreError::Io`].
    pub fn lock(path: &Path) -> Result<impl Sized + use<>, StoreError> {
        DirectoryLock::take(path)
    }

    /// Whose directory this is.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it is nobody's, [`StoreError::Corrupt`] when that cannot be told
    /// any more, [`StoreError::Io`].
    pub fn identity(path: &Path) -> Result<Identity, StoreError> {
        let found = format::read(path)?.map(|(identity, _)| identity);
        found.ok_or_else(|| {
            StoreError::Refused(format!("{} is no data directory of meridian", path.display()))
        })
    }

    /// Opens the directory of the node that is `identity`, or makes it. The log that is returned
    /// is sound from the checkpoint's position on, and durable.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the directory is in use, somebody else's, or newer than this
    /// version; [`StoreError::Corrupt`] when what was durable is damaged or gone;
    /// [`StoreError::Io`] and [`StoreError::Checkpoint`] when the system refuses.
    pub fn open(
        path: &Path,
        identity: &Identity,
        options: DiskOptions,
    ) -> Result<Opened, StoreError> {
        make_directory(path)?;
        let lock = Arc::new(DirectoryLock::take(path)?);
        match format::read(path)? {
            Some((found, format)) => {
                format::check(path, &found, identity)?;
                format::raise(path, identity, format)?;
            }
            None => {
                refuse_strange_files(path)?;
                format::create(path, identity)?;
            }
        }
        checkpoint::settle(&path.join(ROCKS))?;
        for part in [LOG, ROCKS] {
            make_directory(&path.join(part))?;
        }
        // Left by a backup that did not end; links to tables that would never be let go.
        remove_directory(&path.join(FROZEN))?;
        remove_directory(&path.join(SCRUBBED))?;
        let checkpoint = Checkpoint::open(&path.join(ROCKS), &options, Arc::clone(&lock))?;
        let clock_floor = ClockFloor::open(path, Arc::clone(&lock))?;
        let position = replay_from(path, identity, &checkpoint)?;
        let segment_bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);
        let mark = DurableMark::open(&path.join(DURABLE))?;
        let durable = LogPosition(mark.position(LOG_GENERATION));
        let found = log::recover(&path.join(LOG), segment_bytes, position, durable)?;
        mark.raise(LOG_GENERATION, found.end.0)?;
        let start = LogPosition(found.segments[0].base);
        let recovered = Recovered { start, end: found.end, torn: found.torn.clone() };
        let (writer, syncer, reader) =
            log::handles(path.join(LOG), found, segment_bytes, mark, lock);
        Ok(Opened { writer, syncer, reader, checkpoint, clock_floor, recovered })
    }
}

/// Where the checkpoint wants the log to be replayed from. A record that cannot be understood is
/// left to whoever reads it to judge; all of the log is then checked.
fn replay_from(
    path: &Path,
    identity: &Identity,
    checkpoint: &Checkpoint,
) -> Result<Option<LogPosition>, StoreError> {
    let Some(bytes) = checkpoint.meta()? else { return Ok(None) };
    let Ok(meta) = Meta::decode(&bytes) else { return Ok(None) };
    format::check(path, &meta.identity, identity)?;
    Ok(Some(meta.position))
}

/// Creates a directory that only its owner may look into, and makes it durable.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("creating", path))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// A directory without a `FORMAT` must be empty: a mistyped path must not fill somebody's home.
fn refuse_strange_files(path: &Path) -> Result<(), StoreError> {
    for found in fs::read_dir(path).map_err(at("listing", path))? {
        let name = found.map_err(at("listing", path))?.file_name();
        if name != LOCK_FILE && name != FORMAT_FILE_NEW {
            return Err(StoreError::Refused(format!(
                "{} is not a data directory of meridian, and not empty: it holds {}",
                path.display(),
                name.display()
            )));
        }
    }
    Ok(())
}
