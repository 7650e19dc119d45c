//! The control plane of a region: the Raft group and the failover controller, as one machine.
//!
//! One turn: [`Control::receive`], [`Control::step`], [`Control::check`] with what has arrived;
//! [`Control::turn`]; make the turn's records durable; [`Control::persisted`] gives the effects.

use meridian_consensus::{Group, GroupConfig, Ready, Recovered};
use meridian_failover::{
    Action, CheckReport, ControlState, Failover, FailoverConfig, Health, RegionView,
};

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
    applied: u64,
    /// All that was committed before the start has been applied.
    settled: bool,
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
        let recovered = Recovered::from_records(records).map_err(|e| e.to_string())?;
        let (applied, state) = match recovered.snapshot() {
            Some((index, bytes)) => {
                (index, ControlState::decode(bytes).map_err(|e| e.to_string())?)
            }
            None => (0, ControlState::initial(&config.failover).map_err(|e| e.to_string())?),
        };
        let failover = Failover::new(config.failover, state, now_ms, incarnation)
            .map_err(|e| e.to_string())?;
        let group = Group::new(config.group, recovered).map_err(|e| e.to_string())?;
        Ok(Control { group, failover, applied, settled: false })
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
            let state = ControlState::decode(&snapshot.state).map_err(|e| e.to_string())?;
            self.failover.restore(now_ms, state);
            self.applied = snapshot.index;
        }
        for (index, entry) in output.committed {
            let _ = self.failover.apply(now_ms, &entry);
            self.applied = index;
        }
        if self.failover.state().epoch != epoch {
            effects.push(ControlEffect::Changed);
        }
        let mut records = Vec::new();
        if self.group.wants_compaction() {
            let state = self.failover.state().encode();
            records = self.group.compact(self.applied, state).map_err(|e| e.to_string())?;
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

    /// The control group's leader, as far as this region knows, and its term.
    #[must_use]
    pub fn leader(&self) -> (Option<u16>, u64) {
        (self.group.leader(), self.group.term())
    }
}
