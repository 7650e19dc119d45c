//! All that is held under one key, and how an operation changes it.
//!
//! Concurrent writes of two types may leave both; a reader sees the smallest in the order
//! string, hash, set. Deadlines kill what was written at or before them, once they have passed:
//! a write stamped later than the deadline never belonged to the life that ended.

use std::borrow::Cow;

use foldhash::fast::FixedState;
use indexmap::IndexMap;
use meridian_clock::{Dot, Origin, Time};

use crate::{
    Amount, Cell, Name, OwnTtl, Reg,
    op::{Action, Context, Cut, Element, Op},
};

/// The type that a reader sees under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A string or a counter.
    String,
    /// A hash.
    Hash,
    /// A set.
    Set,
}

impl Kind {
    /// The name that TYPE replies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Hash => "hash",
            Kind::Set => "set",
        }
    }
}

/// What a key shows at a moment: nothing, or one type.
pub type Visible = Option<Kind>;

/// What applying an operation left behind that somebody must look after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Empty counter rows of other origins stand in the object.
    pub residue: bool,
    /// An element holds more than one region's value, or the key more than one type.
    pub conflict: bool,
}

/// The fields of a hash or the members of a set, in insertion order.
///
/// Scanning goes from the end to the front, because a removal moves the last element into the
/// hole: what has not been scanned is never moved behind the scan.
#[derive(Clone, Debug, Default)]
pub struct Elements {
    cells: IndexMap<Name, Cell, FixedState>,
    /// How many cells show a value when no deadline has passed.
    live: usize,
}

/// One key's string, hash and set, and its deadlines.
#[derive(Clone, Debug, Default)]
pub struct Object {
    string: Cell,
    rest: Option<Box<Rest>>,
}

#[derive(Clone, Debug, Default)]
struct Rest {
    hash: Elements,
    set: Elements,
    /// Deadlines by dot; concurrent ones stand side by side and the longest counts.
    deadlines: Vec<(Dot, Time)>,
}

static NO_ELEMENTS: Elements =
    Elements { cells: IndexMap::with_hasher(FixedState::with_seed(0)), live: 0 };

impl Elements {
    fn new(seed: u64) -> Elements {
        Elements { cells: IndexMap::with_hasher(FixedState::with_seed(seed)), live: 0 }
    }

    /// The cell of one field or member.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Cell> {
        self.cells.get(name)
    }

    /// The cell at a position, for scans and random picks.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<(&[u8], &Cell)> {
        self.cells.get_index(index).map(|(name, cell)| (name.as_ref(), cell))
    }

    /// Number of positions, cells without a visible value included.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.cells.len()
    }

    /// All names and cells in position order, those without a visible value included.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Cell)> {
        self.cells.iter().map(|(name, cell)| (name.as_ref(), cell))
    }

    /// The elements that a reader sees when everything up to `dead_until` is dead.
    pub fn visible(&self, dead_until: Time) -> impl Iterator<Item = (&[u8], &Cell)> {
        self.iter().filter(move |(_, cell)| cell.is_visible(dead_until))
    }

    /// How many elements a reader sees.
    #[must_use]
    pub fn count(&self, dead_until: Time) -> usize {
        if dead_until == Time::ZERO { self.live } else { self.visible(dead_until).count() }
    }

    fn change(&mut self, name: &[u8], change: impl FnOnce(&mut Cell)) {
        let (before, after, empty) = match self.cells.get_mut(name) {
            Some(cell) => {
                let before = cell.is_visible(Time::ZERO);
                change(cell);
                (before, cell.is_visible(Time::ZERO), cell.is_empty())
            }
            None => {
                let mut cell = Cell::default();
                change(&mut cell);
                let (after, empty) = (cell.is_visible(Time::ZERO), cell.is_empty());
                if !empty {
                    self.cells.insert(name.into(), cell);
                    self.live += usize::from(after);
                }
                return;
            }
        };
        if empty {
            self.cells.swap_remove(name);
        }
        self.live = self.live + usize::from(after) - usize::from(before);
    }

    fn change_all(&mut self, mut change: impl FnMut(&[u8], &mut Cell)) {
        let mut live = 0;
        self.cells.retain(|name, cell| {
            change(name, cell);
            live += usize::from(cell.is_visible(Time::ZERO));
            !cell.is_empty()
        });
        self.live = live;
    }
}

