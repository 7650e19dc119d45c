//! The directory of backups: what is in it, and how it changes.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use meridian_store::StoreError;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::manifest::{Digests, Manifest, Object, is_id};
use super::object::{HashingWriter, Pace, read_checked};
use crate::file::{at, sync_directory};
use crate::options::{DIGESTS_BYTES_MAX, MANIFEST_BYTES_MAX, SMALL_FILE_BYTES_MAX};

const MARKER: &str = "BACKUPS";
const MARKER_TEXT: &str = "meridian backups\nformat 1\n";
const LOCK: &str = "LOCK";
const MANIFESTS: &str = "backups";
const OBJECTS: &str = "objects";
const SCRATCH: &str = "scratch";
const SUFFIX: &str = ".backup";
/// Names of objects and manifests that are being written begin so.
const NEW: &str = "new-";

/// An open directory of backups. Locked until dropped: whoever changes it is alone in it.
#[derive(Debug)]
pub struct Repository {
    path: PathBuf,
    _lock: File,
}

/// A backup in the directory.
#[derive(Debug)]
pub struct Listed {
    /// Its identifier.
    pub id: String,
    /// What it says, or why that cannot be read.
    pub manifest: Result<Manifest, StoreError>,
}

/// What pruning removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Backups.
    pub backups: Vec<String>,
    /// Objects that no backup needs any more.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Repository {
    /// Opens a directory to change it, or makes one where there is nothing.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it holds something else or is in use, [`StoreError::Io`].
    pub fn open_or_create(path: &Path) -> Result<Repository, StoreError> {
        fs::create_dir_all(path).map_err(at("creating", path))?;
        if !path.join(MARKER).exists() {
            refuse_strange_files(path)?;
            let marker = path.join(MARKER);
            write_durably(path, &marker, MARKER_TEXT.as_bytes())?;
        }
        Repository::open(path)
    }

    /// Opens a directory to change it.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it is none or in use, [`StoreError::Io`].
    pub fn open(path: &Path) -> Result<Repository, StoreError> {
        let repository = Repository::lock(path, FlockOperation::NonBlockingLockExclusive)?;
        for part in [MANIFESTS, OBJECTS] {
            let part = path.join(part);
            fs::create_dir_all(&part).map_err(at("creating", &part))?;
        }
        repository.clean()?;
        Ok(repository)
    }

    /// All backups in a directory, the oldest first, whoever changes it meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it is no directory of backups, [`StoreError::Io`].
    pub fn list(path: &Path) -> Result<Vec<Listed>, StoreError> {
        check_marker(path)?;
        let lock = path.join(MARKER);
        let unlocked = File::open(&lock).map_err(at("opening", &lock))?;
        Repository { path: path.to_owned(), _lock: unlocked }.backups()
    }

    /// Opens a directory beside others that only read it.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn read(path: &Path) -> Result<Repository, StoreError> {
        Repository::lock(path, FlockOperation::NonBlockingLockShared)
    }

    /// Whether a directory is one of backups.
    #[must_use]
    pub fn is_one(path: &Path) -> bool {
        path.join(MARKER).is_file()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All backups, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be read.
    pub fn backups(&self) -> Result<Vec<Listed>, StoreError> {
        let directory = self.path.join(MANIFESTS);
        let mut found = Vec::new();
        for entry in list(&directory)? {
            let Some(id) = entry.strip_suffix(SUFFIX).filter(|id| is_id(id)) else { continue };
            let manifest = self.manifest(id);
            found.push(Listed { id: id.to_owned(), manifest });
        }
        let when = |listed: &Listed| listed.manifest.as_ref().map_or(0, |m| m.created_ms);
        found.sort_by(|a, b| (when(a), &a.id).cmp(&(when(b), &b.id)));
        Ok(found)
    }

    /// All backups that can be read, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the directory cannot be read.
    pub fn manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        Ok(self.backups()?.into_iter().filter_map(|listed| listed.manifest.ok()).collect())
    }

    /// One backup.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when there is none or it is newer than this version,
    /// [`StoreError::Corrupt`] when it is damaged.
    pub fn manifest(&self, id: &str) -> Result<Manifest, StoreError> {
        let path = self.manifest_path(id);
        let file = match is_id(id).then(|| File::open(&path)) {
            Some(Ok(file)) => file,
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("opening", &path)(error));
            }
            _ => {
                let here = self.path.display();
                return Err(StoreError::Refused(format!("there is no backup {id} in {here}")));
            }
        };
        let mut bytes = Vec::new();
        file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at("reading", &path))?;
        let corrupt = |reason: &str| StoreError::Corrupt {
            file: path.display().to_string(),
            offset: 0,
            reason: reason.to_owned(),
        };
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(corrupt("longer than any manifest"));
        }
        let manifest = Manifest::decode(&bytes, &path)?;
        if manifest.id != id {
            return Err(corrupt("it is the manifest of another backup"));
        }
        Ok(manifest)
    }

    /// Reads an object and compares it with its checksum.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it holds something else, [`StoreError::Io`] when it is gone.
    pub fn check(&self, object: &Object, pace: Pace) -> Result<(), StoreError> {
        read_checked(&self.object_path(object), object, pace, |_| Ok(()))
    }

    /// The digests that were taken with a backup.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when they are damaged, [`StoreError::Io`] when they are gone.
    pub fn digests(&self, manifest: &Manifest) -> Result<Digests, StoreError> {
        let Some(object) = &manifest.end.digests else { return Ok(Digests::default()) };
        let path = self.object_path(object);
        let mut bytes = Vec::new();
        read_checked(&path, object, Pace::UNBOUNDED, |part| {
            bytes.extend_from_slice(part);
            match bytes.len() > DIGESTS_BYTES_MAX {
                true => Err(StoreError::Refused("more digests than slots".to_owned())),
                false => Ok(()),
            }
        })?;
        Digests::decode(&bytes).ok_or_else(|| StoreError::Corrupt {
            file: path.display().to_string(),
            offset: 0,
            reason: "no digests".to_owned(),
        })
    }

    /// Takes a damaged object out of the way, so that the next backup stores it anew.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn set_aside(&self, object: &Object) -> Result<(), StoreError> {
        let path = self.object_path(object);
        match fs::rename(&path, path.with_extension("damaged")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(at("setting aside", &path)),
        }
    }

    /// Removes all but the newest `keep` backups of each region, and what none of the others needs.
    /// Backups that cannot be read count for nothing and are removed too.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a backup that was written by a newer version,
    /// [`StoreError::Io`].
    pub fn prune(&self, keep: usize) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        let mut kept: Vec<Manifest> = Vec::new();
        for listed in self.backups()?.into_iter().rev() {
            match listed.manifest {
                Ok(manifest) => {
                    let newer = kept.iter().filter(|other| other.is_of(&manifest.owner)).count();
                    if newer < keep {
                        kept.push(manifest);
                    } else {
                        pruned.backups.push(listed.id);
                    }
                }
                // What it needs is not known here.
                Err(error @ (StoreError::Refused(_) | StoreError::Io { .. })) => return Err(error),
                Err(_) => pruned.backups.push(listed.id),
            }
        }
        for id in &pruned.backups {
            let path = self.manifest_path(id);
            fs::remove_file(&path).map_err(at("removing", &path))?;
        }
        // Manifests are gone before what they name: no crash leaves one that looks complete.
        sync_directory(&self.path.join(MANIFESTS))?;
        self.sweep(&kept, &mut pruned)?;
        Ok(pruned)
    }

    /// Begins an object.
    pub(super) fn begin(&self) -> Result<HashingWriter, StoreError> {
        let objects = self.path.join(OBJECTS);
        let mut number = 0u32;
        loop {
            let path = objects.join(format!("{NEW}{number}"));
            if !path.exists() {
                return HashingWriter::create(path);
            }
            number += 1;
        }
    }

    /// Gives an object its name. True if it was not there before.
    pub(super) fn finish(&self, writer: HashingWriter) -> Result<(Object, bool), StoreError> {
        let (written, object) = writer.finish()?;
        let path = self.object_path(&object);
        let there = self.check(&object, Pace::UNBOUNDED).is_ok();
        if there {
            fs::remove_file(&written).map_err(at("removing", &written))?;
            return Ok((object, false));
        }
        if let Some(directory) = path.parent()
            && !directory.is_dir()
        {
            fs::create_dir_all(directory).map_err(at("creating", directory))?;
            sync_directory(&self.path.join(OBJECTS))?;
        }
        fs::rename(&written, &path).map_err(at("renaming", &written))?;
        if let Some(directory) = path.parent() {
            sync_directory(directory)?;
        }
        Ok((object, true))
    }

    /// Whether an object of an earlier backup is there, as far as its length tells.
    pub(super) fn holds(&self, object: &Object) -> bool {
        fs::metadata(self.object_path(object)).is_ok_and(|found| found.len() == object.bytes)
    }

    /// Makes a backup exist: everything that it names is on disk.
    pub(super) fn commit(&self, manifest: &Manifest) -> Result<(), StoreError> {
        sync_directory(&self.path.join(OBJECTS))?;
        let path = self.manifest_path(&manifest.id);
        write_durably(&self.path.join(MANIFESTS), &path, &manifest.encode()?)
    }

    /// Where an object is.
    pub(super) fn object_path(&self, object: &Object) -> PathBuf {
        let (head, _) = object.sha256.split_at(2);
        self.path.join(OBJECTS).join(head).join(&object.sha256)
    }

    /// Where a backup may be put together to be read back.
    pub(super) fn scratch(&self) -> PathBuf {
        self.path.join(SCRATCH)
    }

    fn manifest_path(&self, id: &str) -> PathBuf {
        self.path.join(MANIFESTS).join(format!("{id}{SUFFIX}"))
    }

    fn lock(path: &Path, operation: FlockOperation) -> Result<Repository, StoreError> {
        check_marker(path)?;
        let lock = path.join(LOCK);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&lock).map_err(at("opening", &lock))?;
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Repository { path: path.to_owned(), _lock: file }),
            Err(Errno::WOULDBLOCK) => Err(StoreError::Refused(format!(
                "the backups in {} are in use by another process",
                path.display()
            ))),
            Err(error) => Err(at("locking", &lock)(error.into())),
        }
    }

    /// Removes what an interrupted backup or check left.
    fn clean(&self) -> Result<(), StoreError> {
        remove_directory(&self.scratch())?;
        for part in [OBJECTS, MANIFESTS] {
            let directory = self.path.join(part);
            for name in list(&directory)?.iter().filter(|name| name.starts_with(NEW)) {
                let path = directory.join(name);
                fs::remove_file(&path).map_err(at("removing", &path))?;
            }
        }
        Ok(())
    }

    fn sweep(&self, kept: &[Manifest], pruned: &mut Pruned) -> Result<(), StoreError> {
        let needed: BTreeSet<&str> =
            kept.iter().flat_map(Manifest::objects).map(|o| o.sha256.as_str()).collect();
        let objects = self.path.join(OBJECTS);
        for group in list(&objects)? {
            let group = objects.join(group);
            for name in list(&group)? {
                let path = group.join(&name);
                if needed.contains(name.as_str()) {
                    continue;
                }
                let bytes = fs::metadata(&path).map_err(at("looking at", &path))?.len();
                fs::remove_file(&path).map_err(at("removing", &path))?;
                pruned.objects += 1;
                pruned.bytes += bytes;
            }
        }
        Ok(())
    }
}

