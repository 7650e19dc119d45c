//! How far a file is known to be on disk, kept beside it.
//!
//! The last record of a log has no witness: nothing after it says that it was once whole. A flipped
//! byte there would look like a write that was torn, and be cut off in silence. So after every sync
//! the position is written to a file of its own, without syncing that: what it says was true before
//! it was written, so it may be old after a power cut, but never wrong. After the death of a
//! process it is exact.
//!
//! ```text
//! generation u64 | position u64 | crc32 u32 (of both)
//! ```
//! The generation tells positions in a file that was written anew from those in its predecessor.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use meridian_store::StoreError;

use crate::file::at;

const RECORD_BYTES: usize = 20;
const CRC_FROM: usize = 16;

/// An open mark.
#[derive(Debug)]
pub struct DurableMark {
    file: File,
    path: PathBuf,
    /// The largest that was written, by generation.
    written: Mutex<(u64, u64)>,
}

impl DurableMark {
    /// Opens a mark or makes one that says nothing. One that is damaged says nothing either: what
    /// it was about is still judged by its own checksums.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(path: &Path) -> Result<DurableMark, StoreError> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(at("opening", path))?;
        let length = file.metadata().map_err(at("looking at", path))?.len();
        let mut record = [0; RECORD_BYTES];
        let mut written = (0, 0);
        if length > 0 {
            let whole = length == RECORD_BYTES as u64;
            if whole {
                file.read_exact_at(&mut record, 0).map_err(at("reading", path))?;
            }
            match whole.then(|| decode(&record)).flatten() {
                Some(read) => written = read,
                None => tracing::warn!(
                    file = %path.display(),
                    "damaged, and begun anew: it only says how far another file was on disk"
                ),
            }
        }
        if length != RECORD_BYTES as u64 {
            file.set_len(0).map_err(at("truncating", path))?;
            file.write_all_at(&encode(0, 0), 0).map_err(at("writing", path))?;
        }
        Ok(DurableMark { file, path: path.to_owned(), written: Mutex::new(written) })
    }

    /// Whether nothing was ever noted.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) == (0, 0)
    }

    /// How far the file of this generation is known to be on disk.
    #[must_use]
    pub fn position(&self, generation: u64) -> u64 {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.0 == generation { written.1 } else { 0 }
    }

    /// Notes that the file is on disk up to `position`. Within a generation it never goes back.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn raise(&self, generation: u64, position: u64) -> Result<(), StoreError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written >= (generation, position) {
            return Ok(());
        }
        let record = encode(generation, position);
        self.file.write_all_at(&record, 0).map_err(at("writing", &self.path))?;
        *written = (generation, position);
        Ok(())
    }
}

fn encode(generation: u64, position: u64) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&generation.to_le_bytes());
    record[8..CRC_FROM].copy_from_slice(&position.to_le_bytes());
    let crc = crc32fast::hash(&record[..CRC_FROM]);
    record[CRC_FROM..].copy_from_slice(&crc.to_le_bytes());
    record
}

fn decode(record: &[u8; RECORD_BYTES]) -> Option<(u64, u64)> {
    let (body, crc) = record.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (generation, rest) = body.split_first_chunk::<8>()?;
    let position = rest.first_chunk::<8>()?;
    Some((u64::from_le_bytes(*generation), u64::from_le_bytes(*position)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_remembered_and_never_goes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("DURABLE");
        let mark = DurableMark::open(&path).unwrap();
        assert_eq!(mark.position(0), 0);
        mark.raise(0, 70).unwrap();
        mark.raise(0, 60).unwrap();
        drop(mark);
        let mark = DurableMark::open(&path).unwrap();
        assert_eq!((mark.position(0), mark.position(1)), (70, 0));
        mark.raise(1, 5).unwrap();
        drop(mark);
        let mark = DurableMark::open(&path).unwrap();
        assert_eq!((mark.position(0), mark.position(1)), (0, 5));
    }

    #[test]
    fn a_damaged_mark_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("DURABLE");
        DurableMark::open(&path).unwrap().raise(0, 70).unwrap();
        let sound = std::fs::read(&path).unwrap();
        for index in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[index] ^= 0x20;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(DurableMark::open(&path).unwrap().position(0), 0, "byte {index}");
        }
        for length in 0..sound.len() {
            std::fs::write(&path, &sound[..length]).unwrap();
            let mark = DurableMark::open(&path).unwrap();
            mark.raise(0, 90).unwrap();
            drop(mark);
            assert_eq!(DurableMark::open(&path).unwrap().position(0), 90, "length {length}");
        }
    }
}
