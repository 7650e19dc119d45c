//! What the control leader proposes, given what it and the others observe.
//!
//! Every region keeps the [`Trackers`], so that a new leader knows for how long things have been
//! as they are. The decision itself is a pure function of state, trackers and time.

use std::collections::BTreeMap;

use crate::FailoverConfig;
use crate::health::Level;
use crate::limits::MAX_FLAPS;
use crate::members::{MemberChange, MemberStatus};
use crate::peers::Reach;
use crate::state::{Cause, Change, ControlState, Decision, MemberEntry, RegionState, RegionStatus};

/// What is known of a region at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) reach: Reach,
    /// Its own word on its health; `None` while it is not heard here.
    pub(crate) level: Option<Level>,
    pub(crate) is_caught_up: bool,
    /// The control epoch that it has applied, as far as was heard.
    pub(crate) epoch: u64,
}

impl Facts {
    /// Heard here, and by its own account fit to serve.
    fn is_well(&self) -> bool {
        self.level.is_some_and(|level| level < Level::Unhealthy)
    }
}

/// Since when a region is as it is, by this region's clock.
#[derive(Debug, Clone, Copy, Default)]
struct Tracker {
    /// Heard by a majority and not unhealthy.
    well_since: Option<u64>,
    healthy_since: Option<u64>,
    degraded_since: Option<u64>,
    unhealthy_since: Option<u64>,
    /// In state up, as far as this region has witnessed.
    up_since: u64,
}

/// The trackers of all regions.
#[derive(Debug, Clone)]
pub(crate) struct Trackers {
    by_region: BTreeMap<u16, Tracker>,
}

impl Trackers {
    pub(crate) fn new(config: &FailoverConfig, now_ms: u64) -> Self {
        let tracker = Tracker { up_since: now_ms, ..Tracker::default() };
        Self { by_region: config.regions.iter().map(|&region| (region, tracker)).collect() }
    }

    /// Begins to track new regions and forgets those that are gone.
    pub(crate) fn set_regions(&mut self, regions: &[u16]) {
        self.by_region.retain(|region, _| regions.contains(region));
        for &region in regions {
            self.by_region.entry(region).or_default();
        }
    }

    pub(crate) fn observe(&mut self, region: u16, now_ms: u64, facts: Facts) {
        let Some(tracker) = self.by_region.get_mut(&region) else { return };
        let is_heard = facts.reach == Reach::Heard;
        hold(&mut tracker.well_since, now_ms, is_heard && facts.is_well());
        hold(&mut tracker.healthy_since, now_ms, facts.level == Some(Level::Healthy));
        hold(&mut tracker.degraded_since, now_ms, facts.level == Some(Level::Degraded));
        hold(&mut tracker.unhealthy_since, now_ms, facts.level == Some(Level::Unhealthy));
    }

    /// A region changed its agreed state.
    pub(crate) fn state_changed(&mut self, region: u16, now_ms: u64, state: RegionState) {
        if let Some(tracker) = self.by_region.get_mut(&region)
            && state == RegionState::Up
        {
            tracker.up_since = now_ms;
        }
    }
}

/// The next decision, if anything should change.
pub(crate) fn decide(
    state: &ControlState,
    trackers: &Trackers,
    facts: &BTreeMap<u16, Facts>,
    now_ms: u64,
    config: &FailoverConfig,
) -> Option<Decision> {
    let view = View { trackers, facts, now_ms, config };
    let changes: Vec<Change> =
        state.regions.iter().filter_map(|(&region, status)| view.change(region, *status)).collect();
    let mut states: BTreeMap<u16, RegionState> =
        state.regions.iter().map(|(&region, status)| (region, status.state)).collect();
    states.extend(changes.iter().map(|change| (change.region, change.state)));
    let primary = match state.members.is_active(state.primary) {
        true => view.primary(state.primary, &states),
        false => view.successor(state.primary, &states),
    };
    if changes.is_empty() && primary.is_none() {
        return None;
    }
    Some(Decision { based_on: state.epoch, changes, primary })
}

/// A joining region that may become active: it is well and has what the others have, and every
/// region that could act on what it does not know (settle an expiry without waiting for the new
/// region's writes) has heard of it.
pub(crate) fn admit(state: &ControlState, facts: &BTreeMap<u16, Facts>) -> Option<MemberEntry> {
    let joining = state.members.live().find(|(region, member)| {
        member.status == MemberStatus::Joining
            && state.state_of(*region) == Some(RegionState::Up)
            && state.regions.iter().all(|(other, status)| {
                status.state == RegionState::Down
                    || facts.get(other).is_some_and(|facts| facts.epoch >= member.since)
            })
    });
    let (region, _) = joining?;
    Some(MemberEntry { based_on: state.epoch, change: MemberChange::Admit { region } })
}

struct View<'a> {
    trackers: &'a Trackers,
    facts: &'a BTreeMap<u16, Facts>,
    now_ms: u64,
    config: &'a FailoverConfig,
}

