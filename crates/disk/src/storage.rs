//! All of a directory in one hand, as the core sees it.

use std::path::Path;

use meridian_store::{CheckpointBatch, Identity, LogPosition, Storage, StoreError, Visit};

use crate::directory::{DataDir, Opened};
use crate::options::DiskOptions;

/// A directory's log and checkpoint, used by a single thread.
#[derive(Debug)]
pub struct DiskStorage {
    parts: Opened,
}

impl DiskStorage {
    /// Opens a directory; see [`DataDir::open`].
    ///
    /// # Errors
    /// As [`DataDir::open`].
    pub fn open(
        path: &Path,
        identity: &Identity,
        options: DiskOptions,
    ) -> Result<DiskStorage, StoreError> {
        DataDir::open(path, identity, options).map(DiskStorage::from)
    }

    /// The handles, to be looked at or cloned.
    #[must_use]
    pub fn parts(&self) -> &Opened {
        &self.parts
    }

    /// The handles, for a thread each.
    #[must_use]
    pub fn into_parts(self) -> Opened {
        self.parts
    }
}

impl From<Opened> for DiskStorage {
    fn from(parts: Opened) -> DiskStorage {
        DiskStorage { parts }
    }
}

impl Storage for DiskStorage {
    fn append(&mut self, entry: &[u8]) -> Result<LogPosition, StoreError> {
        self.parts.writer.append(entry)
    }

    fn sync(&mut self) -> Result<LogPosition, StoreError> {
        let durable = self.parts.syncer.sync()?;
        self.parts.syncer.prepare()?;
        Ok(durable)
    }

    fn bounds(&self) -> (LogPosition, LogPosition) {
        self.parts.reader.bounds()
    }

    fn read(&self, from: LogPosition, max_bytes: usize) -> Result<Vec<u8>, StoreError> {
        self.parts.reader.read(from, max_bytes)
    }

    fn release(&mut self, position: LogPosition) -> Result<(), StoreError> {
        self.parts.syncer.release(position)
    }

    fn checkpoint(&mut self, batch: CheckpointBatch) -> Result<(), StoreError> {
        self.parts.checkpoint.write(batch)
    }

    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.parts.checkpoint.meta()
    }

    fn elements(&self, visit: Visit<'_>) -> Result<(), StoreError> {
        self.parts.checkpoint.elements(visit)
    }
}
