//! What the majority of the clocks says.
//!
//! Marzullo's algorithm ("Maintaining the time in a distributed system", 1984), as NTP uses it:
//! every clock is an interval that holds the true time if the clock is right; the point that most
//! intervals share is the truth if those are more than half. One clock that lies, whatever it
//! says, is outvoted from three on; two alone cannot tell who is wrong.

/// The clocks that agree, relative to this node's own, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Majority {
    /// The least that the truth may be ahead of this node.
    pub low_us: i64,
    /// The most.
    pub high_us: i64,
    /// How many clocks agree.
    pub members: usize,
    /// The best guess of what they are ahead: the median of those that are not this node's own,
    /// which would drag it towards itself.
    pub ahead_us: i64,
}

/// Finds the majority among this node's own clock and `others`, each with what it is ahead and
/// what that may be wrong by. Two clocks agree when they may be within `tolerance_us` of each
/// other. Where several places are shared by equally many, all of them and what lies between are
/// given: nobody is told wrong on a tie.
#[must_use]
pub fn majority(others: &[(i64, u64)], tolerance_us: u64) -> Option<Majority> {
    let slack = tolerance_us / 2;
    let limit = i64::MAX / 2;
    let mut edges: Vec<(i64, i8)> = Vec::with_capacity(2 * others.len() + 2);
    for (offset, error) in others.iter().copied().chain([(0, 0)]) {
        let wide = i64::try_from(error.saturating_add(slack)).unwrap_or(limit);
        let at = |edge: i64| edge.clamp(-limit, limit);
        edges.push((at(offset.saturating_sub(wide)), -1));
        edges.push((at(offset.saturating_add(wide)), 1));
    }
    // Where one interval ends and another begins they still share the point: beginnings first.
    edges.sort_unstable();
    let (mut depth, mut best): (usize, Option<Majority>) = (0, None);
    for (index, (edge, kind)) in edges.iter().enumerate() {
        if *kind > 0 {
            depth -= 1;
            continue;
        }
        depth += 1;
        // This deep until the next end.
        let Some((end, _)) = edges[index..].iter().find(|(_, kind)| *kind > 0) else { break };
        match &mut best {
            Some(best) if best.members > depth => {}
            Some(best) if best.members == depth => best.high_us = *end,
            _ => {
                best = Some(Majority { low_us: *edge, high_us: *end, members: depth, ahead_us: 0 })
            }
        }
    }
    let mut best = best.filter(|best| 2 * best.members > others.len() + 1)?;
    let agrees = |(offset, error): &&(i64, u64)| {
        let wide = i64::try_from(error.saturating_add(slack)).unwrap_or(limit);
        offset.saturating_sub(wide) <= best.high_us && offset.saturating_add(wide) >= best.low_us
    };
    let mut members: Vec<i64> = others.iter().filter(agrees).map(|(offset, _)| *offset).collect();
    members.sort_unstable();
    if let (Some(below), Some(above)) =
        (members.get(members.len().saturating_sub(1) / 2), members.get(members.len() / 2))
    {
        best.ahead_us = below.midpoint(*above);
    }
    Some(best)
}

impl Majority {
    /// What the majority is at least away from this node, in microseconds, beyond the tolerance
    /// that it was found with.
    #[must_use]
    pub fn distance_us(&self) -> u64 {
        if self.low_us > 0 {
            self.low_us.unsigned_abs()
        } else if self.high_us < 0 {
            self.high_us.unsigned_abs()
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the majority is ahead, and how many it is, with 10 tolerance and the same error.
    fn check(offsets: &[i64]) -> Option<(i64, usize)> {
        let others: Vec<(i64, u64)> = offsets.iter().map(|o| (*o, 1)).collect();
        majority(&others, 10).map(|m| (m.ahead_us, m.members))
    }

    #[test]
    fn more_than_half_must_agree() {
        assert_eq!(check(&[]), Some((0, 1)), "alone");
        assert_eq!(check(&[3]).map(|m| m.1), Some(2));
        assert_eq!(check(&[1_000]), None, "two alone cannot know");
        assert_eq!(check(&[1_000, -1_000]), None, "all three apart");
        assert_eq!(check(&[1_000, 1_002]), Some((1_001, 2)), "this one is off");
        assert_eq!(check(&[1_000, 0]).map(|m| m.1), Some(2), "the other one is off");
        assert_eq!(check(&[0, 500, 502]), None, "two against two");
        assert_eq!(check(&[500, 501, 502, 0]), Some((501, 3)));
    }

    #[test]
    fn a_tie_covers_all_that_it_may_be() {
        let tie = majority(&[(9, 0), (-9, 0)], 10).unwrap();
        assert_eq!((tie.members, tie.distance_us()), (2, 0));
        assert!(tie.low_us <= -4 && tie.high_us >= 4);
    }

    #[test]
    fn one_liar_of_three_moves_nothing() {
        for lie in [i64::MIN, -28_800_000_000, -7, 0, 7, 28_800_000_000, i64::MAX] {
            for error in [0, 1_000, u64::MAX] {
                let found = majority(&[(0, 1), (lie, error)], 10).unwrap();
                assert!(found.distance_us() <= 5, "{lie} {error}: {found:?}");
            }
        }
    }
}
