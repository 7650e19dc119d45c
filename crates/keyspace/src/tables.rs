//! The tables of all slots, made when they are first written to.
//!
//! A region with few keys, as most are in tests and in the simulator, pays for the pages that it
//! uses and not for 16,384 tables; a copy of it costs as little. A busy region has every page.

use std::ops::{Index, IndexMut};

use crate::{slot::SLOTS, table::SlotTable};

/// Slots of one page.
const PAGE: usize = 32;

/// A table for every slot.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    seed: u64,
    /// What is read where no page is.
    nothing: SlotTable,
    pages: Vec<Option<Box<[SlotTable]>>>,
}

impl Tables {
    /// Empty tables; `seed` keys their hash functions.
    pub fn new(seed: u64) -> Tables {
        let pages = vec![None; usize::from(SLOTS) / PAGE];
        Tables { seed, nothing: SlotTable::new(seed), pages }
    }

    /// The digest of one slot.
    pub fn digest(&mut self, slot: usize) -> u64 {
        self.pages[slot / PAGE].as_mut().map_or(0, |page| page[slot % PAGE].digest())
    }

    /// Slots that may hold something, in order.
    pub fn slots(&self) -> impl Iterator<Item = usize> + use<> {
        let present: Vec<usize> =
            (0..self.pages.len()).filter(|page| self.pages[*page].is_some()).collect();
        present.into_iter().flat_map(|page| page * PAGE..(page + 1) * PAGE)
    }
}

impl Index<usize> for Tables {
    type Output = SlotTable;

    #[inline]
    fn index(&self, slot: usize) -> &SlotTable {
        self.pages[slot / PAGE].as_ref().map_or(&self.nothing, |page| &page[slot % PAGE])
    }
}

impl IndexMut<usize> for Tables {
    #[inline]
    fn index_mut(&mut self, slot: usize) -> &mut SlotTable {
        let seed = self.seed;
        let new = || vec![SlotTable::new(seed); PAGE].into_boxed_slice();
        &mut self.pages[slot / PAGE].get_or_insert_with(new)[slot % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_clock::{Dot, Origin, Time, VersionVector};
    use meridian_crdt::{Action, Context, Element, Op};

    #[test]
    fn a_slot_that_nobody_wrote_to_is_empty_and_costs_nothing() {
        let mut tables = Tables::new(7);
        assert_eq!((tables[9].len(), tables.digest(9)), (0, 0));
        assert_eq!(tables.slots().count(), 0);
        let (seen, dot) = (VersionVector::new(), Dot::new(Time(1), Origin(0)));
        let action = Action::Assign { element: Element::String, value: b"v", ttl: Time::MAX };
        let op = Op::new(b"k", action);
        tables[40].change(b"k", |o| o.apply(&op, &Context { seen: &seen, dot }, Origin(0), 7));
        assert_eq!(tables[40].len(), 1);
        assert_eq!(tables.slots().collect::<Vec<_>>(), (32..64).collect::<Vec<_>>());
        assert_ne!(tables.digest(40), 0);
        assert_eq!((tables.digest(41), tables.digest(0)), (0, 0));
    }
}
