//! The control group's log: a file of checksummed records, synced when Raft says so.
//!
//! It is apart from the data's log because an election must not wait behind a busy disk queue of
//! client writes, and because it is small: a record a decision.
//!
//! ```text
//! file := "MDCL" | version u32 | generation u64 | crc32 u32 (of both) | record*
//! record := length u32 | crc32 u32 | bytes
//! ```
//! A vote that is forgotten may be given twice. So a mark beside the file (`control.mark`) says how
//! far it was on disk, and what is damaged before that stops the start instead of being taken for a
//! record that was torn. Files without the head are of earlier versions, and are read.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use meridian_consensus::MAX_RECORD_BYTES;
use meridian_disk::DurableMark;

const HEADER_BYTES: usize = 8;

const MAGIC: u32 = 0x4c43_444d; // "MDCL"
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 20;
const HEAD_CRC_FROM: usize = 16;

// A file of an earlier version begins with a record's length.
const _: () = assert!(MAGIC as usize > MAX_RECORD_BYTES);

/// The file does not hold what was written to it.
#[derive(Debug, thiserror::Error)]
#[error("{file} is corrupt at offset {offset}")]
pub struct Corrupt {
    file: String,
    offset: usize,
}

impl Corrupt {
    fn at(path: &Path, offset: usize) -> anyhow::Error {
        Corrupt { file: path.display().to_string(), offset }.into()
    }
}

/// An open control log.
pub struct ControlLog {
    file: File,
    path: PathBuf,
    mark: DurableMark,
    /// Counts how often the file was written anew.
    generation: u64,
    /// Its length.
    length: u64,
}

impl ControlLog {
    /// Opens or creates the log and reads what it holds. A torn last record is cut off: it was
    /// never acknowledged to anybody.
    ///
    /// # Errors
    /// When the file cannot be used, or is damaged in what was on disk.
    pub fn open(path: &Path) -> Result<(ControlLog, Vec<Vec<u8>>)> {
        let mark = DurableMark::open(&path.with_extension("mark"))?;
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
        let (generation, begin) = match read_head(&bytes) {
            Head::Of(generation) => (generation, HEAD_BYTES),
            Head::Earlier => (0, 0),
            Head::Torn if mark.is_blank() => {
                file.set_len(0).with_context(|| format!("cutting {}", path.display()))?;
                bytes = head(1);
                file.write_all(&bytes).with_context(|| format!("writing {}", path.display()))?;
                file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
                (1, HEAD_BYTES)
            }
            Head::Newer(version) => bail!(
                "{} was written by a newer version of meridian (its format is {version})",
                path.display()
            ),
            Head::Torn | Head::Damaged => return Err(Corrupt::at(path, 0)),
        };
        let (records, used) = scan(&bytes[begin..]);
        let used = begin + used;
        if (used as u64) < mark.position(generation) {
            return Err(Corrupt::at(path, used));
        }
        if used < bytes.len() {
            if bytes.len() - used > HEADER_BYTES + MAX_RECORD_BYTES {
                return Err(Corrupt::at(path, used));
            }
            let dropped = bytes.len() - used;
            tracing::warn!(file = %path.display(), offset = used, dropped, "torn record cut off");
            file.set_len(used as u64).with_context(|| format!("cutting {}", path.display()))?;
        }
        file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
        mark.raise(generation, used as u64)?;
        let (path, length) = (path.to_owned(), used as u64);
        Ok((ControlLog { file, path, mark, generation, length }, records))
    }

    /// Appends records; with `sync` they are durable afterwards.
    ///
    /// # Errors
    /// When the disk refuses: the process must end.
    pub fn append(&mut self, records: &[Vec<u8>], sync: bool) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let bytes = encode(records);
        let fail = || format!("writing {}", self.path.display());
        self.file.write_all(&bytes).with_context(fail)?;
        self.length += bytes.len() as u64;
        if sync {
            self.file.sync_data().with_context(fail)?;
            self.mark.raise(self.generation, self.length)?;
        }
        Ok(())
    }

    /// Replaces the whole log by these records, if there are any. A crash leaves the old log or
    /// the new one.
    ///
    /// # Errors
    /// When the disk refuses: the process must end.
    pub fn replace(&mut self, records: &[Vec<u8>]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let next = self.path.with_extension("log.new");
        let fail = || format!("writing {}", next.display());
        let mut file = File::create(&next).with_context(fail)?;
        let generation = self.generation + 1;
        let bytes = [head(generation), encode(records)].concat();
        file.write_all(&bytes).with_context(fail)?;
        file.sync_all().with_context(fail)?;
        std::fs::rename(&next, &self.path).with_context(fail)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory).and_then(|d| d.sync_all()).with_context(fail)?;
        }
        // From now on appended to: the handle follows the file, not its name.
        self.file = file;
        (self.generation, self.length) = (generation, bytes.len() as u64);
        self.mark.raise(generation, self.length)?;
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Head {
    Of(u64),
    /// The file is of a version that wrote none.
    Earlier,
    /// The file is too short to have one.
    Torn,
    Newer(u32),
    Damaged,
}

