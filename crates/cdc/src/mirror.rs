//! The mirror as a plain map: the meaning of a batch, to test real stores and the capture against.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::{Batch, Change, Position, Retain, Upsert, prefix_end};

/// All mirrored rows and the position that belongs to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// Mirror key to field to value.
    pub rows: BTreeMap<Bytes, BTreeMap<Bytes, Bytes>>,
    /// How far the rows have come.
    pub position: Option<Position>,
}

impl Mirror {
    /// Applies a batch, rows and position together.
    pub fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                Change::Upsert(row) => self.upsert(row),
                Change::Delete { key } => {
                    self.rows.remove(key);
                }
                Change::Truncate { prefix } => {
                    let retain =
                        Retain { from: prefix.clone(), to: prefix_end(prefix), keys: vec![] };
                    self.retain(&retain);
                }
                Change::Retain(retain) => self.retain(retain),
            }
        }
        if let Some(position) = batch.position {
            self.position = Some(position);
        }
    }

    fn upsert(&mut self, row: &Upsert) {
        let fields = self.rows.entry(row.key.clone()).or_default();
        fields.retain(|name, _| row.keep.contains(name));
        fields.extend(row.set.iter().cloned());
    }

    fn retain(&mut self, retain: &Retain) {
        let range = (Bound::Included(&retain.from[..]), Bound::Excluded(&retain.to[..]));
        if retain.from >= retain.to {
            return;
        }
        let gone: Vec<Bytes> = self
            .rows
            .range::<[u8], _>(range)
            .filter(|(key, _)| retain.drops(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.rows.remove(&key);
        }
    }
}
