//! From a directory to a region: the checkpoint, then the log after it.

use meridian_clock::VersionVector;
use meridian_codec::Malformed;
use meridian_keyspace::{FrameError, Stage, StageConfig};
use meridian_replication::{LogMark, limits::MARK_EVERY_BYTES};
use meridian_store::{
    Entries, Identity, LogPosition, Meta, Storage, StoreError, split_element_key,
};
use thiserror::Error;

use crate::limits::SCAN_BYTES;

/// Why a region cannot start from its directory.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The checkpoint holds what cannot be read.
    #[error("checkpoint: {0}")]
    Malformed(#[from] Malformed),
    /// A log entry does not follow on what is before it.
    #[error("log entry at {position} cannot be replayed: {reason}")]
    Replay {
        /// Where.
        position: LogPosition,
        /// Why.
        reason: FrameError,
    },
    /// The directory is somebody else's.
    #[error("directory belongs to {found}, not to {wanted}")]
    Identity {
        /// What the checkpoint says.
        found: String,
        /// What was configured.
        wanted: String,
    },
}

/// A region as it was.
#[derive(Debug)]
pub struct Recovered {
    /// Its data.
    pub stage: Stage,
    /// Where its log ends.
    pub end: LogPosition,
    /// Where peers can be served from.
    pub marks: Vec<LogMark>,
    /// The checkpoint that it was built on.
    pub meta: Meta,
    /// Elements that came from the checkpoint.
    pub elements: u64,
    /// Log entries that were replayed.
    pub entries: u64,
}

/// Rebuilds a region. What the directory holds beyond the durable end of its log has been cut
/// off by the storage before.
///
/// # Errors
/// [`RecoverError`]; the directory must not be used then.
pub fn recover<S: Storage>(
    storage: &S,
    config: StageConfig,
    identity: &Identity,
) -> Result<Recovered, RecoverError> {
    let mut stage = Stage::new(config);
    let (start, end) = storage.bounds();
    let meta = match storage.meta()? {
        Some(bytes) => Meta::decode(&bytes)?,
        None => Meta {
            identity: identity.clone(),
            position: start,
            vectors: vec![VersionVector::new(); usize::from(identity.partitions)],
        },
    };
    check_identity(&meta.identity, identity)?;
    let mut elements = 0;
    storage.elements(&mut |place, value| {
        let corrupt = |e: Malformed| StoreError::Checkpoint(e.to_string());
        let (_, key, element) = split_element_key(place).map_err(corrupt)?;
        stage.restore(key, element, value).map_err(corrupt)?;
        elements += 1;
        Ok(())
    })?;
    stage.restore_vectors(&meta.vectors);
    let mut marks = Vec::new();
    if start < meta.position {
        // What the log before the checkpoint covers is not known any more: nothing is assumed.
        let vectors = vec![VersionVector::new(); usize::from(identity.partitions)];
        marks.push(LogMark { position: start, vectors });
    }
    marks.push(LogMark { position: meta.position, vectors: meta.vectors.clone() });
    let entries = replay(storage, &mut stage, &mut marks, end)?;
    stage.finish_restore();
    Ok(Recovered { stage, end, marks, meta, elements, entries })
}

fn replay<S: Storage>(
    storage: &S,
    stage: &mut Stage,
    marks: &mut Vec<LogMark>,
    end: LogPosition,
) -> Result<u64, RecoverError> {
    let mut position = marks.last().map_or(LogPosition(0), |m| m.position);
    let (mut entries, mut marked) = (0, position);
    while position < end {
        let bytes = storage.read(position, SCAN_BYTES)?;
        let before = position;
        for entry in Entries::new(&bytes, position) {
            for frame in entry.frames() {
                stage
                    .replay_frame(frame)
                    .map_err(|reason| RecoverError::Replay { position: entry.start, reason })?;
            }
            position = entry.end;
            entries += 1;
        }
        if position == before {
            return Err(StoreError::NotHeld(position).into());
        }
        if position.0 - marked.0 >= MARK_EVERY_BYTES {
            marks.push(LogMark { position, vectors: stage.vectors() });
            marked = position;
        }
    }
    Ok(entries)
}

fn check_identity(found: &Identity, wanted: &Identity) -> Result<(), RecoverError> {
    let tell = |i: &Identity| {
        let (partitions, origin) = (i.partitions, i.origin);
        format!("region {} ({origin}) of cluster {}, {partitions} partitions", i.region, i.cluster)
    };
    if found == wanted {
        return Ok(());
    }
    Err(RecoverError::Identity { found: tell(found), wanted: tell(wanted) })
}
