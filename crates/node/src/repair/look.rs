//! What both sides of a repair do with a slot: sum it up, and name its elements.

use meridian_clock::VersionVector;
use meridian_crdt::ElementKey;
use meridian_keyspace::{SlotSum, Stage, View};
use meridian_replication::repair::{GROUPS, group_of, item_of};

use super::{lasting_form, slots_in};

/// How elements are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Which state.
    pub view: View,
    /// Keys the items.
    pub seed: u64,
    /// Only what lasts counts.
    pub strips: bool,
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

impl Look {
    /// What the elements of a slot sum to, and what it cost to know that, in elements looked at.
    ///
    /// What lasts is for scrubs, which look for memory that lied: nothing is remembered for them.
    pub fn sum(&self, stage: &mut Stage, slot: u16) -> (SlotSum, usize) {
        if self.strips {
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
        if !self.strips {
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

    fn each(&self, stage: &Stage, slot: u16, mut visit: impl FnMut(u64, &[u8], &[u8])) {
        stage.each_stored(slot, self.view, |key, name, value| {
            if !self.strips {
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
