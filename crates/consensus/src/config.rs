//! Who votes, in which order regions stand for election, and how long they wait.

use crate::limits::MAX_VOTERS;
use crate::{Error, Result};

/// Durations of a group in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Resolution of the group's clock.
    pub tick_ms: u64,
    /// Interval of the leader's heartbeats.
    pub heartbeat_ms: u64,
    /// Silence during which nobody helps to depose a leader, and the window in which a leader
    /// must have heard from a quorum to stay one.
    pub lease_ms: u64,
    /// Silence after which the first-ranked follower stands for election; longer than the lease
    /// by the difference in when two followers heard the leader last.
    pub election_ms: u64,
    /// Additional wait of each further rank, so that successors do not split the vote.
    pub rank_gap_ms: u64,
    /// Wait after a failed election. Three round trips or more: faster livelocks over a WAN.
    pub retry_ms: u64,
}

impl Timing {
    /// Timing for regions whose largest round trip is `round_trip_ms`.
    ///
    /// A dead leader's first successor stands after half a second over continents (and not much
    /// sooner anywhere: shorter silences are ordinary on a wide-area network).
    pub fn for_round_trip(round_trip_ms: u64) -> Self {
        let heartbeat_ms = 100;
        let lease_ms = (heartbeat_ms + round_trip_ms + heartbeat_ms / 2).max(300);
        Self {
            tick_ms: 10,
            heartbeat_ms,
            lease_ms,
            election_ms: lease_ms + (round_trip_ms / 2).max(50),
            rank_gap_ms: round_trip_ms.max(50),
            retry_ms: (3 * round_trip_ms).max(lease_ms + 50),
        }
    }

    fn validate(&self) -> Result<()> {
        let require = |holds: bool, rule: &str| {
            if holds { Ok(()) } else { Err(Error::Config(format!("{rule}, given {self:?}"))) }
        };
        require(self.tick_ms > 0, "tick_ms must be positive")?;
        require(self.heartbeat_ms >= self.tick_ms, "a heartbeat takes at least a tick")?;
        require(self.lease_ms > 2 * self.heartbeat_ms, "the lease must outlast two heartbeats")?;
        require(self.election_ms >= self.lease_ms, "elections must wait for the lease")?;
        require(self.retry_ms >= self.lease_ms, "a retry must wait for the lease")?;
        require(self.rank_gap_ms >= self.tick_ms, "ranks must differ by a tick or more")
    }

    /// Milliseconds in whole ticks, at least one.
    pub(crate) fn ticks(&self, ms: u64) -> usize {
        usize::try_from(ms.div_ceil(self.tick_ms).max(1)).unwrap_or(usize::MAX / 4)
    }
}

/// One region's view of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// This region's ordinal.
    pub id: u16,
    /// The voters that the group began with, first-ranked successor first; the same list in every
    /// region. Put the region that holds the data's primary role last: losing it should not cost
    /// the control leader too. Empty for a region that joins a group.
    pub voters: Vec<u16>,
    /// Durations; the same in every region.
    pub timing: Timing,
}

impl GroupConfig {
    /// A region's configuration with the timing for the largest round trip between regions.
    pub fn new(id: u16, voters: Vec<u16>, round_trip_ms: u64) -> Self {
        Self { id, voters, timing: Timing::for_round_trip(round_trip_ms) }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let mut sorted = self.voters.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != self.voters.len() {
            return Err(Error::Config(format!("voters {:?} repeat a region", self.voters)));
        }
        if self.voters.len() > MAX_VOTERS {
            let voters = &self.voters;
            return Err(Error::Config(format!("at most {MAX_VOTERS} voters, not {voters:?}")));
        }
        if !self.voters.is_empty() && !self.voters.contains(&self.id) {
            return Err(Error::Config(format!("region {} is not in {:?}", self.id, self.voters)));
        }
        self.timing.validate()
    }

    /// The voters in ascending order: the part of the identity that ranks do not change.
    pub(crate) fn voter_set(&self) -> Vec<u16> {
        let mut set = self.voters.clone();
        set.sort_unstable();
        set
    }

    /// This region's place among the successors of `leader`: zero stands first. `ranks` are the
    /// present voters in order.
    pub(crate) fn rank_after(&self, leader: Option<u16>, ranks: &[u16]) -> usize {
        let successors = ranks.iter().filter(|&&voter| Some(voter) != leader);
        let place = successors.clone().position(|&voter| voter == self.id);
        place.unwrap_or(ranks.len()).min(MAX_VOTERS)
    }

    /// Ticks that this region waits before it stands for election, after losing `leader` or
    /// after an election that came to nothing.
    pub(crate) fn election_ticks(
        &self,
        leader: Option<u16>,
        ranks: &[u16],
        is_retry: bool,
    ) -> usize {
        let base_ms = if is_retry { self.timing.retry_ms } else { self.timing.election_ms };
        self.timing.ticks(base_ms + self.rank_after(leader, ranks) as u64 * self.timing.rank_gap_ms)
    }

    /// Upper bound of [`Self::election_ticks`], exclusive.
    pub(crate) fn election_ticks_max(&self) -> usize {
        let base_ms = self.timing.retry_ms.max(self.timing.election_ms);
        self.timing.ticks(base_ms + MAX_VOTERS as u64 * self.timing.rank_gap_ms) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_of_a_dead_leader_close_ranks() {
        let rank =
            |id, leader| GroupConfig::new(id, vec![7, 3, 5], 200).rank_after(leader, &[7, 3, 5]);
        assert_eq!(rank(7, None), 0);
        assert_eq!(rank(3, Some(7)), 0);
        assert_eq!(rank(5, Some(7)), 1);
        assert_eq!(rank(5, Some(5)), 3, "a deposed leader stands last");
    }

    #[test]
    fn timing_keeps_its_relations_for_every_distance() {
        for round_trip_ms in 0..2_000 {
            let timing = Timing::for_round_trip(round_trip_ms);
            assert_eq!(timing.validate(), Ok(()));
            assert!(timing.retry_ms >= 3 * round_trip_ms);
            assert!(timing.rank_gap_ms >= round_trip_ms);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |config: GroupConfig| config.validate().is_err();
        assert!(refused(GroupConfig::new(1, vec![1, 1], 50)));
        assert!(refused(GroupConfig::new(1, vec![2, 3], 50)));
        assert!(refused(GroupConfig::new(1, (0..8).collect(), 50)));
        let mut config = GroupConfig::new(1, vec![1, 2, 3], 50);
        config.timing.election_ms = config.timing.lease_ms - 1;
        assert!(refused(config));
    }
}
