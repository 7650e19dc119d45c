//! The one stage: everything that changes data goes through it, and leaves it as log bytes.
//!
//! A local operation is stamped, encoded into the open frame of its partition and applied; a
//! remote frame is appended as it came and applied. Both end in the entry of the current commit,
//! in the order in which they were applied. Replay after a restart feeds the same entries back.

mod merge;
mod reclaim;
mod restore;
mod write;

use meridian_clock::{Dot, HybridClock, Origin, Time, VersionVector};
use meridian_codec::Malformed;
use meridian_crdt::{Effect, ElementKey, Object};
use meridian_store::{ENTRY_HEADER_BYTES, LogPosition, encode_entry, partition_of_key};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};
use thiserror::Error;

use crate::{
    ablations::Ablations,
    conflicts::{Conflicts, Losses, Touch},
    freeze::Frozen,
    partition::Partition,
    slot::{SLOTS, slot_of},
    table::SlotTable,
    tables::Tables,
};

/// What a stage must know.
#[derive(Clone, Debug)]
pub struct StageConfig {
    /// This region's ordinal.
    pub me: Origin,
    /// Number of partitions: a power of two, the same in every region.
    pub partitions: u16,
    /// Keys the hash tables; random in production.
    pub seed: u64,
    /// Rules that are off, for tests of the tests.
    pub ablations: Ablations,
}

/// Why a frame was not applied. None of it has been.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The bytes are no frame for this cluster.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The frame does not follow on what has been applied: the gate must not let it through.
    #[error("frame does not follow on what has been applied")]
    OutOfOrder,
}

/// How a commit advances the vectors: partition, origin, up to which stamp.
pub type Advanced = Vec<(u16, Origin, Time)>;

/// The data of one region and the commit that is being filled.
#[derive(Clone, Debug)]
pub struct Stage {
    me: Origin,
    partitions: u16,
    seed: u64,
    ablations: Ablations,
    clock: HybridClock,
    parts: Vec<Partition>,
    tables: Tables,
    /// The entry that is being filled, with room for its header in front.
    entry: Vec<u8>,
    /// Frames of this commit, for the vectors that it will make durable.
    advanced: Advanced,
    /// Partitions with an open frame.
    open: Vec<u16>,
    /// Values that readers do not see.
    conflicts: Conflicts,
    /// Keys that some client watches; touched ones are collected for the engine.
    watched: BTreeSet<Box<[u8]>>,
    touched: Vec<Box<[u8]>>,
    ops_applied: u64,
    foreign_mirror_ops: u64,
    /// Partitions of which somebody looks at an earlier state.
    frozen: BTreeMap<u16, Frozen>,
    elements_repaired: u64,
}

impl Stage {
    /// An empty stage.
    #[must_use]
    pub fn new(config: StageConfig) -> Stage {
        Stage {
            me: config.me,
            partitions: config.partitions,
            seed: config.seed,
            ablations: config.ablations,
            clock: HybridClock::new(Time::ZERO),
            parts: vec![Partition::default(); usize::from(config.partitions)],
            tables: Tables::new(config.seed),
            entry: vec![0; ENTRY_HEADER_BYTES],
            advanced: Vec::new(),
            open: Vec::new(),
            conflicts: Conflicts::default(),
            watched: BTreeSet::new(),
            touched: Vec::new(),
            ops_applied: 0,
            foreign_mirror_ops: 0,
            frozen: BTreeMap::new(),
            elements_repaired: 0,
        }
    }

    /// This region's ordinal.
    #[must_use]
    pub fn me(&self) -> Origin {
        self.me
    }

    /// Number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// Tells the stage the physical time, in microseconds since 1970.
    pub fn set_physical_us(&mut self, us: u64) {
        self.clock.set_physical_us(us);
    }

    /// Nothing is stamped at or below `floor`, and hybrid time begins there: what an earlier life
    /// may have promised or shown.
    pub fn start_above(&mut self, floor: Time) {
        self.clock.observe(floor);
    }

