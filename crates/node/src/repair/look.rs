//! What both sides of a repair do with a slot: sum it up, and name its elements.

use meridian_clock::VersionVector;
use meridian_crdt::ElementKey;
use meridian_keyspace::{Form, SlotSum, Stage, View};
use meridian_replication::repair::{GROUPS, group_of, item_of};

use super::{lasting_form, slots_in};

/// How elements are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Which state.
    pub view: View,
    /// Keys the items.
    pub seed: u64,
    /// What counts.
    pub counts: Counts,
}

/// What counts of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Its state. A repair takes no value over for one with the same dot, so values do not count.
    State,
    /// All of it: so builds before protocol 4 compare.
    Everything,
    /// What lasts of it, values among it: a scrub looks for memory that lied.
    Lasting,
}

/// One element of one side.
#[derive(Debug)]
pub struct Held {
    /// It in its state.
    pub item: u64,
    /// Its key.
    pub key: Box<[u8]>,
    /// Its name within the key.
    pub place: ElementKey,
}

impl Counts {
    /// Between two that speak of slots, or do not, for a scrub or a repair.
    pub fn between(by_slot: bool, scrub: bool, stage: &Stage) -> Counts {
        match by_slot {
            _ if scrub || stage.ablations().repair_without_residue => Counts::Lasting,
            true => Counts::State,
            false => Counts::Everything,
        }
    }
}

impl Look {
    /// What the elements of a slot sum to, and what it cost to know that, in elements looked at.
    ///
    /// Only the sums of states are remembered.
    pub fn sum(&self, stage: &mut Stage, slot: u16) -> (SlotSum, usize) {
        if self.counts != Counts::State {
            let mut sum = SlotSum::default();
            self.each(stage, slot, |item, _, _| {
                sum.sum = sum.sum.wrapping_add(item);
                sum.items += 1;
            });
            return (sum, 1 + sum.items as usize);
        }
        let (sum, is_known) = stage.sum_slot(slot, self.view, self.seed, item_of);
        (sum, if is_known { 1 } else { 1 + sum.items as usize })
    }

    /// How many elements a slot holds.
    pub fn count(&self, stage: &Stage, slot: u16) -> u64 {
        if self.counts != Counts::Lasting {
            return stage.count_stored(slot, self.view);
        }
        let mut count = 0;
        self.each(stage, slot, |_, _, _| count += 1);
        count
    }

    /// Adds the elements of a slot.
    pub fn collect(&self, stage: &Stage, slot: u16, held: &mut Vec<Held>) {
        self.each(stage, slot, |item, key, name| {
            if let Ok(place) = ElementKey::decode(name) {
                held.push(Held { item, key: key.into(), place });
            }
        });
    }

    /// The item of what lasts of one element, if it holds anything that does.
    pub fn item(&self, stage: &Stage, key: &[u8], place: &ElementKey) -> Option<u64> {
        let lasting = lasting_form(key, place, &stage.stored(key, place)?)?;
        let mut name = Vec::new();
        place.encode(&mut name);
        Some(item_of(self.seed, key, &name, &lasting))
    }

    fn each(&self, stage: &Stage, slot: u16, mut visit: impl FnMut(u64, &[u8], &[u8])) {
        let form = if self.counts == Counts::State { Form::State } else { Form::Stored };
        stage.each_element(slot, self.view, form, |key, name, value| {
            if self.counts != Counts::Lasting {
                visit(item_of(self.seed, key, name, value), key, name);
                return;
            }
            let Ok(place) = ElementKey::decode(name) else { return };
            if let Some(lasting) = lasting_form(key, &place, value) {
                visit(item_of(self.seed, key, name, &lasting), key, name);
            }
        });
    }
}

/// Counts elements that hold what another side has not seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct News {
    looked: u64,
    news: u64,
    count: usize,
}

impl News {
    /// Looks at one in `every` elements of a slot.
    pub fn look(&mut self, stage: &Stage, slot: u16, seen: &VersionVector, every: usize) {
        let (looked, news) = stage.sample_news(slot, seen, every, &mut self.count);
        (self.looked, self.news) = (self.looked + looked, self.news + news);
    }

    /// About how many of `items` elements are news.
    pub fn of(&self, items: u64) -> u64 {
        items * self.news / self.looked.max(1)
    }

    /// How many of those that were looked at are.
    pub fn found(&self) -> u64 {
        self.news
    }
}

/// The sums of the groups, from those of the slots.
pub fn groups_of(stage: &Stage, sums: &[(u16, u64)]) -> Vec<u64> {
    let mut groups = vec![0u64; GROUPS as usize];
    for (slot, sum) in sums {
        let group = &mut groups[group_of(*slot, slots_in(stage)) as usize];
        *group = group.wrapping_add(*sum);
    }
    groups
}

/// Whether a slot belongs to one of these groups.
pub fn is_among(stage: &Stage, groups: u64, slot: u16) -> bool {
    groups >> group_of(slot, slots_in(stage)) & 1 == 1
}
