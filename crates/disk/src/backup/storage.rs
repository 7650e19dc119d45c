//! A backup as storage that is only read: for the very recovery that a node starts with.

use std::fs;
use std::path::{Path, PathBuf};

use meridian_store::{CheckpointBatch, Entries, LogPosition, Storage, StoreError, Visit};

use super::manifest::{Manifest, Object, Piece};
use super::object::{Pace, read_checked};
use super::repository::{Repository, remove_directory};
use crate::checkpoint::{Checkpoint, FrozenCheckpoint};
use crate::file::at;

/// A backup that is being read back.
#[derive(Debug)]
pub struct BackupStorage<'a> {
    repository: &'a Repository,
    checkpoint: FrozenCheckpoint,
    position: u64,
    end: u64,
    log: Vec<Piece>,
    scratch: PathBuf,
}

impl<'a> BackupStorage<'a> {
    /// Puts a backup's checkpoint together under the names of its files and opens it. Contents are
    /// linked, not copied, where the file system can do that, and never written.
    ///
    /// # Errors
    /// What linking or opening failed with.
    pub fn open(
        repository: &'a Repository,
        manifest: &Manifest,
    ) -> Result<BackupStorage<'a>, StoreError> {
        let scratch = repository.scratch();
        remove_directory(&scratch)?;
        fs::create_dir_all(&scratch).map_err(at("creating", &scratch))?;
        for file in &manifest.checkpoint.files {
            let (from, to) = (repository.object_path(&file.object), scratch.join(&file.name));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).map_err(at("reading", &from))?;
            }
        }
        let checkpoint = Checkpoint::open_frozen(&scratch)?;
        Ok(BackupStorage {
            repository,
            checkpoint,
            position: manifest.checkpoint.position,
            end: manifest.end.position,
            log: manifest.log.clone(),
            scratch,
        })
    }

    /// Puts away what was put together.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn close(self) -> Result<(), StoreError> {
        let scratch = self.scratch.clone();
        drop(self);
        remove_directory(&scratch)
    }
}

/// The bytes of a piece of log.
pub(super) fn read_piece(
    repository: &Repository,
    object: &Object,
    pace: Pace,
) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    let path = repository.object_path(object);
    read_checked(&path, object, pace, |part| {
        bytes.extend_from_slice(part);
        Ok(())
    })?;
    Ok(bytes)
}

/// Refuses what does not come out of whole entries.
pub(super) fn damaged(path: &Path, offset: usize) -> StoreError {
    StoreError::Corrupt {
        file: path.display().to_string(),
        offset: offset as u64,
        reason: "no whole log entry begins here".to_owned(),
    }
}

fn read_only() -> StoreError {
    StoreError::Refused("a backup is only read".to_owned())
}

impl Storage for BackupStorage<'_> {
    fn append(&mut self, _entry: &[u8]) -> Result<LogPosition, StoreError> {
        Err(read_only())
    }

    fn sync(&mut self) -> Result<LogPosition, StoreError> {
        Err(read_only())
    }

    fn bounds(&self) -> (LogPosition, LogPosition) {
        (LogPosition(self.position), LogPosition(self.end))
    }

    /// The rest of the piece that holds the position, however much that is.
    fn read(&self, from: LogPosition, _max_bytes: usize) -> Result<Vec<u8>, StoreError> {
        if from.0 == self.end {
            return Ok(Vec::new());
        }
        let holds = |piece: &&Piece| (piece.from..piece.to).contains(&from.0);
        let piece = self.log.iter().find(holds).ok_or(StoreError::NotHeld(from))?;
        let mut bytes = read_piece(self.repository, &piece.object, Pace::UNBOUNDED)?;
        let path = self.repository.object_path(&piece.object);
        let skipped = (from.0 - piece.from) as usize;
        let rest = bytes.split_off(skipped);
        let mut entries = Entries::new(&rest, from);
        while entries.next().is_some() {}
        match entries.consumed() == rest.len() {
            true => Ok(rest),
            false => Err(damaged(&path, skipped + entries.consumed())),
        }
    }

    fn release(&mut self, _position: LogPosition) -> Result<(), StoreError> {
        Err(read_only())
    }

    fn checkpoint(&mut self, _batch: CheckpointBatch) -> Result<(), StoreError> {
        Err(read_only())
    }

    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.checkpoint.meta()
    }

    fn elements(&self, visit: Visit<'_>) -> Result<(), StoreError> {
        self.checkpoint.elements(visit)
    }
}
