//! Taking a backup beside a running node.
//!
//! The order is what makes it consistent. First the checkpoint's files are frozen (hard links):
//! all that they hold is in the durable log. Then the node is asked for a mark: where its log ends,
//! what it has seen, and digests of that state. The backup ends exactly there, so replaying it gives
//! the state of the mark and nothing else, and the digests can be compared.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use meridian_clock::{Time, VersionVector};
use meridian_store::{Entries, Entry, Identity, LogPosition, Meta, StoreError, stamp};

use super::manifest::{Digests, End, Frozen, FrozenFile, Manifest, Object, Owner, Piece};
use super::object::{HashingWriter, Pace, read_through};
use super::repository::{Repository, remove_directory};
use crate::checkpoint::Checkpoint;
use crate::log::LogReader;
use crate::options::{COPY_BYTES, LOG_PIECE_BYTES};

/// Where the frozen checkpoint is kept while it is copied, in the data directory.
pub(crate) const FROZEN: &str = "frozen";

/// What a backup is taken from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The data directory, on whose file system the checkpoint is frozen.
    pub directory: &'a Path,
    /// Whose it is.
    pub identity: &'a Identity,
    /// Its checkpoint.
    pub checkpoint: &'a Checkpoint,
    /// Its log.
    pub reader: &'a LogReader,
}

/// A moment of a node.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Where its log ended; durable.
    pub position: LogPosition,
    /// What each partition had seen.
    pub vectors: Vec<VersionVector>,
    /// Digests of slots, as many as could be told in time.
    pub digests: Digests,
}

/// How far a backup is. Written by the one who takes it, read by others.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that are to be looked at; grows while it is found out.
    pub total: AtomicU64,
    /// Bytes copied.
    pub copied: AtomicU64,
    /// Bytes that an earlier backup held already.
    pub reused: AtomicU64,
}

/// A backup that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// What it holds.
    pub manifest: Manifest,
    /// Bytes that were new.
    pub copied: u64,
    /// Bytes that an earlier backup held already.
    pub reused: u64,
}

/// Takes a backup. `mark` is called once and returns when what it speaks of is durable;
/// `created_ms` is the present time since 1970.
///
/// # Errors
/// What reading the node's directory or writing the backup failed with; what was written of the
/// backup is removed by the next one.
pub fn take(
    repository: &Repository,
    source: Source<'_>,
    mark: impl FnOnce() -> Result<Mark, StoreError>,
    (id, created_ms): (&str, u64),
    pace: Pace,
    progress: &Progress,
) -> Result<Taken, StoreError> {
    let owner = Owner::of(source.identity);
    let earlier = repository.manifests()?;
    let earlier: Vec<Manifest> = earlier.into_iter().filter(|m| m.is_of(&owner)).collect();
    let _held = source.reader.hold(LogPosition(0));
    let frozen = source.directory.join(FROZEN);
    remove_directory(&frozen)?;
    let taking = Taking { repository, source, earlier, pace, progress };
    let result = taking.run(&frozen, mark, owner, id, created_ms);
    remove_directory(&frozen)?;
    let manifest = result?;
    Ok(Taken {
        manifest,
        copied: progress.copied.load(Ordering::Relaxed),
        reused: progress.reused.load(Ordering::Relaxed),
    })
}

struct Taking<'a> {
    repository: &'a Repository,
    source: Source<'a>,
    /// Backups of the same directory, the oldest first.
    earlier: Vec<Manifest>,
    pace: Pace,
    progress: &'a Progress,
}

