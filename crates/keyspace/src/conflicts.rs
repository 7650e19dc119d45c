//! Concurrent values that a reader does not see: where there are any, and what became of them.
//!
//! A value loses when its cell holds one with a larger stamp that its author had not seen, and a
//! type when its key also holds one that comes before it. It stays until somebody who has seen
//! both writes or removes. The stage tells each operation on a key that holds such a loss, or
//! comes to hold one; the difference between before and after is what is counted and, while
//! somebody follows, told.

use std::collections::BTreeMap;

use meridian_clock::{Dot, Time};
use meridian_crdt::{Action, Cell, Element, ElementKey, Kind, Object, Op};

use crate::{
    limits::{MAX_FEED_EVENTS, MAX_FEED_PENDING_BYTES, MAX_FEED_VALUE_BYTES},
    mirror::RESERVED_PREFIX,
    slot::slot_of,
};

/// How it is decided which of concurrent values is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Within one cell.
    LargerStamp,
    /// Between types under one key.
    TypeOrder,
}

impl Rule {
    /// The rule in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rule::LargerStamp => "larger stamp wins",
            Rule::TypeOrder => "string before hash before set",
        }
    }
}

/// What of a key lost.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A value of an element.
    Element(ElementKey),
    /// All that the key holds of a type.
    Type(Kind),
}

impl Place {
    /// The field's or member's name; empty for what has none.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        match self {
            Place::Element(ElementKey::Field(name) | ElementKey::Member(name)) => name,
            _ => &[],
        }
    }

    /// What it is, in one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Place::Element(ElementKey::Field(_)) => "field",
            Place::Element(ElementKey::Member(_)) => "member",
            Place::Element(_) => "string",
            Place::Type(kind) => kind.name(),
        }
    }
}

/// One value, or one type, that a reader does not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What lost.
    pub place: Place,
    /// The value; empty for a member and for a type.
    pub value: Box<[u8]>,
    /// Who wrote it and when; of a type, the newest of it.
    pub loser: Dot,
    /// What it lost to, in the same way.
    pub winner: Dot,
    /// Why.
    pub rule: Rule,
}

/// How a loss ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What had lost is what is read now.
    Kept,
    /// Somebody who had seen it wrote something else.
    Overwritten,
    /// Somebody who had seen it removed it, and nothing is read now.
    Removed,
}

impl Ending {
    /// One word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Ending::Kept => "kept",
            Ending::Overwritten => "overwritten",
            Ending::Removed => "removed",
        }
    }
}

/// Something that happened to a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictEvent {
    /// Counts the events of this region since its start, from 1.
    pub sequence: u64,
    /// The key.
    pub key: Box<[u8]>,
    /// What lost to what; of a long value the beginning.
    pub loss: Loss,
    /// How long the value is.
    pub value_bytes: usize,
    /// How it ended; none when it has begun.
    pub ended: Option<Ending>,
    /// Whose operation began or ended it; none for a repair, which brings many at once.
    pub by: Option<Dot>,
}

/// What an operation touches of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touch {
    /// One element.
    Element(ElementKey),
    /// All of them.
    All,
}

impl Touch {
    /// What an operation touches.
    #[must_use]
    pub fn of(op: &Op<'_>) -> Touch {
        match &op.action {
            _ if op.fresh => Touch::All,
            Action::Assign { element, .. }
            | Action::Remove { element }
            | Action::Incr { element, .. } => Touch::Element(ElementKey::of(*element)),
            Action::Clear | Action::Expire { .. } => Touch::All,
        }
    }
}

/// Losses within elements, by element and loser.
pub type Losses = BTreeMap<(ElementKey, Dot), Loss>;

