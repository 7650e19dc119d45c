//! What the core asks of storage. RocksDB and files stand behind it in production, a model with
//! crashes in the simulator; both pass [`crate::conformance`].

use thiserror::Error;

/// An offset in the log as if it were one endless file. Segments are named by where they begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(pub u64);

impl std::fmt::Display for LogPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Storage that failed. Every one of them is final: the process ends and recovers from disk.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file does not hold what was written to it.
    #[error("{file} is corrupt at offset {offset}: {reason}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The directory belongs to somebody else, or is in use.
    #[error("{0}")]
    Refused(String),
    /// RocksDB reported an error.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// The position is no longer (or not yet) in the log.
    #[error("log position {0} is not held here")]
    NotHeld(LogPosition),
}

/// A part of a checkpoint, written atomically.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointBatch {
    /// Key prefixes whose elements all go, before the puts.
    pub cleared: Vec<Vec<u8>>,
    /// Elements with their new value, or none if they are gone. In key order.
    pub puts: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The encoded [`crate::Meta`], in the batch that completes a checkpoint.
    pub meta: Option<Vec<u8>>,
}

/// Is shown elements of the checkpoint, key and value; may end the walk with an error.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError>;

/// One directory's log and checkpoint.
pub trait Storage {
    /// Appends one entry (see [`crate::encode_entry`]) and returns the log's new end. It
    /// survives the death of the process, but not yet that of the machine.
    ///
    /// # Errors
    /// [`StoreError`]; the process must end.
    fn append(&mut self, entry: &[u8]) -> Result<LogPosition, StoreError>;

    /// Makes everything appended so far survive the death of the machine.
    ///
    /// # Errors
    /// [`StoreError`]; the process must end.
    fn sync(&mut self) -> Result<LogPosition, StoreError>;

    /// Where the log begins and ends.
    fn bounds(&self) -> (LogPosition, LogPosition);

    /// Whole entries from `from` on: at least one if there is one, else about `max_bytes`.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`] outside the bounds, or what reading failed with.
    fn read(&self, from: LogPosition, max_bytes: usize) -> Result<Vec<u8>, StoreError>;

    /// Allows the log below `position` to go. Whole segments go; the rest may stay.
    ///
    /// # Errors
    /// [`StoreError`] when a file cannot be removed.
    fn release(&mut self, position: LogPosition) -> Result<(), StoreError>;

    /// Writes a part of a checkpoint. Durable after the next call with `meta`.
    ///
    /// # Errors
    /// [`StoreError`]; the process must end.
    fn checkpoint(&mut self, batch: CheckpointBatch) -> Result<(), StoreError>;

    /// The newest complete checkpoint's record, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits every element of the checkpoint in key order.
    ///
    /// # Errors
    /// What reading failed with, or what `visit` returned.
    fn elements(&self, visit: Visit<'_>) -> Result<(), StoreError>;
}
