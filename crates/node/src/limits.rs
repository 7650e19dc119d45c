//! Every limit of the composition, in one place.

/// Watermarks (acknowledgements and promises) are sent this often, in milliseconds.
pub const WATERMARK_EVERY_MS: u64 = 100;

/// For so long after a region has gone its last frames may still be on their way to others, in
/// milliseconds: longer than a session lives without a sign of life.
pub const LAST_WORDS_MS: u64 = 4_000;

/// One in so many watermarks of a session is whole; the others tell what has moved.
pub const WATERMARK_WHOLE_EVERY: u64 = 50;

/// A peer whose clock is known is asked for it this often, in milliseconds; else with every
/// watermark.
pub const NOTE_EVERY_MS: u64 = 500;

/// Alarms about time that wait to be told; further ones are only counted.
pub const MAX_ALARMS: usize = 64;

/// After frames were missed or held back, ask again this often, in milliseconds.
pub const RESUBSCRIBE_EVERY_MS: u64 = 250;

/// A peer that has what is missing here and sends nothing for so long, in milliseconds, has
/// perhaps never got the subscription: it is asked again. Longer than any round trip. Doubled each
/// time that it does not help, up to [`STALLED_AFTER_MS_MAX`].
pub const STALLED_AFTER_MS: u64 = 2_000;
/// See [`STALLED_AFTER_MS`].
pub const STALLED_AFTER_MS_MAX: u64 = 32_000;

/// Upstreams are chosen again this often, in milliseconds.
pub const ROUTE_EVERY_MS: u64 = 50;

/// The most that a peer's silence grows between two looks, in milliseconds: when this node itself
/// stood still for longer, it has not listened.
pub const UNHEARD_MS_MAX: u64 = 100;

/// Slots whose expired keys are looked for in one sweep.
pub const SWEEP_SLOTS: u16 = 256;

/// A sweep happens this often, in milliseconds; all slots are visited in
/// `16384 / SWEEP_SLOTS * SWEEP_EVERY_MS`.
pub const SWEEP_EVERY_MS: u64 = 50;

/// Keys exported in one go while a checkpoint is written, so that commands wait only briefly.
pub const EXPORT_KEYS: usize = 256;

/// A checkpoint run names at most about this much memory's worth of changed elements; a longer
/// stretch of log is done in several runs.
pub const MAX_TOUCHED_BYTES: usize = 512 << 20;

/// How much of the log is read at a time while planning a checkpoint or recovering.
pub const SCAN_BYTES: usize = 4 << 20;

/// The largest piece in which a message of the live lane travels.
pub const PIECE_BYTES: usize = 1 << 20;

/// Votes of the control group change no faster than this, in milliseconds, and not before a new
/// leader has led for so long. Two majorities that are one change apart share a voter; a lease
/// that was confirmed before a change must not meet a majority that is two changes away from it,
/// so this is longer than any lease ([`crate::Control`] takes three leases if that is more).
pub const VOTER_CHANGE_EVERY_MS: u64 = 2_000;

/// A region that is to follow the control group is proposed again after this many milliseconds.
pub const LEARNER_RETRY_MS: u64 = 500;
/// The most partitions that are repaired at a time.
pub const MAX_RECEIVING: usize = 4;

/// The most partitions that are given to others at a time: to two that repair as many as they may.
pub const MAX_DONATIONS: usize = 2 * MAX_RECEIVING;

/// A repair whose other side says nothing for so long is given up, in milliseconds.
pub const REPAIR_PATIENCE_MS: u64 = 15_000;

/// A repair that was given up is begun again after so long, in milliseconds.
pub const REPAIR_AGAIN_MS: u64 = 500;

/// A region that is nearer gives in the place of one whose log does not lead on, if it lacks nothing
/// that is older than this, in milliseconds: the log leads on from there.
pub const STAND_IN_LACKS_MS: u64 = 10_000;

/// So long a repair waits for every region that is up to say what it has, in milliseconds.
pub const STAND_IN_PATIENCE_MS: u64 = 1_000;

/// Not twice within so long for the same partition, in milliseconds: if the log does not lead on
/// even then, the one who said so gives.
pub const STAND_IN_EVERY_MS: u64 = 60_000;

/// About how many elements are looked at in one go while partitions are compared.
pub const REPAIR_SCAN_ELEMENTS: usize = 4096;

/// Of so many elements one is looked at closely, to guess how many differ.
pub const REPAIR_SAMPLE: usize = 16;

/// So many symbols are sent beyond the guess of how many it takes.
pub const REPAIR_SPARE_SYMBOLS: u64 = 32;

/// When one in so many elements is news to the other side, all are sent.
pub const REPAIR_WHOLE_SHARE: u64 = 3;

/// A part of a repair in the log aims at this size, in bytes.
pub const REPAIR_PART_BYTES: usize = 8 << 20;

/// The most that the repair of one partition may bring, in bytes: it is one entry of the log.
pub const MAX_REPAIR_BYTES: u64 = 1 << 30;

const _: () = assert!(
    MAX_REPAIR_BYTES as usize * 3 / 2 < meridian_store::MAX_ENTRY_BYTES,
    "a repair with the names of what is absent must fit a log entry"
);

/// The most differences that are remembered from one scrub of a partition to the next.
pub const MAX_SCRUB_DIFFERENCES: usize = 4096;

/// The most elements that a scrub names in one go.
pub const MAX_DIVERGENT_NAMES: usize = 16;
