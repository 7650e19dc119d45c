//! The tailer's batches: rows of Postgres, and the position that is stored with them.

use meridian_cdc::{Batch as CdcBatch, Change, Position};
use meridian_codec::Reader;
use meridian_keyspace::MirrorChange;

use super::{DataNode, StreamPosition};

impl DataNode {
    /// Applies a batch of the tailer. Commit afterwards; the position is durable with the rows.
    pub fn mirror(&mut self, stream: &str, batch: &CdcBatch) {
        let filter = self.filter_mirror;
        self.filter_mirror &= batch.position.is_some();
        let changes: Vec<MirrorChange> = batch.changes.iter().map(convert).collect();
        let position = batch.position.as_ref().map(encode_position);
        let applies = |stored: Option<&[u8]>| match (stored, &batch.position) {
            (Some(stored), Some(new)) if filter => is_news(stored, new),
            _ => true,
        };
        self.engine.stage_mut().mirror(stream, position.as_deref(), &changes, applies);
    }

    /// Where a tailer must go on: the earliest position of all partitions. Begins a new filter.
    pub fn begin_mirror(&mut self, stream: &str) -> StreamPosition {
        self.filter_mirror = true;
        let stage = self.engine.stage();
        let stored = (0..stage.partitions()).map(|p| stage.mirror_position(p, stream));
        let positions: Option<Vec<Position>> =
            stored.map(|bytes| bytes.as_deref().and_then(decode_position)).collect();
        positions?.into_iter().min_by_key(|p| (p.timeline, p.lsn))
    }
}

fn convert(change: &Change) -> MirrorChange {
    match change {
        Change::Upsert(row) => MirrorChange::Upsert {
            key: row.key.to_vec(),
            set: row.set.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
            keep: row.keep.iter().map(|n| n.to_vec()).collect(),
        },
        Change::Delete { key } => MirrorChange::Delete { key: key.to_vec() },
        Change::Truncate { prefix } => MirrorChange::Truncate { prefix: prefix.to_vec() },
        Change::Retain(retain) => MirrorChange::Retain {
            from: retain.from.to_vec(),
            to: retain.to.to_vec(),
            keys: retain.keys.iter().map(|k| k.to_vec()).collect(),
        },
    }
}

fn encode_position(position: &Position) -> Vec<u8> {
    let mut out = position.system_id.to_le_bytes().to_vec();
    out.extend_from_slice(&position.timeline.to_le_bytes());
    out.extend_from_slice(&position.lsn.to_le_bytes());
    out
}

fn decode_position(bytes: &[u8]) -> Option<Position> {
    let mut reader = Reader::new(bytes);
    let (system_id, timeline) = (reader.u64().ok()?, reader.u32().ok()?);
    Some(Position { system_id, timeline, lsn: reader.u64().ok()? })
}

/// Whether a position lies beyond the stored one in the same history.
fn is_news(stored: &[u8], new: &Position) -> bool {
    decode_position(stored).is_none_or(|stored| {
        stored.system_id != new.system_id || (stored.timeline, stored.lsn) < (new.timeline, new.lsn)
    })
}