fn head(generation: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_le_bytes().to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn read_head(bytes: &[u8]) -> Head {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if bytes.len() >= 4 && word(0) as usize <= MAX_RECORD_BYTES {
        return Head::Earlier;
    }
    if bytes.len() < HEAD_BYTES {
        return Head::Torn;
    }
    if word(0) != MAGIC || crc32fast::hash(&bytes[..HEAD_CRC_FROM]) != word(HEAD_CRC_FROM) {
        return Head::Damaged;
    }
    if word(4) > VERSION {
        return Head::Newer(word(4));
    }
    Head::Of(u64::from(word(8)) | u64::from(word(12)) << 32)
}

fn encode(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(record).to_le_bytes());
        bytes.extend_from_slice(record);
    }
    bytes
}

/// The sound records at the beginning, and how many bytes they take.
fn scan(bytes: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes.get(at..at + HEADER_BYTES) {
        let word =
            |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
        let length = word(0) as usize;
        let Some(record) = bytes.get(at + HEADER_BYTES..at + HEADER_BYTES + length) else { break };
        if length > MAX_RECORD_BYTES || crc32fast::hash(record) != word(4) {
            break;
        }
        records.push(record.to_vec());
        at += HEADER_BYTES + length;
    }
    (records, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(records: &[Vec<u8>]) -> Vec<&str> {
        records.iter().map(|record| std::str::from_utf8(record).unwrap()).collect()
    }

    #[test]
    fn records_survive_and_a_torn_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.log");
        let (mut log, records) = ControlLog::open(&path).unwrap();
        assert!(records.is_empty());
        log.append(&[b"one".to_vec(), b"two".to_vec()], true).unwrap();
        log.append(&[b"three".to_vec()], false).unwrap();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let (mut log, records) = ControlLog::open(&path).unwrap();
        assert_eq!(texts(&records), ["one", "two"]);
        log.append(&[b"four".to_vec()], true).unwrap();
        drop(log);
        let (_, records) = ControlLog::open(&path).unwrap();
        assert_eq!(texts(&records), ["one", "two", "four"]);
        let (mut log, _) = ControlLog::open(&path).unwrap();
        log.replace(&[b"whole".to_vec()]).unwrap();
        log.append(&[b"next".to_vec()], true).unwrap();
        drop(log);
        let (_, records) = ControlLog::open(&path).unwrap();
        assert_eq!(texts(&records), ["whole", "next"]);
    }

    #[test]
    fn rot_anywhere_is_found_and_the_file_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.log");
        let (mut log, _) = ControlLog::open(&path).unwrap();
        log.append(&[b"one".to_vec()], true).unwrap();
        log.replace(&[b"all of it".to_vec()]).unwrap();
        log.append(&[b"two".to_vec()], true).unwrap();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        for index in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[index] ^= 1 << bit;
                std::fs::write(&path, bytes).unwrap();
                let refusal = ControlLog::open(&path).err().map(|error| error.to_string());
                let named = refusal.is_some_and(|text| text.contains("control.log"));
                assert!(named, "byte {index}, bit {bit}");
            }
        }
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(ControlLog::open(&path).is_err(), "cut to {length}");
        }
        std::fs::write(&path, &whole).unwrap();
        let (_, records) = ControlLog::open(&path).unwrap();
        assert_eq!(texts(&records), ["all of it", "two"]);
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read_and_replaced_by_one_of_this() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.log");
        std::fs::write(&path, encode(&[b"old".to_vec()])).unwrap();
        let (mut log, records) = ControlLog::open(&path).unwrap();
        assert_eq!(texts(&records), ["old"]);
        log.append(&[b"more".to_vec()], true).unwrap();
        drop(log);
        let (mut log, records) = ControlLog::open(&path).unwrap();
        assert_eq!(texts(&records), ["old", "more"]);
        log.replace(&[b"new".to_vec()]).unwrap();
        drop(log);
        assert_eq!(read_head(&std::fs::read(&path).unwrap()), Head::Of(1));
        let (_, records) = ControlLog::open(&path).unwrap();
        assert_eq!(texts(&records), ["new"]);
        let mut newer = head(1);
        newer[4] = 2;
        let crc = crc32fast::hash(&newer[..HEAD_CRC_FROM]);
        newer[HEAD_CRC_FROM..].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, newer).unwrap();
        assert!(ControlLog::open(&path).err().unwrap().to_string().contains("newer"));
    }
}
