//! Contents on their way into a directory of backups and out of it, hashed as they pass.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meridian_store::StoreError;
use ring::digest::{Context, SHA256, digest};

use super::manifest::Object;
use crate::file::at;
use crate::options::COPY_BYTES;

/// How fast backups may read and write, so that a node's clients do not notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    bytes_per_s: Option<u64>,
}

impl Pace {
    /// As fast as the disks are.
    pub const UNBOUNDED: Pace = Pace { bytes_per_s: None };

    /// About so many bytes a second; zero is no limit.
    #[must_use]
    pub fn bytes_per_s(bytes: u64) -> Pace {
        Pace { bytes_per_s: (bytes > 0).then_some(bytes) }
    }

    /// Waits as long as `bytes` may take, less what they took since `began`.
    pub fn wait(self, bytes: usize, began: Instant) {
        if let Some(rate) = self.bytes_per_s {
            let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
}

/// The SHA-256 of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file that is being written and hashed.
pub(super) struct HashingWriter {
    file: File,
    path: PathBuf,
    sum: Context,
    bytes: u64,
}

impl HashingWriter {
    /// Begins a file; there must not be one.
    pub fn create(path: PathBuf) -> Result<HashingWriter, StoreError> {
        let file = File::create_new(&path).map_err(at("creating", &path))?;
        Ok(HashingWriter { file, path, sum: Context::new(&SHA256), bytes: 0 })
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(at("writing", &self.path))?;
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// How much was written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it durable. Where it is, and what it holds.
    pub fn finish(self) -> Result<(PathBuf, Object), StoreError> {
        self.file.sync_all().map_err(at("syncing", &self.path))?;
        let object = Object { sha256: hex(self.sum.finish().as_ref()), bytes: self.bytes };
        Ok((self.path, object))
    }
}

/// Reads a file in portions; returns what it held.
pub(super) fn read_through(
    path: &Path,
    pace: Pace,
    mut each: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<Object, StoreError> {
    let mut file = File::open(path).map_err(at("opening", path))?;
    let (mut sum, mut bytes) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let began = Instant::now();
        let read = file.read(&mut buffer).map_err(at("reading", path))?;
        if read == 0 {
            return Ok(Object { sha256: hex(sum.finish().as_ref()), bytes });
        }
        sum.update(&buffer[..read]);
        bytes += read as u64;
        each(&buffer[..read])?;
        pace.wait(read, began);
    }
}

/// Reads the file that should hold `object`, in portions.
///
/// # Errors
/// [`StoreError::Corrupt`] when it holds something else.
pub(super) fn read_checked(
    path: &Path,
    object: &Object,
    pace: Pace,
    each: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let found = read_through(path, pace, each)?;
    if found == *object {
        return Ok(());
    }
    let reason = match found.bytes == object.bytes {
        true => "its SHA-256 is not the one in its name".to_owned(),
        false => format!("it has {} bytes instead of {}", found.bytes, object.bytes),
    };
    Err(StoreError::Corrupt { file: path.display().to_string(), offset: 0, reason })
}
