//! The control plane of a region: the Raft group and the failover controller, as one machine.
//!
//! One turn: [`Control::receive`], [`Control::step`], [`Control::check`] with what has arrived;
//! [`Control::turn`]; make the turn's records durable; [`Control::persisted`] gives the effects.

use std::collections::BTreeSet;

use meridian_consensus::{ConfChange, Group, GroupConfig, Ready, Recovered};
use meridian_failover::{
    Action, CheckReport, ControlState, Failover, FailoverConfig, Health, MemberChange, MemberEntry,
    MemberStatus, Members, RegionView, VoterStep, next_voter_step,
};

use crate::limits::{LEARNER_RETRY_MS, VOTER_CHANGE_EVERY_MS};

/// Why a region is not declared dead now.
const TOO_FEW_VOTES: &str = "the other regions that vote are no majority without it, and nothing \
    could be decided any more: add a region first (meridian join), or wait until the vote of one \
    that is gone already has moved on";

/// What a control machine must know.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The failover controller's part.
    pub failover: FailoverConfig,
    /// The Raft group's part.
    pub group: GroupConfig,
}

/// What the control plane wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEffect {
    /// Send a datagram to every other region.
    Broadcast(Vec<u8>),
    /// Send a Raft message on the control lane.
    Raft(u16, Vec<u8>),
    /// The agreed state has changed.
    Changed,
}

/// What must be durable before a turn's effects may be seen.
#[must_use = "the group stands still until the turn is persisted"]
#[derive(Debug)]
pub struct ControlTurn {
    ready: Option<Ready>,
    effects: Vec<ControlEffect>,
    /// Records to append to the control log.
    pub records: Vec<Vec<u8>>,
    /// Whether they must be synced before [`Control::persisted`].
    pub must_sync: bool,
}

/// The Raft group and the failover controller of one region.
pub struct Control {
    group: Group,
    failover: Failover,
    /// A later list of members than the one that this region has applied, with its epoch: told by
    /// a peer, and used to find the others only.
    book: Option<(u64, Members)>,
    /// When the leader may change the voters again.
    voters_due_ms: u64,
    /// All that was committed before the start has been applied.
    settled: bool,
    ablations: ControlAblations,
}

/// Rules that tests switch off, to prove that they would notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlAblations {
    /// Who leaves does not wait until its vote has moved.
    pub leave_with_vote: bool,
}

impl Control {
    /// Goes on from the records of the control log. `incarnation` must grow from life to life.
    ///
    /// # Errors
    /// A text for the operator: a damaged log or a configuration that contradicts it.
    pub fn new(
        config: ControlConfig,
        records: Vec<Vec<u8>>,
        now_ms: u64,
        incarnation: u64,
    ) -> Result<Control, String> {
        let founding = ControlState::initial(&config.failover).map_err(|e| e.to_string())?;
        Control::with_state(config, founding, records, now_ms, incarnation)
    }

    /// The same for a cluster that begins with `founding`; or, for a region that joins one, with
    /// the state that it was told, and a group without voters. What the log holds goes before.
    ///
    /// # Errors
    /// See [`Control::new`].
    pub fn with_state(
        config: ControlConfig,
        founding: ControlState,
        records: Vec<Vec<u8>>,
        now_ms: u64,
        incarnation: u64,
    ) -> Result<Control, String> {
        let recovered = Recovered::from_records(records).map_err(|e| e.to_string())?;
        let state = match recovered.snapshot() {
            Some((_, bytes)) => {
                let mut state = ControlState::decode(bytes).map_err(|e| e.to_string())?;
                state.adopt_founders(&founding);
                // A snapshot may be older than what a region that joins was told.
                if state.epoch < founding.epoch { founding } else { state }
            }
            None => founding,
        };
        let failover = Failover::new(config.failover, state, now_ms, incarnation)
            .map_err(|e| e.to_string())?;
        let group = Group::new(config.group, recovered).map_err(|e| e.to_string())?;
        let mut control = Control {
            group,
            failover,
            book: None,
            voters_due_ms: now_ms,
            settled: false,
            ablations: ControlAblations::default(),
        };
        control.follow_members();
        Ok(control)
    }

    /// Switches rules off, for tests of the tests.
    pub fn ablate(&mut self, ablations: ControlAblations) {
        self.ablations = ablations;
    }

    /// A heartbeat from another region.
    ///
    /// # Errors
    /// A text for the log when it is malformed.
    pub fn receive(&mut self, now_ms: u64, from: u16, bytes: &[u8]) -> Result<(), String> {
        self.failover.receive(now_ms, from, bytes).map_err(|e| e.to_string())
    }

