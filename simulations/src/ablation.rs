//! Rules that can be switched off one at a time, to prove that the judges would notice.

use meridian_keyspace::Ablations;
use meridian_replication::CompactionAblations;

/// One rule that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ablation {
    /// R1: a frame that leaves a gap in its origin's history is applied.
    ApplyGaps,
    /// R2: a frame is applied before what its author had seen.
    IgnoreDependencies,
    /// R5: a region restored from an older state keeps its ordinal.
    ReuseOrdinal,
    /// R6: frames are shipped before they are on disk.
    ShipUnsynced,
    /// R8: the checkpoint's record names the log's end although its cells are older.
    CheckpointAhead,
    /// A reset does not say where concurrent counter rows stood.
    DropCuts,
    /// Empty counter rows go before their origin has seen the reset.
    CollectEarly,
    /// A write to an expired key does not clear its remains.
    KeepRemains,
    /// An expired key is reclaimed before everything written in its time has arrived.
    ExpireUnsettled,
    /// With `appendfsync always`, replies leave before the log is on disk.
    ReplyUnsynced,
    /// Portions of a checkpoint are written before the log that they reflect is on disk.
    CheckpointUnsynced,
    /// Of two concurrent values the one that arrived later is read.
    ArrivalOrder,
    /// A removal takes away what its author had not seen.
    RemoveWins,
    /// What another region has added counts twice.
    DoubleIncrement,
    /// A restart forgets the stamps that were used before it.
    ForgetFloor,
    /// A peer's word is believed before all that the peer had written has arrived.
    BelieveEarly,
    /// A region acknowledges what it has only heard that others have.
    AcknowledgeHearsay,
    /// A frame from the far future is applied.
    FollowAnyClock,
    /// The record that completes a checkpoint is written before its last portions.
    RecordFirst,
    /// A checkpoint leaves out when keys expire.
    ForgetDeadlines,
    /// A checkpoint does not remove what a cleared key held.
    KeepCleared,
    /// A region sends only what it has written itself.
    NoRelay,
    /// A vote leaves before it is on disk.
    VoteUnsynced,
    /// R3: frames of other regions are applied while a partition is being repaired.
    RepairUnpaused,
    /// A partition is compared before the other region has frozen its own.
    RepairLooksEarly,
    /// A repair keeps what the other region has seen and removed.
    RepairKeepsTheRemoved,
    /// Empty counter rows are left out of a repair.
    RepairWithoutResidue,
    /// R7: a bundle leaves out the cuts of what it leaves out.
    DropFolds,
    /// What is left in a bundle is taken to have seen what the bundle's last operation had.
    WidenContext,
    /// A session goes on in another region without waiting for what it knows.
    GoUnaware,
    /// A restart forgets up to where time was used.
    ForgetClockFloor,
    /// A region that leaves goes on taking writes.
    ServeWhileLeaving,
    /// A region that joins takes the ordinal that was next when it asked.
    GuessOrdinal,
    /// Deadlines are settled without waiting for regions that have joined.
    SettleWithoutNewcomers,
    /// A region leaves while it still has a vote.
    LeaveWithVote,
    /// The first clock that is heard is taken for the truth.
    BelieveOneClock,
}

