//! A region's disk with a fate: it refuses, fills up, tears a write, kills the process half-way,
//! or says that it has synced when it has not.

use std::cell::Cell;

use meridian_store::{
    CheckpointBatch, CrashModel, LogPosition, MemoryStorage, Storage, StoreError, Visit,
};

/// When in a step of the disk something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before anything was done.
    Before,
    /// A part was done, where the step has parts.
    Halfway,
    /// All was done, but the process never hears of it.
    After,
}

/// What a process asks of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Append,
    Sync,
    /// A portion of a checkpoint.
    Portion,
    /// The record that completes a checkpoint.
    Record,
    Release,
    /// Damage was found.
    Read,
}

/// Something will happen to the disk in a later step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blow {
    /// Steps that go well before.
    pub after_steps: u64,
    pub moment: Moment,
}

/// The disk of a living process.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk {
    inner: MemoryStorage,
    blow: Option<Blow>,
    full: bool,
    /// Up to where it says that it has synced, while it lies.
    claimed: Option<LogPosition>,
    /// In which step it failed: the process has to end.
    failed: Cell<Option<Step>>,
}

impl SimDisk {
    /// A disk on which all goes well.
    pub fn new(inner: MemoryStorage) -> SimDisk {
        SimDisk { inner, ..SimDisk::default() }
    }

    /// Something will happen.
    pub fn strike(&mut self, blow: Blow) {
        self.blow = Some(blow);
    }

    /// There is no room from now on, or again.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// From now on a sync does nothing and says that it has.
    pub fn lie(&mut self) {
        self.claimed = Some(self.inner.synced_position());
    }

    /// Nothing happens to it any more.
    pub fn be_kind(&mut self) {
        self.blow = None;
        self.full = false;
    }

    /// What is really there.
    pub fn inner_mut(&mut self) -> &mut MemoryStorage {
        &mut self.inner
    }

    /// What is really there.
    pub fn inner(&self) -> &MemoryStorage {
        &self.inner
    }

    /// In which step it failed, if it did.
    pub fn failed(&self) -> Option<Step> {
        self.failed.get()
    }

    /// What the next process will find.
    pub fn reopen(self, model: CrashModel) -> Result<MemoryStorage, StoreError> {
        self.inner.reopen(model)
    }

    /// Up to where it says that everything is durable.
    pub fn synced_position(&self) -> LogPosition {
        let synced = self.inner.synced_position();
        self.claimed.map_or(synced, |claimed| claimed.max(synced))
    }

    /// How many bytes of the log it has not said to be durable.
    pub fn unsynced(&self) -> usize {
        (self.bounds().1.0 - self.synced_position().0) as usize
    }

    /// How many checkpoint batches are not durable.
    pub fn pending_batches(&self) -> usize {
        self.inner.pending_batches()
    }

    /// Decides how the next step goes: well, or what is done of it before it fails.
    fn fate(&mut self, step: Step) -> Result<(), Moment> {
        let due = match &mut self.blow {
            Some(Blow { after_steps: 0, .. }) => true,
            Some(blow) => {
                blow.after_steps -= 1;
                false
            }
            None => false,
        };
        if due {
            self.failed.set(Some(step));
            return Err(self.blow.take().map_or(Moment::Before, |blow| blow.moment));
        }
        if self.full && matches!(step, Step::Append | Step::Portion | Step::Record) {
            self.failed.set(Some(step));
            return Err(Moment::Halfway);
        }
        Ok(())
    }

    fn refused(&self, step: Step) -> StoreError {
        let what = format!("simulated {step:?}");
        StoreError::Io { what, source: std::io::Error::other("the disk refuses") }
    }
}

impl Storage for SimDisk {
    fn append(&mut self, entry: &[u8]) -> Result<LogPosition, StoreError> {
        let Err(moment) = self.fate(Step::Append) else { return self.inner.append(entry) };
        match moment {
            Moment::Before => {}
            Moment::Halfway => self.inner.append_torn(entry, entry.len() / 2),
            Moment::After => {
                self.inner.append(entry)?;
            }
        }
        Err(self.refused(Step::Append))
    }

