//! The one stage: everything that changes data goes through it, and leaves it as log bytes.
//!
//! A local operation is stamped, encoded into the open frame of its partition and applied; a
//! remote frame is appended as it came and applied. Both end in the entry of the current commit,
//! in the order in which they were applied. Replay after a restart feeds the same entries back.

use meridian_clock::{Dot, HybridClock, Origin, Time, VersionVector};
use meridian_codec::Malformed;
use meridian_crdt::{Action, Context, Cut, Effect, Element, ElementKey, Object, Op, OpReader};
use meridian_store::{
    ENTRY_HEADER_BYTES, Frame, FrameHeader, Group, LogPosition, RepairPart, encode_entry,
    partition_of_key,
};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

use crate::{
    ablations::Ablations,
    conflicts::{Conflicts, Losses, Touch, losses},
    freeze::Frozen,
    limits::{FRAME_TARGET_BYTES, MAX_COMMAND_BYTES, MAX_CUT_BYTES},
    mirror::MIRROR_PREFIX,
    partition::Partition,
    slot::slot_of,
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
    pub fn occupied_slots(&self) -> impl Iterator<Item = u16> + use<> {
        self.tables.slots().map(|slot| slot as u16)
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

    /// Performs one local operation.
    ///
    /// When nothing under the key is visible but remains of an expired life are held, the
    /// operation clears them first, here and everywhere; so does a string that is written over
    /// other types, as SET does.
    #[inline]
    pub fn write(&mut self, key: &[u8], action: Action<'_>) {
        self.decide(key, |_, _| Some(action));
    }

    /// Performs the operation that `choose` decides on when it sees what is held under the key
    /// and the dot that the operation will have; all in one look-up. False if it chose none.
    #[inline]
    pub fn decide<'a>(
        &mut self,
        key: &'a [u8],
        choose: impl FnOnce(&Object, Dot) -> Option<Action<'a>>,
    ) -> bool {
        match self.attempt(key, true, choose) {
            Attempt::Declined => false,
            Attempt::Done => true,
            Attempt::TooManyCuts(action) => {
                self.write_in_parts(key, action);
                true
            }
        }
    }

    /// Performs an operation that resets too many counters for one record: each of them is
    /// removed by an operation of its own first.
    fn write_in_parts(&mut self, key: &[u8], action: Action<'_>) {
        let (me, mut counters) = (self.me, Vec::new());
        if let Some(object) = self.object(key) {
            object.each(|element, cell| {
                if cell.rows().iter().any(|r| r.origin != me && r.is_live()) {
                    counters.push(ElementKey::of(element));
                }
            });
        }
        for element in counters.iter().filter_map(ElementKey::element) {
            self.attempt(key, false, |_, _| Some(Action::Remove { element }));
        }
        self.attempt(key, true, |_, _| Some(action));
    }

    /// With `lives`, the operation may begin a new life of the key.
    #[inline]
    fn attempt<'a>(
        &mut self,
        key: &'a [u8],
        lives: bool,
        choose: impl FnOnce(&Object, Dot) -> Option<Action<'a>>,
    ) -> Attempt<'a> {
        let slot = slot_of(key);
        let number = partition_of_key(slot, self.partitions);
        let (me, seed, now, ablations) = (self.me, self.seed, self.clock.now(), self.ablations);
        // The stamp is taken only if there is an operation to stamp.
        let mut clock = self.clock.clone();
        let dot = Dot::new(clock.tick(), me);
        let part = &mut self.parts[usize::from(number)];
        let first = part.open_bytes() == 0;
        // Only a key that holds a loss can see one end by a local operation.
        let watched = self.conflicts.holds(slot, key);
        let mut before: Option<(Touch, Losses)> = None;
        let (entry, advanced) = (&mut self.entry, &mut self.advanced);
        let frozen = &mut self.frozen;
        let effect = self.tables[usize::from(slot)].change(key, |object| {
            let action = choose(object, dot).ok_or(Attempt::Declined)?;
            let mut op = Op::new(key, action);
            let names = if object.is_empty() {
                Vec::new()
            } else {
                prepare(object, &mut op, lives, now, me)
            };
            if names.iter().map(OwnedCut::bytes).sum::<usize>() > MAX_CUT_BYTES {
                return Err(Attempt::TooManyCuts(op.action));
            }
            // Cuts name elements of the object that the operation is about to change.
            let mut op = Op { cuts: names.iter().map(OwnedCut::borrow).collect(), ..op };
            ablate(&mut op, ablations);
            // Commands keep within their frame; should one not, a frame too many is better than
            // one that nobody can read.
            if part.open_bytes() + op_bytes(&op) > MAX_COMMAND_BYTES
                && part.close(number, me, entry)
            {
                advanced.push((number, me, part.vector.get(me)));
            }
            part.push(&op, dot);
            if !frozen.is_empty()
                && let Some(frozen) = frozen.get_mut(&number)
            {
                frozen.note(slot, object, &op);
            }
            if watched {
                let touch = Touch::of(&op);
                let losses = losses(object, &touch);
                before = Some((touch, losses));
            }
            Ok(object.apply(&op, &Context { seen: &part.vector, dot }, me, seed))
        });
        let effect = match effect {
            Ok(effect) => effect,
            Err(attempt) => return attempt,
        };
        part.vector.set(me, dot.time);
        self.clock = clock;
        self.ops_applied += 1;
        if first {
            self.open.push(number);
        }
        if let Some((touch, losses)) = before {
            self.settle_conflicts(key, losses, &touch, Some(dot));
        }
        if effect.residue || !self.watched.is_empty() {
            self.after(key, slot, number, effect);
        }
        Attempt::Done
    }

    /// How many bytes the current command may still write to the key's partition.
    #[must_use]
    pub fn room(&self, key: &[u8]) -> usize {
        MAX_COMMAND_BYTES.saturating_sub(self.partition(self.partition_of(key)).open_bytes())
    }

    /// Ends a command: a frame that has grown large enough is closed, so that no frame exceeds
    /// its limit and no command is split.
    pub fn end_command(&mut self) {
        if self.open.len() == 1 && self.partition(self.open[0]).open_bytes() < FRAME_TARGET_BYTES {
            return;
        }
        let large = |s: &Stage, p: u16| s.partition(p).open_bytes() >= FRAME_TARGET_BYTES;
        let full: Vec<u16> = self.open.iter().copied().filter(|p| large(self, *p)).collect();
        for number in full {
            self.close(number);
        }
    }

    /// Applies a remote frame and appends it to the commit.
    ///
    /// # Errors
    /// [`FrameError`]; nothing has been applied then.
    pub fn apply_frame(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        let frame = self.check_frame(bytes)?;
        if frame.header.origin == self.me {
            return Err(FrameError::OutOfOrder);
        }
        self.close(frame.header.partition);
        self.append(bytes);
        self.merge(&frame)?;
        Ok(())
    }

    /// Applies a frame, or a part of a repair, found in this region's own log at the start.
    ///
    /// # Errors
    /// [`FrameError`]; the log must not be used then.
    pub fn replay_frame(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if RepairPart::is_one(bytes) {
            let part = self.check_repair(bytes)?;
            self.merge_repair(&part)?;
        } else {
            let frame = self.check_frame(bytes)?;
            self.merge(&frame)?;
        }
        self.advanced.clear();
        Ok(())
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

    /// Puts a stored element back at the start. `element` and `value` are the checkpoint's.
    ///
    /// # Errors
    /// [`Malformed`] when they cannot be read.
    pub fn restore(&mut self, key: &[u8], element: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let seed = self.seed;
        let table = &mut self.tables[usize::from(slot_of(key))];
        match ElementKey::decode(element)? {
            ElementKey::Deadlines => {
                let deadlines = meridian_crdt::decode_deadlines(value)?;
                table.change(key, |o| o.restore_deadlines(deadlines, seed));
            }
            place => {
                let cell = meridian_crdt::decode_cell(value)?;
                if let Some(element) = place.element() {
                    table.change(key, |o| o.restore_cell(element, cell, seed));
                }
            }
        }
        Ok(())
    }

    /// Sets the vectors that belong to the restored elements.
    pub fn restore_vectors(&mut self, vectors: &[VersionVector]) {
        for (part, vector) in self.parts.iter_mut().zip(vectors) {
            part.vector = vector.clone();
            for (_, time) in vector.iter().filter(|_| !self.ablations.forget_floor) {
                self.clock.observe(time);
            }
        }
    }

    /// After restoring and replaying: empty counter rows and values that lost are noted again.
    pub fn finish_restore(&mut self) {
        let me = self.me;
        // What was noted on the way was noted with vectors older than the checkpoint's cells.
        self.parts.iter_mut().for_each(Partition::forget_residue);
        // And what the checkpoint holds was not seen happening.
        self.conflicts.clear();
        for slot in self.occupied_slots() {
            let mut found = Vec::new();
            for (key, object) in self.tables[usize::from(slot)].iter() {
                let mut conflict = object.has_mixed_types();
                object.each(|element, cell| {
                    conflict |= Object::is_conflict(element, cell);
                    for row in cell.rows().iter().filter(|r| r.origin != me && !r.is_live()) {
                        found.push((Box::<[u8]>::from(key), ElementKey::of(element), row.clone()));
                    }
                });
                if conflict {
                    self.conflicts.recount(key, Some(object));
                }
            }
            let number = partition_of_key(slot, self.partitions);
            let part = &mut self.parts[usize::from(number)];
            let seen = part.vector.clone();
            for (key, element, row) in found {
                part.note(&key, element, &row, &seen);
            }
        }
    }

    /// Drops empty counter rows whose origin is known to have seen their reset.
    pub fn collect_residue(&mut self, number: u16) {
        let seed = self.seed;
        let early = self.ablations.collect_early;
        while let Some(residue) = self.parts[usize::from(number)].collect(early) {
            let Some(element) = residue.element.element() else { continue };
            let slot = slot_of(&residue.key);
            let (table, mut frozen) = self.table_and_frozen(slot, number);
            if table.get(&residue.key).is_none() {
                continue;
            }
            table.change(&residue.key, |object| {
                if let Some(frozen) = &mut frozen {
                    frozen.note_element(slot, &residue.key, object, residue.element.clone());
                }
                object.drop_residue(element, seed, |row| residue.is(row));
            });
        }
    }

    /// Clears the keys of a slot whose life has ended, once nothing that `origins` wrote before
    /// the deadline can still arrive. Returns how many.
    pub fn expire_slot(&mut self, slot: u16, now: Time, origins: &[Origin]) -> usize {
        let part = &self.parts[usize::from(partition_of_key(slot, self.partitions))];
        let early = self.ablations.expire_unsettled;
        let is_over = |object: &Object| {
            object.last_deadline().is_some_and(|at| {
                at <= now
                    && object.visible(now).is_none()
                    && (early || part.is_settled(at, origins.iter().copied()))
            })
        };
        let objects = self.tables[usize::from(slot)].iter();
        let due: Vec<Box<[u8]>> =
            objects.filter(|(_, o)| is_over(o)).map(|(key, _)| key.into()).collect();
        for key in &due {
            self.write(key, Action::Clear);
            self.end_command();
        }
        due.len()
    }

    fn check_frame<'b>(&self, bytes: &'b [u8]) -> Result<Frame<'b>, FrameError> {
        let frame = Frame::decode(bytes)?;
        let header = &frame.header;
        if header.partition >= self.partitions {
            return Err(Malformed("frame for a partition that does not exist").into());
        }
        let vector = &self.partition(header.partition).vector;
        let follows = self.ablations.apply_gaps || header.previous == vector.get(header.origin);
        let covered = self.ablations.ignore_dependencies || vector.dominates(&header.seen);
        if !follows || !covered {
            return Err(FrameError::OutOfOrder);
        }
        let (mut groups, mut last) = (frame.groups(), header.previous);
        while let Some(group) = groups.next()? {
            let mut reader = OpReader::new(group.ops, header.origin, last);
            while let Some((_, op)) = reader.next()? {
                if self.partition_of(op.key) != header.partition {
                    return Err(Malformed("operation on a key of another partition").into());
                }
            }
            last = reader.last();
        }
        if last != header.last {
            return Err(Malformed("frame's last stamp is not its last operation's").into());
        }
        Ok(frame)
    }

    fn merge(&mut self, frame: &Frame<'_>) -> Result<(), Malformed> {
        let header = &frame.header;
        let (me, number) = (self.me, header.partition);
        // Before the operations: an empty row that one of them leaves is noted with a vector that
        // includes it, and may go only once its origin has seen that operation too.
        self.parts[usize::from(number)].vector.set(header.origin, header.last);
        let (mut groups, mut last) = (frame.groups(), header.previous);
        while let Some(group) = groups.next()? {
            last = self.merge_group(header, &group, last)?;
        }
        let part = &mut self.parts[usize::from(number)];
        if header.origin != me {
            let mut known = header.seen.clone();
            known.set(header.origin, header.last);
            part.learn(header.origin, &known);
        }
        if header.origin != me || !self.ablations.forget_floor {
            self.clock.observe(header.last);
        }
        self.advanced.push((number, header.origin, header.last));
        Ok(())
    }

    /// Applies the operations of one group; the stamp of the last one.
    fn merge_group(
        &mut self,
        header: &FrameHeader,
        group: &Group<'_>,
        last: Time,
    ) -> Result<Time, Malformed> {
        let (me, seed, number) = (self.me, self.seed, header.partition);
        let ablations = self.ablations;
        let here = ablations.remove_wins.then(|| self.partition(number).vector.clone());
        let mut reader = OpReader::new(group.ops, header.origin, last);
        while let Some((mut dot, mut op)) = reader.next()? {
            let slot = slot_of(op.key);
            if header.origin != me {
                ablations.spoil(&mut op, &mut dot, self.clock.now());
            }
            let here = here.as_ref().filter(|_| ablations.removes_all(&op));
            let context = Context { seen: here.unwrap_or(&group.seen), dot };
            let watched = self.conflicts.holds(slot, op.key);
            let mut before = Losses::new();
            let (table, mut frozen) = self.table_and_frozen(slot, number);
            let effect = table.change(op.key, |object| {
                if let Some(frozen) = &mut frozen {
                    frozen.note(slot, object, &op);
                }
                if watched {
                    before = losses(object, &Touch::of(&op));
                }
                object.apply(&op, &context, me, seed)
            });
            if watched || effect.conflict {
                self.settle_conflicts(op.key, before, &Touch::of(&op), Some(dot));
            }
            self.ops_applied += 1;
            self.foreign_mirror_ops += u64::from(op.key.starts_with(MIRROR_PREFIX));
            if effect.residue || !self.watched.is_empty() {
                self.after(op.key, slot, number, effect);
            }
        }
        Ok(reader.last())
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

/// Removes what the switched-off rules would have added.
fn ablate(op: &mut Op<'_>, ablations: Ablations) {
    if ablations.drop_cuts {
        op.cuts.clear();
    }
    if ablations.keep_remains {
        op.fresh = false;
    }
}

/// What became of a local operation.
enum Attempt<'a> {
    /// There is none.
    Declined,
    /// It was performed.
    Done,
    /// It was not: it would reset more counters than one record should hold.
    TooManyCuts(Action<'a>),
}

/// About how many bytes an operation takes in its frame.
fn op_bytes(op: &Op<'_>) -> usize {
    let value = match &op.action {
        Action::Assign { element, value, .. } => element_bytes(*element) + value.len(),
        Action::Remove { element } | Action::Incr { element, .. } => element_bytes(*element),
        Action::Clear | Action::Expire { .. } => 0,
    };
    let cuts = op.cuts.iter().map(|cut| element_bytes(cut.element) + CUT_BYTES).sum::<usize>();
    op.key.len() + value + cuts + CUT_BYTES
}

fn element_bytes(element: Element<'_>) -> usize {
    match element {
        Element::String => 0,
        Element::Field(name) | Element::Member(name) => name.len(),
    }
}

/// What a cut, or the head of an operation, takes at most beside names and values.
const CUT_BYTES: usize = 64;

/// A cut that owns its element's name.
struct OwnedCut {
    element: ElementKey,
    cut: Cut<'static>,
}

impl OwnedCut {
    fn bytes(&self) -> usize {
        self.element.element().map_or(0, element_bytes) + CUT_BYTES
    }

    fn borrow(&self) -> Cut<'_> {
        let element = self.element.element().unwrap_or(Element::String);
        Cut { element, ..self.cut }
    }
}

/// Completes an operation with what its author sees: whether it begins a new life of the key, and
/// which counter rows it resets.
fn prepare(object: &Object, op: &mut Op<'_>, lives: bool, now: Time, me: Origin) -> Vec<OwnedCut> {
    let replaces = matches!(op.action, Action::Assign { element: Element::String, .. })
        && (object.hash().positions() > 0 || object.set().positions() > 0);
    op.fresh = lives && (replaces || (object.has_remains(now) && object.visible(now).is_none()));
    let scope = match &op.action {
        _ if op.fresh => None,
        Action::Clear => None,
        Action::Assign { element, .. } | Action::Remove { element } => Some(*element),
        Action::Incr { .. } | Action::Expire { .. } => return Vec::new(),
    };
    if scope.is_some_and(|e| object.cell(e).is_none_or(|c| c.rows().is_empty())) {
        return Vec::new();
    }
    let mut cuts = Vec::new();
    object.cuts(scope, me, &mut cuts);
    cuts.into_iter()
        .map(|cut| OwnedCut {
            element: ElementKey::of(cut.element),
            cut: Cut { element: Element::String, ..cut },
        })
        .collect()
}