    /// Lets physical time carry hybrid time up to here; see [`HybridClock::reserve`].
    pub fn reserve_time(&mut self, upto: Time) {
        self.clock.reserve(upto);
    }

    /// The hybrid clock.
    #[must_use]
    pub fn clock(&self) -> &HybridClock {
        &self.clock
    }

    /// Hybrid time: what expires at or before it has expired.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The object under a key, expired parts and remains included.
    #[must_use]
    #[inline]
    pub fn object(&self, key: &[u8]) -> Option<&Object> {
        self.tables[usize::from(slot_of(key))].get(key)
    }

    /// The keys of one slot.
    #[must_use]
    pub fn table(&self, slot: u16) -> &SlotTable {
        &self.tables[usize::from(slot)]
    }

    /// Slots that may hold something, in order.
    pub fn occupied_slots(&self) -> impl Iterator<Item = u16> {
        let mut slots = 0..SLOTS;
        std::iter::from_fn(move || self.next_occupied(&mut slots))
    }

    /// The first of `slots` that may hold something, and takes it and those before it away.
    pub fn next_occupied(&self, slots: &mut Range<u16>) -> Option<u16> {
        let found = self.tables.next(usize::from(slots.start)..usize::from(slots.end));
        slots.start = found.map_or(slots.end, |slot| slot as u16 + 1);
        found.map(|slot| slot as u16)
    }

    /// The digest of one slot.
    pub fn slot_digest(&mut self, slot: u16) -> u64 {
        self.tables.digest(usize::from(slot))
    }

    /// The partition of a key.
    #[must_use]
    pub fn partition_of(&self, key: &[u8]) -> u16 {
        partition_of_key(slot_of(key), self.partitions)
    }

    /// One partition.
    #[must_use]
    pub fn partition(&self, number: u16) -> &Partition {
        &self.parts[usize::from(number)]
    }

    /// One partition, to tell it what was heard of other regions.
    pub fn partition_mut(&mut self, number: u16) -> &mut Partition {
        &mut self.parts[usize::from(number)]
    }

    /// What every partition has applied.
    #[must_use]
    pub fn vectors(&self) -> Vec<VersionVector> {
        self.parts.iter().map(|p| p.vector.clone()).collect()
    }

    /// Values that readers do not see.
    #[must_use]
    pub fn conflicts(&self) -> &Conflicts {
        &self.conflicts
    }

    /// Values that readers do not see, to follow what becomes of them.
    pub fn conflicts_mut(&mut self) -> &mut Conflicts {
        &mut self.conflicts
    }

    /// A part of a key has changed: what began and what ceased to be hidden by it. `before` is
    /// what was hidden there, and `by` whose operation it was; none for a repair.
    pub(crate) fn settle_conflicts(
        &mut self,
        key: &[u8],
        before: Losses,
        touch: &Touch,
        by: Option<Dot>,
    ) {
        let object = self.tables[usize::from(slot_of(key))].get(key);
        self.conflicts.settle(key, before, object, touch, by);
    }

    /// Keys that clients watch.
    pub fn watched_mut(&mut self) -> &mut BTreeSet<Box<[u8]>> {
        &mut self.watched
    }

    /// Watched keys that were written since the last call.
    pub fn take_touched(&mut self) -> Vec<Box<[u8]>> {
        std::mem::take(&mut self.touched)
    }

    /// Operations applied since the start, local and remote.
    #[must_use]
    pub fn ops_applied(&self) -> u64 {
        self.ops_applied
    }

    /// Operations on mirrored rows that came from other regions. While this region follows
    /// Postgres, one of them means that a former primary had written what was not known here.
    #[must_use]
    pub fn foreign_mirror_ops(&self) -> u64 {
        self.foreign_mirror_ops
    }

