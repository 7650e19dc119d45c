//! The numbers with which the mesh configures QUIC, said a second time: the simulation may not see
//! the mesh, which brings a runtime. `crates/mesh/tests/simulated.rs` compares the two.

/// Lanes of a connection.
pub const LANES: usize = 3;
/// The largest message on a lane, in bytes.
pub const MESSAGE_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// What may be queued for a peer on the control lane, in bytes.
pub const CONTROL_QUEUE_BYTES_MAX: usize = 2 << 20;
/// What may be queued for a peer on the live lane, in bytes.
pub const LIVE_QUEUE_BYTES_MAX: usize = 8 << 20;
/// How much of a lane may be under way unread, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// How much of a connection may be under way, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = LANES as u32 * STREAM_WINDOW_BYTES + (64 << 10);
/// What datagrams may wait for their reader or for the line, in bytes.
pub const DATAGRAM_BUFFER_BYTES: usize = 64 << 10;
/// How much is read from a stream in one go, in bytes.
pub const READ_BYTES: usize = 64 << 10;
/// A connection on which nothing arrives for this long is dead, in milliseconds.
pub const IDLE_TIMEOUT_MS: u64 = 3000;
/// How often something is sent when there is nothing to say, in milliseconds.
pub const KEEP_ALIVE_MS: u64 = 500;
/// Assumed before the first measurement, in milliseconds.
pub const INITIAL_RTT_MS: u64 = 100;
/// How long a handshake and the opening of the lanes may take together, in milliseconds.
pub const ESTABLISH_TIMEOUT_MS: u64 = 2000;
/// How long to wait before the first attempt to dial again, in milliseconds.
pub const BACKOFF_FIRST_MS: u64 = 50;
/// The longest wait between attempts to dial, in milliseconds.
pub const BACKOFF_MAX_MS: u64 = 1000;
/// A session that lasted this long counts as good, in milliseconds.
pub const STABLE_AFTER_MS: u64 = 2000;
