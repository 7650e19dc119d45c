//! A data directory that is made from parts and not yet used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_store::{CheckpointBatch, Identity, LogPosition, Meta, StoreError};

use super::{DURABLE, LOG, ROCKS, make_directory};
use crate::checkpoint::Checkpoint;
use crate::durable::DurableMark;
use crate::file::sync_directory;
use crate::format;
use crate::lock::DirectoryLock;
use crate::log::{self, LOG_GENERATION, LogSyncer, LogWriter};
use crate::options::{DiskOptions, SEGMENT_BYTES_MIN};

/// A directory into which the checkpoint's files may be put.
#[derive(Debug)]
pub(crate) struct Builder {
    path: PathBuf,
    position: LogPosition,
    lock: Arc<DirectoryLock>,
}

/// The log of such a directory, to be appended to.
#[derive(Debug)]
pub(crate) struct LogBuilder {
    path: PathBuf,
    writer: LogWriter,
    syncer: LogSyncer,
}

impl Builder {
    /// Makes the directory of `identity`, with a log that begins at `position`.
    pub fn begin(
        path: &Path,
        identity: &Identity,
        position: LogPosition,
    ) -> Result<Builder, StoreError> {
        make_directory(path)?;
        let lock = Arc::new(DirectoryLock::take(path)?);
        format::create(path, identity)?;
        for part in [LOG, ROCKS] {
            make_directory(&path.join(part))?;
        }
        Ok(Builder { path: path.to_owned(), position, lock })
    }

    /// Where the checkpoint's files belong.
    pub fn rocks(&self) -> PathBuf {
        self.path.join(ROCKS)
    }

    /// Opens the checkpoint and begins the log.
    pub fn open(self, options: &DiskOptions) -> Result<(Checkpoint, LogBuilder), StoreError> {
        let rocks = self.rocks();
        sync_directory(&rocks)?;
        let checkpoint = Checkpoint::open(&rocks, options, Arc::clone(&self.lock))?;
        let segment_bytes = options.segment_bytes.max(SEGMENT_BYTES_MIN);
        let begun = log::begin(&self.path.join(LOG), self.position)?;
        let mark = DurableMark::open(&self.path.join(DURABLE))?;
        mark.raise(LOG_GENERATION, self.position.0)?;
        let (writer, syncer, _) =
            log::handles(self.path.join(LOG), begun, segment_bytes, mark, self.lock);
        Ok((checkpoint, LogBuilder { path: self.path, writer, syncer }))
    }
}

impl LogBuilder {
    /// Where the log ends.
    pub fn end(&self) -> LogPosition {
        self.writer.end()
    }

    /// Appends an entry.
    pub fn append(&mut self, entry: &[u8]) -> Result<(), StoreError> {
        self.writer.append(entry).map(drop)
    }

    /// Makes all of it durable, with the checkpoint's new record.
    pub fn finish(self, checkpoint: &Checkpoint, meta: Meta) -> Result<(), StoreError> {
        self.syncer.sync()?;
        self.syncer.prepare()?;
        let meta = Some(meta.encode());
        checkpoint.write(CheckpointBatch { meta, ..CheckpointBatch::default() })?;
        sync_directory(&self.path.join(ROCKS))?;
        sync_directory(&self.path)
    }
}