    /// A Raft message from another region.
    ///
    /// # Errors
    /// A text for the log when it is malformed.
    pub fn step(&mut self, from: u16, bytes: &[u8]) -> Result<(), String> {
        self.group.step(from, bytes).map_err(|e| e.to_string())
    }

    /// The result of an end-to-end check of this region.
    pub fn check(&mut self, now_ms: u64, report: &CheckReport) {
        self.failover.observe_check(now_ms, report);
    }

    /// Whether this region's data has what the others have.
    pub fn set_caught_up(&mut self, is_caught_up: bool) {
        self.failover.set_caught_up(is_caught_up);
    }

    /// Whether every other region durably has all that this one has written: what a region that
    /// leaves waits for, besides having given its vote away.
    pub fn set_drained(&mut self, is_drained: bool) {
        let conf = self.group.conf();
        let is_free = !conf.voters.contains(&self.group.id())
            && next_voter_step(self.state(), &conf.voters, &conf.learners).is_none();
        self.failover.set_drained(is_drained && (is_free || self.ablations.leave_with_vote));
    }

    /// Proposes a change of the members to the present state. Whether it was made shows in
    /// [`Control::state`]; propose again if it was not, since any other decision goes before it.
    ///
    /// # Errors
    /// Why it cannot be made now, for the operator.
    pub fn propose_member(&mut self, change: MemberChange) -> Result<(), String> {
        let state = self.failover.state();
        state.after_member(&change).map_err(|e| e.to_string())?;
        if let MemberChange::Dead { region } = change
            && !self.bears_loss_of(region)
        {
            return Err(TOO_FEW_VOTES.to_owned());
        }
        let entry = MemberEntry { based_on: state.epoch, change }.encode();
        self.group.propose(entry).map_err(|e| e.to_string())
    }

    /// Whether those who vote and stay are a majority without the region. It is not enough that a
    /// majority agrees: the region itself may have voted, on its return, for what ends it.
    fn bears_loss_of(&self, region: u16) -> bool {
        let (voters, members) = (&self.group.conf().voters, &self.state().members);
        let stays = |voter: &&u16| {
            **voter != region && members.status(**voter).is_some_and(MemberStatus::is_live)
        };
        !voters.contains(&region) || voters.iter().filter(stays).count() > voters.len() / 2
    }

    /// A peer tells the agreed state as it knows it. Only the list of members is used, and only
    /// to find the others: nothing is decided by what this region has not applied itself.
    ///
    /// # Errors
    /// A text for the log when it is malformed.
    pub fn learn(&mut self, state: &[u8]) -> Result<(), String> {
        let told = ControlState::decode(state).map_err(|e| e.to_string())?;
        let known = self.book.as_ref().map_or(0, |(epoch, _)| *epoch);
        if told.epoch > known.max(self.failover.state().epoch) && !told.members.is_empty() {
            self.book = Some((told.epoch, told.members));
            self.follow_members();
        }
        Ok(())
    }

    /// Who belongs to the cluster, by the newest word: whom to connect to, and whom to wait for.
    #[must_use]
    pub fn members(&self) -> &Members {
        match &self.book {
            Some((epoch, members)) if *epoch > self.failover.state().epoch => members,
            _ => &self.failover.state().members,
        }
    }

    /// Who takes part in the control group: those who vote, and those who only follow.
    #[must_use]
    pub fn voters(&self) -> (BTreeSet<u16>, BTreeSet<u16>) {
        let conf = self.group.conf();
        (conf.voters.clone(), conf.learners.clone())
    }

    /// The failover's configuration for the present members.
    #[must_use]
    pub fn config(&self) -> &FailoverConfig {
        self.failover.config()
    }

    /// Moves time on; everything that is due.
    pub fn turn(&mut self, now_ms: u64) -> ControlTurn {
        self.group.tick(now_ms);
        let mut effects = Vec::new();
        // What was committed in an earlier life comes before the first judgement.
        let actions = match self.settled {
            true => self.failover.tick(now_ms, self.group.is_leader()),
            false => Vec::new(),
        };
        for action in actions {
            match action {
                Action::Broadcast(bytes) => effects.push(ControlEffect::Broadcast(bytes)),
                Action::Propose(entry) => {
                    // Refused only while there is no leader; the controller proposes again.
                    let _ = self.group.propose(entry);
                }
                Action::TransferLeadership(to) => self.group.transfer_leadership(to),
            }
        }
        self.steer_voters(now_ms);
        self.group.set_quorum_visible(!self.failover.is_isolated(now_ms));
        let ready = self.group.ready();
        self.settled |= ready.is_none();
        let records = ready.as_ref().map(|r| r.records().to_vec()).unwrap_or_default();
        let must_sync = ready.as_ref().is_some_and(Ready::must_sync);
        ControlTurn { ready, effects, records, must_sync }
    }