impl Object {
    /// Applies one operation; the same at its author and everywhere else. `me` is the region
    /// that holds this object and `seed` keys the hash tables that may be created.
    pub fn apply(&mut self, op: &Op<'_>, context: &Context<'_>, me: Origin, seed: u64) -> Effect {
        if op.fresh {
            self.clear(op, context, me);
        }
        match &op.action {
            Action::Assign { element: Element::String, value, ttl } => {
                self.string.assign(context, cuts_of(op, Element::String), me, value, *ttl);
                // A SET brings its own time to live and ends those that it saw.
                if let Some(rest) = &mut self.rest {
                    rest.deadlines.retain(|(dot, _)| !context.covers(*dot));
                }
            }
            Action::Assign { element, value, .. } => {
                self.change(*element, seed, |cell| {
                    cell.assign(context, cuts_of(op, *element), me, value, Time::MAX);
                });
            }
            Action::Remove { element } => {
                self.change(*element, seed, |cell| {
                    cell.remove_covered(context, cuts_of(op, *element), me);
                });
            }
            Action::Clear => self.clear(op, context, me),
            Action::Incr { element, birth, sum } => {
                let (origin, last) = (context.dot.origin, context.dot.time);
                self.change(*element, seed, |cell| cell.raise(origin, *birth, last, *sum));
            }
            Action::Expire { deadline } => {
                self.string.supersede_ttls(context);
                let rest = self.rest_mut(seed);
                // The own dot too: a replay may bring the same operation twice.
                rest.deadlines.retain(|(dot, _)| !context.covers(*dot) && *dot != context.dot);
                let at = rest.deadlines.partition_point(|(dot, _)| *dot < context.dot);
                rest.deadlines.insert(at, (context.dot, *deadline));
            }
        }
        self.tidy();
        self.effect(op, me)
    }