/// The losses of one element, or of all.
#[must_use]
pub fn losses(object: &Object, touch: &Touch) -> Losses {
    let mut found = Losses::new();
    let mut look = |element: Element<'_>, cell: &Cell| {
        let Some(winner) = cell.winner().filter(|_| Object::is_conflict(element, cell)) else {
            return;
        };
        for reg in cell.regs().filter(|reg| reg.dot != winner.dot) {
            let key = ElementKey::of(element);
            let loss = Loss {
                place: Place::Element(key.clone()),
                value: reg.value.clone(),
                loser: reg.dot,
                winner: winner.dot,
                rule: Rule::LargerStamp,
            };
            found.insert((key, reg.dot), loss);
        }
    };
    match touch {
        Touch::All => object.each(look),
        Touch::Element(key) => {
            if let Some(element) = key.element()
                && let Some(cell) = object.cell(element)
            {
                look(element, cell);
            }
        }
    }
    found
}

/// The types that a key holds, in the order in which they hide each other.
pub fn kinds(object: &Object) -> impl Iterator<Item = Kind> + '_ {
    let holds = |kind: &Kind| match kind {
        Kind::String => object.string().is_visible(Time::ZERO),
        Kind::Hash => object.hash().count(Time::ZERO) > 0,
        Kind::Set => object.set().count(Time::ZERO) > 0,
    };
    [Kind::String, Kind::Hash, Kind::Set].into_iter().filter(holds)
}

/// The type that an element belongs to.
#[must_use]
pub fn kind_of(element: Element<'_>) -> Kind {
    match element {
        Element::String => Kind::String,
        Element::Field(_) => Kind::Hash,
        Element::Member(_) => Kind::Set,
    }
}

/// The newest that a cell shows: its value's stamp, or an increment's.
#[must_use]
pub fn newest_of(cell: &Cell) -> Option<Dot> {
    let rows = cell.rows().iter().filter(|row| row.is_live());
    let rows = rows.map(|row| Dot::new(row.last, row.origin)).max();
    cell.winner().map(|reg| reg.dot).max(rows)
}

/// The newest of each type that a key holds.
fn newest(object: &Object) -> BTreeMap<Kind, Dot> {
    let mut newest = BTreeMap::new();
    object.each(|element, cell| {
        if let Some(dot) = newest_of(cell) {
            let place = newest.entry(kind_of(element)).or_insert(dot);
            *place = dot.max(*place);
        }
    });
    newest
}

/// Every value of a key that a reader does not see: losses within elements, then the elements of
/// hidden types.
#[must_use]
pub fn all_losses(object: &Object) -> Vec<Loss> {
    let mut found: Vec<Loss> = losses(object, &Touch::All).into_values().collect();
    if !object.has_mixed_types() {
        return found;
    }
    let shown = kinds(object).next();
    let winner = shown.and_then(|kind| newest(object).remove(&kind)).unwrap_or_default();
    object.each(|element, cell| {
        let Some(loser) = newest_of(cell).filter(|_| Some(kind_of(element)) != shown) else {
            return;
        };
        let value = cell.value(Time::ZERO).unwrap_or_default();
        found.push(Loss {
            place: Place::Element(ElementKey::of(element)),
            value: value.into_owned().into(),
            loser,
            winner,
            rule: Rule::TypeOrder,
        });
    });
    found
}

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

/// The types that a key hides: the newest value of each, and of the one that shows.
fn hidden(object: &Object) -> BTreeMap<Kind, (Dot, Dot)> {
    let newest = newest(object);
    let mut kinds = kinds(object);
    let winner = kinds.next().and_then(|kind| newest.get(&kind).copied()).unwrap_or_default();
    let dots = kinds.filter_map(|kind| newest.get(&kind).map(|loser| (kind, (*loser, winner))));
    dots.collect()
}

fn ending_of(object: Option<&Object>, element: &ElementKey, value: &[u8]) -> Ending {
    let cell = element.element().and_then(|e| object.and_then(|o| o.cell(e)));
    match cell.and_then(Cell::winner) {
        Some(reg) if reg.value.as_ref() == value => Ending::Kept,
        Some(_) => Ending::Overwritten,
        None if cell.is_some_and(|c| c.has_live_rows(Time::ZERO)) => Ending::Overwritten,
        None => Ending::Removed,
    }
}
