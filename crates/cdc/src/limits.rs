//! Every limit of change data capture, in one place, so that memory use can be read off this page.

/// Longest message accepted from Postgres, in bytes. A row arrives as one message, so this is also
/// the largest row; a larger one stops the stream with a clear error.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Most columns in a row. Postgres itself stops at 1,664 entries in a tuple.
pub const COLUMNS_MAX: usize = 1664;

/// Longest schema, table or column name in bytes. Postgres is built with 63 unless patched.
pub const NAME_BYTES_MAX: usize = 1024;

/// Most tables whose descriptions are remembered in a session.
pub const RELATIONS_MAX: usize = 65_536;

/// Longest mirror key in bytes (prefix and escaped key columns). A B-tree entry in Postgres is at
/// most about 2.7 kB, but may be stored compressed.
pub const KEY_BYTES_MAX: usize = 64 << 10;

/// A batch is closed when it holds this many changes.
pub const BATCH_CHANGES_MAX: usize = 4096;

/// A batch is closed when its changes weigh this many bytes. One row may exceed it alone, so a
/// batch weighs at most this plus one row.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Most keys named by one [`crate::Retain`]; larger tables are swept in several key ranges.
pub const RETAIN_KEYS_MAX: usize = 65_536;

/// Most bytes of keys named by one [`crate::Retain`].
pub const RETAIN_BYTES_MAX: usize = 8 << 20;

/// Most rows whose keys a table copy remembers for its sweep. For a larger table the keys are read
/// once more, sorted, which costs the server a sort.
pub const COPY_KEYS_MAX: usize = 1 << 20;

/// Most bytes of keys that a table copy remembers.
pub const COPY_KEYS_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(KEY_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX < RETAIN_BYTES_MAX);
const _: () = assert!(RETAIN_KEYS_MAX <= COPY_KEYS_MAX);
