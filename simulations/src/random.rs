//! Seeded randomness, in streams that do not disturb each other.
//!
//! Every region, link, disk, client and fault draws from a stream of its own, named by what it is
//! for and by whom: a fault more, a client less or a region less does not move everything else.
//! That is what makes a failing plan shrink.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// What kind of run the seed is.
    Plan,
    /// What kind of machine a region has: its disk, its clocks.
    Machine,
    /// A region's turns: when they come and what they take with them.
    Turns,
    /// A region's disk: how long a sync takes, what of the unsynced a crash leaves.
    Disk,
    /// What a link is like.
    Weather,
    /// Delays and losses on one direction of a link.
    Network,
    /// When two regions dial.
    Dial,
    /// One strike of one kind of fault.
    Strike,
    /// What one client does.
    Workload,
    /// When the judges look, and at what.
    Judges,
    /// What heals first.
    Healing,
    /// A host's connections.
    Quic,
    /// Where one client goes.
    Journey,
    /// What a region says of its clock that is not so.
    Lies,
}

/// One stream of randomness.
#[derive(Clone, Debug)]
pub(crate) struct Random(StdRng);

impl Random {
    /// The stream of a seed, for one of those that need one: a region, a client, a direction.
    pub fn new(seed: u64, stream: Stream, who: u64) -> Random {
        let salted = mix(seed) ^ mix(stream as u64 + 1).rotate_left(17) ^ mix(who).rotate_left(41);
        Random(StdRng::seed_from_u64(mix(salted)))
    }

    /// A number from `from` to `upto`, both included.
    pub fn range(&mut self, from: u64, upto: u64) -> u64 {
        self.0.random_range(from..=upto)
    }

    /// A number from `-most` to `most`.
    pub fn around(&mut self, most: u64) -> i64 {
        self.range(0, 2 * most) as i64 - most as i64
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.0.random_range(0..1000) < per_mille
    }

    /// One of several.
    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// A number between the two whose order of magnitude is even, for durations.
    pub fn spread(&mut self, from: u64, upto: u64) -> u64 {
        let (low, high) = ((from.max(1) as f64).ln(), (upto.max(1) as f64).ln());
        let drawn = self.0.random_range(0.0..=1.0) * (high - low) + low;
        (drawn.exp() as u64).clamp(from, upto.max(from))
    }
}

/// Steele et al., "Fast Splittable Pseudorandom Number Generators" (2014): the finalizer of
/// SplitMix64 spreads neighbouring numbers over all of 64 bits.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_those_who_draw_from_them_are_apart() {
        let first =
            |seed, stream, who| Random::new(seed, stream, who).range(0, u64::from(u32::MAX));
        assert_eq!(first(1, Stream::Turns, 0), first(1, Stream::Turns, 0));
        assert_ne!(first(1, Stream::Turns, 0), first(1, Stream::Turns, 1));
        assert_ne!(first(1, Stream::Turns, 0), first(1, Stream::Disk, 0));
        assert_ne!(first(1, Stream::Turns, 0), first(2, Stream::Turns, 0));
    }
}
