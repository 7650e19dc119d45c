//! What a run comes to.

use std::fmt;

use crate::{
    plan::{Plan, Strike},
    region::Region,
};

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
    /// Regions cut off from all others.
    pub isolations: u64,
    /// Disks told to refuse a step.
    pub io_errors: u64,
    /// Processes that ended in an append.
    pub failed_appends: u64,
    /// Processes that ended in a sync.
    pub failed_syncs: u64,
    /// Processes that ended in a step of a checkpoint.
    pub failed_checkpoints: u64,
    /// Processes that ended while they let go of log.
    pub failed_releases: u64,
    /// Processes that ended because they found damage.
    pub failed_reads: u64,
    /// Disks that filled up.
    pub full_disks: u64,
    /// Bits that changed on a disk.
    pub rots: u64,
    /// Regions that began again from nothing.
    pub rebirths: u64,
    /// Machines whose lying disk lost something.
    pub betrayals: u64,
    /// Runs in which a part had to go on alone.
    pub partial_heals: u64,
    /// Torn tails that were cut off.
    pub torn_tails: u64,
    /// Starts from a checkpoint and from log after it.
    pub restarts_from_both: u64,
    /// Times that log was let go.
    pub releases: u64,
    /// Times that log was let go while a peer was away.
    pub releases_without_a_peer: u64,
    /// Subscriptions after the first of a session.
    pub resubscriptions: u64,
    /// Frames that left a gap and were asked for again.
    pub gaps: u64,
    /// Frames that were here already.
    pub duplicates: u64,
    /// Frames dropped because too much waited.
    pub overflows: u64,
    /// Frames held because they lay too far in the future.
    pub futures: u64,
    /// Looks that found an origin fed by a third region.
    pub relays: u64,
    /// Empty counter rows collected.
    pub residues: u64,
    /// Partitions repaired.
    pub repairs: u64,
    /// Partitions repaired while clients wrote and faults struck.
    pub repairs_under_load: u64,
    /// Repairs that found no difference.
    pub equal_repairs: u64,
    /// Repairs that were given up and begun again.
    pub failed_repairs: u64,
    /// Symbols asked for by repairs, in messages.
    pub symbol_requests: u64,
    /// Elements that repairs brought.
    pub repaired_elements: u64,
    /// Bundles in logs of those who received them.
    pub bundles: u64,
    /// Sessions that went on in another region with a token.
    pub moved_sessions: u64,
    /// Sessions whose token the next region did not cover in time.
    pub stale_sessions: u64,
    /// Regions that began to refuse writes because their clock was off.
    pub fences: u64,
    /// And went on writing.
    pub fences_lifted: u64,
    /// Regions that became members while faults struck.
    pub joined: u64,
    /// Regions that left in order while faults struck.
    pub left: u64,
    /// Regions that were declared dead while faults struck.
    pub declared_dead: u64,
    /// Regions that came back, found that they had been declared dead, and ended.
    pub returns_of_the_dead: u64,
    /// Times that a region told nonsense about its clock.
    pub lies: u64,
    /// Machines set back to an older copy under their old ordinal.
    pub relapses: u64,
    /// Histories that were found forked, and quarantined.
    pub forks: u64,
    /// Regions that noticed that others have writes of theirs which they have lost.
    pub outlived: u64,
    /// Packets that reached a host of QUIC.
    pub packets: u64,
    /// Sessions over QUIC, counted at each end.
    pub quic_sessions: u64,
    /// Packets that QUIC took for lost.
    pub lost_packets: u64,
    /// Connections on which nothing had come for too long.
    pub idle_timeouts: u64,
    /// Connections that the other side no longer knew after a restart.
    pub stateless_resets: u64,
    /// Sessions that a newer call of the peer replaced.
    pub replaced_sessions: u64,
    /// Connections that did not come about in time.
    pub late_handshakes: u64,
    /// Writes to a lane that had to wait.
    pub blocked_writes: u64,
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
    /// What was run.
    pub plan: Plan,
    /// When, in microseconds of virtual time.
    pub at_us: u64,
    /// What a judge found.
    pub what: String,
    /// The plan and the last faults before it.
    pub tail: Vec<String>,
    /// The faults that struck.
    pub(crate) strikes: Vec<Strike>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.tail {
            writeln!(f, "{line}")?;
        }
        let at_ms = self.at_us as f64 / 1000.0;
        writeln!(f, "seed {} failed at {at_ms:.3} ms: {}", self.plan.seed(), self.what)?;
        write!(f, "replay it with: meridian-simulate --replay '{}'", self.plan)
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

    /// Adds what a process has counted in its life.
    pub(crate) fn harvest(&mut self, process: &Region) {
        let (node, inbox) = (&process.node, process.node.inbox());
        self.gaps += inbox.gaps;
        self.duplicates += inbox.duplicates;
        self.overflows += inbox.overflows;
        self.futures += node.frames_from_the_future;
        let repairs = node.repairs().counts();
        self.equal_repairs += repairs.equal;
        self.failed_repairs += repairs.failed;
        self.symbol_requests += repairs.symbol_requests;
        self.repaired_elements += repairs.received_elements;
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
            ("isolations", &mut self.isolations),
            ("disk refusals", &mut self.io_errors),
            ("deaths in an append", &mut self.failed_appends),
            ("deaths in a sync", &mut self.failed_syncs),
            ("deaths in a checkpoint", &mut self.failed_checkpoints),
            ("deaths in a release", &mut self.failed_releases),
            ("deaths over damage", &mut self.failed_reads),
            ("full disks", &mut self.full_disks),
            ("bits rotten", &mut self.rots),
            ("rebirths from nothing", &mut self.rebirths),
            ("betrayals by a disk", &mut self.betrayals),
            ("partial heals", &mut self.partial_heals),
            ("torn tails cut", &mut self.torn_tails),
            ("starts from checkpoint and log", &mut self.restarts_from_both),
            ("log releases", &mut self.releases),
            ("log releases with a peer away", &mut self.releases_without_a_peer),
            ("resubscriptions", &mut self.resubscriptions),
            ("gaps pulled", &mut self.gaps),
            ("duplicates dropped", &mut self.duplicates),
            ("inbox overflows", &mut self.overflows),
            ("future frames held", &mut self.futures),
            ("relays", &mut self.relays),
            ("counter rows collected", &mut self.residues),
            ("repairs", &mut self.repairs),
            ("repairs under load", &mut self.repairs_under_load),
            ("repairs of what was equal", &mut self.equal_repairs),
            ("repairs given up", &mut self.failed_repairs),
            ("symbols asked for by repairs", &mut self.symbol_requests),
            ("elements repaired", &mut self.repaired_elements),
            ("bundles", &mut self.bundles),
            ("sessions moved", &mut self.moved_sessions),
            ("sessions found stale", &mut self.stale_sessions),
            ("fences", &mut self.fences),
            ("fences lifted", &mut self.fences_lifted),
            ("regions joined", &mut self.joined),
            ("regions left", &mut self.left),
            ("regions declared dead", &mut self.declared_dead),
            ("returns of the dead", &mut self.returns_of_the_dead),
            ("lies about the time", &mut self.lies),
            ("machines set back unnoticed", &mut self.relapses),
            ("forks quarantined", &mut self.forks),
            ("regions that noticed their loss", &mut self.outlived),
            ("packets", &mut self.packets),
            ("QUIC sessions", &mut self.quic_sessions),
            ("packets lost", &mut self.lost_packets),
            ("idle timeouts", &mut self.idle_timeouts),
            ("stateless resets", &mut self.stateless_resets),
            ("sessions replaced", &mut self.replaced_sessions),
            ("handshakes too late", &mut self.late_handshakes),
            ("writes that waited", &mut self.blocked_writes),
        ]
    }
}
