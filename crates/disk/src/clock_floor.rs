//! The `CLOCK` file: up to where the hybrid clock may go, written before it goes there.
//!
//! ```text
//! slot := magic u32 | format u32 | floor u64 | crc32 u32 (of all before it)
//! file := slot at 0 | slot at 512
//! ```
//! The slots are written in turn, each in a sector of its own, so that a write that is torn leaves
//! the one before it. What was torn was never granted to the clock.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_clock::Time;
use meridian_store::StoreError;

use crate::file::{at, sync_directory};
use crate::lock::DirectoryLock;
use crate::options::CLOCK_SLOT_BYTES;

/// The file's name.
pub(crate) const CLOCK_FILE: &str = "CLOCK";

const MAGIC: u32 = 0x434e_444d; // "MDNC"
const FORMAT: u32 = 1;
const RECORD_BYTES: usize = 20;

/// The floor of a directory's clock.
#[derive(Debug)]
pub struct ClockFloor {
    file: File,
    path: PathBuf,
    floor: Time,
    /// The slot that is written next.
    next: u64,
    _lock: Arc<DirectoryLock>,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Empty,
    Floor(Time),
    Newer(u32),
    Damaged,
}

impl ClockFloor {
    /// Opens the file or makes it.
    pub(crate) fn open(
        directory: &Path,
        lock: Arc<DirectoryLock>,
    ) -> Result<ClockFloor, StoreError> {
        let path = directory.join(CLOCK_FILE);
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(at("opening", &path))?;
        if is_new {
            file.set_len(2 * CLOCK_SLOT_BYTES).map_err(at("extending", &path))?;
            file.sync_all().map_err(at("syncing", &path))?;
            sync_directory(directory)?;
        }
        let slots = [read_slot(&file, &path, 0)?, read_slot(&file, &path, 1)?];
        let (floor, newest) = judge(&path, slots)?;
        Ok(ClockFloor { file, path, floor, next: 1 - newest, _lock: lock })
    }

    /// What an earlier life reserved; zero if there was none.
    #[must_use]
    pub fn floor(&self) -> Time {
        self.floor
    }

    /// Makes `floor` durable. A lower one than is held changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the process must end.
    pub fn raise(&mut self, floor: Time) -> Result<(), StoreError> {
        if floor <= self.floor {
            return Ok(());
        }
        self.file
            .write_all_at(&encode(floor), self.next * CLOCK_SLOT_BYTES)
            .map_err(at("writing", &self.path))?;
        self.file.sync_data().map_err(at("syncing", &self.path))?;
        (self.floor, self.next) = (floor, 1 - self.next);
        Ok(())
    }
}

fn encode(floor: Time) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..4].copy_from_slice(&MAGIC.to_le_bytes());
    record[4..8].copy_from_slice(&FORMAT.to_le_bytes());
    record[8..16].copy_from_slice(&floor.0.to_le_bytes());
    let crc = crc32fast::hash(&record[..16]);
    record[16..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn decode(record: &[u8; RECORD_BYTES]) -> Slot {
    let word = |at: usize| {
        u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
    };
    if record.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    if word(0) != MAGIC || word(16) != crc32fast::hash(&record[..16]) {
        return Slot::Damaged;
    }
    if word(4) > FORMAT {
        return Slot::Newer(word(4));
    }
    Slot::Floor(Time(u64::from(word(8)) | u64::from(word(12)) << 32))
}

fn read_slot(file: &File, path: &Path, slot: u64) -> Result<Slot, StoreError> {
    let mut record = [0; RECORD_BYTES];
    match file.read_exact_at(&mut record, slot * CLOCK_SLOT_BYTES) {
        Ok(()) => Ok(decode(&record)),
        // Made, and then the machine died: nothing was granted.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Slot::Empty),
        Err(error) => Err(at("reading", path)(error)),
    }
}

/// The floor and the slot that holds it.
fn judge(path: &Path, slots: [Slot; 2]) -> Result<(Time, u64), StoreError> {
    let mut best = (Time::ZERO, 1);
    for (number, slot) in (0..).zip(slots) {
        match slot {
            Slot::Floor(floor) if floor > best.0 => best = (floor, number),
            Slot::Newer(format) => {
                return Err(StoreError::Refused(format!(
                    "{} was written by a newer version of meridian: its format is {format}, this \
                     version reads up to {FORMAT}",
                    path.display()
                )));
            }
            _ => {}
        }
    }
    if slots == [Slot::Damaged; 2] {
        return Err(StoreError::Corrupt {
            file: path.display().to_string(),
            offset: 0,
            reason: "neither slot is sound".to_owned(),
        });
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> Result<ClockFloor, StoreError> {
        ClockFloor::open(directory, Arc::new(DirectoryLock::take(directory)?))
    }

    fn damage(directory: &Path, offset: u64) {
        let file = OpenOptions::new().write(true).open(directory.join(CLOCK_FILE)).unwrap();
        file.write_all_at(b"?", offset).unwrap();
    }

    #[test]
    fn it_rises_and_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..5 {
            let mut floor = open(directory.path()).unwrap();
            assert_eq!(floor.floor(), Time(10 * round));
            floor.raise(Time(10 * round + 10)).unwrap();
            floor.raise(Time(1)).unwrap();
        }
    }

    #[test]
    fn a_torn_write_leaves_the_one_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut floor = open(directory.path()).unwrap();
        floor.raise(Time(7)).unwrap();
        floor.raise(Time(8)).unwrap();
        drop(floor);
        damage(directory.path(), CLOCK_SLOT_BYTES + 3);
        let mut floor = open(directory.path()).unwrap();
        assert_eq!(floor.floor(), Time(7));
        floor.raise(Time(9)).unwrap();
        drop(floor);
        assert_eq!(open(directory.path()).unwrap().floor(), Time(9), "the torn one is overwritten");
    }

    #[test]
    fn damage_and_newer_formats_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut floor = open(directory.path()).unwrap();
        floor.raise(Time(7)).unwrap();
        floor.raise(Time(8)).unwrap();
        drop(floor);
        damage(directory.path(), 9);
        damage(directory.path(), CLOCK_SLOT_BYTES + 9);
        assert!(matches!(open(directory.path()), Err(StoreError::Corrupt { .. })));
        let mut record = encode(Time(9));
        record[4] = 2;
        let crc = crc32fast::hash(&record[..16]);
        record[16..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&record), Slot::Newer(2));
        assert_eq!(decode(&encode(Time(u64::MAX - 1))), Slot::Floor(Time(u64::MAX - 1)));
    }
}
