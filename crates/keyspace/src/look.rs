//! Looking at every element of a slot, as comparisons between regions do. It is what healing costs
//! when little differs: so nothing is allocated for an element, and what a slot's elements sum to is
//! remembered until the slot changes.

use meridian_clock::VersionVector;
use meridian_crdt::{ElementKey, Object, encode_cell, encode_deadlines, encode_name};

use crate::{freeze::Frozen, stage::Stage, table::SlotSum};

/// Which state is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As it is.
    Now,
    /// As it was when the partition was frozen; as it is, if it is not frozen.
    Frozen,
}

impl Stage {
    /// Visits every element of a slot: key, name of the element as [`encode_name`] writes it,
    /// stored form.
    pub fn each_stored(&self, slot: u16, view: View, mut visit: impl FnMut(&[u8], &[u8], &[u8])) {
        let frozen = self.changed_since(slot, view);
        let (mut name, mut value) = (Vec::new(), Vec::new());
        for (key, object) in self.table(slot).iter() {
            object.each(|element, cell| {
                let name_of = || ElementKey::of(element);
                let is_noted = frozen.is_some_and(|f| f.has_noted(slot, key, name_of()));
                if is_noted || cell.is_empty() {
                    return;
                }
                name.clear();
                value.clear();
                encode_name(&mut name, Some(element));
                encode_cell(&mut value, cell, true);
                visit(key, &name, &value);
            });
            let is_noted = || frozen.is_some_and(|f| f.has_noted(slot, key, ElementKey::Deadlines));
            if !object.deadlines().is_empty() && !is_noted() {
                name.clear();
                value.clear();
                encode_name(&mut name, None);
                encode_deadlines(&mut value, object.deadlines());
                visit(key, &name, &value);
            }
        }
        for (key, place, before) in frozen.into_iter().flat_map(|f| f.noted(slot)) {
            if let Some(before) = before {
                name.clear();
                place.encode(&mut name);
                visit(key, &name, before);
            }
        }
    }

    /// How many elements [`Stage::each_stored`] visits.
    #[must_use]
    pub fn count_stored(&self, slot: u16, view: View) -> u64 {
        if self.changed_since(slot, view).is_some() {
            let mut count = 0;
            self.each_stored(slot, view, |_, _, _| count += 1);
            return count;
        }
        self.table(slot).iter().map(|(_, object)| elements_of(object)).sum()
    }

    /// What the elements of a slot sum to, `item` of seed, key, name and stored form standing for
    /// each. Also, whether it was known already. `item` must be the same function each time.
    pub fn sum_slot(
        &mut self,
        slot: u16,
        view: View,
        seed: u64,
        item: impl Fn(u64, &[u8], &[u8], &[u8]) -> u64,
    ) -> (SlotSum, bool) {
        let is_now = self.changed_since(slot, view).is_none();
        if let Some(sum) = self.table(slot).known_sum(seed).filter(|_| is_now) {
            return (sum, true);
        }
        let mut sum = SlotSum::default();
        self.each_stored(slot, view, |key, name, value| {
            sum.sum = sum.sum.wrapping_add(item(seed, key, name, value));
            sum.items += 1;
        });
        if is_now && sum.items > 0 {
            self.table_mut(slot).note_sum(seed, sum);
        }
        (sum, false)
    }

    /// Looks at one in `every` elements of a slot as they are, by a `count` that goes on from slot to
    /// slot: how many were looked at, and how many of those hold what `seen` does not cover.
    #[must_use]
    pub fn sample_news(
        &self,
        slot: u16,
        seen: &VersionVector,
        every: usize,
        count: &mut usize,
    ) -> (u64, u64) {
        let (mut looked, mut news) = (0, 0);
        let mut is_next = || {
            *count += 1;
            (*count - 1).is_multiple_of(every)
        };
        for (_, object) in self.table(slot).iter() {
            object.each(|_, cell| {
                if is_next() {
                    looked += 1;
                    news += u64::from(cell.is_news(seen));
                }
            });
            if !object.deadlines().is_empty() && is_next() {
                looked += 1;
                news += u64::from(object.deadlines().iter().any(|(dot, _)| !seen.covers(*dot)));
            }
        }
        (looked, news)
    }

    /// The frozen state of a slot that has changed since, if that is what is looked at.
    fn changed_since(&self, slot: u16, view: View) -> Option<&Frozen> {
        let frozen = self.frozen_of(slot).filter(|_| view == View::Frozen)?;
        frozen.noted(slot).next().is_some().then_some(frozen)
    }
}

/// How many elements of an object hold something.
fn elements_of(object: &Object) -> u64 {
    let mut count = u64::from(!object.deadlines().is_empty());
    object.each(|_, cell| count += u64::from(!cell.is_empty()));
    count
}