    fn sync(&mut self) -> Result<LogPosition, StoreError> {
        let fate = self.fate(Step::Sync);
        if self.claimed.is_some() && fate.is_ok() {
            let end = self.bounds().1;
            self.claimed = Some(end);
            return Ok(end);
        }
        match fate {
            Ok(()) => self.inner.sync(),
            Err(Moment::After) => {
                self.inner.sync()?;
                Err(self.refused(Step::Sync))
            }
            Err(_) => Err(self.refused(Step::Sync)),
        }
    }

    fn bounds(&self) -> (LogPosition, LogPosition) {
        self.inner.bounds()
    }

    fn read(&self, from: LogPosition, max_bytes: usize) -> Result<Vec<u8>, StoreError> {
        let result = self.inner.read(from, max_bytes);
        if let Err(StoreError::Corrupt { .. }) = result {
            self.failed.set(Some(Step::Read));
        }
        result
    }

    fn release(&mut self, position: LogPosition) -> Result<(), StoreError> {
        match self.fate(Step::Release) {
            Ok(()) => self.inner.release(position),
            Err(Moment::After) => {
                self.inner.release(position)?;
                Err(self.refused(Step::Release))
            }
            Err(_) => Err(self.refused(Step::Release)),
        }
    }

    fn checkpoint(&mut self, batch: CheckpointBatch) -> Result<(), StoreError> {
        let step = if batch.meta.is_some() { Step::Record } else { Step::Portion };
        let fate = self.fate(step);
        if self.claimed.is_some() && step == Step::Record && fate.is_ok() {
            // A checkpoint writes whole tables: more than a lying cache holds back.
            self.inner.sync()?;
        }
        match fate {
            Ok(()) => self.inner.checkpoint(batch),
            Err(Moment::After) => {
                self.inner.checkpoint(batch)?;
                Err(self.refused(step))
            }
            Err(_) => Err(self.refused(step)),
        }
    }

    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.meta()
    }

    fn elements(&self, visit: Visit<'_>) -> Result<(), StoreError> {
        self.inner.elements(visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_store::conformance;

    fn disk() -> SimDisk {
        SimDisk::new(MemoryStorage::new())
    }

    fn entry() -> Vec<u8> {
        conformance::entry(&[b"frame"], LogPosition(0))
    }

    #[test]
    fn without_a_fate_it_is_storage_like_any_other() {
        conformance::run(disk, |disk| {
            SimDisk::new(disk.reopen(CrashModel::Process).expect("sound"))
        });
    }

    #[test]
    fn what_a_failed_append_leaves_depends_on_the_moment() {
        for (moment, entries) in [(Moment::Before, 1), (Moment::Halfway, 1), (Moment::After, 2)] {
            let mut disk = disk();
            disk.strike(Blow { after_steps: 1, moment });
            let one = disk.append(&entry()).expect("goes well").0;
            disk.append(&entry()).expect_err("refused");
            assert_eq!(disk.failed(), Some(Step::Append));
            let left = disk.reopen(CrashModel::Process).expect("sound");
            assert_eq!(left.bounds().1.0, entries * one, "{moment:?}");
        }
    }

    #[test]
    fn a_liar_loses_what_it_said_was_durable() {
        let mut disk = disk();
        let kept = disk.append(&entry()).expect("appended");
        disk.sync().expect("synced");
        disk.lie();
        let end = disk.append(&entry()).expect("appended");
        assert_eq!(disk.sync().expect("says so"), end);
        assert_eq!((disk.synced_position(), disk.unsynced()), (end, 0));
        let left = disk.reopen(CrashModel::Machine { log_bytes: 0, batches: 0 }).expect("sound");
        assert_eq!(left.bounds().1, kept);
    }

    #[test]
    fn a_full_disk_refuses_until_there_is_room() {
        let mut disk = disk();
        disk.set_full(true);
        disk.append(&entry()).expect_err("no room");
        let mut disk = SimDisk::new(disk.reopen(CrashModel::Process).expect("sound"));
        disk.append(&entry()).expect("there is room again");
    }
}