    /// Nothing at all is held, not even something invisible.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.string.is_empty() && self.rest.is_none()
    }

    /// The string's cell.
    #[must_use]
    pub fn string(&self) -> &Cell {
        &self.string
    }

    /// The hash's fields.
    #[must_use]
    pub fn hash(&self) -> &Elements {
        self.rest.as_ref().map_or(&NO_ELEMENTS, |r| &r.hash)
    }

    /// The set's members.
    #[must_use]
    pub fn set(&self) -> &Elements {
        self.rest.as_ref().map_or(&NO_ELEMENTS, |r| &r.set)
    }

    /// The deadlines that stand beside the values, by dot.
    #[must_use]
    pub fn deadlines(&self) -> &[(Dot, Time)] {
        self.rest.as_ref().map_or(&[], |r| &r.deadlines)
    }

    /// The cell of any element.
    #[must_use]
    pub fn cell(&self, element: Element<'_>) -> Option<&Cell> {
        match element {
            Element::String => Some(&self.string),
            Element::Field(name) => self.hash().get(name),
            Element::Member(name) => self.set().get(name),
        }
    }

    /// What a reader sees at `now`.
    #[must_use]
    #[inline]
    pub fn visible(&self, now: Time) -> Visible {
        if self.string.is_visible(self.string_dead_until(now)) {
            return Some(Kind::String);
        }
        let rest = self.rest.as_ref()?;
        let dead_until = self.dead_until(now);
        if rest.hash.live > 0 && rest.hash.count(dead_until) > 0 {
            return Some(Kind::Hash);
        }
        (rest.set.live > 0 && rest.set.count(dead_until) > 0).then_some(Kind::Set)
    }

    /// The string that a reader sees at `now`.
    #[must_use]
    #[inline]
    pub fn string_value(&self, now: Time) -> Option<Cow<'_, [u8]>> {
        cell_value(&self.string, self.string_dead_until(now))
    }

    /// When the visible key will expire.
    #[must_use]
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let deadline = match self.visible(now)? {
            Kind::String => self.string_deadline(),
            Kind::Hash | Kind::Set => self.key_deadline(),
        };
        deadline.filter(|at| *at > now && *at < Time::MAX)
    }

    /// Up to which stamp a hash's or set's elements are dead at `now`; zero if none.
    #[must_use]
    pub fn dead_until(&self, now: Time) -> Time {
        self.key_deadline().filter(|at| *at <= now).unwrap_or_default()
    }

    /// The same for the string, whose value may carry its own deadline.
    #[must_use]
    #[inline]
    pub fn string_dead_until(&self, now: Time) -> Time {
        self.string_deadline().filter(|at| *at <= now).unwrap_or_default()
    }

    /// The latest of the deadlines, for the one that reclaims space: a clear ends them all, so all
    /// must have passed, and nothing written before the latest may still be on its way. Never does
    /// not count: to forget it brings nothing back.
    #[must_use]
    pub fn last_deadline(&self) -> Option<Time> {
        let string = if self.string.is_empty() { None } else { self.string_deadline() };
        let key = self.key_deadline();
        string.into_iter().chain(key).filter(|at| *at < Time::MAX).max()
    }

    /// Something is held that a deadline killed at or before `now`, or a deadline without any
    /// value: a new life of the key must clear it first.
    #[must_use]
    pub fn has_remains(&self, now: Time) -> bool {
        if self.string_dead_until(now) > Time::ZERO || self.dead_until(now) > Time::ZERO {
            return true;
        }
        !self.deadlines().is_empty() && self.visible(now).is_none()
    }

    /// Counter rows that an operation on `element` (or, without one, on the whole key) resets.
    pub fn cuts<'a>(&'a self, element: Option<Element<'a>>, me: Origin, out: &mut Vec<Cut<'a>>) {
        let mut add = |element: Element<'a>, cell: &Cell| {
            for row in cell.rows().iter().filter(|r| r.origin != me && r.is_live()) {
                let (origin, birth, last, sum) = (row.origin, row.birth, row.last, row.sum);
                out.push(Cut { element, origin, birth, last, sum });
            }
        };
        if let Some(element) = element {
            if let Some(cell) = self.cell(element) {
                add(element, cell);
            }
            return;
        }
        self.each(add);
    }

    /// Visits every cell that holds something.
    pub fn each<'a>(&'a self, mut visit: impl FnMut(Element<'a>, &'a Cell)) {
        if !self.string.is_empty() {
            visit(Element::String, &self.string);
        }
        for (name, cell) in self.hash().iter() {
            visit(Element::Field(name), cell);
        }
        for (name, cell) in self.set().iter() {
            visit(Element::Member(name), cell);
        }
    }

    /// Drops empty counter rows of one element that `may_go` allows.
    pub fn drop_residue(
        &mut self,
        element: Element<'_>,
        seed: u64,
        may_go: impl FnMut(&crate::Row) -> bool,
    ) {
        self.change(element, seed, |cell| cell.drop_residue(may_go));
        self.tidy();
    }

    /// Puts a stored cell back.
    pub fn restore_cell(&mut self, element: Element<'_>, cell: Cell, seed: u64) {
        self.change(element, seed, |place| *place = cell);
    }

    /// Puts stored deadlines back.
    pub fn restore_deadlines(&mut self, deadlines: Vec<(Dot, Time)>, seed: u64) {
        self.rest_mut(seed).deadlines = deadlines;
        self.tidy();
    }

    fn clear(&mut self, op: &Op<'_>, context: &Context<'_>, me: Origin) {
        let cuts = SortedCuts::of(op);
        self.string.remove_covered(context, cuts.at(Element::String), me);
        if let Some(rest) = &mut self.rest {
            rest.hash.change_all(|name, cell| {
                cell.remove_covered(context, cuts.at(Element::Field(name)), me);
            });
            rest.set.change_all(|name, cell| {
                cell.remove_covered(context, cuts.at(Element::Member(name)), me);
            });
            rest.deadlines.retain(|(dot, _)| !context.covers(*dot));
        }
    }

    /// Changes one cell, whatever it holds; what is left empty goes.
    pub(crate) fn change_cell(
        &mut self,
        element: Element<'_>,
        seed: u64,
        change: impl FnOnce(&mut Cell),
    ) {
        self.change(element, seed, change);
        self.tidy();
    }

    fn change(&mut self, element: Element<'_>, seed: u64, change: impl FnOnce(&mut Cell)) {
        match element {
            Element::String => change(&mut self.string),
            Element::Field(name) => self.rest_mut(seed).hash.change(name, change),
            Element::Member(name) => self.rest_mut(seed).set.change(name, change),
        }
    }

    fn rest_mut(&mut self, seed: u64) -> &mut Rest {
        self.rest.get_or_insert_with(|| {
            let (hash, set) = (Elements::new(seed), Elements::new(seed));
            Box::new(Rest { hash, set, deadlines: Vec::new() })
        })
    }

    fn tidy(&mut self) {
        let empty =
            |r: &Rest| r.hash.cells.is_empty() && r.set.cells.is_empty() && r.deadlines.is_empty();
        if self.rest.as_ref().is_some_and(|r| empty(r)) {
            self.rest = None;
        }
    }

    fn string_deadline(&self) -> Option<Time> {
        match self.string.winner().map(Reg::own_ttl) {
            Some(OwnTtl::Never) => None,
            Some(OwnTtl::At(at)) => Some(at),
            Some(OwnTtl::Superseded) | None => self.key_deadline(),
        }
    }

    fn key_deadline(&self) -> Option<Time> {
        self.deadlines().iter().map(|(_, at)| *at).max()
    }

    /// Whether more than one type is written under the key, as concurrent writes may leave it.
    #[must_use]
    pub fn has_mixed_types(&self) -> bool {
        let Some(rest) = &self.rest else { return false };
        let string = self.string.is_visible(Time::ZERO);
        usize::from(string) + usize::from(rest.hash.live > 0) + usize::from(rest.set.live > 0) > 1
    }

    /// Whether the element holds more than one region's value. Members have no value: two regions
    /// that add the same one agree.
    #[must_use]
    pub fn is_conflict(element: Element<'_>, cell: &Cell) -> bool {
        cell.in_conflict() && !matches!(element, Element::Member(_))
    }

    fn effect(&self, op: &Op<'_>, me: Origin) -> Effect {
        let mut effect = Effect { residue: false, conflict: self.has_mixed_types() };
        let mut look = |element: Element<'_>, cell: &Cell| {
            effect.residue |= cell.has_residue(me);
            effect.conflict |= Object::is_conflict(element, cell);
        };
        match &op.action {
            // It cleared the whole key before it did anything else.
            _ if op.fresh => self.each(look),
            Action::Assign { element, .. }
            | Action::Remove { element }
            | Action::Incr { element, .. } => {
                if let Some(cell) = self.cell(*element) {
                    look(*element, cell);
                }
            }
            Action::Clear => self.each(look),
            Action::Expire { .. } => {}
        }
        effect
    }
}

