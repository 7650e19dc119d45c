//! A partition as it stood at one moment, while commands go on: what another region is told of it
//! must be one consistent state.
//!
//! Nothing is copied when a partition is frozen. What changes afterwards is noted, once, as it was
//! before; a look at the frozen state takes the noted element where there is one and the current
//! one elsewhere. When more changes than [`MAX_FROZEN_BYTES`] can hold, the frozen state is lost
//! and its user begins again.

use std::collections::BTreeMap;

use meridian_clock::VersionVector;
use meridian_crdt::{Action, Element, ElementKey, Object, Op, encode_stored};

use crate::{limits::MAX_FROZEN_BYTES, slot::slot_of, stage::Stage};

/// What changed since a partition was frozen, as it was before.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// What the partition had seen.
    vector: VersionVector,
    before: BTreeMap<Place, Option<Vec<u8>>>,
    bytes: usize,
    is_lost: bool,
}

/// Slot, key and element.
type Place = (u16, Box<[u8]>, ElementKey);

impl Frozen {
    fn new(vector: VersionVector) -> Frozen {
        Frozen { vector, before: BTreeMap::new(), bytes: 0, is_lost: false }
    }

    /// What the partition had seen when it was frozen.
    #[must_use]
    pub fn vector(&self) -> &VersionVector {
        &self.vector
    }

    /// More has changed than could be noted.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// What has been noted of a slot: key, element, and what was there before.
    pub(crate) fn noted(
        &self,
        slot: u16,
    ) -> impl Iterator<Item = (&[u8], &ElementKey, Option<&[u8]>)> {
        let first = (slot, Box::default(), ElementKey::Deadlines);
        let from = self.before.range(first..).take_while(move |((s, ..), _)| *s == slot);
        from.map(|((_, key, place), value)| (key.as_ref(), place, value.as_deref()))
    }

    /// Whether an element was noted.
    pub(crate) fn has_noted(&self, slot: u16, key: &[u8], place: ElementKey) -> bool {
        self.before.contains_key(&(slot, key.into(), place))
    }

    /// Before an operation: notes what it is about to change.
    pub(crate) fn note(&mut self, slot: u16, object: &Object, op: &Op<'_>) {
        if op.fresh {
            self.note_all(slot, op.key, object);
        }
        match &op.action {
            Action::Clear => self.note_all(slot, op.key, object),
            Action::Assign { element: Element::String, .. } | Action::Expire { .. } => {
                self.note_element(slot, op.key, object, ElementKey::String);
                self.note_element(slot, op.key, object, ElementKey::Deadlines);
            }
            Action::Assign { element, .. }
            | Action::Remove { element }
            | Action::Incr { element, .. } => {
                self.note_element(slot, op.key, object, ElementKey::of(*element));
            }
        }
    }

    /// Before one element is changed by anything else than an operation.
    pub(crate) fn note_element(&mut self, slot: u16, key: &[u8], object: &Object, at: ElementKey) {
        if self.is_lost {
            return;
        }
        let place = (slot, Box::from(key), at);
        if self.before.contains_key(&place) {
            return;
        }
        let value = encode_stored(object, &place.2);
        self.bytes += ENTRY_BYTES + 2 * key.len() + value.as_ref().map_or(0, Vec::len);
        self.before.insert(place, value);
        if self.bytes > MAX_FROZEN_BYTES {
            self.is_lost = true;
            self.before.clear();
        }
    }

    fn note_all(&mut self, slot: u16, key: &[u8], object: &Object) {
        object.each(|element, _| self.note_element(slot, key, object, ElementKey::of(element)));
        self.note_element(slot, key, object, ElementKey::Deadlines);
    }
}

/// About what a noted element takes beside its bytes.
const ENTRY_BYTES: usize = 96;