impl Taking<'_> {
    fn run(
        &self,
        frozen: &Path,
        mark: impl FnOnce() -> Result<Mark, StoreError>,
        owner: Owner,
        id: &str,
        created_ms: u64,
    ) -> Result<Manifest, StoreError> {
        let reader = self.source.reader;
        let meta = self.source.checkpoint.freeze(frozen)?;
        let until = reader.durable();
        let meta = meta.map(|bytes| Meta::decode(&bytes)).transpose();
        let meta = meta.map_err(|error| StoreError::Checkpoint(error.to_string()))?;
        let partitions = usize::from(self.source.identity.partitions);
        let (position, vectors) = match meta {
            Some(meta) => (meta.position, meta.vectors),
            None => (reader.bounds().0, vec![VersionVector::new(); partitions]),
        };
        let mark = mark()?;
        let files = self.files(frozen)?;
        let log = self.log(position, &vectors, until, &mark)?;
        let digests = self.store(&mark.digests.encode())?;
        let manifest = Manifest {
            id: id.to_owned(),
            created_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            owner,
            checkpoint: Frozen {
                position: position.0,
                until: until.0,
                last: log.last.0,
                database: self.source.checkpoint.database(),
                files,
            },
            log: log.pieces,
            end: End {
                position: mark.position.0,
                last: newest(&mark.vectors).0,
                vectors: End::store(&mark.vectors),
                digests: Some(digests),
            },
        };
        self.repository.commit(&manifest)?;
        Ok(manifest)
    }

    fn files(&self, frozen: &Path) -> Result<Vec<FrozenFile>, StoreError> {
        let database = self.source.checkpoint.database();
        let known = |name: &str, bytes: u64| {
            let same = self.earlier.iter().rev().filter(|m| m.checkpoint.database == database);
            let mut files = same.flat_map(|m| &m.checkpoint.files);
            // Only tables: the others are written anew under the same name.
            let found = files.find(|file| {
                name.ends_with(".sst") && file.name == name && file.object.bytes == bytes
            });
            found.map(|file| &file.object).filter(|object| self.repository.holds(object)).cloned()
        };
        let found = Checkpoint::frozen_files(frozen)?;
        let total = found.iter().map(|(_, bytes)| bytes).sum();
        self.progress.total.fetch_add(total, Ordering::Relaxed);
        let mut files = Vec::new();
        for (name, bytes) in found {
            let object = match known(&name, bytes) {
                Some(object) => {
                    self.progress.reused.fetch_add(bytes, Ordering::Relaxed);
                    object
                }
                None => self.copy(&frozen.join(&name))?,
            };
            files.push(FrozenFile { name, object });
        }
        Ok(files)
    }

    fn copy(&self, path: &Path) -> Result<Object, StoreError> {
        let mut writer = self.repository.begin()?;
        read_through(path, self.pace, |bytes| writer.write(bytes))?;
        self.finish(writer)
    }

    fn store(&self, bytes: &[u8]) -> Result<Object, StoreError> {
        let mut writer = self.repository.begin()?;
        writer.write(bytes)?;
        self.progress.total.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.finish(writer)
    }

    fn finish(&self, writer: HashingWriter) -> Result<Object, StoreError> {
        let (object, new) = self.repository.finish(writer)?;
        let count = if new { &self.progress.copied } else { &self.progress.reused };
        count.fetch_add(object.bytes, Ordering::Relaxed);
        Ok(object)
    }

    /// The log from where the last backup ended, or from the checkpoint's position if that lies
    /// before it or there is a gap; behind pieces of earlier backups that lead there.
    fn log(
        &self,
        position: LogPosition,
        vectors: &[VersionVector],
        until: LogPosition,
        mark: &Mark,
    ) -> Result<StoredLog, StoreError> {
        let (start, _) = self.source.reader.bounds();
        let end = mark.position;
        // What was seen never goes back; if it has, this is not the directory that it was.
        let follows = |m: &&Manifest| {
            let before = m.end.vectors();
            m.end.position <= end.0
                && mark.vectors.iter().zip(&before).all(|(now, before)| now.dominates(before))
        };
        let before = self.earlier.last().filter(follows).map(|m| m.end.position);
        let joint = LogPosition(before.unwrap_or(position.0)).max(start);
        let mut walk = Walk { last: newest(vectors), position, until };
        let mut pieces = Vec::new();
        let mut from = joint.min(position);
        if before == Some(joint.0) && position < joint {
            pieces = self.known_pieces(position.0, joint.0);
            if pieces.is_empty() {
                from = position;
            } else {
                // What is there already is read for its stamps only.
                from = joint;
                self.read(position, joint, &mut walk, &mut |_, _, _| Ok(()))?;
            }
        }
        self.progress.total.fetch_add(end.0 - from.0, Ordering::Relaxed);
        let mut writing: Option<(LogPosition, Time, HashingWriter)> = None;
        let mut finish = |writing: Option<(LogPosition, Time, HashingWriter)>| {
            if let Some((from, first, writer)) = writing {
                let to = from.0 + writer.bytes();
                let object = self.finish(writer)?;
                pieces.push(Piece { from: from.0, to, first: first.0, object });
            }
            Ok::<_, StoreError>(())
        };
        self.read(from, end, &mut walk, &mut |at, bytes, first| {
            if writing.as_ref().is_some_and(|(_, _, w)| w.bytes() >= LOG_PIECE_BYTES) {
                finish(writing.take())?;
            }
            let (_, smallest, writer) = match &mut writing {
                Some(writing) => writing,
                None => writing.insert((at, Time::MAX, self.repository.begin()?)),
            };
            *smallest = first.min(*smallest);
            writer.write(bytes)
        })?;
        finish(writing.take())?;
        Ok(StoredLog { pieces, last: walk.last })
    }

    /// Reads entries between two positions and shows each with its smallest last stamp.
    fn read(
        &self,
        from: LogPosition,
        end: LogPosition,
        walk: &mut Walk,
        each: EachEntry<'_>,
    ) -> Result<(), StoreError> {
        let mut at = from;
        while at < end {
            let began = Instant::now();
            let bytes = self.source.reader.read_durable(at, COPY_BYTES)?;
            let before = at;
            for entry in Entries::new(&bytes, before) {
                if entry.end > end {
                    break;
                }
                let first = walk.entry(&entry)?;
                let offset = (entry.start.0 - before.0) as usize;
                let length = (entry.end.0 - entry.start.0) as usize;
                each(entry.start, &bytes[offset..offset + length], first)?;
                at = entry.end;
            }
            if at == before {
                return Err(StoreError::NotHeld(at));
            }
            self.pace.wait((at.0 - before.0) as usize, began);
        }
        Ok(())
    }

    /// Pieces of earlier backups that hold the log between two positions, if they hold all of it.
    fn known_pieces(&self, from: u64, to: u64) -> Vec<Piece> {
        let all: Vec<&Piece> = self.earlier.iter().rev().flat_map(|m| &m.log).collect();
        let (mut at, mut found) = (to, Vec::new());
        while at > from {
            let ends_here = all.iter().find(|piece| {
                piece.to == at && piece.from < at && self.repository.holds(&piece.object)
            });
            let Some(piece) = ends_here else { return Vec::new() };
            found.push((*piece).clone());
            at = piece.from;
        }
        found.reverse();
        for piece in &found {
            self.progress.total.fetch_add(piece.object.bytes, Ordering::Relaxed);
            self.progress.reused.fetch_add(piece.object.bytes, Ordering::Relaxed);
        }
        found
    }
}

/// Is shown an entry: where it begins, its bytes, the smallest last stamp of its frames.
type EachEntry<'a> = &'a mut dyn FnMut(LogPosition, &[u8], Time) -> Result<(), StoreError>;

struct StoredLog {
    pieces: Vec<Piece>,
    /// The largest stamp that the checkpoint can hold.
    last: Time,
}

/// What a walk over the log finds out about it.
struct Walk {
    /// The largest stamp up to `until`.
    last: Time,
    /// The checkpoint's position.
    position: LogPosition,
    until: LogPosition,
}

impl Walk {
    /// The smallest last stamp of an entry's frames.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Time, StoreError> {
        let mut first = Time::MAX;
        for bytes in entry.frames() {
            let last = stamp(bytes).map_err(|reason| StoreError::Corrupt {
                file: "log".to_owned(),
                offset: entry.start.0,
                reason: reason.to_string(),
            })?;
            first = first.min(last);
            if entry.start >= self.position && entry.start < self.until {
                self.last = self.last.max(last);
            }
        }
        Ok(first)
    }
}

fn newest(vectors: &[VersionVector]) -> Time {
    vectors.iter().flat_map(VersionVector::iter).map(|(_, time)| time).max().unwrap_or_default()
}
