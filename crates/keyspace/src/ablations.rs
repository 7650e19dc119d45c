//! Rules that can be switched off, to prove that the simulator would notice.
//!
//! Each switch removes one rule of the design. They are part of the configuration and not of the
//! build, so that what is tested is what runs. No configuration file can reach them.

/// Which rules are off. All on by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ablations {
    /// R1: a frame that leaves a gap in its origin's history is applied.
    pub apply_gaps: bool,
    /// R2: a frame is applied before what its author had seen.
    pub ignore_dependencies: bool,
    /// R5: a region restored from an older state keeps its ordinal.
    pub reuse_ordinal: bool,
    /// R6: frames are shipped before they are on disk.
    pub ship_unsynced: bool,
    /// R8: the checkpoint's record names the log's end although its cells are older.
    pub checkpoint_ahead: bool,
    /// A reset does not say where concurrent counter rows stood.
    pub drop_cuts: bool,
    /// Empty counter rows go before their origin has seen the reset.
    pub collect_early: bool,
    /// What was applied but is not on disk is acknowledged to peers.
    pub acknowledge_unsynced: bool,
    /// A write to an expired key does not clear its remains.
    pub keep_remains: bool,
    /// An expired key is reclaimed before everything written in its time has arrived.
    pub expire_unsettled: bool,
    /// R3: frames of other regions are applied while a partition is being repaired.
    pub repair_unpaused: bool,
    /// A repair keeps what the other region has seen and removed.
    pub repair_keeps_the_removed: bool,
    /// Empty counter rows are left out of a repair.
    pub repair_without_residue: bool,
    /// A partition is compared before the other region has frozen its own.
    pub repair_looks_early: bool,
}
