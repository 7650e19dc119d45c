//! From whom a partition is repaired: the nearest region that can stand in for the one that said
//! that its log does not lead on.
//!
//! All regions hold the same but for what is on its way. Over a WAN the whole state of a partition
//! is better taken from the region next door; the little that only the other one has follows from
//! its log.

use meridian_clock::{Origin, VersionVector};

use crate::limits::STAND_IN_LACKS_MS;

/// What becomes of a wish for a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Nothing is missing any more, or the peer is gone.
    Nobody,
    /// Too little is known yet.
    Later,
    /// This one gives.
    From(Origin),
}

/// A region that could give.
pub(crate) struct Candidate<'a> {
    pub peer: Origin,
    /// The way there and back in milliseconds; none if it was not measured.
    pub round_trip_ms: Option<u64>,
    /// What it had of the partition by its last watermark.
    pub vector: &'a VersionVector,
}

/// The nearest of `candidates` that lacks nothing that `wished` had some seconds ago and that is
/// missing here; `wished` itself if none is nearer. `wished` need not be among them.
pub(crate) fn nearest(
    wished: &Candidate<'_>,
    mine: &VersionVector,
    candidates: &[Candidate<'_>],
) -> Origin {
    let limit_ms = wished.round_trip_ms.unwrap_or(0);
    let can = |candidate: &&Candidate<'_>| {
        candidate.round_trip_ms.is_some_and(|ms| ms < limit_ms)
            && wished.vector.iter().filter(|(origin, time)| *time > mine.get(*origin)).all(
                |(origin, time)| {
                    let theirs = candidate.vector.get(origin);
                    theirs > mine.get(origin)
                        && theirs.as_ms().saturating_add(STAND_IN_LACKS_MS) >= time.as_ms()
                },
            )
    };
    let best = candidates.iter().filter(can).min_by_key(|candidate| candidate.round_trip_ms);
    best.map_or(wished.peer, |candidate| candidate.peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_clock::Time;

    fn vector(entries: &[(u16, u64)]) -> VersionVector {
        let mut vector = VersionVector::new();
        for (origin, ms) in entries {
            vector.set(Origin(*origin), Time::from_ms(*ms));
        }
        vector
    }

    /// Who gives if the first is asked, which is 200 ms away.
    fn choose(mine: &[(u16, u64)], others: &[(u16, Option<u64>, VersionVector)]) -> u16 {
        let asked = vector(&[(1, 90_000), (2, 80_000)]);
        let wished = Candidate { peer: Origin(1), round_trip_ms: Some(200), vector: &asked };
        let candidates: Vec<_> = others
            .iter()
            .map(|(peer, ms, vector)| Candidate { peer: Origin(*peer), round_trip_ms: *ms, vector })
            .collect();
        nearest(&wished, &vector(mine), &candidates).0
    }

    #[test]
    fn the_nearest_that_has_it_all_gives() {
        let all = vector(&[(1, 90_000 - STAND_IN_LACKS_MS), (2, 80_000)]);
        let old = vector(&[(1, 89_999 - STAND_IN_LACKS_MS), (2, 80_000)]);
        let half = vector(&[(1, 90_000)]);
        assert_eq!(choose(&[], &[(2, Some(80), all.clone()), (3, Some(20), all.clone())]), 3);
        assert_eq!(choose(&[], &[(2, Some(80), all.clone()), (3, None, all.clone())]), 2);
        assert_eq!(choose(&[], &[(2, Some(300), all)]), 1, "it is farther away");
        assert_eq!(choose(&[], &[(2, Some(80), old)]), 1, "it is behind");
        assert_eq!(choose(&[], &[(2, Some(80), half.clone())]), 1, "it lacks one of two");
        assert_eq!(choose(&[(2, 80_000)], &[(2, Some(80), half)]), 2, "that is here already");
        let level = vector(&[(1, 89_000), (2, 80_000)]);
        assert_eq!(choose(&[(1, 89_000)], &[(2, Some(80), level)]), 1, "it has no more than we");
    }
}
