//! Making a data directory out of backups.
//!
//! It is built beside the place where it is to be and gets its name last, so that an interrupted
//! restore leaves nothing that a node would start from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use meridian_clock::Time;
use meridian_store::{Cut, CutError, Entries, Identity, LogPosition, Meta, StoreError};
use rustix::fs::FlockOperation;

use super::object::{HashingWriter, Pace, read_checked};
use super::plan::Plan;
use super::repository::{Repository, remove_directory};
use super::storage::{damaged, read_piece};
use crate::directory::Builder;
use crate::file::{at, sync_directory};
use crate::options::DiskOptions;

/// A data directory that was made and has not got its name yet.
#[derive(Debug)]
pub struct Restored {
    /// Where it is.
    pub building: PathBuf,
    /// Log frames that are in it, and frames that were left out.
    pub frames: (u64, u64),
    to: PathBuf,
    _lock: File,
}

/// Builds the directory `to`, which is not there or empty, as `identity`'s.
///
/// # Errors
/// [`StoreError::Refused`] when that may not be, [`StoreError::Corrupt`] when a backup is damaged,
/// [`StoreError::Io`] and [`StoreError::Checkpoint`] when the system refuses.
pub fn restore(
    repository: &Repository,
    plan: &Plan,
    to: &Path,
    identity: &Identity,
    options: DiskOptions,
) -> Result<Restored, StoreError> {
    check_identity(plan, identity)?;
    check_empty(to)?;
    let building = beside(to)?;
    if let Some(parent) = building.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(at("creating", parent))?;
    }
    let lock = lock(&building)?;
    remove_directory(&building)?;
    let position = LogPosition(plan.base.checkpoint.position);
    let builder = Builder::begin(&building, identity, position)?;
    for file in &plan.base.checkpoint.files {
        let from = repository.object_path(&file.object);
        let mut copy = HashingWriter::create(builder.rocks().join(&file.name))?;
        read_checked(&from, &file.object, Pace::UNBOUNDED, |bytes| copy.write(bytes))?;
        copy.finish()?;
    }
    let (checkpoint, mut log) = builder.open(&options)?;
    let meta = match checkpoint.meta()? {
        None => None,
        Some(bytes) => {
            let read = Meta::decode(&bytes);
            Some(read.map_err(|error| StoreError::Checkpoint(error.to_string()))?)
        }
    };
    let owner = plan.base.owner.identity();
    let vectors = match meta {
        Some(meta) if meta.identity == owner && meta.position == position => meta.vectors,
        Some(_) => {
            return Err(StoreError::Refused(format!(
                "the checkpoint of backup {} is not the one that its manifest speaks of",
                plan.base.id
            )));
        }
        None => vec![Default::default(); usize::from(owner.partitions)],
    };
    let mut cut = Cut::new(owner.origin, plan.upto.unwrap_or(Time::MAX), vectors.clone());
    for piece in &plan.log {
        if plan.upto.is_some_and(|upto| Time(piece.first) > upto) {
            cut.skip();
            continue;
        }
        let bytes = read_piece(repository, &piece.object, Pace::UNBOUNDED)?;
        let path = repository.object_path(&piece.object);
        let mut entries = Entries::new(&bytes, LogPosition(piece.from));
        let mut left = Vec::new();
        for entry in entries.by_ref().filter(|entry| entry.start >= position) {
            left.clear();
            let kept = cut.entry(&entry, log.end(), &mut left);
            if kept.map_err(|error| refused(error, &path, entry.start.0 - piece.from))? {
                log.append(&left)?;
            }
        }
        if entries.consumed() < bytes.len() {
            return Err(damaged(&path, entries.consumed()));
        }
    }
    log.finish(&checkpoint, Meta { identity: identity.clone(), position, vectors })?;
    Ok(Restored { building, frames: cut.counts(), to: to.to_owned(), _lock: lock })
}

impl Restored {
    /// Gives the directory its name.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Refused`] when there is something by now.
    pub fn commit(self) -> Result<(), StoreError> {
        check_empty(&self.to)?;
        if self.to.exists() {
            fs::remove_dir(&self.to).map_err(at("replacing", &self.to))?;
        }
        fs::rename(&self.building, &self.to).map_err(at("renaming", &self.building))?;
        sync_directory(parent_of(&self.to))?;
        let path = lock_path(&self.building);
        fs::remove_file(&path).map_err(at("removing", &path))
    }
}

/// Rule R5: what was restored has lost what its old self may have shown to others, so it must not
/// write under the old ordinal again, nor under one that another region has written with.
fn check_identity(plan: &Plan, identity: &Identity) -> Result<(), StoreError> {
    let owner = &plan.base.owner;
    if identity.partitions != owner.partitions {
        return Err(StoreError::Refused(format!(
            "the backup has {} partitions, and that cannot be changed to {}",
            owner.partitions, identity.partitions
        )));
    }
    let same_cluster = identity.cluster == owner.cluster;
    if same_cluster && plan.base.origins().contains(&identity.origin) {
        return Err(StoreError::Refused(format!(
            "ordinal {} has written in cluster {} already; a restored region takes one that was \
             never used, or the whole cluster gets a new name",
            identity.origin, owner.cluster
        )));
    }
    Ok(())
}

fn check_empty(to: &Path) -> Result<(), StoreError> {
    match fs::read_dir(to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("listing", to)(error)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(StoreError::Refused(format!(
                "{} is not empty: set it aside first, it may hold writes that nobody else has",
                to.display()
            ))),
        },
    }
}

fn beside(to: &Path) -> Result<PathBuf, StoreError> {
    let name = to.file_name().ok_or_else(|| {
        StoreError::Refused(format!("{} cannot be the name of a directory", to.display()))
    })?;
    let mut name = name.to_owned();
    name.push(".restoring");
    Ok(to.with_file_name(name))
}

fn lock_path(building: &Path) -> PathBuf {
    building.with_extension("restoring.lock")
}

/// Two restores to one place would remove each other's work.
fn lock(building: &Path) -> Result<File, StoreError> {
    let path = lock_path(building);
    let file = File::create(&path).map_err(at("creating", &path))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let place = building.display();
        StoreError::Refused(format!("another restore is building {place}"))
    })?;
    Ok(file)
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn refused(error: CutError, path: &Path, offset: u64) -> StoreError {
    StoreError::Corrupt { file: path.display().to_string(), offset, reason: error.to_string() }
}
