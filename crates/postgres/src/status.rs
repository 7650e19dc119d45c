//! What a tailer tells about itself, for metrics, health and `status`.

use std::collections::BTreeMap;
use std::fmt;

use meridian_cdc::{Position, TableName, WalStatus};

/// What the tailer is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Connecting, or checking the server.
    #[default]
    Connecting,
    /// Waiting for older transactions to end, so that the slot can begin.
    CreatingSlot,
    /// Copying tables.
    Copying {
        /// The table.
        table: TableName,
        /// Rows of it so far.
        rows: u64,
    },
    /// Following the stream.
    Streaming,
    /// Between attempts; the reason is the last error.
    Retrying {
        /// Until the next attempt.
        after_ms: u64,
    },
    /// An operator has to look; the reason is the last error. It is asked again now and then.
    Refused,
    /// Stopped.
    Stopped,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Connecting => write!(f, "connecting"),
            State::CreatingSlot => write!(f, "creating the slot"),
            State::Copying { table, rows } => write!(f, "copying {table}, {rows} rows so far"),
            State::Streaming => write!(f, "streaming"),
            State::Retrying { after_ms } => write!(f, "retrying in {after_ms} ms"),
            State::Refused => write!(f, "refused"),
            State::Stopped => write!(f, "stopped"),
        }
    }
}

/// Totals since the tailer was spawned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions that came to streaming.
    pub sessions: u64,
    /// Sessions that failed.
    pub failures: u64,
    /// Batches handed on.
    pub batches: u64,
    /// Changes handed on.
    pub changes: u64,
    /// Transactions received, of finished sessions and this one.
    pub transactions: u64,
    /// Copies of all tables begun.
    pub snapshots: u64,
    /// Rows copied.
    pub rows_copied: u64,
    /// Changes of refused tables, which were left out.
    pub ignored: u64,
}

/// A tailer's state, published with every change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// The server that it is connected to.
    pub server: String,
    /// Position of the last batch handed on.
    pub handed_on: Option<Position>,
    /// How far the stream has been received.
    pub received_lsn: u64,
    /// How far the server was told that it may forget.
    pub acknowledged_lsn: u64,
    /// End of the server's log, when last asked.
    pub server_lsn: u64,
    /// Bytes of log between the server's end and what was acknowledged.
    pub lag_bytes: u64,
    /// When the last received transaction committed: microseconds since 1970, server's clock.
    pub last_commit_time_us: i64,
    /// Whether the slot's log is safe.
    pub wal_status: Option<WalStatus>,
    /// Bytes of log that can still be written before the slot is lost; `None` if unlimited.
    pub safe_wal_bytes: Option<i64>,
    /// Totals.
    pub totals: Totals,
    /// Why the last session ended, and why a copy had to be made anew.
    pub last_error: Option<String>,
    /// Why the last copy of all tables was made; `None` before one.
    pub snapshot_reason: Option<String>,
    /// Tables that are asked for and cannot be mirrored, and why.
    pub refused: BTreeMap<TableName, String>,
    /// Tables that are mirrored.
    pub captured: Vec<TableName>,
}
