//! Every limit of the admin port, in one place.

use std::time::Duration;

/// Connections that are open at once; who comes after them waits in the system's queue.
pub const CONNECTIONS: usize = 64;

/// A connection on which nothing arrives for this long is closed, so that silent callers cannot
/// hold all connections.
pub const IDLE: Duration = Duration::from_secs(60);

/// Requests that are answered at once; those that come meanwhile are sent away with status 503.
pub const REQUESTS: usize = 32;

/// An answer of the executor serves every request that comes within this time.
pub const SNAPSHOT_SHARED: Duration = Duration::from_millis(100);

/// Postgres keeps more log than this for the tailer: it is behind, in bytes.
pub const CDC_LAG_BYTES: u64 = 64 << 20;

/// The log has grown to so many times what retention and checkpoints account for: something
/// holds it.
pub const LOG_PRESSURE: u64 = 2;

/// The longest order that is read, in bytes.
pub const ORDER_BYTES_MAX: usize = 16 << 10;

/// The last good backup or check may be so many times as old as the schedule's period.
pub const BACKUP_PATIENCE: u32 = 2;

/// The largest request to change the members, in bytes.
pub const REQUEST_BYTES: usize = 64 << 10;

/// How far a request's time may be from this node's clock: an old one is not done again.
pub const REQUEST_AGE_MS: u64 = 5 * 60 * 1000;

/// How long the answer to a request may take: longer than the control plane is patient.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(25);
