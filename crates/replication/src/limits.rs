//! Every limit of replication, in one place.

use meridian_store::MAX_FRAME_BYTES;

/// What one batch of frames aims at, in bytes. A larger frame travels alone.
pub const BATCH_TARGET_BYTES: usize = 256 << 10;

/// A batch of fewer bytes is not packed.
pub const PACK_MIN_BYTES: usize = 128;

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

/// A peer of which nothing was heard for so long and its round trip is silent, in milliseconds:
/// four times the interval of watermarks. A lost one comes again after about a round trip.
pub const SILENT_AFTER_MS: u64 = 400;

/// An upstream that brings nothing of an origin for so long while another peer has more gets
/// company, in milliseconds. Longer than any round trip.
pub const STUCK_AFTER_MS: u64 = 2_000;

/// An upstream that was silent is trusted alone again when it was heard for so long, in
/// milliseconds.
pub const RETURN_AFTER_MS: u64 = 1_000;

/// To how many others a region sends the frames of one origin unless the topology says otherwise:
/// up to eight regions everybody is fed directly.
pub const RELAY_FANOUT: usize = 7;

/// What a relay adds to the way of a frame, in milliseconds: it syncs before it sends (rule R6).
pub const RELAY_HOP_MS: u64 = 4;

/// By how much farther away a region seems in the relay trees when it feeds as many streams as it
/// would if there were none, in milliseconds.
pub const RELAY_LOAD_MS: u64 = 20;

/// An origin that is held because its stamps lie in the future is looked at again this often, in
/// milliseconds: it may have been put right.
pub const HOLD_LOOK_EVERY_MS: u64 = 15_000;

/// The most origins that are held at a time; there are no more.
pub const MAX_HELD_ORIGINS: usize = meridian_clock::MAX_REGIONS;

/// Frames of one origin and partition are joined up to so many bytes: a bundle is applied in one
/// go, and commands wait for it.
pub const MAX_BUNDLE_BYTES: usize = 4 << 20;

/// A peer that lacks more log than this is sent bundles, in bytes.
pub const COMPACT_BEYOND_BYTES: u64 = 16 << 20;

/// So much of what it is sent is looked at together, in bytes: the memory that catching up takes
/// for a peer, some three times over.
pub const COMPACT_WINDOW_BYTES: usize = 8 << 20;

/// The most cuts that one operation may have after it took over those of dropped ones.
pub const MAX_FOLDED_CUTS: usize = 4096;

const _: () = assert!(BATCH_TARGET_BYTES < MAX_BATCH_BYTES);
const _: () = assert!(SILENT_AFTER_MS < STUCK_AFTER_MS);

/// The most symbols that one message asks for or carries.
pub const MAX_SYMBOLS: u64 = 16_384;

/// The most items that one message asks for.
pub const MAX_FETCH_ITEMS: usize = 4096;

/// A piece of the stream of a repair's elements, in bytes.
pub const REPAIR_PIECE_BYTES: usize = 128 << 10;

/// How much of that stream may be under way for one repair, in bytes.
pub const REPAIR_WINDOW_BYTES: u64 = 4 << 20;
