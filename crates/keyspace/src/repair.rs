//! A repaired partition enters the stage: elements as another region holds them are joined with
//! what is here, all of them in one commit, and then the vector moves. So nobody ever sees a cell
//! that holds what the vector does not cover, and rule R4 of the design has nothing to do
//! (docs/adr).

use meridian_clock::VersionVector;
use meridian_codec::Malformed;
use meridian_crdt::{Effect, ElementKey, Join, Stored, decode_stored};
use meridian_store::RepairPart;

use crate::{
    conflicts::{Losses, Touch, losses},
    mirror::MIRROR_PREFIX,
    slot::slot_of,
    stage::{FrameError, Stage},
};

impl Stage {
    /// Applies a repair, given as its encoded parts, and appends it to the commit.
    ///
    /// # Errors
    /// [`FrameError`]; nothing has been applied then.
    pub fn apply_repair(&mut self, parts: &[Vec<u8>]) -> Result<(), FrameError> {
        let mut number = None;
        for (index, bytes) in parts.iter().enumerate() {
            let part = self.check_repair(bytes)?;
            let is_last = index + 1 == parts.len();
            if part.header.last != is_last
                || *number.get_or_insert(part.header.partition) != part.header.partition
            {
                return Err(Malformed("parts of a repair do not belong together").into());
            }
        }
        let Some(number) = number else { return Ok(()) };
        self.close(number);
        for bytes in parts {
            self.append(bytes);
            let part = RepairPart::decode(bytes)?;
            self.merge_repair(&part)?;
        }
        Ok(())
    }

    pub(crate) fn check_repair<'b>(&self, bytes: &'b [u8]) -> Result<RepairPart<'b>, FrameError> {
        let part = RepairPart::decode(bytes)?;
        if part.header.partition >= self.partitions() {
            return Err(Malformed("repair of a partition that does not exist").into());
        }
        for element in part.elements() {
            let element = element?;
            if self.partition_of(element.key) != part.header.partition {
                return Err(Malformed("repair with a key of another partition").into());
            }
            let place = ElementKey::decode(element.element)?;
            if let Some(value) = element.value {
                decode_stored(&place, value)?;
            }
        }
        Ok(part)
    }

    pub(crate) fn merge_repair(&mut self, part: &RepairPart<'_>) -> Result<(), Malformed> {
        let header = &part.header;
        let (me, number) = (self.me(), header.partition);
        let ours = self.partition(number).vector.clone();
        let mut after = ours.clone();
        after.join(&header.seen);
        let nothing = VersionVector::new();
        let join = if header.union {
            Join { me, ours: &nothing, theirs: &nothing, is_union: true }
        } else {
            Join { me, ours: &ours, theirs: &header.seen, is_union: false }
        };
        for element in part.elements() {
            let element = element?;
            let place = ElementKey::decode(element.element)?;
            let theirs = element.value.map(|v| decode_stored(&place, v)).transpose()?;
            self.join_element(element.key, &place, theirs.as_ref(), &join, &after);
        }
        if header.last {
            self.move_vector(number, &header.seen);
        }
        Ok(())
    }

    /// `after` is the vector that the partition will have: an empty counter row may go only once
    /// its origin has seen all of that.
    fn join_element(
        &mut self,
        key: &[u8],
        place: &ElementKey,
        theirs: Option<&Stored>,
        join: &Join<'_>,
        after: &VersionVector,
    ) {
        let (slot, seed) = (slot_of(key), self.seed());
        let number = self.partition_of(key);
        let ablations = self.ablations();
        if ablations.repair_keeps_the_removed && theirs.is_none() {
            return;
        }
        let touch = Touch::Element(place.clone());
        let watched = self.conflicts().holds(slot, key);
        let mut before = Losses::new();
        let (table, mut frozen) = self.table_and_frozen(slot, number);
        let effect: Effect = table.change(key, |object| {
            if watched {
                before = losses(object, &touch);
            }
            if let Some(frozen) = &mut frozen {
                frozen.note_element(slot, key, object, place.clone());
            }
            object.join(place, theirs, join, seed)
        });
        if watched || effect.conflict {
            self.settle_conflicts(key, before, &touch, None);
        }
        self.after_change(key, slot, number, effect, Some(after));
        self.count_repaired(key.starts_with(MIRROR_PREFIX));
    }
}
