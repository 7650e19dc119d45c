//! Concurrent values that a reader does not see: where there are any, and what became of them.
//!
//! A value loses when its cell holds one with a larger stamp that its author had not seen, and a
//! type when its key also holds one that comes before it. It stays until somebody who has seen
//! both writes or removes. The stage tells each operation on a key that holds such a loss, or
//! comes to hold one; the difference between before and after is what is counted and, while
//! somebody follows, told.

mod index;

use std::collections::BTreeMap;

use meridian_clock::{Dot, Time};
use meridian_crdt::{Action, Cell, Element, ElementKey, Kind, Object, Op};

pub use index::Conflicts;

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
