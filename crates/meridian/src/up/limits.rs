//! Every bound of `up`, in one place.

use std::time::Duration;

/// How long a region may take to become ready.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long nodes may take to end in an orderly way; then they are killed.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);

/// How often a region that is starting is asked how it is.
pub const POLL_EVERY: Duration = Duration::from_millis(50);

/// How long a region may take to answer a question about its health.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// While something is waited for, it is named this often.
pub const REMIND_EVERY: Duration = Duration::from_secs(3);

/// How long a client of the control socket may take for its request.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// How long a client waits for the answer of a running `up`.
pub const REPLY_WITHIN: Duration = Duration::from_secs(30);

/// The longest request or reply on the control socket, in bytes.
pub const LINE_BYTES_MAX: u64 = 256 << 10;

/// Requests that may wait to be carried out; further clients wait in their sockets.
pub const REQUESTS_MAX: usize = 16;

/// Events of nodes that may wait to be told; a node has at most one at a time.
pub const NODE_EVENTS_MAX: usize = 32;

/// A node's log that is longer than this is set aside when the node starts, in bytes.
pub const NODE_LOG_BYTES_MAX: u64 = 16 << 20;

/// How many lines of a node's log are shown when it has died.
pub const TAIL_LINES: usize = 15;

/// How much of a log is read for that, in bytes.
pub const TAIL_BYTES: u64 = 64 << 10;

/// The longest path of a unix socket, in bytes (`sun_path`, less the final zero).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
