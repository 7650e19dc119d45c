//! Seeded randomness, in streams that do not disturb each other.
//!
//! Schedule, faults and workload each draw from a stream of their own, so that a fault more or a
//! command less does not move everything else.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// What kind of run the seed is.
    Plan,
    /// Delays, and which turn takes what.
    Schedule,
    /// When and where faults strike.
    Faults,
    /// What clients do.
    Workload,
    /// When the judges look.
    Judges,
}

/// One stream of randomness.
#[derive(Clone, Debug)]
pub(crate) struct Random(StdRng);

impl Random {
    /// A stream of a seed.
    pub fn new(seed: u64, stream: Stream) -> Random {
        // Any odd constant keeps the streams' seeds apart; this is 2^64 divided by the golden ratio.
        let salt = (stream as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Random(StdRng::seed_from_u64(seed ^ salt))
    }

    /// A number from `from` to `upto`, both included.
    pub fn range(&mut self, from: u64, upto: u64) -> u64 {
        self.0.random_range(from..=upto)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.0.random_range(0..1000) < per_mille
    }

    /// One of several.
    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// A number between the two whose order of magnitude is even, for durations.
    pub fn spread(&mut self, from: u64, upto: u64) -> u64 {
        let (low, high) = ((from.max(1) as f64).ln(), (upto.max(1) as f64).ln());
        let drawn = self.0.random_range(0.0..=1.0) * (high - low) + low;
        (drawn.exp() as u64).clamp(from, upto)
    }
}
