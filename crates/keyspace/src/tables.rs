//! The tables of all slots, made when they are first written to.
//!
//! A region with few keys, as most are in tests and in the simulator, pays for the pages that it
//! uses and not for 16,384 tables; a copy of it costs as little. A busy region has every page.
//! Whoever walks through slots (a scrub, a sweep, a digest) walks through those that were written
//! to, so that an idle region does not look at thousands of empty ones again and again.

use std::ops::{Index, IndexMut, Range};

use crate::{slot::SLOTS, table::SlotTable};

/// Slots of one page.
const PAGE: usize = 32;

/// Slots of one word of the set of slots that were written to.
const WORD: usize = u64::BITS as usize;

/// A table for every slot.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    seed: u64,
    /// What is read where no page is.
    nothing: SlotTable,
    pages: Vec<Option<Box<[SlotTable]>>>,
    /// Slots that were written to, a bit each: they may hold something, all others do not.
    written: Box<[u64]>,
}

impl Tables {
    /// Empty tables; `seed` keys their hash functions.
    pub fn new(seed: u64) -> Tables {
        let pages = vec![None; usize::from(SLOTS) / PAGE];
        let written = vec![0; usize::from(SLOTS) / WORD].into_boxed_slice();
        Tables { seed, nothing: SlotTable::new(seed), pages, written }
    }

    /// The digest of one slot.
    pub fn digest(&mut self, slot: usize) -> u64 {
        self.pages[slot / PAGE].as_mut().map_or(0, |page| page[slot % PAGE].digest())
    }

    /// The first slot of `slots` that may hold something.
    pub fn next(&self, slots: Range<usize>) -> Option<usize> {
        let (first, mut at) = (slots.start / WORD, slots.start);
        for (word, bits) in self.written.iter().enumerate().skip(first) {
            if at >= slots.end {
                return None;
            }
            let rest = bits >> (at % WORD);
            if rest != 0 {
                let found = at + rest.trailing_zeros() as usize;
                return (found < slots.end).then_some(found);
            }
            at = (word + 1) * WORD;
        }
        None
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
        self.written[slot / WORD] |= 1 << (slot % WORD);
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
        assert_eq!(tables.next(0..16_384), None);
        write(&mut tables, 40);
        assert_eq!(tables[40].len(), 1);
        assert_ne!(tables.digest(40), 0);
        assert_eq!((tables.digest(41), tables.digest(0)), (0, 0));
    }

    #[test]
    fn those_that_were_written_to_are_found_in_order() {
        let mut tables = Tables::new(7);
        let wanted = [0, 1, 63, 64, 127, 5000, 16_383];
        wanted.iter().rev().for_each(|slot| write(&mut tables, *slot));
        let (mut found, mut from) = (Vec::new(), 0);
        while let Some(slot) = tables.next(from..16_384) {
            found.push(slot);
            from = slot + 1;
        }
        assert_eq!(found, wanted);
        assert_eq!(tables.next(2..63), None);
        assert_eq!(tables.next(2..64), Some(63));
        assert_eq!(tables.next(64..64), None);
        assert_eq!(tables.next(128..5000), None);
        assert_eq!(tables.next(16_384..16_384), None);
    }

    fn write(tables: &mut Tables, slot: usize) {
        let (seen, dot) = (VersionVector::new(), Dot::new(Time(1), Origin(0)));
        let action = Action::Assign { element: Element::String, value: b"v", ttl: Time::MAX };
        let op = Op::new(b"k", action);
        tables[slot].change(b"k", |o| o.apply(&op, &Context { seen: &seen, dot }, Origin(0), 7));
    }
}
