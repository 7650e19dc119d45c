//! Every bound of the mesh, in one place: what a peer may make this node hold, and for how long.

use std::time::Duration;

use crate::lane::LANES;

/// The largest message on a lane: a frame of 1 MiB and room for what wraps it.
pub const MESSAGE_BYTES_MAX: usize = (1 << 20) + (64 << 10);

/// The largest datagram that fits every path (QUIC's minimum of 1,200 bytes less its headers).
pub const DATAGRAM_BYTES_MAX: usize = 1_100;

/// What may be queued for a peer on the control lane, in bytes.
pub const CONTROL_QUEUE_BYTES_MAX: usize = 2 << 20;

/// What may be queued for a peer on the live lane, in bytes.
pub const LIVE_QUEUE_BYTES_MAX: usize = 8 << 20;

/// What may be queued for a peer on the bulk lane, in bytes.
pub const BULK_QUEUE_BYTES_MAX: usize = 4 << 20;

/// What a queued message counts beyond its bytes, so that small ones are bounded too.
pub const MESSAGE_OVERHEAD_BYTES: usize = 64;

/// How much is taken from a queue, compressed and written in one go, in bytes.
pub const BATCH_BYTES: usize = 256 << 10;

/// How much of a lane may be under way unread, in bytes: 20 MB/s at a round trip of 200 ms.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// How much of a connection may be under way: every lane's window, so that a lane whose reader
/// stands still cannot take the others' share.
pub const CONNECTION_WINDOW_BYTES: u32 = LANES as u32 * STREAM_WINDOW_BYTES + (64 << 10);

/// How much is read from a stream or decompressed in one go, in bytes.
pub const READ_BYTES: usize = 64 << 10;

/// The logarithm of the compression window, on both sides: 256 KiB.
pub const ZSTD_WINDOW_LOG: u32 = 18;

/// The logarithm of the places in which the compressor remembers what it has seen: enough for the
/// whole window, 256 KiB a lane. The level's own choice forgets most of a window of short records.
pub const ZSTD_HASH_LOG: u32 = 16;

/// Compression level: the cheapest of the regular ones.
pub const ZSTD_LEVEL: i32 = 1;

/// Bytes after which what compressing saved is looked at.
pub const SAVING_SAMPLE_BYTES: u64 = 64 << 10;

/// Less than this share of the bytes saved, in percent, is not worth it.
pub const SAVED_PERCENT_MIN: u64 = 3;

/// Fewer bytes saved for each second of processor time are not worth it: a core that only sends
/// does some hundred MB/s, and encrypts them as well.
pub const SAVED_BYTES_PER_CPU_SECOND_MIN: u64 = 5_000_000;

/// Bytes that go as they are after a sample that saved too little, at first.
pub const SAVING_SKIP_BYTES_MIN: u64 = 1 << 20;

/// And at most: what is written may change, and looking costs one part in sixty-four.
pub const SAVING_SKIP_BYTES_MAX: u64 = 4 << 20;

/// A bounded bandwidth is kept over this time, in microseconds.
pub const BANDWIDTH_BURST_US: u64 = 100_000;

/// And lets at least this much through at once, in bytes.
pub const BANDWIDTH_BURST_BYTES_MIN: i64 = 16 << 10;

/// A lane that waits for bandwidth looks again after this, in case the bound was changed.
pub const BANDWIDTH_WAIT_MAX: Duration = Duration::from_millis(200);

/// What is written at a time when the bandwidth is bounded, in bytes.
pub const BANDWIDTH_PIECE_BYTES: usize = 16 << 10;

/// What datagrams may wait for their reader or for the line, in bytes; the oldest are dropped.
pub const DATAGRAM_BUFFER_BYTES: usize = 64 << 10;

/// A connection on which nothing arrives for this long is dead.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// How often something is sent when there is nothing to say.
pub const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// Assumed before the first measurement; it sets when a lost first packet is sent again.
pub const INITIAL_RTT: Duration = Duration::from_millis(100);

/// How long a handshake and the opening of the lanes may take together.
pub const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait before the first attempt to dial again.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// The longest wait between attempts to dial.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A region that is no member any more and waits to be called is told so this often.
pub const FAREWELL_EVERY: Duration = Duration::from_secs(5);

/// A session that lasted this long counts as good: the next attempt is quick again.
pub const STABLE_AFTER: Duration = Duration::from_secs(2);

/// How long [`crate::MeshHandle::shutdown`] waits for farewells to arrive.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Handshakes that may be under way with callers not yet known.
pub const HANDSHAKES_MAX: usize = 32;

/// With this many handshakes under way, callers must first prove their address.
pub const HANDSHAKES_BEFORE_RETRY: usize = 8;

/// Calls that may wait to be looked at, and the bytes that each may send meanwhile.
pub const INCOMING_MAX: usize = 64;
/// Bytes that a waiting call may buffer.
pub const INCOMING_BUFFER_BYTES: u64 = 32 << 10;
/// Bytes that all waiting calls may buffer.
pub const INCOMING_BUFFER_TOTAL_BYTES: u64 = 1 << 20;

/// The kernel buffers asked for, in bytes; the kernel may give less.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The longest text of a peer that is repeated in a log line or an event.
pub const REASON_BYTES_MAX: usize = 200;

const _: () = {
    assert!(CONTROL_QUEUE_BYTES_MAX >= MESSAGE_BYTES_MAX + MESSAGE_OVERHEAD_BYTES);
    assert!(BULK_QUEUE_BYTES_MAX >= MESSAGE_BYTES_MAX + MESSAGE_OVERHEAD_BYTES);
    assert!(LIVE_QUEUE_BYTES_MAX >= MESSAGE_BYTES_MAX + MESSAGE_OVERHEAD_BYTES);
    assert!(MESSAGE_BYTES_MAX <= u32::MAX as usize);
    assert!(KEEP_ALIVE.as_millis() * 3 <= IDLE_TIMEOUT.as_millis());
    assert!(DATAGRAM_BYTES_MAX < DATAGRAM_BUFFER_BYTES);
};