    /// The turn's records are durable: its effects, and, now and then, the records of a whole new
    /// control log that replaces the old one.
    ///
    /// # Errors
    /// A text for the operator; the control plane must stop.
    pub fn persisted(
        &mut self,
        now_ms: u64,
        turn: ControlTurn,
    ) -> Result<(Vec<ControlEffect>, Vec<Vec<u8>>), String> {
        let mut effects = turn.effects;
        let Some(ready) = turn.ready else {
            return Ok((effects, Vec::new()));
        };
        let epoch = self.failover.state().epoch;
        let output = self.group.persisted(ready).map_err(|e| e.to_string())?;
        effects.extend(output.messages.into_iter().map(|(to, b)| ControlEffect::Raft(to, b)));
        if let Some(snapshot) = output.snapshot {
            let mut state = ControlState::decode(&snapshot.state).map_err(|e| e.to_string())?;
            state.adopt_founders(self.failover.state());
            self.failover.restore(now_ms, state);
        }
        for (_, entry) in output.committed {
            let _ = self.failover.apply(now_ms, &entry);
        }
        self.follow_members();
        if self.failover.state().epoch != epoch {
            effects.push(ControlEffect::Changed);
        }
        let mut records = Vec::new();
        if self.group.wants_compaction() {
            let state = self.failover.state().encode();
            records = self.group.compact(self.group.applied(), state).map_err(|e| e.to_string())?;
        }
        Ok((effects, records))
    }

    /// The agreed state.
    #[must_use]
    pub fn state(&self) -> &ControlState {
        self.failover.state()
    }

    /// Whether everything that was committed before the start has been applied. Until then
    /// [`Control::state`] is an older one.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether this region may act as primary now. Ask again before every act.
    #[must_use]
    pub fn is_primary(&self, now_ms: u64) -> bool {
        self.failover.is_primary(now_ms)
    }

    /// This region's health, with the reasons.
    #[must_use]
    pub fn health(&self, now_ms: u64) -> Health {
        self.failover.health(now_ms)
    }

    /// What this region knows of every region.
    #[must_use]
    pub fn view(&self, now_ms: u64) -> Vec<RegionView> {
        self.failover.view(now_ms)
    }

    /// Regions that a majority no longer hears.
    #[must_use]
    pub fn suspects(&self, now_ms: u64) -> std::collections::BTreeSet<u16> {
        self.failover.suspects(now_ms)
    }

    /// Takes over what the log says of who takes part.
    fn follow_members(&mut self) {
        self.failover.set_voters(self.group.conf().voters.clone());
        let ranks = self.failover.config().voters.clone();
        let known = self.members().live().map(|(region, _)| region);
        let known: BTreeSet<u16> = known.chain(ranks.iter().copied()).collect();
        self.group.set_ranks(ranks, known);
    }

    /// While this region leads, it takes the group one step at a time to what the members ask for.
    fn steer_voters(&mut self, now_ms: u64) {
        let patience_ms = VOTER_CHANGE_EVERY_MS.max(3 * self.failover.config().timing.lease_ms);
        if !self.group.is_leader() {
            self.voters_due_ms = now_ms + patience_ms;
            return;
        }
        // A step decided on an older list could follow on a death that it makes unbearable.
        if now_ms < self.voters_due_ms || !self.group.has_applied_all() {
            return;
        }
        let conf = self.group.conf();
        let change = match next_voter_step(self.state(), &conf.voters, &conf.learners) {
            None => return,
            // Whoever leaves hands the leadership over first.
            Some(VoterStep::AddLearner(region) | VoterStep::Remove(region))
                if region == self.group.id() =>
            {
                return;
            }
            Some(VoterStep::AddLearner(region)) => ConfChange::AddLearner(region),
            Some(VoterStep::Promote(region)) => ConfChange::Promote(region),
            Some(VoterStep::Remove(region)) => ConfChange::Remove(region),
        };
        let is_learner = matches!(change, ConfChange::AddLearner(_));
        self.voters_due_ms = now_ms + if is_learner { LEARNER_RETRY_MS } else { patience_ms };
        // Refused only while the group cannot take it; it is proposed again.
        let _ = self.group.propose_change(change);
    }

    /// The control group's leader, as far as this region knows, and its term.
    #[must_use]
    pub fn leader(&self) -> (Option<u16>, u64) {
        (self.group.leader(), self.group.term())
    }
}
