//! A checkpoint that is written anew beside one whose files have rotted, and takes its place.
//!
//! ```text
//! rocks/ rocks.new/       the new one is being written; a crash leaves the old one
//! rocks.old/ rocks.new/   the new one is whole; a crash leaves the new one
//! rocks.old/ rocks/       the old one is being removed
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use meridian_store::{CheckpointBatch, StoreError};
use rocksdb::DB;

use super::{Checkpoint, open_database, write_batch};
use crate::backup::remove_directory;
use crate::file::{at, sync_directory};

const NEW: &str = "rocks.new";
const OLD: &str = "rocks.old";

/// A checkpoint on its way. Given up when dropped.
#[derive(Debug)]
pub struct FreshCheckpoint {
    db: DB,
    path: PathBuf,
}

impl Checkpoint {
    /// Begins a checkpoint that has nothing of this one.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`], [`StoreError::Io`].
    pub fn begin_fresh(&self) -> Result<FreshCheckpoint, StoreError> {
        let path = beside(&self.inner.path, NEW);
        remove_directory(&path)?;
        let db = open_database(&path, &self.inner.options)?;
        Ok(FreshCheckpoint { db, path })
    }

    /// Completes a fresh checkpoint with its record and puts it in the place of this one, for all
    /// clones.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`], [`StoreError::Io`]: this checkpoint cannot be used any more.
    pub fn adopt(&self, fresh: FreshCheckpoint, meta: Vec<u8>) -> Result<(), StoreError> {
        let batch = CheckpointBatch { meta: Some(meta), ..CheckpointBatch::default() };
        write_batch(&fresh.db, batch)?;
        let FreshCheckpoint { db, path: new } = fresh;
        // RocksDB finds its files by their paths: nobody may have it open while they change.
        drop(db);
        let mut place = self.inner.db_mut();
        *place = None;
        let (rocks, old) = (&self.inner.path, beside(&self.inner.path, OLD));
        let parent = rocks.parent().unwrap_or(Path::new("."));
        sync_directory(&new)?;
        remove_directory(&old)?;
        fs::rename(rocks, &old).map_err(at("setting aside", rocks))?;
        sync_directory(parent)?;
        fs::rename(&new, rocks).map_err(at("renaming", &new))?;
        sync_directory(parent)?;
        *place = Some(open_database(rocks, &self.inner.options)?);
        self.inner.mend();
        drop(place);
        remove_directory(&old)
    }
}

impl FreshCheckpoint {
    /// Writes a part of it.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`].
    pub fn write(&self, batch: CheckpointBatch) -> Result<(), StoreError> {
        write_batch(&self.db, batch)
    }
}

/// Ends what a crash interrupted: afterwards there is one checkpoint in `rocks`, or none.
pub(crate) fn settle(rocks: &Path) -> Result<(), StoreError> {
    let (new, old) = (beside(rocks, NEW), beside(rocks, OLD));
    if !rocks.exists() && old.exists() && new.exists() {
        tracing::warn!(file = %new.display(), "a new checkpoint takes its place after a crash");
        fs::rename(&new, rocks).map_err(at("renaming", &new))?;
        sync_directory(rocks.parent().unwrap_or(Path::new(".")))?;
    }
    remove_directory(&new)?;
    remove_directory(&old)
}

fn beside(rocks: &Path, name: &str) -> PathBuf {
    rocks.with_file_name(name)
}
