//! Every bound of the fault helpers, in one place.

use std::time::Duration;

/// Pause between two looks at something that another process does.
pub const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long a Redis command, a query or an HTTP request may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a client waits for a connection or a reply before it tries the next region.
pub const CLIENT_TIMEOUT: Duration = Duration::from_millis(250);

/// How long a cluster may take to start.
pub const START_WITHIN: Duration = Duration::from_secs(60);

/// How long a cluster may take to stop, before it is killed.
pub const STOP_WITHIN: Duration = Duration::from_secs(30);

/// The largest answer that is read over HTTP or the control socket, in bytes.
pub const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// Commands in one pipeline.
pub const PIPELINE: usize = 256;

/// Writes that a load remembers; it stops before it would forget one.
pub const WRITES_MAX: usize = 1_000_000;

/// Pause of a writer between two writes.
pub const WRITE_EVERY: Duration = Duration::from_millis(1);

/// Pause between two changes in Postgres.
pub const CHANGE_EVERY: Duration = Duration::from_millis(20);

/// How many lines of a log are shown after a failure.
pub const TAIL_LINES: usize = 12;