impl View<'_> {
    /// The region's next state, where it differs.
    fn change(&self, region: u16, status: RegionStatus) -> Option<Change> {
        let timing = &self.config.timing;
        let facts = self.facts.get(&region)?;
        let tracker = self.trackers.by_region.get(&region)?;
        let lasts = |since: Option<u64>, ms: u64| since.is_some_and(|s| self.now_ms >= s + ms);
        let to = |state, cause| Some(Change { region, state, cause, flaps: status.flaps });
        let down = |cause| {
            let flaps = self.flaps_after(tracker, status);
            Some(Change { region, state: RegionState::Down, cause, flaps })
        };
        let is_unreachable = facts.reach == Reach::Silent;
        let is_unhealthy = lasts(tracker.unhealthy_since, timing.down_after_ms);
        let is_slow = lasts(tracker.degraded_since, timing.degrade_after_ms);
        match status.state {
            RegionState::Down if lasts(tracker.well_since, self.hold_ms(status.flaps)) => {
                match (facts.is_caught_up, is_slow) {
                    (false, _) => to(RegionState::Recovering, Cause::Returned),
                    (true, true) => to(RegionState::Degraded, Cause::Slow),
                    (true, false) => to(RegionState::Up, Cause::Healthy),
                }
            }
            RegionState::Down => None,
            _ if is_unreachable => down(Cause::Unreachable),
            _ if is_unhealthy => down(Cause::Unhealthy),
            RegionState::Recovering if facts.is_caught_up && facts.is_well() => {
                to(RegionState::Up, Cause::Healthy)
            }
            RegionState::Up if is_slow => to(RegionState::Degraded, Cause::Slow),
            RegionState::Degraded if lasts(tracker.healthy_since, timing.up_after_ms) => {
                to(RegionState::Up, Cause::Healthy)
            }
            _ => None,
        }
    }

    /// Who takes the role from a region that is no longer to have it.
    fn successor(&self, holder: u16, states: &BTreeMap<u16, RegionState>) -> Option<u16> {
        let is_fit = |region: &u16| {
            *region != holder
                && matches!(states.get(region), Some(RegionState::Up | RegionState::Degraded))
                && self.facts.get(region).is_some_and(|facts| facts.reach != Reach::Silent)
        };
        self.config.priority.iter().copied().find(is_fit)
    }

    /// Where the primary role should move, if it should.
    ///
    /// Away from a region that does not serve at once; away from a degraded one when somebody is
    /// well; back to a better choice only when that one has proved itself.
    fn primary(&self, holder: u16, states: &BTreeMap<u16, RegionState>) -> Option<u16> {
        let in_state = |state| {
            let priority = self.config.priority.iter().copied();
            priority.filter(move |region| states.get(region) == Some(&state))
        };
        let reachable =
            |region: &u16| self.facts.get(region).is_some_and(|facts| facts.reach != Reach::Silent);
        let best_up = in_state(RegionState::Up).find(reachable);
        let best = best_up.or_else(|| in_state(RegionState::Degraded).find(reachable));
        let next = match states.get(&holder) {
            Some(RegionState::Up) => self.returning(holder, best_up),
            Some(RegionState::Degraded) => best_up,
            _ => best,
        };
        next.filter(|&region| region != holder)
    }

    /// A better choice than `holder` that has been up for long enough.
    fn returning(&self, holder: u16, best_up: Option<u16>) -> Option<u16> {
        let wait_ms = self.config.timing.return_after_ms?;
        let best = best_up?;
        let rank = |region| self.config.priority.iter().position(|&r| r == region);
        let is_better = match (rank(best), rank(holder)) {
            (Some(best), Some(holder)) => best < holder,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let tracker = self.trackers.by_region.get(&best)?;
        let is_proved = tracker.well_since.is_some_and(|s| self.now_ms >= s + wait_ms)
            && self.now_ms >= tracker.up_since + wait_ms;
        (is_better && is_proved).then_some(best)
    }

    /// Going down soon after coming up is a flap; after a long good time the count starts anew.
    fn flaps_after(&self, tracker: &Tracker, status: RegionStatus) -> u8 {
        let up_ms = self.now_ms.saturating_sub(tracker.up_since);
        match up_ms < self.config.timing.flap_window_ms {
            true => status.flaps.saturating_add(1).min(MAX_FLAPS),
            false => 1,
        }
    }

    /// How long a region must have been well before it returns; doubles with every flap.
    fn hold_ms(&self, flaps: u8) -> u64 {
        let timing = &self.config.timing;
        let doublings = u32::from(flaps.saturating_sub(1).min(MAX_FLAPS));
        (timing.up_after_ms << doublings).min(timing.hold_max_ms)
    }
}

/// Starts, keeps or ends a span.
fn hold(since: &mut Option<u64>, now_ms: u64, is_true: bool) {
    *since = if is_true { since.or(Some(now_ms)) } else { None };
}
