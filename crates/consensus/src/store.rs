//! What the protocol library reads back: an in-memory copy of the control log.
//!
//! The log is small (compaction bounds it), so all of it is held in memory; the records that
//! [`crate::Ready`] hands out are what makes it durable.

use raft::eraftpb::{Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::codec::{self, HardStateRecord, Mark, SnapshotRecord};
use crate::conf::{self, Conf};
use crate::limits::RECORD_CHUNK_BYTES;

/// Raft reserves id zero; regions count from zero.
pub(crate) fn raft_id(region: u16) -> u64 {
    u64::from(region) + 1
}

/// The region behind a Raft id; `None` for Raft's "nobody".
pub(crate) fn region(raft_id: u64) -> Option<u16> {
    raft_id.checked_sub(1).and_then(|ordinal| u16::try_from(ordinal).ok())
}

/// Snapshot, log and hard state. Invariants: `entries[i]` has index `snapshot.last.index + 1 + i`;
/// `snapshot.last.index <= hard_state.commit <= last_index()`.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogStore {
    /// Who takes part, as far as was applied.
    pub(crate) conf: Conf,
    /// The index that the configuration is from.
    pub(crate) conf_index: u64,
    pub(crate) snapshot: SnapshotRecord,
    pub(crate) entries: Vec<codec::Entry>,
    pub(crate) hard_state: HardStateRecord,
    /// Bytes of data in `entries`.
    entry_bytes: usize,
}

impl LogStore {
    pub(crate) fn last_index(&self) -> u64 {
        self.snapshot.last.index + self.entries.len() as u64
    }

    pub(crate) fn entry_bytes(&self) -> usize {
        self.entry_bytes
    }

    /// Term of the entry at `index`; `None` outside of what is held.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.snapshot.last.index {
            return Some(self.snapshot.last.term);
        }
        let offset = index.checked_sub(self.snapshot.last.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?).map(|entry| entry.term)
    }

    /// Replaces everything from `first_index` on. `false` (and no change) if that leaves a gap or
    /// reaches below the snapshot.
    #[must_use]
    pub(crate) fn append(&mut self, first_index: u64, entries: Vec<codec::Entry>) -> bool {
        if first_index <= self.snapshot.last.index || first_index > self.last_index() + 1 {
            return false;
        }
        let Ok(keep) = usize::try_from(first_index - self.snapshot.last.index - 1) else {
            return false;
        };
        let dropped: usize = self.entries.drain(keep..).map(|entry| entry.data.len()).sum();
        let added: usize = entries.iter().map(|entry| entry.data.len()).sum();
        self.entry_bytes = self.entry_bytes - dropped + added;
        self.entries.extend(entries);
        true
    }

    /// Adopts a snapshot; entries after it survive if they continue it.
    pub(crate) fn install(&mut self, snapshot: SnapshotRecord) {
        let continues = self.term_at(snapshot.last.index) == Some(snapshot.last.term);
        let covered = snapshot.last.index.saturating_sub(self.snapshot.last.index);
        if continues {
            self.entries.drain(..usize::try_from(covered).unwrap_or(0).min(self.entries.len()));
        } else {
            self.entries.clear();
        }
        self.entry_bytes = self.entries.iter().map(|entry| entry.data.len()).sum();
        self.hard_state.commit = self.hard_state.commit.max(snapshot.last.index);
        if snapshot.last.index >= self.conf_index
            && let Some((Some(conf), _)) = Conf::unwrap(&snapshot.state)
        {
            self.conf = conf;
            self.conf_index = snapshot.last.index;
        }
        self.snapshot = snapshot;
    }

    /// The held entries as (first index, entries) groups that fit a record each.
    pub(crate) fn chunks(&self) -> Vec<(u64, Vec<codec::Entry>)> {
        chunked(self.snapshot.last.index + 1, self.entries.clone())
    }
}

/// Splits entries into groups that fit a record each.
pub(crate) fn chunked(first: u64, entries: Vec<codec::Entry>) -> Vec<(u64, Vec<codec::Entry>)> {
    let mut chunks: Vec<(u64, Vec<codec::Entry>)> = Vec::new();
    let mut bytes = RECORD_CHUNK_BYTES;
    for (index, entry) in (first..).zip(entries) {
        if bytes >= RECORD_CHUNK_BYTES {
            chunks.push((index, Vec::new()));
            bytes = 0;
        }
        bytes += entry.data.len() + ENTRY_FIELDS_BYTES;
        if let Some((_, chunk)) = chunks.last_mut() {
            chunk.push(entry);
        }
    }
    chunks
}

