//! Why two regions never act as primary at once, without comparing clocks.
//!
//! A heartbeat carries its sender's own time; an answer echoes it. From the echoes a region knows
//! a moment of *its own* clock at which a majority had still heard it (the *basis*: its send time,
//! so the real moment is no earlier). It acts as primary for `lease_ms` after that.
//!
//! A voter confirms at most one region: the primary of the epoch that it has applied. After it
//! has applied a move of the role it no longer confirms the former holder, and it calls itself
//! *released* once the lease that it may have confirmed has run out on its own clock (last heard
//! from the former holder, plus `lease_ms` and a margin for clock rates), or as soon as the former
//! holder's heartbeats show that it has applied the move and therefore stopped.
//!
//! A new primary begins when a majority of voters has applied the move and is released. Any
//! majority that confirmed the former holder shares a voter with that one, so the former lease is
//! over. Epochs that a voter has applied survive its restart (the control log makes commitment
//! durable before application), and what it confirmed in a former life is waited out at the start.

use std::collections::BTreeMap;

use crate::FailoverConfig;
use crate::heartbeat::Heartbeat;
use crate::limits::LEASE_MARGIN_MS;
use crate::peers::Peers;
use crate::state::ControlState;

/// One region's part in leases: its own, and those that it confirms.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    incarnation: u64,
    /// Own send time of the newest heartbeat, the bound for what an echo may claim.
    sent_ms: u64,
    /// By voter: own send time of the newest heartbeat that it has heard.
    heard_by: BTreeMap<u16, u64>,
    /// The same, from voters for which this region is the primary.
    confirmed_by: BTreeMap<u16, u64>,
    /// Former primaries whose lease this voter may have confirmed.
    former: BTreeMap<u16, Former>,
    /// Before this, a lease confirmed in a former life may still run.
    guard_until_ms: u64,
    /// The epoch whose primary role this region has taken over, in this life.
    taken_over: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Former {
    until_ms: u64,
    /// The epoch that took the role away.
    lost_at: u64,
}

impl Lease {
    pub(crate) fn new(config: &FailoverConfig, now_ms: u64, incarnation: u64) -> Self {
        Self {
            incarnation,
            sent_ms: 0,
            heard_by: BTreeMap::new(),
            confirmed_by: BTreeMap::new(),
            former: BTreeMap::new(),
            guard_until_ms: now_ms + config.timing.lease_ms + LEASE_MARGIN_MS,
            taken_over: None,
        }
    }

    /// Notes that a heartbeat leaves with this send time.
    pub(crate) fn sent(&mut self, now_ms: u64) {
        self.sent_ms = now_ms;
    }

    /// Takes the echo out of an accepted heartbeat of `from`.
    pub(crate) fn receive(&mut self, from: u16, heartbeat: &Heartbeat, config: &FailoverConfig) {
        if self.former.get(&from).is_some_and(|former| heartbeat.epoch >= former.lost_at) {
            self.former.remove(&from);
        }
        if !config.voters.contains(&from) {
            return;
        }
        let Some(echo) = heartbeat.sighting(config.id).and_then(|sighting| sighting.echo) else {
            return;
        };
        if echo.incarnation != self.incarnation || echo.sent_ms > self.sent_ms {
            return;
        }
        raise(&mut self.heard_by, from, echo.sent_ms);
        if heartbeat.primary == config.id {
            raise(&mut self.confirmed_by, from, echo.sent_ms);
        }
    }

    /// The control state moved on; `heard_ms` is when the former primary was heard last.
    pub(crate) fn primary_moved(
        &mut self,
        before: &ControlState,
        after: &ControlState,
        heard_ms: Option<u64>,
        config: &FailoverConfig,
    ) {
        if before.primary_since == after.primary_since {
            return;
        }
        // A new term of office needs a new handover, also for a region that had the role before.
        self.taken_over = None;
        if before.primary != config.id
            && let Some(heard_ms) = heard_ms
        {
            let until_ms = heard_ms + config.timing.lease_ms + LEASE_MARGIN_MS;
            self.former.insert(before.primary, Former { until_ms, lost_at: after.primary_since });
        }
    }

    /// Whether no region but the present primary can hold a lease that this voter confirmed.
    pub(crate) fn is_released(&self, now_ms: u64, state: &ControlState) -> bool {
        let is_over = |(region, former): (&u16, &Former)| {
            *region == state.primary || now_ms >= former.until_ms
        };
        now_ms >= self.guard_until_ms && self.former.iter().all(is_over)
    }

    /// Takes the primary role over once a majority has let go of the former holder.
    pub(crate) fn try_take_over(
        &mut self,
        now_ms: u64,
        state: &ControlState,
        peers: &Peers,
        config: &FailoverConfig,
    ) {
        if state.primary != config.id || self.taken_over == Some(state.primary_since) {
            return;
        }
        let has_let_go = |voter: u16| match voter == config.id {
            true => self.is_released(now_ms, state),
            false => peers
                .last(voter)
                .is_some_and(|last| last.epoch >= state.primary_since && last.is_released),
        };
        if config.voters.iter().filter(|&&voter| has_let_go(voter)).count() >= config.majority() {
            self.taken_over = Some(state.primary_since);
        }
    }

    /// Whether this region may act as primary at `now_ms`.
    pub(crate) fn is_primary(
        &self,
        now_ms: u64,
        state: &ControlState,
        config: &FailoverConfig,
    ) -> bool {
        let is_confirmed = |basis_ms: u64| now_ms < basis_ms + config.timing.lease_ms;
        state.primary == config.id
            && self.taken_over == Some(state.primary_since)
            && basis(&self.confirmed_by, now_ms, config).is_some_and(is_confirmed)
    }

    /// Milliseconds since the last moment for which a majority confirmed to hear this region;
    /// `None` if there was none yet.
    pub(crate) fn unheard_ms(&self, now_ms: u64, config: &FailoverConfig) -> Option<u64> {
        basis(&self.heard_by, now_ms, config).map(|basis_ms| now_ms.saturating_sub(basis_ms))
    }
}

/// The latest moment that a majority of voters confirms, this one included.
fn basis(by: &BTreeMap<u16, u64>, now_ms: u64, config: &FailoverConfig) -> Option<u64> {
    let moment =
        |voter: &u16| if *voter == config.id { Some(now_ms) } else { by.get(voter).copied() };
    let mut moments: Vec<u64> = config.voters.iter().filter_map(moment).collect();
    moments.sort_unstable_by(|a, b| b.cmp(a));
    moments.get(config.majority() - 1).copied()
}

fn raise(by: &mut BTreeMap<u16, u64>, voter: u16, sent_ms: u64) {
    let newest = by.entry(voter).or_insert(sent_ms);
    *newest = (*newest).max(sent_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_basis_is_what_a_majority_confirms() {
        let config = FailoverConfig::new(0, vec![0, 1, 2, 3, 4]);
        let by = |moments: &[(u16, u64)]| moments.iter().copied().collect::<BTreeMap<_, _>>();
        assert_eq!(basis(&by(&[]), 100, &config), None);
        assert_eq!(basis(&by(&[(1, 90)]), 100, &config), None);
        assert_eq!(basis(&by(&[(1, 90), (2, 50)]), 100, &config), Some(50));
        assert_eq!(basis(&by(&[(1, 90), (2, 50), (3, 70), (4, 10)]), 100, &config), Some(70));
        let alone = FailoverConfig::new(0, vec![0]);
        assert_eq!(basis(&by(&[]), 100, &alone), Some(100), "a single region is its own majority");
    }
}
