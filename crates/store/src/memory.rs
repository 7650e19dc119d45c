//! Storage in memory for tests and the simulator, with the failures that real storage has: what
//! was not synced may be lost in part, and the checkpoint falls back to an earlier batch.

use std::collections::BTreeMap;

use crate::{
    CheckpointBatch, LogPosition, Storage, StoreError, Visit,
    entry::{Entries, ScanEnd, scan_entries},
};

/// How a crash treats what was not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashModel {
    /// The process died; the machine did not. Everything written is still there.
    Process,
    /// The machine died: of the bytes that were not synced only this many are left, and of the
    /// checkpoint batches since the last complete one only this many.
    Machine {
        /// Unsynced log bytes that happened to reach the disk.
        log_bytes: usize,
        /// Checkpoint batches that happened to reach the disk.
        batches: usize,
    },
}

#[derive(Clone, Debug, Default)]
struct Tables {
    elements: BTreeMap<Vec<u8>, Vec<u8>>,
    meta: Option<Vec<u8>>,
}

impl Tables {
    fn write(&mut self, batch: &CheckpointBatch) {
        for prefix in &batch.cleared {
            self.elements.retain(|key, _| !key.starts_with(prefix));
        }
        for (key, value) in &batch.puts {
            match value {
                Some(value) => self.elements.insert(key.clone(), value.clone()),
                None => self.elements.remove(key),
            };
        }
        if batch.meta.is_some() {
            self.meta.clone_from(&batch.meta);
        }
    }
}

/// A log and a checkpoint in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    base: u64,
    log: Vec<u8>,
    synced: usize,
    /// What survives the machine.
    durable: Tables,
    /// Batches written since.
    pending: Vec<CheckpointBatch>,
    /// What the process sees.
    seen: Tables,
}

impl MemoryStorage {
    /// Empty storage.
    #[must_use]
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    /// What is found when the process starts again after a crash.
    #[must_use]
    pub fn crash(mut self, model: CrashModel) -> MemoryStorage {
        if let CrashModel::Machine { log_bytes, batches } = model {
            self.log.truncate(self.synced.saturating_add(log_bytes).max(self.synced));
            self.seen = self.durable.clone();
            for batch in self.pending.drain(..).take(batches) {
                self.seen.write(&batch);
            }
        }
        let end = scan_entries(&self.log, LogPosition(self.base), self.synced_position(), |_| {});
        match end {
            ScanEnd::Clean => {}
            ScanEnd::TornTail { offset, .. } => self.log.truncate(offset),
            ScanEnd::Corrupt { offset, reason } => {
                panic!("the model itself damaged durable bytes at {offset}: {reason}")
            }
        }
        self.synced = self.log.len();
        self.durable = self.seen.clone();
        self.pending.clear();
        self
    }

    /// How many bytes of the log are not synced.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.log.len() - self.synced
    }

    /// How many checkpoint batches are not durable.
    #[must_use]
    pub fn pending_batches(&self) -> usize {
        self.pending.len()
    }

    /// The end of what is durable.
    #[must_use]
    pub fn synced_position(&self) -> LogPosition {
        LogPosition(self.base + self.synced as u64)
    }
}

impl Storage for MemoryStorage {
    fn append(&mut self, entry: &[u8]) -> Result<LogPosition, StoreError> {
        self.log.extend_from_slice(entry);
        Ok(self.bounds().1)
    }

    fn sync(&mut self) -> Result<LogPosition, StoreError> {
        self.synced = self.log.len();
        Ok(self.synced_position())
    }

    fn bounds(&self) -> (LogPosition, LogPosition) {
        (LogPosition(self.base), LogPosition(self.base + self.log.len() as u64))
    }

    fn read(&self, from: LogPosition, max_bytes: usize) -> Result<Vec<u8>, StoreError> {
        let (start, end) = self.bounds();
        if from < start || from > end {
            return Err(StoreError::NotHeld(from));
        }
        let rest = &self.log[(from.0 - start.0) as usize..];
        let mut entries = Entries::new(rest, from);
        while entries.consumed() < max_bytes && entries.next().is_some() {}
        Ok(rest[..entries.consumed()].to_vec())
    }

    fn release(&mut self, position: LogPosition) -> Result<(), StoreError> {
        let upto = position.0.min(self.synced_position().0);
        let drop = upto.saturating_sub(self.base) as usize;
        self.log.drain(..drop);
        self.synced -= drop;
        self.base += drop as u64;
        Ok(())
    }

    fn checkpoint(&mut self, batch: CheckpointBatch) -> Result<(), StoreError> {
        let complete = batch.meta.is_some();
        self.seen.write(&batch);
        self.pending.push(batch);
        if complete {
            self.durable = self.seen.clone();
            self.pending.clear();
        }
        Ok(())
    }

    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.seen.meta.clone())
    }

    fn elements(&self, visit: Visit<'_>) -> Result<(), StoreError> {
        self.seen.elements.iter().try_for_each(|(key, value)| visit(key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        crate::conformance::run(MemoryStorage::new, |storage| storage.crash(CrashModel::Process));
    }

    #[test]
    fn a_dead_machine_loses_only_what_was_not_synced() {
        let mut storage = MemoryStorage::new();
        let entry = crate::conformance::entry(&[b"kept"], LogPosition(0));
        let end = storage.append(&entry).unwrap();
        storage.sync().unwrap();
        storage.append(&crate::conformance::entry(&[b"lost"], end)).unwrap();
        let storage = storage.crash(CrashModel::Machine { log_bytes: 5, batches: 0 });
        assert_eq!(storage.bounds().1, end);
    }
}
