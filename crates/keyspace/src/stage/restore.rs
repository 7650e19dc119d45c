//! The state of a checkpoint comes back.

use meridian_clock::VersionVector;
use meridian_codec::Malformed;
use meridian_crdt::{ElementKey, Object};
use meridian_store::partition_of_key;

use super::Stage;
use crate::{partition::Partition, slot::slot_of};

impl Stage {
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
        for slot in self.occupied_slots().collect::<Vec<_>>() {
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
}
