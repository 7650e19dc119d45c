//! Which keys hold a loss, and what is told of it: the difference that each operation makes.

use std::collections::BTreeMap;

use meridian_clock::Dot;
use meridian_crdt::{Kind, Object};

use super::{
    ConflictEvent, Ending, Loss, Losses, Place, Rule, Touch, ending_of, hidden, kinds, losses,
};
use crate::{
    limits::{MAX_FEED_EVENTS, MAX_FEED_PENDING_BYTES, MAX_FEED_VALUE_BYTES},
    mirror::RESERVED_PREFIX,
    slot::slot_of,
};

/// What is remembered of a key that holds a loss.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    /// Losses within its elements.
    losers: usize,
    /// Hidden types: what lost to what.
    hidden: BTreeMap<Kind, (Dot, Dot)>,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.losers == 0 && self.hidden.is_empty()
    }
}

/// All keys of a region that hold a loss, and what is told about them.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    /// At most as many as the data itself holds.
    keys: BTreeMap<Box<[u8]>, Held>,
    /// How many of them a slot has: mostly none, which is what every write asks.
    slots: BTreeMap<u16, u32>,
    seen: u64,
    resolved: u64,
    /// What has not been told yet, while somebody follows; at most [`MAX_FEED_EVENTS`] and
    /// [`MAX_FEED_PENDING_BYTES`].
    feed: Option<Vec<ConflictEvent>>,
    feed_bytes: usize,
    /// The first and the last event that found no room there.
    missed: Option<(u64, u64)>,
}

impl Conflicts {
    /// Whether the key holds a loss.
    #[must_use]
    #[inline]
    pub fn holds(&self, slot: u16, key: &[u8]) -> bool {
        self.slots.contains_key(&slot) && self.keys.contains_key(key)
    }

    /// The keys that hold a loss, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.keys().map(AsRef::as_ref)
    }

    /// How many keys hold a loss.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key holds a loss.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many losses are held: those of elements one by one, and hidden types.
    #[must_use]
    pub fn open(&self) -> usize {
        self.keys.values().map(|held| held.losers + held.hidden.len()).sum()
    }

    /// Losses that began and that ended since the start.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.seen, self.resolved)
    }

    /// Whether events are to be kept for [`Conflicts::take_events`].
    pub fn follow(&mut self, on: bool) {
        if on {
            self.feed.get_or_insert_default();
        } else {
            (self.feed, self.missed) = (None, None);
        }
    }

    /// What has happened since the last call, and the first and last event that found no room
    /// after those.
    pub fn take_events(&mut self) -> (Vec<ConflictEvent>, Option<(u64, u64)>) {
        self.feed_bytes = 0;
        let events = self.feed.as_mut().map(std::mem::take).unwrap_or_default();
        (events, self.missed.take())
    }

    /// An operation, `by`, or a repair has changed what it touches of a key.
    pub fn settle(
        &mut self,
        key: &[u8],
        before: Losses,
        object: Option<&Object>,
        touch: &Touch,
        by: Option<Dot>,
    ) {
        if key.starts_with(RESERVED_PREFIX) {
            return;
        }
        let after = object.map(|o| losses(o, touch)).unwrap_or_default();
        let mut held = self.keys.get(key).cloned().unwrap_or_default();
        held.losers = (held.losers + after.len()).saturating_sub(before.len());
        let began = after.iter().filter(|(place, _)| !before.contains_key(*place));
        let began: Vec<Loss> = began.map(|(_, loss)| loss.clone()).collect();
        for ((element, dot), loss) in before {
            if !after.contains_key(&(element.clone(), dot)) {
                let ending = ending_of(object, &element, &loss.value);
                self.tell(key, loss, Some(ending), by);
            }
        }
        began.into_iter().for_each(|loss| self.tell(key, loss, None, by));
        self.settle_types(key, &mut held, object, by);
        self.keep(key, held);
    }

    /// What is known of a key is counted again, after it was changed in another way than by an
    /// operation; nothing is told.
    pub fn recount(&mut self, key: &[u8], object: Option<&Object>) {
        if key.starts_with(RESERVED_PREFIX) {
            return;
        }
        let mut held = Held::default();
        if let Some(object) = object {
            held.losers = losses(object, &Touch::All).len();
            if object.has_mixed_types() {
                held.hidden = hidden(object);
            }
        }
        self.keep(key, held);
    }

    /// Forgets everything, the counts too.
    pub fn clear(&mut self) {
        *self = Conflicts::default();
    }

    fn settle_types(
        &mut self,
        key: &[u8],
        held: &mut Held,
        object: Option<&Object>,
        by: Option<Dot>,
    ) {
        let is_mixed = object.is_some_and(Object::has_mixed_types);
        if held.hidden.is_empty() && !is_mixed {
            return;
        }
        let still: Vec<Kind> = object.into_iter().flat_map(|o| kinds(o).skip(1)).collect();
        let shown = object.and_then(|o| kinds(o).next());
        let lost = |kind, (loser, winner)| {
            let (place, rule) = (Place::Type(kind), Rule::TypeOrder);
            Loss { place, value: Box::default(), loser, winner, rule }
        };
        for kind in [Kind::Hash, Kind::Set] {
            match (held.hidden.contains_key(&kind), still.contains(&kind)) {
                (true, false) => {
                    let ending = match shown {
                        None => Ending::Removed,
                        Some(shown) if shown == kind => Ending::Kept,
                        Some(_) => Ending::Overwritten,
                    };
                    if let Some(dots) = held.hidden.remove(&kind) {
                        self.tell(key, lost(kind, dots), Some(ending), by);
                    }
                }
                (false, true) => {
                    let dots = object.and_then(|o| hidden(o).remove(&kind));
                    if let Some(dots) = dots {
                        held.hidden.insert(kind, dots);
                        self.tell(key, lost(kind, dots), None, by);
                    }
                }
                _ => {}
            }
        }
    }

    fn tell(&mut self, key: &[u8], mut loss: Loss, ended: Option<Ending>, by: Option<Dot>) {
        match ended {
            None => self.seen += 1,
            Some(_) => self.resolved += 1,
        }
        let Some(feed) = &mut self.feed else { return };
        let sequence = self.seen + self.resolved;
        let value_bytes = loss.value.len();
        if value_bytes > MAX_FEED_VALUE_BYTES {
            loss.value = loss.value[..MAX_FEED_VALUE_BYTES].into();
        }
        self.feed_bytes += key.len() + loss.place.name().len() + loss.value.len();
        let fits = feed.len() < MAX_FEED_EVENTS && self.feed_bytes <= MAX_FEED_PENDING_BYTES;
        if fits && self.missed.is_none() {
            feed.push(ConflictEvent { sequence, key: key.into(), loss, value_bytes, ended, by });
        } else {
            self.missed.get_or_insert((sequence, sequence)).1 = sequence;
        }
    }

    fn keep(&mut self, key: &[u8], held: Held) {
        let slot = slot_of(key);
        if !held.is_empty() {
            if self.keys.insert(key.into(), held).is_none() {
                *self.slots.entry(slot).or_default() += 1;
            }
        } else if self.keys.remove(key).is_some()
            && let Some(count) = self.slots.get_mut(&slot)
        {
            *count -= 1;
            if *count == 0 {
                self.slots.remove(&slot);
            }
        }
    }
}