/// Charged for an entry's term and length, so that empty entries fill a chunk as well.
const ENTRY_FIELDS_BYTES: usize = 16;

/// Our form of a library entry.
pub(crate) fn from_raft(entry: &Entry) -> codec::Entry {
    // A change that was proposed here has the library's bytes as its data and ours beside them.
    let is_own = entry.get_entry_type() == EntryType::EntryConfChange && !entry.context.is_empty();
    let data = if is_own { &entry.context } else { &entry.data };
    codec::Entry { term: entry.term, data: data.to_vec() }
}

/// The library's form of an entry.
pub(crate) fn to_raft(index: u64, entry: &codec::Entry) -> Entry {
    let mut out = Entry::default();
    out.set_entry_type(match conf::is_change(&entry.data) {
        true => EntryType::EntryConfChange,
        false => EntryType::EntryNormal,
    });
    out.index = index;
    out.term = entry.term;
    out.data = entry.data.clone().into();
    out
}

/// The library's form of a snapshot; `conf` counts where the state does not tell one.
pub(crate) fn to_raft_snapshot(last: Mark, state: &[u8], conf: &Conf) -> Snapshot {
    let mut snapshot = Snapshot { data: state.to_vec().into(), ..Snapshot::default() };
    let told = Conf::unwrap(state).and_then(|(conf, _)| conf);
    let metadata = snapshot.mut_metadata();
    metadata.index = last.index;
    metadata.term = last.term;
    metadata.set_conf_state(told.as_ref().unwrap_or(conf).to_raft());
    snapshot
}

impl Storage for LogStore {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard_state = HardState::default();
        hard_state.term = self.hard_state.term;
        hard_state.vote = self.hard_state.vote.map_or(raft::INVALID_ID, raft_id);
        hard_state.commit = self.hard_state.commit;
        Ok(RaftState::new(hard_state, self.conf.to_raft()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let first = self.snapshot.last.index + 1;
        if low < first {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last_index() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let mut out = Vec::new();
        for index in low..high {
            let offset = usize::try_from(index - first).unwrap_or(usize::MAX);
            let Some(entry) = self.entries.get(offset) else { break };
            bytes += (entry.data.len() + ENTRY_FIELDS_BYTES) as u64;
            if !out.is_empty() && bytes > limit {
                break;
            }
            out.push(to_raft(index, entry));
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_at(index).ok_or_else(|| {
            let is_old = index < self.snapshot.last.index;
            raft::Error::Store(if is_old {
                StorageError::Compacted
            } else {
                StorageError::Unavailable
            })
        })
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot.last.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(LogStore::last_index(self))
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.snapshot.last.index == 0 || self.snapshot.last.index < request_index {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(to_raft_snapshot(self.snapshot.last, &self.snapshot.state, &self.conf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(terms: &[u64]) -> Vec<codec::Entry> {
        terms.iter().map(|&term| codec::Entry { term, data: vec![0; 10] }).collect()
    }

    #[test]
    fn append_replaces_a_conflicting_tail_and_refuses_gaps() {
        let mut store = LogStore::default();
        assert!(store.append(1, entries(&[1, 1, 1])));
        assert!(store.append(2, entries(&[2])));
        assert_eq!((store.last_index(), store.term_at(2), store.term_at(3)), (2, Some(2), None));
        assert_eq!(store.entry_bytes(), 20);
        assert!(!store.append(4, entries(&[2])));
        assert!(!store.append(0, entries(&[2])));
    }

    #[test]
    fn install_keeps_entries_that_continue_the_snapshot() {
        let snapshot = |index, term| SnapshotRecord { last: Mark { index, term }, state: vec![1] };
        let mut store = LogStore::default();
        assert!(store.append(1, entries(&[1, 1, 2])));
        let mut other = store.clone();
        store.install(snapshot(2, 1));
        assert_eq!((store.last_index(), store.term_at(3), store.term_at(1)), (3, Some(2), None));
        other.install(snapshot(2, 9));
        assert_eq!((other.last_index(), other.entry_bytes()), (2, 0));
    }

    #[test]
    fn chunks_cover_every_entry_once() {
        let mut store = LogStore::default();
        let big = codec::Entry { term: 1, data: vec![0; RECORD_CHUNK_BYTES / 2] };
        assert!(store.append(1, vec![big; 5]));
        let chunks = store.chunks();
        assert_eq!(chunks.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(chunks.iter().map(|(_, chunk)| chunk.len()).sum::<usize>(), 5);
    }
}
