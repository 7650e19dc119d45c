//! Every limit and interval of the Postgres adapter, in one place. Times are milliseconds.

/// Longest message accepted before the server has authenticated itself and us, in bytes.
pub const STARTUP_BYTES_MAX: usize = 64 << 10;

/// Longest frame afterwards: the largest row and its headers, in bytes.
pub const FRAME_BYTES_MAX: usize = meridian_cdc::limits::MESSAGE_BYTES_MAX + (64 << 10);

/// Most rows that a catalog query may return over the replication connection.
pub const QUERY_ROWS_MAX: usize = 10_000;

/// Most rounds of password hashing that a server may ask for (Postgres asks for 4,096). They are
/// computed before the server has proved anything.
pub const SCRAM_ITERATIONS_MAX: u32 = 1_000_000;

/// What is asked of the socket at once, in bytes.
pub const READ_BYTES: usize = 256 << 10;

/// For opening a connection, authentication included.
pub const CONNECT_TIMEOUT_MS: u64 = 5_000;

/// For a catalog query.
pub const QUERY_TIMEOUT_MS: u64 = 30_000;

/// For a transaction of the stream to be visible to other sessions: they see it only when it has
/// ended, which may wait for a synchronous standby. Then a new session comes back to it.
pub const VISIBLE_TIMEOUT_MS: u64 = 5_000;

/// How often it is asked whether it is.
pub const VISIBLE_RETRY_MS: u64 = 5;

/// `wal_sender_timeout` of our session: after this long without a word from us the server frees
/// the slot, so that a successor need not wait longer.
pub const WAL_SENDER_TIMEOUT_MS: u64 = 10_000;

/// A server that sends nothing for this long, not even keepalives, is given up.
pub const SILENCE_MAX_MS: u64 = 3 * WAL_SENDER_TIMEOUT_MS;

/// How often the stream's timers are looked at.
pub const TICK_MS: u64 = 100;

/// An unchanged position is reported to the server this often, a changed one each tick.
pub const STATUS_INTERVAL_MS: u64 = 2_000;

/// While no transactions come, the position of keepalives is stored at most this often.
pub const IDLE_POSITION_MS: u64 = 1_000;

/// The stream goes on this long without the SQL connection. A server that shuts down ends that one
/// first, and then waits until the stream has been taken to its end.
pub const CONTROL_LOST_MAX_MS: u64 = 5_000;

/// How often the server's log position and the slot's state are read.
pub const OBSERVE_INTERVAL_MS: u64 = 1_000;

/// How many observations pass between two looks at the catalogs for new, altered or dropped tables.
pub const OBSERVATIONS_PER_TABLE_CHECK: u32 = 5;

/// First pause before a new attempt; it doubles with each failure.
pub const BACKOFF_MIN_MS: u64 = 100;

/// Longest pause between attempts.
pub const BACKOFF_MAX_MS: u64 = 5_000;

/// The oldest server that is spoken to, as `server_version_num`.
pub const SERVER_VERSION_MIN: u32 = 150_000;

/// Longest name of a slot or publication in bytes.
pub const NAME_BYTES_MAX: usize = 63;

const _: () = assert!(STATUS_INTERVAL_MS * 2 < WAL_SENDER_TIMEOUT_MS);
const _: () = assert!(TICK_MS < STATUS_INTERVAL_MS);
const _: () = assert!(VISIBLE_TIMEOUT_MS < WAL_SENDER_TIMEOUT_MS);
