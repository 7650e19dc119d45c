//! Space that nobody needs any more: counter rows that all have seen reset, keys that expired.

use meridian_clock::{Origin, Time};
use meridian_crdt::{Action, Object};
use meridian_store::partition_of_key;

use super::Stage;
use crate::slot::slot_of;

impl Stage {
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
}
