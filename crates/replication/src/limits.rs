//! Every limit of replication, in one place.

use meridian_store::MAX_FRAME_BYTES;

/// What one batch of frames aims at, in bytes. A larger frame travels alone.
pub const BATCH_TARGET_BYTES: usize = 256 << 10;

/// The largest batch that is accepted.
pub const MAX_BATCH_BYTES: usize = MAX_FRAME_BYTES + (1 << 10);

/// How much of the log a sender reads at a time.
pub const READ_BYTES: usize = 512 << 10;

/// The most bytes of frames that wait for what they depend on. Beyond it the newest are dropped
/// and asked for again.
pub const MAX_HELD_BYTES: usize = 64 << 20;

/// The most positions of the log whose vectors are remembered.
pub const MAX_LOG_MARKS: usize = 4096;

/// A new mark is set after this much log.
pub const MARK_EVERY_BYTES: u64 = 8 << 20;

const _: () = assert!(BATCH_TARGET_BYTES < MAX_BATCH_BYTES);
