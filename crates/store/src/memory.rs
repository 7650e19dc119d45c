//! Storage in memory for tests and the simulator, with the failures that real storage has: what
//! was not synced may be lost in part, and the checkpoint falls back to an earlier batch.

use std::collections::BTreeMap;

use crate::{
    CheckpointBatch, LogPosition, Storage, StoreError, Visit,
    entry::{Entries, ScanEnd, scan_entries},
};

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

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
    /// A table of the checkpoint does not hold what was written to it.
    rotten: bool,
}

impl MemoryStorage {
    /// Empty storage.
    #[must_use]
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    /// What is found when the process starts again after a crash.
    ///
    /// # Panics
    /// When what was durable is damaged; [`MemoryStorage::reopen`] tells instead.
    #[must_use]
    pub fn crash(self, model: CrashModel) -> MemoryStorage {
        match self.reopen(model) {
            Ok(storage) => storage,
            Err(error) => panic!("the model itself damaged durable bytes: {error}"),
        }
    }

    /// What is found when the process starts again after a crash.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when something that was durable is damaged.
    pub fn reopen(mut self, model: CrashModel) -> Result<MemoryStorage, StoreError> {
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
                return Err(self.corrupt(offset, &reason));
            }
        }
        self.synced = self.log.len();
        self.durable = self.seen.clone();
        self.pending.clear();
        Ok(self)
    }

    /// Appends only the first `bytes` of an entry, as a write does that is cut short. The process
    /// must not go on: it finds a torn tail when it starts again.
    pub fn append_torn(&mut self, entry: &[u8], bytes: usize) {
        self.log.extend_from_slice(&entry[..bytes.min(entry.len())]);
    }

    /// One sector of what is not synced, the one that holds the byte at `offset` of it, never
    /// reaches the disk although later ones do.
    pub fn lose_sector(&mut self, offset: usize) {
        let at = (self.synced + offset) / SECTOR_BYTES * SECTOR_BYTES;
        let (from, upto) = (at.max(self.synced), (at + SECTOR_BYTES).min(self.log.len()));
        if let Some(sector) = self.log.get_mut(from..upto) {
            sector.fill(0);
        }
    }

    /// A bit of the log changes on the disk.
    pub fn flip_log_bit(&mut self, offset: usize, bit: u8) {
        if let Some(byte) = self.log.get_mut(offset) {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// A bit of the checkpoint changes on the disk: its tables are checksummed, so that nothing
    /// can be read from then on.
    pub fn flip_checkpoint_bit(&mut self) {
        self.rotten = true;
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

    fn corrupt(&self, offset: usize, reason: &dyn std::fmt::Display) -> StoreError {
        let reason = reason.to_string();
        StoreError::Corrupt { file: "log".into(), offset: self.base + offset as u64, reason }
    }

    fn check_tables(&self) -> Result<(), StoreError> {
        if self.rotten {
            return Err(StoreError::Checkpoint("block checksum mismatch".into()));
        }
        Ok(())
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
        if max_bytes > 0 && entries.consumed() == 0 && !rest.is_empty() {
            let offset = (from.0 - start.0) as usize;
            return Err(self.corrupt(offset, &"no whole entry begins here"));
        }
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
        self.check_tables()?;
        Ok(self.seen.meta.clone())
    }

    fn elements(&self, visit: Visit<'_>) -> Result<(), StoreError> {
        self.check_tables()?;
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

    fn two_entries() -> (MemoryStorage, LogPosition, LogPosition) {
        let mut storage = MemoryStorage::new();
        let first = storage.append(&crate::conformance::entry(&[b"one"], LogPosition(0))).unwrap();
        let second = storage.append(&crate::conformance::entry(&[b"two"], first)).unwrap();
        (storage, first, second)
    }

    #[test]
    fn a_write_cut_short_and_a_lost_sector_are_torn_tails() {
        let (mut storage, _, end) = two_entries();
        storage.sync().unwrap();
        storage.append_torn(&crate::conformance::entry(&[b"three"], end), 21);
        assert_eq!(storage.reopen(CrashModel::Process).unwrap().bounds().1, end);

        let (mut storage, ..) = two_entries();
        storage.lose_sector(5);
        let all = CrashModel::Machine { log_bytes: usize::MAX, batches: 0 };
        assert_eq!(storage.reopen(all).unwrap().bounds().1, LogPosition(0));
    }

    #[test]
    fn a_flipped_bit_in_what_was_durable_is_refused_and_not_read() {
        let (mut storage, first, _) = two_entries();
        storage.sync().unwrap();
        storage.flip_log_bit(first.0 as usize + 22, 3);
        assert!(matches!(storage.read(first, 1), Err(StoreError::Corrupt { .. })));
        assert!(storage.read(LogPosition(0), 1).is_ok(), "what is sound is read");
        let reopened = storage.reopen(CrashModel::Process);
        assert!(matches!(reopened, Err(StoreError::Corrupt { .. })));

        let mut storage = MemoryStorage::new();
        storage.flip_checkpoint_bit();
        assert!(storage.meta().is_err() && storage.elements(&mut |_, _| Ok(())).is_err());
    }
}
