//! The composition: one region's failover controller.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::Action;
use crate::decide::{Facts, Trackers, admit, decide};
use crate::health::{CheckReport, Checks, Health, Level, Reason, worst};
use crate::heartbeat::Heartbeat;
use crate::lease::Lease;
use crate::limits::{PROPOSAL_RETRY_MS, TRANSFER_RETRY_MS};
use crate::members::{MemberChange, MemberStatus};
use crate::peers::{Peers, Reach};
use crate::state::{Applied, ControlState, MemberEntry, RegionState};
use crate::{Error, FailoverConfig, Result};

/// One region's controller. Deterministic: the same calls give the same actions. `now_ms` is the
/// caller's monotonic clock in milliseconds; a call with an earlier time than the last is taken
/// for the last.
#[derive(Debug, Clone)]
pub struct Failover {
    /// As the topology file has it.
    base: FailoverConfig,
    /// Who votes in the control group.
    voters: BTreeSet<u16>,
    /// What follows of both for the present members.
    config: FailoverConfig,
    incarnation: u64,
    now_ms: u64,
    state: ControlState,
    peers: Peers,
    lease: Lease,
    checks: Checks,
    trackers: Trackers,
    is_caught_up: bool,
    is_drained: bool,
    heartbeat_due_ms: u64,
    /// Epoch and time of the last proposal.
    proposed: Option<(u64, u64)>,
    transferred_ms: Option<u64>,
}

/// What this region knows of another one, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionView {
    /// Whose view this is of.
    pub region: u16,
    /// The agreed state.
    pub state: RegionState,
    /// Milliseconds since it was heard here; `None` if not yet, zero for this region itself.
    pub silent_ms: Option<u64>,
    /// Its own word on its health, while it is heard.
    pub level: Option<Level>,
    /// Whether a majority exchanges heartbeats with it.
    pub is_heard_by_majority: bool,
}

impl Failover {
    /// A controller that goes on from `state` (the initial one, or a snapshot's). `incarnation`
    /// must be larger than in the region's former lives: the wall clock at the start will do.
    pub fn new(
        config: FailoverConfig,
        state: ControlState,
        now_ms: u64,
        incarnation: u64,
    ) -> Result<Self> {
        let base = config;
        base.validate()?;
        if state.members.is_empty()
            && !state.regions.keys().eq(base.regions.iter().collect::<BTreeSet<_>>())
        {
            return Err(Error::State("names other regions than the configuration"));
        }
        let voters = base.voters.iter().copied().filter(|r| state.regions.contains_key(r));
        let voters: BTreeSet<u16> = voters.collect();
        let config = base.with_members(&state.members, &voters);
        Ok(Self {
            peers: Peers::new(&config, now_ms),
            lease: Lease::new(&config, now_ms, incarnation),
            checks: Checks::new(now_ms),
            trackers: Trackers::new(&config, now_ms),
            base,
            voters,
            config,
            incarnation,
            now_ms,
            state,
            is_caught_up: false,
            is_drained: false,
            heartbeat_due_ms: now_ms,
            proposed: None,
            transferred_ms: None,
        })
    }

    /// Takes a heartbeat from `from`, which the link has authenticated.
    pub fn receive(&mut self, now_ms: u64, from: u16, bytes: &[u8]) -> Result<()> {
        if from == self.config.id || !self.config.regions.contains(&from) {
            return Err(Error::UnknownRegion(from));
        }
        let heartbeat = Heartbeat::decode(from, bytes)?;
        let now_ms = self.advance(now_ms);
        if self.peers.receive(now_ms, from, heartbeat, &self.config)
            && let Some(heartbeat) = self.peers.last(from)
        {
            self.lease.receive(from, heartbeat, &self.config);
        }
        Ok(())
    }

    /// Takes the result of an end-to-end check of this region.
    pub fn observe_check(&mut self, now_ms: u64, report: &CheckReport) {
        let now_ms = self.advance(now_ms);
        self.checks.observe(now_ms, report, &self.config.timing);
    }

    /// Says whether this region has what the others have. A region that returns is not used
    /// before it says so.
    pub fn set_caught_up(&mut self, is_caught_up: bool) {
        self.is_caught_up = is_caught_up;
    }

    /// Says whether every other region durably has all that this one has written. A region that
    /// leaves says so last.
    pub fn set_drained(&mut self, is_drained: bool) {
        self.is_drained = is_drained;
    }

    /// The control group's voters have changed. Every region is told in the same order as it
    /// applies entries.
    pub fn set_voters(&mut self, voters: BTreeSet<u16>) {
        if self.voters != voters && !voters.is_empty() {
            self.voters = voters;
            self.reconfigure();
        }
    }

