//! Rules that can be switched off one at a time, to prove that the judges would notice.

use meridian_keyspace::Ablations;

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
    /// What was applied but is not on disk is acknowledged to peers.
    AcknowledgeUnsynced,
    /// A write to an expired key does not clear its remains.
    KeepRemains,
    /// An expired key is reclaimed before everything written in its time has arrived.
    ExpireUnsettled,
    /// With `appendfsync always`, replies leave before the log is on disk.
    ReplyUnsynced,
    /// Portions of a checkpoint are written before the log that they reflect is on disk.
    CheckpointUnsynced,
}

impl Ablation {
    /// Every one, with the name by which the command line calls it.
    pub const ALL: [(&'static str, Ablation); 12] = [
        ("apply-gaps", Ablation::ApplyGaps),
        ("ignore-dependencies", Ablation::IgnoreDependencies),
        ("reuse-ordinal", Ablation::ReuseOrdinal),
        ("ship-unsynced", Ablation::ShipUnsynced),
        ("checkpoint-ahead", Ablation::CheckpointAhead),
        ("drop-cuts", Ablation::DropCuts),
        ("collect-early", Ablation::CollectEarly),
        ("acknowledge-unsynced", Ablation::AcknowledgeUnsynced),
        ("keep-remains", Ablation::KeepRemains),
        ("expire-unsettled", Ablation::ExpireUnsettled),
        ("reply-unsynced", Ablation::ReplyUnsynced),
        ("checkpoint-unsynced", Ablation::CheckpointUnsynced),
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
            Ablation::AcknowledgeUnsynced => switches.acknowledge_unsynced = true,
            Ablation::KeepRemains => switches.keep_remains = true,
            Ablation::ExpireUnsettled => switches.expire_unsettled = true,
            Ablation::ReplyUnsynced | Ablation::CheckpointUnsynced => {}
        }
        switches
    }
}
