//! Every limit of the clocks, in one place.

/// How far ahead of this node's physical clock a remote stamp may be before its origin is held
/// back, in milliseconds. A peer with a wild clock must not drag every region's stamps into the
/// future.
pub const MAX_AHEAD_MS: u64 = 60_000;

/// How far from the majority's clocks a node's own may be before it refuses to write, in
/// milliseconds, unless configured otherwise.
pub const DEFAULT_SKEW_LIMIT_MS: u64 = 250;

/// Readings of one peer's clock that are kept; the most exact of them counts.
pub const READINGS_PER_PEER: usize = 8;

/// A reading of another clock counts for so long, in microseconds.
pub const READING_LIFE_US: u64 = 60_000_000;

/// What two steady clocks may gain on each other, in millionths: a reading grows less exact by
/// this. Crystals keep within 100; 1,000 is what a broken machine does.
pub const DRIFT_PPM: u64 = 1_000;

/// Questions to one peer that may be unanswered at a time.
pub const OPEN_QUESTIONS: usize = 16;

/// The clock is judged anew this often, in microseconds of the steady clock,
pub const JUDGE_EVERY_US: u64 = 50_000;

/// or at once when the time of day has moved this far against the steady clock, in microseconds.
pub const JUMP_US: u128 = 1_000;

/// A fence falls only after the clock was right for so long, in microseconds.
pub const CALM_US: u64 = 2_000_000;

/// The hybrid clock's floor on disk is so far ahead of the time in use, in milliseconds. After a
/// crash hybrid time begins there: as much may keys expire too early, once.
pub const FLOOR_AHEAD_MS: u64 = 1_000;

/// A clock that shows so much more at the start than when the node last ran, in milliseconds, is
/// asked about before it is believed.
pub const START_LEAP_MS: u64 = 3_600_000;

/// Without an answer to that, it is believed after so long, in microseconds.
pub const START_PATIENCE_US: u64 = 10_000_000;

const _: () = assert!(DEFAULT_SKEW_LIMIT_MS * 4 < MAX_AHEAD_MS);