    /// The configuration for the present members: who is watched, who votes and in which order
    /// they should lead, who may be primary.
    pub fn config(&self) -> &FailoverConfig {
        &self.config
    }

    /// Applies a committed entry of the control group. Apply all that is committed before the
    /// first tick after a start.
    pub fn apply(&mut self, now_ms: u64, entry: &[u8]) -> Applied {
        let mut state = self.state.clone();
        let applied = state.apply(entry);
        if let Applied::Epoch(_) = applied {
            self.install(now_ms, state);
        }
        applied
    }

    /// Adopts a snapshot of the control state. An older one than the present state is ignored.
    pub fn restore(&mut self, now_ms: u64, state: ControlState) {
        if state.epoch > self.state.epoch {
            self.install(now_ms, state);
        }
    }

    /// Moves time on and returns what is due. Call it every few milliseconds; `is_leader` is
    /// whether this region leads the control group.
    pub fn tick(&mut self, now_ms: u64, is_leader: bool) -> Vec<Action> {
        let now_ms = self.advance(now_ms);
        let facts = self.facts(now_ms);
        for (&region, facts) in &facts {
            self.trackers.observe(region, now_ms, *facts);
        }
        self.lease.try_take_over(now_ms, &self.state, &self.peers, &self.config);
        let mut actions = Vec::new();
        if is_leader {
            actions.extend(self.propose(now_ms, &facts));
            if actions.is_empty() {
                actions.extend(self.transfer(now_ms, &facts));
            }
        }
        if actions.is_empty() {
            actions.extend(self.take_leave(now_ms));
        }
        if now_ms >= self.heartbeat_due_ms {
            actions.push(Action::Broadcast(self.heartbeat(now_ms)));
        }
        actions
    }

    /// The agreed state, as far as this region has applied it.
    pub fn state(&self) -> &ControlState {
        &self.state
    }

    /// Whether this region may act as primary now. Ask again before every act.
    pub fn is_primary(&self, now_ms: u64) -> bool {
        self.lease.is_primary(now_ms.max(self.now_ms), &self.state, &self.config)
    }

    /// Whether no majority has confirmed to hear this region within a lease.
    pub fn is_isolated(&self, now_ms: u64) -> bool {
        let unheard_ms = self.lease.unheard_ms(now_ms.max(self.now_ms), &self.config);
        unheard_ms.is_none_or(|ms| ms >= self.config.timing.lease_ms)
    }

    /// This region's health, with the reasons.
    pub fn health(&self, now_ms: u64) -> Health {
        let now_ms = now_ms.max(self.now_ms);
        let mut reasons = self.checks.reasons(now_ms, &self.config.timing);
        if self.is_isolated(now_ms) {
            let since_ms = self.lease.unheard_ms(now_ms, &self.config);
            reasons.push((Level::Degraded, Reason::Isolated { since_ms }));
        }
        if !self.is_caught_up {
            reasons.push((Level::Degraded, Reason::CatchingUp));
        }
        if self.state.state_of(self.config.id) != Some(RegionState::Up) {
            reasons.push((Level::Degraded, Reason::Excluded));
        }
        Health {
            level: worst(&reasons),
            reasons: reasons.into_iter().map(|(_, reason)| reason).collect(),
        }
    }

    /// Regions that a majority no longer hears, whether the control group has said so yet or not.
    /// Directing clients elsewhere needs no agreement and should not wait for an election. Empty
    /// while this region is itself cut off, since it then knows nothing.
    pub fn suspects(&self, now_ms: u64) -> BTreeSet<u16> {
        let now_ms = now_ms.max(self.now_ms);
        if self.is_isolated(now_ms) {
            return BTreeSet::new();
        }
        let is_silent =
            |region: &u16| self.peers.reach(*region, now_ms, &self.config) == Reach::Silent;
        self.config.regions.iter().copied().filter(is_silent).collect()
    }

    /// What this region knows of every region.
    pub fn view(&self, now_ms: u64) -> Vec<RegionView> {
        let now_ms = now_ms.max(self.now_ms);
        let view = |(&region, facts): (&u16, &Facts)| RegionView {
            region,
            state: self.state.state_of(region).unwrap_or(RegionState::Down),
            silent_ms: match region == self.config.id {
                true => Some(0),
                false => self.peers.heard_ms(region).map(|ms| now_ms.saturating_sub(ms)),
            },
            level: facts.level,
            is_heard_by_majority: facts.reach == Reach::Heard,
        };
        self.facts(now_ms).iter().map(view).collect()
    }

    /// Never backwards. A gap means that this region did not run.
    fn advance(&mut self, now_ms: u64) -> u64 {
        let gap_ms = now_ms.saturating_sub(self.now_ms);
        if gap_ms > self.config.timing.down_after_ms / 2 {
            self.peers.forgive_pause(gap_ms);
        }
        self.now_ms = self.now_ms.max(now_ms);
        self.now_ms
    }

