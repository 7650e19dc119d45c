//! What a run comes to.

use std::fmt;

use crate::ablation::Ablation;

/// What happened in a run, to see that what should be simulated was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events handled.
    pub events: u64,
    /// Commands executed.
    pub commands: u64,
    /// Operations in logs.
    pub operations: u64,
    /// Replies received.
    pub replies: u64,
    /// Looks of a judge.
    pub looks: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Sessions broken.
    pub breaks: u64,
    /// Links cut.
    pub cuts: u64,
    /// Processes killed.
    pub process_crashes: u64,
    /// Machines killed.
    pub machine_crashes: u64,
    /// Operations that died with a machine.
    pub lost_operations: u64,
    /// Regions set back to an older copy.
    pub restores: u64,
    /// Processes that stood still.
    pub pauses: u64,
    /// Clocks set.
    pub clock_jumps: u64,
    /// Batches or control messages dropped by a busy process.
    pub drops: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Keys reclaimed after their time to live.
    pub sweeps: u64,
    /// Times that the primary role was taken over.
    pub takeovers: u64,
}

/// A run that ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Covers every event, log entry and reply: the same for the same seed.
    pub hash: u64,
    /// Virtual time that passed, in microseconds.
    pub simulated_us: u64,
    /// What happened.
    pub counts: Counts,
}

/// A run that did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The rule that was off.
    pub ablation: Option<Ablation>,
    /// When, in microseconds of virtual time.
    pub at_us: u64,
    /// What a judge found.
    pub what: String,
    /// The plan and the last faults before it.
    pub tail: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.tail {
            writeln!(f, "{line}")?;
        }
        let at_ms = self.at_us as f64 / 1000.0;
        writeln!(f, "seed {} failed at {at_ms:.3} ms: {}", self.seed, self.what)?;
        write!(f, "replay it with: make simulate SEED={}", self.seed)?;
        match self.ablation {
            Some(ablation) => write!(f, " ARGS='--ablation {}'", ablation.name()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        for ((_, mine), (_, theirs)) in self.fields_mut().into_iter().zip(other.fields()) {
            *mine += theirs;
        }
    }

    /// Every count with its name.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, u64)> {
        let mut copy = *self;
        copy.fields_mut().into_iter().map(|(name, value)| (name, *value)).collect()
    }

    fn fields_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        vec![
            ("events", &mut self.events),
            ("commands", &mut self.commands),
            ("operations", &mut self.operations),
            ("replies", &mut self.replies),
            ("looks", &mut self.looks),
            ("sessions", &mut self.sessions),
            ("session breaks", &mut self.breaks),
            ("cuts", &mut self.cuts),
            ("process crashes", &mut self.process_crashes),
            ("machine crashes", &mut self.machine_crashes),
            ("operations lost unsynced", &mut self.lost_operations),
            ("restores", &mut self.restores),
            ("pauses", &mut self.pauses),
            ("clock jumps", &mut self.clock_jumps),
            ("drops", &mut self.drops),
            ("checkpoints", &mut self.checkpoints),
            ("keys reclaimed", &mut self.sweeps),
            ("takeovers", &mut self.takeovers),
        ]
    }
}
