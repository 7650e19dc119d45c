//! Who takes part, who may hold the primary role, and how patient everybody is.

use std::collections::BTreeSet;

use crate::limits::{LEASE_MARGIN_MS, MAX_REGIONS};
use crate::members::{MemberStatus, Members};
use crate::{Error, Result};

/// Durations in milliseconds; the same in every region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Interval of heartbeats.
    pub heartbeat_ms: u64,
    /// A region that a majority has not heard for this long is down.
    pub down_after_ms: u64,
    /// A region returns after it was seen healthy by a majority for this long; doubled with every
    /// flap.
    pub up_after_ms: u64,
    /// How long a region may act as primary after the moment for which a majority confirmed it.
    pub lease_ms: u64,
    /// A region that calls itself degraded for this long is treated so.
    pub degrade_after_ms: u64,
    /// A region that goes down within this long after it came up flaps.
    pub flap_window_ms: u64,
    /// Longest wait of a flapping region before it may return.
    pub hold_max_ms: u64,
    /// After the start, regions that were never heard are given this long to appear.
    pub startup_grace_ms: u64,
    /// The primary role goes back to a region of higher priority after that was up for this long;
    /// `None` leaves it where it is.
    pub return_after_ms: Option<u64>,
    /// A step of the end-to-end check that takes longer is slow.
    pub slow_ms: u64,
    /// Without a new end-to-end result for this long a region calls itself degraded.
    pub check_stale_ms: u64,
    /// Without a new end-to-end result for this long a region calls itself unhealthy: a dead disk
    /// does not answer "failed", it hangs.
    pub check_dead_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_ms: 50,
            down_after_ms: 500,
            up_after_ms: 2_000,
            lease_ms: 400,
            degrade_after_ms: 1_000,
            flap_window_ms: 60_000,
            hold_max_ms: 60_000,
            startup_grace_ms: 3_000,
            return_after_ms: Some(3_000),
            slow_ms: 100,
            check_stale_ms: 2_000,
            check_dead_ms: 5_000,
        }
    }
}

/// One region's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailoverConfig {
    /// This region's ordinal.
    pub id: u16,
    /// The regions whose majority decides, in the order in which they should lead the control
    /// group; the same in every region.
    pub voters: Vec<u16>,
    /// Every region that is watched: the voters and any others.
    pub regions: Vec<u16>,
    /// The regions that may hold the primary role, first choice first.
    pub priority: Vec<u16>,
    /// Durations.
    pub timing: Timing,
}

impl FailoverConfig {
    /// A cluster in which every region votes and may be primary, in the order of `priority`.
    pub fn new(id: u16, priority: Vec<u16>) -> Self {
        // The last in line for the primary role is the first to lead the control group, so that
        // losing one region does not cost both.
        let voters = priority.iter().rev().copied().collect();
        Self { id, voters, regions: priority.clone(), priority, timing: Timing::default() }
    }

    /// The configuration that follows for the present members: those that live are watched, those
    /// that are active may be primary (founders in the configured order, then the others as they
    /// joined), and `voters` vote. The same in every region that has the same members, whatever
    /// else its topology file names.
    pub(crate) fn with_members(&self, members: &Members, voters: &BTreeSet<u16>) -> Self {
        if members.is_empty() {
            return self.clone();
        }
        let is_founder = |region: &u16| members.get(*region).is_some_and(|m| m.is_founder);
        let mut regions: BTreeSet<u16> = members.live().map(|(region, _)| region).collect();
        regions.insert(self.id);
        let founders =
            |list: &[u16]| -> Vec<u16> { list.iter().copied().filter(is_founder).collect() };
        let active = members.live().filter(|(_, m)| m.status == MemberStatus::Active);
        let (mut priority, mut ranked) = (founders(&self.priority), founders(&self.voters));
        priority.retain(|region| members.is_active(*region));
        priority.extend(active.filter(|(_, m)| !m.is_founder).map(|(region, _)| region));
        ranked.retain(|region| voters.contains(region));
        let rest: Vec<u16> = voters.iter().copied().filter(|r| !ranked.contains(r)).collect();
        ranked.extend(rest);
        Self {
            id: self.id,
            voters: ranked,
            regions: regions.into_iter().collect(),
            priority,
            timing: self.timing.clone(),
        }
    }

    /// How many voters make a majority.
    pub(crate) fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let fail = |reason: String| Err(Error::Config(reason));
        for (name, list) in
            [("voters", &self.voters), ("regions", &self.regions), ("priority", &self.priority)]
        {
            let set: BTreeSet<u16> = list.iter().copied().collect();
            if set.len() != list.len() || list.is_empty() || list.len() > MAX_REGIONS {
                return fail(format!("{name} {list:?}: 1 to {MAX_REGIONS} regions, none twice"));
            }
            if let Some(stranger) = set.iter().find(|&region| !self.regions.contains(region)) {
                return fail(format!("{name} names region {stranger}, which is not watched"));
            }
        }
        if !self.regions.contains(&self.id) {
            return fail(format!("region {} is not in {:?}", self.id, self.regions));
        }
        let timing = &self.timing;
        if timing.heartbeat_ms == 0 || timing.lease_ms < 3 * timing.heartbeat_ms {
            return fail("the lease must span three heartbeats".to_owned());
        }
        if timing.lease_ms + LEASE_MARGIN_MS > timing.down_after_ms {
            return fail(format!(
                "lease_ms + {LEASE_MARGIN_MS} must not exceed down_after_ms: an isolated primary \
                 stops before others may take over"
            ));
        }
        if timing.check_dead_ms < timing.check_stale_ms || timing.hold_max_ms < timing.up_after_ms {
            return fail("check_dead_ms >= check_stale_ms, hold_max_ms >= up_after_ms".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_their_own_rules() {
        assert_eq!(FailoverConfig::new(1, vec![0, 1, 2]).validate(), Ok(()));
        assert_eq!(FailoverConfig::new(1, vec![0, 1, 2]).voters, [2, 1, 0]);
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |change: fn(&mut FailoverConfig)| {
            let mut config = FailoverConfig::new(0, vec![0, 1, 2]);
            change(&mut config);
            config.validate().is_err()
        };
        assert!(refused(|c| c.id = 9));
        assert!(refused(|c| c.voters = vec![]));
        assert!(refused(|c| c.voters = vec![0, 0]));
        assert!(refused(|c| c.priority = vec![7]));
        assert!(refused(|c| c.timing.lease_ms = c.timing.down_after_ms));
        assert!(refused(|c| c.timing.heartbeat_ms = c.timing.lease_ms / 2));
    }
}
