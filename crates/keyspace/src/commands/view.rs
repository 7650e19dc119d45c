//! A hash or a set as a reader sees it at a moment.

use std::borrow::Cow;

use meridian_clock::Time;
use meridian_crdt::{Cell, Elements, Kind, Object};

use super::find;
use crate::{
    dispatch::{Environment, Random},
    stage::Stage,
};

/// The visible elements of a collection.
#[derive(Clone, Copy)]
pub(crate) struct View<'s> {
    elements: &'s Elements,
    dead_until: Time,
}

impl<'s> View<'s> {
    /// The collection that a reader finds under a key; counts as a hit or a miss.
    ///
    /// # Errors
    /// [`super::WRONG_TYPE`] when the key shows another kind.
    #[inline]
    pub fn find(
        stage: &'s Stage,
        env: &mut Environment,
        key: &[u8],
        kind: Kind,
        now: Time,
    ) -> Result<Option<View<'s>>, &'static str> {
        Ok(find(stage, env, key, kind, now)?.map(|object| View::of(object, kind, now)))
    }

    /// The object's set, or its hash.
    #[inline]
    pub fn of(object: &'s Object, kind: Kind, now: Time) -> View<'s> {
        let elements = if kind == Kind::Set { object.set() } else { object.hash() };
        View { elements, dead_until: object.dead_until(now) }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.elements.count(self.dead_until)
    }

    /// Whether there is such an element.
    #[inline]
    pub fn contains(&self, name: &[u8]) -> bool {
        self.elements.get(name).is_some_and(|cell| cell.is_visible(self.dead_until))
    }

    /// A field's value.
    #[inline]
    pub fn get(&self, name: &[u8]) -> Option<Cow<'s, [u8]>> {
        self.elements.get(name)?.value(self.dead_until)
    }

    /// The elements' names.
    pub fn names(&self) -> impl Iterator<Item = &'s [u8]> + use<'s> {
        self.cells().map(|(name, _)| name)
    }

    /// Fields and their values.
    pub fn pairs(&self) -> impl Iterator<Item = (&'s [u8], Cow<'s, [u8]>)> + use<'s> {
        let dead_until = self.dead_until;
        self.cells().filter_map(move |(name, cell)| Some((name, cell.value(dead_until)?)))
    }

    /// A scan's next stretch: up to `count` positions below `cursor` (zero: from the end), and
    /// the cursor to continue with (zero: done).
    ///
    /// From the end to the front, because a removal moves the last element into the hole: what
    /// has not been scanned never moves behind the scan.
    pub fn scan(
        &self,
        cursor: u64,
        count: usize,
        mut visit: impl FnMut(&'s [u8], Cow<'s, [u8]>),
    ) -> u64 {
        let positions = self.elements.positions();
        let top = usize::try_from(cursor).unwrap_or(usize::MAX);
        let top = if cursor == 0 { positions } else { top.min(positions) };
        let bottom = top.saturating_sub(count.max(1));
        for (name, cell) in (bottom..top).rev().filter_map(|at| self.elements.at(at)) {
            if let Some(value) = cell.value(self.dead_until) {
                visit(name, value);
            }
        }
        bottom as u64
    }

    /// One element, each as likely as any other.
    pub fn pick(&self, random: &mut Random) -> Option<&'s [u8]> {
        let count = self.len();
        if count == 0 {
            return None;
        }
        let at = random.below(count);
        if count == self.elements.positions() {
            return self.elements.at(at).map(|(name, _)| name);
        }
        self.names().nth(at)
    }

    /// Random elements: `count` different ones (all, if there are fewer), or, if it is negative,
    /// as many as its magnitude, each picked afresh.
    pub fn picks(&self, count: i64, random: &mut Random) -> Vec<&'s [u8]> {
        let mut names: Vec<&[u8]> = self.names().collect();
        let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        if names.is_empty() || (count >= 0 && wanted >= names.len()) {
            return names;
        }
        if count < 0 {
            return (0..wanted).map(|_| names[random.below(names.len())]).collect();
        }
        // The first steps of a Fisher-Yates shuffle.
        for at in 0..wanted {
            let other = at + random.below(names.len() - at);
            names.swap(at, other);
        }
        names.truncate(wanted);
        names
    }

    fn cells(&self) -> impl Iterator<Item = (&'s [u8], &'s Cell)> + use<'s> {
        self.elements.visible(self.dead_until)
    }
}