/// What a reader sees in a cell: the winner's bytes, or, where increments stand beside a number
/// (or alone), the sum. Increments beside text that is no number do not show.
#[must_use]
pub(crate) fn cell_value(cell: &Cell, dead_until: Time) -> Option<Cow<'_, [u8]>> {
    let winner = cell.winner().filter(|r| r.dot.time > dead_until);
    if cell.rows().is_empty() || !cell.has_live_rows(dead_until) {
        return winner.map(|r| Cow::Borrowed(r.value.as_ref()));
    }
    let start = match winner {
        None => Amount::ZERO,
        Some(reg) => match Amount::parse(&reg.value) {
            Ok(start) => start,
            Err(_) => return Some(Cow::Borrowed(reg.value.as_ref())),
        },
    };
    let mut text = Vec::new();
    cell.total(start, dead_until).write(&mut text);
    Some(Cow::Owned(text))
}

impl Cell {
    /// Whether a reader sees the cell when everything up to `dead_until` is dead.
    #[must_use]
    #[inline]
    pub fn is_visible(&self, dead_until: Time) -> bool {
        self.winner().is_some_and(|r| r.dot.time > dead_until) || self.has_live_rows(dead_until)
    }

    /// What a reader sees when everything up to `dead_until` is dead; see the module.
    #[must_use]
    pub fn value(&self, dead_until: Time) -> Option<Cow<'_, [u8]>> {
        cell_value(self, dead_until)
    }
}

/// An operation's cuts by element: a clear looks them up for every element that there is.
struct SortedCuts<'c>(Vec<&'c Cut<'c>>);

impl<'c> SortedCuts<'c> {
    fn of(op: &'c Op<'_>) -> SortedCuts<'c> {
        let mut cuts: Vec<&Cut<'_>> = op.cuts.iter().collect();
        cuts.sort_by_key(|cut| cut.element);
        SortedCuts(cuts)
    }

    fn at(&self, element: Element<'_>) -> impl Iterator<Item = &'c Cut<'c>> {
        let start = self.0.partition_point(|cut| cut.element < element);
        let rest = self.0[start..].iter();
        rest.copied().take_while(move |cut| cut.element == element)
    }
}

fn cuts_of<'c>(op: &'c Op<'_>, element: Element<'c>) -> impl Iterator<Item = &'c Cut<'c>> {
    op.cuts.iter().filter(move |cut| cut.element == element)
}