fn check_marker(path: &Path) -> Result<(), StoreError> {
    let marker = path.join(MARKER);
    let text = File::open(&marker).and_then(|file| {
        let mut text = String::new();
        file.take(SMALL_FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    });
    match text {
        Ok(text) if text == MARKER_TEXT => Ok(()),
        Ok(_) => Err(StoreError::Refused(format!(
            "{} does not say that this is a directory of backups in a format that this version \
             knows",
            marker.display()
        ))),
        Err(_) => {
            let here = path.display();
            Err(StoreError::Refused(format!("{here} is no directory of backups")))
        }
    }
}

/// Names in a directory, in order.
fn list(directory: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(at("listing", directory))? {
        let name = entry.map_err(at("listing", directory))?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes a directory and all in it, if it is there.
pub(crate) fn remove_directory(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(at("removing", path)),
    }
}

/// Writes a small file that is whole or not there.
fn write_durably(directory: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let new = directory.join(format!("{NEW}{}", name.unwrap_or_default()));
    let mut file = File::create(&new).map_err(at("creating", &new))?;
    file.write_all(bytes).map_err(at("writing", &new))?;
    file.sync_all().map_err(at("syncing", &new))?;
    fs::rename(&new, path).map_err(at("renaming", &new))?;
    sync_directory(directory)
}

/// A mistyped path must not fill somebody's home.
fn refuse_strange_files(path: &Path) -> Result<(), StoreError> {
    let strange = list(path)?.into_iter().find(|name| !name.starts_with(NEW));
    strange.map_or(Ok(()), |name| {
        Err(StoreError::Refused(format!(
            "{} is no directory of backups, and not empty: it holds {name}",
            path.display()
        )))
    })
}
