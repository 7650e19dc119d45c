//! Looking at every element of a slot, as comparisons between regions do. It is what healing costs
//! when little differs: so nothing is allocated for an element, and what a slot's elements sum to is
//! remembered until the slot changes.

use meridian_clock::VersionVector;
use meridian_crdt::{
    Cell, ElementKey, Object, Stored, decode_stored, encode_cell, encode_deadlines, encode_name,
    encode_state,
};

use crate::{freeze::Frozen, stage::Stage, table::SlotSum};

/// Which state is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// As it is.
    Now,
    /// As it was when the partition was frozen; as it is, if it is not frozen.
    Frozen,
}

/// What of an element is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All of it, as it is stored.
    Stored,
    /// What tells its state from any other, as [`encode_state`] writes it. Values lie where they were
    /// allocated: to fetch them is most of what looking at an element costs.
    State,
}

impl Stage {
    /// Visits every element of a slot: key, name of the element as [`encode_name`] writes it,
    /// stored form.
    pub fn each_stored(&self, slot: u16, view: View, visit: impl FnMut(&[u8], &[u8], &[u8])) {
        self.each_element(slot, view, Form::Stored, visit);
    }

    /// Visits every element of a slot: key, name of the element as [`encode_name`] writes it, and
    /// the element in this form.
    pub fn each_element(
        &self,
        slot: u16,
        view: View,
        form: Form,
        mut visit: impl FnMut(&[u8], &[u8], &[u8]),
    ) {
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
                form.encode(&mut value, cell);
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
                match decode_stored(place, before) {
                    Ok(Stored::Cell(cell)) if form == Form::State => {
                        value.clear();
                        form.encode(&mut value, &cell);
                        visit(key, &name, &value);
                    }
                    _ => visit(key, &name, before),
                }
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

    /// What the elements of a slot sum to, `item` of seed, key, name and state standing for
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
        self.each_element(slot, view, Form::State, |key, name, value| {
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

impl Form {
    fn encode(self, out: &mut Vec<u8>, cell: &Cell) {
        match self {
            Form::Stored => encode_cell(out, cell, true),
            Form::State => encode_state(out, cell),
        }
    }
}

/// How many elements of an object hold something.
fn elements_of(object: &Object) -> u64 {
    let mut count = u64::from(!object.deadlines().is_empty());
    object.each(|_, cell| count += u64::from(!cell.is_empty()));
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ablations, StageConfig, slot::SLOTS};
    use meridian_clock::{Origin, Time};
    use meridian_crdt::{Action, Element};

    fn item(seed: u64, key: &[u8], name: &[u8], value: &[u8]) -> u64 {
        let mut hash = xxhash_rust::xxh3::Xxh3::with_seed(seed);
        [key, name, value].iter().for_each(|part| hash.update(part));
        hash.digest()
    }

    fn write(stage: &mut Stage, key: &str, element: Element<'_>, value: &str) {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        stage.write(key, Action::Assign { element, value, ttl: Time::MAX });
    }

    fn stage() -> Stage {
        let ablations = Ablations::default();
        let mut stage =
            Stage::new(StageConfig { me: Origin(0), partitions: 1, seed: 1, ablations });
        stage.set_physical_us(1_000_000);
        for n in 0..40 {
            write(&mut stage, &format!("key:{n}"), Element::String, "before");
            write(&mut stage, &format!("hash:{n}"), Element::Field(b"f"), "before");
        }
        stage
    }

    fn sums(stage: &mut Stage, view: View, seed: u64) -> Vec<SlotSum> {
        (0..SLOTS).map(|slot| stage.sum_slot(slot, view, seed, item).0).collect()
    }

    /// With nothing remembered.
    fn fresh(stage: &Stage, view: View, seed: u64) -> Vec<SlotSum> {
        let sum = |slot| {
            let mut sum = SlotSum::default();
            stage.each_element(slot, view, Form::State, |key, name, value| {
                sum.sum = sum.sum.wrapping_add(item(seed, key, name, value));
                sum.items += 1;
            });
            sum
        };
        (0..SLOTS).map(sum).collect()
    }

    #[test]
    fn what_is_remembered_is_what_a_fresh_look_gives() {
        let mut stage = stage();
        let before = sums(&mut stage, View::Now, 7);
        assert_eq!(before.iter().map(|sum| sum.items).sum::<u64>(), 80);
        let slot = crate::slot_of(b"key:3");
        assert!(stage.sum_slot(slot, View::Now, 7, item).1, "nothing has changed");
        assert!(!stage.sum_slot(slot, View::Now, 8, item).1, "another seed");
        assert!(!stage.sum_slot(slot, View::Now, 7, item).1, "one seed is remembered");
        stage.freeze(0);
        for n in 0..40 {
            write(&mut stage, &format!("key:{}", 2 * n), Element::String, "after");
            stage.write(format!("hash:{n}").as_bytes(), Action::Clear);
            // Whoever looks in between must not spoil it for the others.
            assert_eq!(sums(&mut stage, View::Frozen, 7), before);
            assert_eq!(sums(&mut stage, View::Now, 7), fresh(&stage, View::Now, 7));
        }
        stage.thaw(0);
        assert_eq!(sums(&mut stage, View::Frozen, 7), fresh(&stage, View::Now, 7));
        assert_ne!(sums(&mut stage, View::Now, 7), before);
    }

    #[test]
    fn news_are_what_a_vector_does_not_cover() {
        let mut stage = stage();
        let seen = stage.partition(0).vector.clone();
        for n in 0..10 {
            write(&mut stage, &format!("key:{n}"), Element::String, "news");
        }
        let count = |every, seen: &VersionVector| {
            let mut count = 0;
            let looks = (0..SLOTS).map(|slot| stage.sample_news(slot, seen, every, &mut count));
            looks.fold((0, 0), |all, some| (all.0 + some.0, all.1 + some.1))
        };
        assert_eq!(count(1, &seen), (80, 10));
        assert_eq!(count(1, &VersionVector::new()), (80, 80));
        assert_eq!(count(16, &VersionVector::new()), (5, 5), "one in sixteen, across slots");
    }
}
