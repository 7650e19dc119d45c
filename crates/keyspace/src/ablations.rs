//! Rules that can be switched off, to prove that the simulator would notice.
//!
//! Each switch removes one rule of the design. They are part of the configuration and not of the
//! build, so that what is tested is what runs. No configuration file can reach them.

use meridian_clock::{Dot, Time};
use meridian_crdt::{Action, Op};

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
    /// Of two concurrent values the one that arrived later is read.
    pub arrival_order: bool,
    /// A removal takes away what its author had not seen.
    pub remove_wins: bool,
    /// What another region has added counts twice.
    pub double_increment: bool,
    /// A restart forgets the stamps that were used before it.
    pub forget_floor: bool,
    /// A peer's word is believed before all that the peer had written has arrived.
    pub believe_early: bool,
    /// A region acknowledges what it has only heard that others have.
    pub acknowledge_hearsay: bool,
    /// A frame from the far future is applied.
    pub follow_any_clock: bool,
    /// The first clock that is heard is taken for the truth, without a majority.
    pub believe_one_clock: bool,
}

impl Ablations {
    /// What the rules that are off make of another region's operation.
    pub(crate) fn spoil(self, op: &mut Op<'_>, dot: &mut Dot, now: Time) {
        if self.arrival_order {
            dot.time = dot.time.max(now);
        }
        if let (true, Action::Incr { sum, .. }) = (self.double_increment, &mut op.action) {
            *sum = sum.checked_add(*sum).unwrap_or(*sum);
        }
    }

    /// Whether the operation removes whatever is here.
    pub(crate) fn removes_all(self, op: &Op<'_>) -> bool {
        self.remove_wins && matches!(op.action, Action::Remove { .. } | Action::Clear)
    }
}
