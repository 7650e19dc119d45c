//! The control group's log: a file of checksummed records, synced when Raft says so.
//!
//! It is apart from the data's log because an election must not wait behind a busy disk queue of
//! client writes, and because it is small: a record a decision.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use meridian_consensus::MAX_RECORD_BYTES;

const HEADER_BYTES: usize = 8;

/// An open control log.
pub struct ControlLog {
    file: File,
    path: PathBuf,
}

impl ControlLog {
    /// Opens or creates the log and reads what it holds. A torn last record is cut off: it was
    /// never acknowledged to anybody.
    ///
    /// # Errors
    /// When the file cannot be used, or is damaged before its last record.
    pub fn open(path: &Path) -> Result<(ControlLog, Vec<Vec<u8>>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
        let (records, used) = scan(&bytes);
        if used < bytes.len() {
            if bytes.len() - used > HEADER_BYTES + MAX_RECORD_BYTES {
                bail!("{} is corrupt at offset {used}", path.display());
            }
            let dropped = bytes.len() - used;
            tracing::warn!(file = %path.display(), offset = used, dropped, "torn record cut off");
            file.set_len(used as u64).with_context(|| format!("cutting {}", path.display()))?;
            file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
        }
        Ok((ControlLog { file, path: path.to_owned() }, records))
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
        if sync {
            self.file.sync_data().with_context(fail)?;
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
        file.write_all(&encode(records)).with_context(fail)?;
        file.sync_all().with_context(fail)?;
        std::fs::rename(&next, &self.path).with_context(fail)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory).and_then(|d| d.sync_all()).with_context(fail)?;
        }
        // From now on appended to: the handle follows the file, not its name.
        self.file = file;
        Ok(())
    }
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

    #[test]
    fn records_survive_and_a_torn_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.log");
        let (mut log, records) = ControlLog::open(&path).unwrap();
        assert!(records.is_empty());
        log.append(&[b"one".to_vec(), b"two".to_vec()], true).unwrap();
        log.append(&[b"three".to_vec()], true).unwrap();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let (mut log, records) = ControlLog::open(&path).unwrap();
        assert_eq!(records, [b"one".to_vec(), b"two".to_vec()]);
        log.append(&[b"four".to_vec()], true).unwrap();
        drop(log);
        let (_, records) = ControlLog::open(&path).unwrap();
        assert_eq!(records, [b"one".to_vec(), b"two".to_vec(), b"four".to_vec()]);
        let (mut log, _) = ControlLog::open(&path).unwrap();
        log.replace(&[b"whole".to_vec()]).unwrap();
        log.append(&[b"next".to_vec()], true).unwrap();
        drop(log);
        let (_, records) = ControlLog::open(&path).unwrap();
        assert_eq!(records, [b"whole".to_vec(), b"next".to_vec()]);
    }
}