    fn install(&mut self, now_ms: u64, state: ControlState) {
        let now_ms = self.advance(now_ms);
        let heard_ms = self.peers.heard_ms(self.state.primary);
        self.lease.primary_moved(&self.state, &state, heard_ms, &self.config);
        for (&region, status) in &state.regions {
            if self.state.state_of(region) != Some(status.state) {
                self.trackers.state_changed(region, now_ms, status.state);
            }
        }
        let has_new_members = self.state.members != state.members;
        self.state = state;
        if has_new_members {
            self.reconfigure();
        }
        self.proposed = None;
        // A handover waits for this news.
        self.heartbeat_due_ms = now_ms;
    }

    fn reconfigure(&mut self) {
        self.config = self.base.with_members(&self.state.members, &self.voters);
        self.peers.set_regions(&self.config);
        self.trackers.set_regions(&self.config.regions);
    }

    fn facts(&self, now_ms: u64) -> BTreeMap<u16, Facts> {
        let facts = |&region: &u16| {
            let reach = self.peers.reach(region, now_ms, &self.config);
            let (level, is_caught_up, epoch) = match region == self.config.id {
                true => (Some(self.own_level(now_ms)), self.is_caught_up, self.state.epoch),
                false => {
                    let last = self.peers.fresh(region, now_ms, &self.config);
                    let epoch = last.map_or(0, |l| l.epoch);
                    (last.map(|l| l.level), last.is_some_and(|l| l.is_caught_up), epoch)
                }
            };
            (region, Facts { reach, level, is_caught_up, epoch })
        };
        self.config.regions.iter().map(facts).collect()
    }

    fn own_level(&self, now_ms: u64) -> Level {
        self.checks.level(now_ms, &self.config.timing)
    }

    fn propose(&mut self, now_ms: u64, facts: &BTreeMap<u16, Facts>) -> Option<Action> {
        if self.has_just_proposed(now_ms) {
            return None;
        }
        let decision = decide(&self.state, &self.trackers, facts, now_ms, &self.config);
        let entry = match decision {
            Some(decision) => decision.encode(),
            None => admit(&self.state, facts)?.encode(),
        };
        self.proposed = Some((self.state.epoch, now_ms));
        Some(Action::Propose(entry))
    }

    /// The last step of a region that leaves is its own to take: only it knows what it has
    /// written. The leader passes it on.
    fn take_leave(&mut self, now_ms: u64) -> Option<Action> {
        let region = self.config.id;
        let is_due = self.state.members.status(region) == Some(MemberStatus::Leaving)
            && self.is_drained
            && self.state.primary != region
            && !self.has_just_proposed(now_ms);
        if !is_due {
            return None;
        }
        self.proposed = Some((self.state.epoch, now_ms));
        let change = MemberChange::Left { region };
        Some(Action::Propose(MemberEntry { based_on: self.state.epoch, change }.encode()))
    }

    fn has_just_proposed(&self, now_ms: u64) -> bool {
        self.proposed.is_some_and(|(epoch, proposed_ms)| {
            epoch == self.state.epoch && now_ms < proposed_ms + PROPOSAL_RETRY_MS
        })
    }

    /// Losing one region should not cost the primary and the control leader at once; and a region
    /// that leaves does not lead.
    fn transfer(&mut self, now_ms: u64, facts: &BTreeMap<u16, Facts>) -> Option<Action> {
        let is_recent = |ms: u64| now_ms < ms + TRANSFER_RETRY_MS;
        let should_go =
            self.state.primary == self.config.id || !self.state.members.is_active(self.config.id);
        if !should_go || self.transferred_ms.is_some_and(is_recent) {
            return None;
        }
        let is_fit = |region: &u16| {
            *region != self.config.id
                && self.state.members.is_active(*region)
                && self.state.state_of(*region) == Some(RegionState::Up)
                && facts.get(region).is_some_and(|f| f.reach == Reach::Heard)
        };
        let to = self.config.voters.iter().copied().find(is_fit)?;
        self.transferred_ms = Some(now_ms);
        Some(Action::TransferLeadership(to))
    }

    fn heartbeat(&mut self, now_ms: u64) -> Vec<u8> {
        self.heartbeat_due_ms = now_ms + self.config.timing.heartbeat_ms;
        self.lease.sent(now_ms);
        Heartbeat {
            incarnation: self.incarnation,
            sent_ms: now_ms,
            epoch: self.state.epoch,
            primary: self.state.primary,
            level: self.own_level(now_ms),
            is_caught_up: self.is_caught_up,
            is_released: self.lease.is_released(now_ms, &self.state),
            seen: self.peers.sightings(now_ms, &self.config),
        }
        .encode()
    }
}
