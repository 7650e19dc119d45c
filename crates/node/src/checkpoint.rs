//! Writing a checkpoint while commands go on.
//!
//! A run takes a durable stretch of the log, from the last checkpoint's position on, finds out
//! what changed in it, asks the data node for those elements in small portions, and completes
//! with the record that moves the position to the stretch's end (rule R8: the record goes with
//! the last portion). A portion may be written once the log is durable up to where it ended when
//! the portion was read.

use std::collections::btree_map;

use meridian_clock::VersionVector;
use meridian_codec::Malformed;
use meridian_keyspace::{Stage, Touched, TouchedKey, export_element};
use meridian_store::{CheckpointBatch, Entries, LogPosition, Meta, StoreError};

use crate::limits::{EXPORT_KEYS, MAX_TOUCHED_BYTES, SCAN_BYTES};

/// Keys whose elements are to be exported.
pub type Portion = Vec<((u16, Vec<u8>), TouchedKey)>;

/// One checkpoint on its way.
#[derive(Debug)]
pub struct CheckpointRun {
    keys: btree_map::IntoIter<(u16, Vec<u8>), TouchedKey>,
    meta: Meta,
}

impl CheckpointRun {
    /// Plans a run over the log from `last`'s position up to `durable` at most. None when
    /// nothing happened.
    ///
    /// # Errors
    /// What `read` failed with, or a log that does not make sense.
    pub fn plan(
        last: &Meta,
        durable: LogPosition,
        mut read: impl FnMut(LogPosition, usize) -> Result<Vec<u8>, StoreError>,
    ) -> Result<Option<CheckpointRun>, StoreError> {
        let mut touched = Touched::new(last.vectors.clone());
        let mut position = last.position;
        while position < durable && touched.bytes() < MAX_TOUCHED_BYTES {
            let bytes = read(position, SCAN_BYTES)?;
            let before = position;
            for entry in Entries::new(&bytes, position) {
                if entry.end > durable {
                    break;
                }
                touched.add(&entry).map_err(|e| corrupt(position, e))?;
                position = entry.end;
            }
            if position == before {
                break;
            }
        }
        if position == last.position {
            return Ok(None);
        }
        let vectors: Vec<VersionVector> = touched.vectors;
        let meta = Meta { identity: last.identity.clone(), position, vectors };
        Ok(Some(CheckpointRun { keys: touched.keys.into_iter(), meta }))
    }

    /// The next keys to export; empty when all are done.
    pub fn next_portion(&mut self) -> Portion {
        self.next_portion_of(EXPORT_KEYS)
    }

    /// The next keys to export, at most so many; empty when all are done.
    pub fn next_portion_of(&mut self, keys: usize) -> Portion {
        self.keys.by_ref().take(keys).collect()
    }

    /// How many keys are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.keys.len()
    }

    /// The record that completes the run: to be written with the last portion.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
}

/// Reads a portion as it stands now.
#[must_use]
pub fn export(stage: &Stage, portion: &Portion) -> CheckpointBatch {
    let mut batch = CheckpointBatch::default();
    for ((partition, key), touched) in portion {
        let (cleared, puts) = export_element(stage, *partition, key, touched);
        batch.cleared.extend(cleared);
        batch.puts.extend(puts);
    }
    batch
}

/// Reads everything that a slot holds, for a checkpoint that is written anew.
#[must_use]
pub fn export_slot(stage: &Stage, slot: u16) -> CheckpointBatch {
    let mut batch = CheckpointBatch::default();
    let all = TouchedKey { cleared: true, ..TouchedKey::default() };
    for (key, _) in stage.table(slot).iter() {
        let (_, puts) = export_element(stage, stage.partition_of(key), key, &all);
        batch.puts.extend(puts);
    }
    batch
}

fn corrupt(position: LogPosition, reason: Malformed) -> StoreError {
    StoreError::Corrupt { file: "log".into(), offset: position.0, reason: reason.to_string() }
}
