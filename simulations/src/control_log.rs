//! The control plane of a simulated region, over a log of its own that a crash may shorten.

use meridian_consensus::GroupConfig;
use meridian_failover::{CheckReport, ControlState, FailoverConfig, StepOutcome};
use meridian_node::{Control, ControlConfig, ControlEffect, ControlTurn};

/// The records of a control log, as the machine's disk holds them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ControlLog {
    records: Vec<Vec<u8>>,
    synced: usize,
}

impl ControlLog {
    /// After the death of the process everything is there; after that of the machine what was
    /// synced, and this many records more.
    pub fn crash(&mut self, lucky: Option<usize>) {
        if let Some(lucky) = lucky {
            self.records.truncate(self.synced + lucky);
        }
        self.synced = self.records.len();
    }

    /// Records that a dying machine may lose.
    pub fn unsynced(&self) -> usize {
        self.records.len() - self.synced
    }
}

/// One region's control machine and what it waits for.
pub(crate) struct ControlPlane {
    pub control: Control,
    log: ControlLog,
    /// What must be on disk leaves before it is.
    hasty: bool,
    /// A turn whose records are being synced.
    syncing: Option<ControlTurn>,
}

/// A lease outlasts the longest way there and back by this, in milliseconds: some heartbeats and
/// turns of both sides.
const LEASE_BEYOND_MS: u64 = 200;

/// A region is down when nothing was heard of it for its lease and this, in milliseconds.
const DOWN_BEYOND_MS: u64 = 100;

/// What the control plane wants the world to do.
pub(crate) enum Outcome {
    /// Nothing waits.
    Done(Vec<ControlEffect>),
    /// The log must be synced; then ask again.
    MustSync,
}

impl ControlPlane {
    /// Goes on from a log. A region that joins begins with what it was `told`, and has no say in
    /// the group until the group says so.
    pub fn start(
        id: u16,
        regions: Vec<u16>,
        told: Option<ControlState>,
        round_trip_ms: u64,
        log: ControlLog,
        (now_ms, incarnation): (u64, u64),
    ) -> Result<ControlPlane, String> {
        let mut failover = FailoverConfig::new(id, regions);
        // As an operator must: an answer has to come within the lease.
        let timing = &mut failover.timing;
        timing.lease_ms = timing.lease_ms.max(round_trip_ms + LEASE_BEYOND_MS);
        timing.down_after_ms = timing.down_after_ms.max(timing.lease_ms + DOWN_BEYOND_MS);
        let voters = if told.is_some() { Vec::new() } else { failover.voters.clone() };
        let founding = match told {
            Some(state) => state,
            None => ControlState::initial(&failover).map_err(|e| e.to_string())?,
        };
        let group = GroupConfig::new(id, voters, round_trip_ms);
        let config = ControlConfig { failover, group };
        let records = log.records.clone();
        let control = Control::with_state(config, founding, records, now_ms, incarnation)?;
        Ok(ControlPlane { control, log, hasty: false, syncing: None })
    }

    /// From now on nothing waits for the disk: to test the tests.
    pub fn be_hasty(&mut self) {
        self.hasty = true;
    }

    /// The log, to outlive the process.
    pub fn into_log(self) -> ControlLog {
        self.log
    }

    /// The region's own end-to-end check has ended well after so long.
    pub fn check(&mut self, now_ms: u64, took_ms: u64) {
        let step = StepOutcome::Ok { took_ms };
        self.control.check(now_ms, &CheckReport { write: step, fsync: step, read: step });
    }

    /// Moves time on. While the log is being synced nothing leaves.
    pub fn turn(&mut self, now_ms: u64) -> Result<Outcome, String> {
        if self.syncing.is_some() {
            return Ok(Outcome::Done(Vec::new()));
        }
        let turn = self.control.turn(now_ms);
        self.log.records.extend(turn.records.iter().cloned());
        if turn.must_sync && !self.hasty {
            self.syncing = Some(turn);
            return Ok(Outcome::MustSync);
        }
        self.release(now_ms, turn).map(Outcome::Done)
    }

    /// The log is on disk.
    pub fn synced(&mut self, now_ms: u64) -> Result<Vec<ControlEffect>, String> {
        self.log.synced = self.log.records.len();
        match self.syncing.take() {
            Some(turn) => self.release(now_ms, turn),
            None => Ok(Vec::new()),
        }
    }

    fn release(&mut self, now_ms: u64, turn: ControlTurn) -> Result<Vec<ControlEffect>, String> {
        let (effects, records) = self.control.persisted(now_ms, turn)?;
        if !records.is_empty() {
            // Written to a new file, synced, and put in the old one's place.
            self.log.synced = records.len();
            self.log.records = records;
        }
        Ok(effects)
    }
}