impl Stage {
    /// Freezes a partition; one that was frozen before is frozen anew. It ends the open frame: a
    /// vector that stands inside a frame would be taken for a fork.
    pub fn freeze(&mut self, number: u16) {
        self.close(number);
        let vector = self.partition(number).vector.clone();
        self.frozen_mut().insert(number, Frozen::new(vector));
    }

    /// Nobody needs the frozen partition any more.
    pub fn thaw(&mut self, number: u16) {
        self.frozen_mut().remove(&number);
    }

    /// One element: as it was when its partition was frozen, else as it is.
    #[must_use]
    pub fn stored(&self, key: &[u8], place: &ElementKey) -> Option<Vec<u8>> {
        let slot = slot_of(key);
        let noted = self
            .frozen_of(slot)
            .and_then(|f| f.before.get(&(slot, key.into(), place.clone())).cloned());
        noted.unwrap_or_else(|| encode_stored(self.object(key)?, place))
    }

    /// The frozen state that a slot belongs to.
    pub(crate) fn frozen_of(&self, slot: u16) -> Option<&Frozen> {
        let number = meridian_store::partition_of_key(slot, self.partitions());
        self.frozen(number).filter(|f| !f.is_lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ablations, StageConfig, View, slot::SLOTS};
    use meridian_clock::{Origin, Time};

    fn stage() -> Stage {
        let ablations = Ablations::default();
        let mut stage =
            Stage::new(StageConfig { me: Origin(0), partitions: 2, seed: 1, ablations });
        stage.set_physical_us(1_000_000);
        stage
    }

    fn set(stage: &mut Stage, key: &str, value: &str) {
        let (element, value) = (Element::String, value.as_bytes());
        stage.write(key.as_bytes(), Action::Assign { element, value, ttl: Time::MAX });
    }

    type All = std::collections::BTreeSet<(Vec<u8>, ElementKey, Vec<u8>)>;

    fn all(stage: &Stage) -> All {
        let mut all = All::new();
        for slot in 0..SLOTS {
            let mut count = 0;
            stage.each_stored(slot, View::Frozen, |key, name, value| {
                let place = ElementKey::decode(name).unwrap();
                assert_eq!(stage.stored(key, &place).as_deref(), Some(value));
                assert!(all.insert((key.to_vec(), place, value.to_vec())), "seen twice");
                count += 1;
            });
            assert_eq!(stage.count_stored(slot, View::Frozen), count);
        }
        all
    }

    #[test]
    fn what_is_frozen_stays_whatever_happens() {
        let mut stage = stage();
        for n in 0..50 {
            set(&mut stage, &format!("key:{n}"), "before");
            let element = Element::Field(b"f");
            let action = Action::Assign { element, value: b"x", ttl: Time::MAX };
            stage.write(format!("hash:{n}").as_bytes(), action);
        }
        stage.write(b"key:1", Action::Expire { deadline: Time::from_ms(1 << 40) });
        let before = all(&stage);
        stage.freeze(0);
        stage.freeze(1);
        for n in 0..20 {
            set(&mut stage, &format!("key:{n}"), "after");
            set(&mut stage, &format!("new:{n}"), "new");
            stage.write(format!("hash:{n}").as_bytes(), Action::Clear);
            set(&mut stage, &format!("hash:{}", n + 20), "another type");
        }
        assert_eq!(all(&stage), before);
        stage.thaw(0);
        stage.thaw(1);
        assert_ne!(all(&stage), before);
    }

    #[test]
    fn too_many_changes_lose_it_and_say_so() {
        let mut stage = stage();
        let large = "v".repeat(MAX_FROZEN_BYTES / 8);
        (0..20).for_each(|n| set(&mut stage, &format!("{{a}}{n}"), &large));
        let number = stage.partition_of(b"{a}");
        stage.freeze(number);
        (0..20).for_each(|n| set(&mut stage, &format!("{{a}}{n}"), "small"));
        assert!(stage.frozen(number).is_some_and(Frozen::is_lost));
    }
}