impl Ablation {
    /// Every one, with the name by which the command line calls it.
    pub const ALL: [(&'static str, Ablation); 36] = [
        ("apply-gaps", Ablation::ApplyGaps),
        ("ignore-dependencies", Ablation::IgnoreDependencies),
        ("reuse-ordinal", Ablation::ReuseOrdinal),
        ("ship-unsynced", Ablation::ShipUnsynced),
        ("checkpoint-ahead", Ablation::CheckpointAhead),
        ("drop-cuts", Ablation::DropCuts),
        ("collect-early", Ablation::CollectEarly),
        ("keep-remains", Ablation::KeepRemains),
        ("expire-unsettled", Ablation::ExpireUnsettled),
        ("reply-unsynced", Ablation::ReplyUnsynced),
        ("checkpoint-unsynced", Ablation::CheckpointUnsynced),
        ("arrival-order", Ablation::ArrivalOrder),
        ("remove-wins", Ablation::RemoveWins),
        ("double-increment", Ablation::DoubleIncrement),
        ("forget-floor", Ablation::ForgetFloor),
        ("believe-early", Ablation::BelieveEarly),
        ("acknowledge-hearsay", Ablation::AcknowledgeHearsay),
        ("follow-any-clock", Ablation::FollowAnyClock),
        ("record-first", Ablation::RecordFirst),
        ("forget-deadlines", Ablation::ForgetDeadlines),
        ("keep-cleared", Ablation::KeepCleared),
        ("no-relay", Ablation::NoRelay),
        ("vote-unsynced", Ablation::VoteUnsynced),
        ("repair-unpaused", Ablation::RepairUnpaused),
        ("repair-looks-early", Ablation::RepairLooksEarly),
        ("repair-keeps-the-removed", Ablation::RepairKeepsTheRemoved),
        ("repair-without-residue", Ablation::RepairWithoutResidue),
        ("drop-folds", Ablation::DropFolds),
        ("widen-context", Ablation::WidenContext),
        ("go-unaware", Ablation::GoUnaware),
        ("forget-clock-floor", Ablation::ForgetClockFloor),
        ("serve-while-leaving", Ablation::ServeWhileLeaving),
        ("guess-ordinal", Ablation::GuessOrdinal),
        ("settle-without-newcomers", Ablation::SettleWithoutNewcomers),
        ("leave-with-vote", Ablation::LeaveWithVote),
        ("believe-one-clock", Ablation::BelieveOneClock),
    ];

    /// The ablation of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Ablation> {
        Ablation::ALL.iter().find(|(known, _)| *known == name).map(|(_, ablation)| *ablation)
    }

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Ablation::ALL.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// The switches of compaction.
    pub(crate) fn compaction(self) -> CompactionAblations {
        CompactionAblations {
            drop_folds: self == Ablation::DropFolds,
            widen_context: self == Ablation::WidenContext,
        }
    }

    /// The switch of the production code; none where the rule belongs to the composition.
    pub(crate) fn switches(self) -> Ablations {
        let mut switches = Ablations::default();
        match self {
            Ablation::ApplyGaps => switches.apply_gaps = true,
            Ablation::IgnoreDependencies => switches.ignore_dependencies = true,
            Ablation::ReuseOrdinal => switches.reuse_ordinal = true,
            Ablation::ShipUnsynced => switches.ship_unsynced = true,
            Ablation::CheckpointAhead => switches.checkpoint_ahead = true,
            Ablation::DropCuts => switches.drop_cuts = true,
            Ablation::CollectEarly => switches.collect_early = true,
            Ablation::KeepRemains => switches.keep_remains = true,
            Ablation::ExpireUnsettled => switches.expire_unsettled = true,
            Ablation::ArrivalOrder => switches.arrival_order = true,
            Ablation::RemoveWins => switches.remove_wins = true,
            Ablation::DoubleIncrement => switches.double_increment = true,
            Ablation::ForgetFloor => switches.forget_floor = true,
            Ablation::BelieveEarly => switches.believe_early = true,
            Ablation::AcknowledgeHearsay => switches.acknowledge_hearsay = true,
            Ablation::FollowAnyClock => switches.follow_any_clock = true,
            Ablation::BelieveOneClock => switches.believe_one_clock = true,
            Ablation::RepairUnpaused => switches.repair_unpaused = true,
            Ablation::RepairLooksEarly => switches.repair_looks_early = true,
            Ablation::RepairKeepsTheRemoved => switches.repair_keeps_the_removed = true,
            Ablation::RepairWithoutResidue => switches.repair_without_residue = true,
            Ablation::ReplyUnsynced
            | Ablation::CheckpointUnsynced
            | Ablation::RecordFirst
            | Ablation::ForgetDeadlines
            | Ablation::KeepCleared
            | Ablation::NoRelay
            | Ablation::VoteUnsynced
            | Ablation::DropFolds
            | Ablation::WidenContext
            | Ablation::GoUnaware
            | Ablation::ForgetClockFloor
            | Ablation::ServeWhileLeaving
            | Ablation::GuessOrdinal
            | Ablation::SettleWithoutNewcomers
            | Ablation::LeaveWithVote => {}
        }
        switches
    }
}