    /// Bytes in the commit that is being filled.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        let open: usize = self.open.iter().map(|p| self.partition(*p).open_bytes()).sum();
        self.entry.len() - ENTRY_HEADER_BYTES + open
    }

    /// Ends the commit: the log entry to append (none when nothing changed) and how it advances
    /// the vectors. `durable` is what the log is known to have on disk.
    pub fn take_entry(&mut self, durable: LogPosition) -> Option<(Vec<u8>, Advanced)> {
        for number in std::mem::take(&mut self.open) {
            self.close_one(number);
        }
        if self.entry.len() == ENTRY_HEADER_BYTES {
            return None;
        }
        encode_entry(&mut self.entry, 0, durable);
        let room = vec![0; ENTRY_HEADER_BYTES];
        Some((std::mem::replace(&mut self.entry, room), std::mem::take(&mut self.advanced)))
    }

    fn after(&mut self, key: &[u8], slot: u16, number: u16, effect: Effect) {
        self.after_change(key, slot, number, effect, None);
    }

    /// Looks after what a change left behind. `seen` is what the change had seen, if that is more
    /// than the partition's vector says.
    pub(crate) fn after_change(
        &mut self,
        key: &[u8],
        slot: u16,
        number: u16,
        effect: Effect,
        seen: Option<&VersionVector>,
    ) {
        if effect.residue {
            let me = self.me;
            let part = &mut self.parts[usize::from(number)];
            let seen = seen.unwrap_or(&part.vector).clone();
            if let Some(object) = self.tables[usize::from(slot)].get(key) {
                object.each(|element, cell| {
                    for row in cell.rows().iter().filter(|r| r.origin != me && !r.is_live()) {
                        part.note(key, ElementKey::of(element), row, &seen);
                    }
                });
            }
        }
        if self.watched.contains(key) {
            self.touched.push(key.into());
        }
    }

    /// A table, and the frozen state that its changes must be noted in.
    pub(crate) fn table_and_frozen(
        &mut self,
        slot: u16,
        number: u16,
    ) -> (&mut SlotTable, Option<&mut Frozen>) {
        (&mut self.tables[usize::from(slot)], self.frozen.get_mut(&number))
    }

    /// The table of a slot that was written to, for what it remembers beside its keys.
    pub(crate) fn table_mut(&mut self, slot: u16) -> &mut SlotTable {
        &mut self.tables[usize::from(slot)]
    }

    /// Frozen partitions.
    pub(crate) fn frozen_mut(&mut self) -> &mut BTreeMap<u16, Frozen> {
        &mut self.frozen
    }

    /// A partition's frozen state, if somebody looks at it.
    #[must_use]
    pub fn frozen(&self, number: u16) -> Option<&Frozen> {
        self.frozen.get(&number)
    }

    /// Elements that repairs have joined since the start.
    #[must_use]
    pub fn elements_repaired(&self) -> u64 {
        self.elements_repaired
    }

    pub(crate) fn count_repaired(&mut self, is_row: bool) {
        self.elements_repaired += 1;
        self.foreign_mirror_ops += u64::from(is_row);
    }

    /// Unpredictable bytes in production, for hashes that no client may foresee.
    #[must_use]
    pub fn salt(&self) -> [u8; 8] {
        self.seed.to_le_bytes()
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Rules that are off, for tests of the tests.
    #[must_use]
    pub fn ablations(&self) -> Ablations {
        self.ablations
    }

    /// After a repair: the partition has seen what the other region had seen.
    pub(crate) fn move_vector(&mut self, number: u16, seen: &VersionVector) {
        self.parts[usize::from(number)].vector.join(seen);
        for (origin, time) in seen.iter() {
            self.clock.observe(time);
            self.advanced.push((number, origin, time));
        }
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.entry.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.entry.extend_from_slice(bytes);
    }

    pub(crate) fn close(&mut self, number: u16) {
        if self.partition(number).open_bytes() > 0 {
            self.open.retain(|p| *p != number);
            self.close_one(number);
        }
    }

    fn close_one(&mut self, number: u16) {
        let part = &mut self.parts[usize::from(number)];
        if part.close(number, self.me, &mut self.entry) {
            self.advanced.push((number, self.me, part.vector.get(self.me)));
        }
    }
}
