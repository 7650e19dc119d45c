//! The dotted cell: what is held for one string, one field or one member.

use meridian_clock::{Dot, Origin, Time};

use crate::{
    Amount,
    amount::Sum,
    op::{Context, Cut},
};

/// The time to live that a string's value brought with it, as a SET does.
///
/// It is held beside the value and not with the key's other deadlines because it has the same
/// dot and lives exactly as long as the value; a later EXPIRE that saw the value supersedes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnTtl {
    /// An EXPIRE or PERSIST that saw this value has taken over: the key's deadlines count.
    Superseded,
    /// The value never expires by itself.
    Never,
    /// The value expires at this time.
    At(Time),
}

/// One written value and the dot that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reg {
    /// Who wrote it and when.
    pub dot: Dot,
    /// The bytes; empty for a set's member.
    pub value: Box<[u8]>,
    ttl: Time,
}

/// `ttl` of a register whose own time to live was superseded. No real deadline is zero.
const TTL_SUPERSEDED: Time = Time::ZERO;

impl Reg {
    /// A register whose value expires at `ttl`; [`Time::MAX`] is never.
    #[must_use]
    pub fn new(dot: Dot, value: Box<[u8]>, ttl: Time) -> Reg {
        Reg { dot, value, ttl }
    }

    /// The time to live that came with the value.
    #[must_use]
    pub fn own_ttl(&self) -> OwnTtl {
        match self.ttl {
            TTL_SUPERSEDED => OwnTtl::Superseded,
            Time::MAX => OwnTtl::Never,
            at => OwnTtl::At(at),
        }
    }

    pub(crate) fn raw_ttl(&self) -> Time {
        self.ttl
    }

    pub(crate) fn supersede_ttl(&mut self) {
        self.ttl = TTL_SUPERSEDED;
    }
}

/// What one origin has added to a counter since `birth`, cumulatively: idempotent and
/// coalescible. What was observed and reset lies below (`cut_last`, `cut_sum`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose increments.
    pub origin: Origin,
    /// Stamp of the increment that opened the row; a larger one replaces the row.
    pub birth: Time,
    /// Stamp of the newest increment that is included.
    pub last: Time,
    /// Sum of all increments since `birth`.
    pub sum: Amount,
    /// Increments up to this stamp were observed by a reset.
    pub cut_last: Time,
    /// The sum at that stamp.
    pub cut_sum: Amount,
}

impl Row {
    /// Whether increments are left that no reset has observed.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.last > self.cut_last
    }

    pub(crate) fn cut(&mut self, last: Time, sum: Amount) {
        if last > self.cut_last {
            self.cut_last = last;
            self.cut_sum = sum;
        }
    }

    /// Takes over what another copy of the same row has seen beyond this one.
    pub(crate) fn raise(&mut self, other: &Row) {
        if other.last > self.last {
            (self.last, self.sum) = (other.last, other.sum);
        }
        self.cut(other.cut_last, other.cut_sum);
    }
}

/// A small set of registers (one in the steady state, at most one per origin) and of counter
/// rows (at most one per origin).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The first register stands outside the box because almost every cell has exactly one.
    first: Option<Reg>,
    more: Option<Box<More>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    /// Further registers, by dot.
    regs: Vec<Reg>,
    /// Counter rows, by origin.
    rows: Rows,
}

/// Counter rows by origin. Most counters are written in one region: its row needs no memory of its
/// own and no further look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Rows {
    #[default]
    None,
    One(Row),
    /// At least two.
    Many(Vec<Row>),
}

impl Rows {
    fn new(mut rows: Vec<Row>) -> Rows {
        match rows.len() {
            0 | 1 => rows.pop().map_or(Rows::None, Rows::One),
            _ => Rows::Many(rows),
        }
    }

    #[inline]
    fn as_slice(&self) -> &[Row] {
        match self {
            Rows::None => &[],
            Rows::One(row) => std::slice::from_ref(row),
            Rows::Many(rows) => rows,
        }
    }

    #[inline]
    fn as_mut_slice(&mut self) -> &mut [Row] {
        match self {
            Rows::None => &mut [],
            Rows::One(row) => std::slice::from_mut(row),
            Rows::Many(rows) => rows,
        }
    }

    fn insert(&mut self, at: usize, row: Row) {
        match std::mem::take(self) {
            Rows::None => *self = Rows::One(row),
            Rows::One(other) => {
                *self = Rows::Many(if at == 0 { vec![row, other] } else { vec![other, row] });
            }
            Rows::Many(mut rows) => {
                rows.insert(at, row);
                *self = Rows::Many(rows);
            }
        }
    }

    fn retain(&mut self, mut keep: impl FnMut(&Row) -> bool) {
        if self.as_slice().iter().all(&mut keep) {
            return;
        }
        *self = match std::mem::take(self) {
            Rows::None | Rows::One(_) => Rows::None,
            Rows::Many(mut rows) => {
                rows.retain(keep);
                Rows::new(rows)
            }
        };
    }
}

/// A cell taken apart.
pub(crate) struct Parts {
    pub(crate) regs: Vec<Reg>,
    pub(crate) rows: Vec<Row>,
}

impl Cell {
    pub(crate) fn into_parts(self) -> Parts {
        let (mut regs, mut rows) = (Vec::from_iter(self.first), Vec::new());
        if let Some(more) = self.more {
            regs.extend(more.regs);
            rows = match more.rows {
                Rows::None => rows,
                Rows::One(row) => vec![row],
                Rows::Many(rows) => rows,
            };
        }
        Parts { regs, rows }
    }

    /// A cell from stored parts.
    #[must_use]
    pub fn from_parts(mut regs: Vec<Reg>, mut rows: Vec<Row>) -> Cell {
        regs.sort_by_key(|r| r.dot);
        rows.sort_by_key(|r| r.origin);
        let mut cell = Cell::default();
        for reg in regs {
            cell.insert(reg);
        }
        if !rows.is_empty() {
            cell.more.get_or_insert_default().rows = Rows::new(rows);
        }
        cell
    }

    /// Nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_none()
    }

    /// The registers, by dot.
    pub fn regs(&self) -> impl Iterator<Item = &Reg> {
        self.first.iter().chain(self.more.iter().flat_map(|m| m.regs.iter()))
    }

    /// The counter rows, by origin.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        self.more.as_ref().map_or(&[], |m| m.rows.as_slice())
    }

    /// The register with the largest dot.
    #[must_use]
    #[inline]
    pub fn winner(&self) -> Option<&Reg> {
        match &self.more {
            None => self.first.as_ref(),
            Some(more) => more.regs.last().or(self.first.as_ref()),
        }
    }

    /// More than one region's value is held: a conflict that a reader may want to see.
    #[must_use]
    pub fn in_conflict(&self) -> bool {
        self.more.as_ref().is_some_and(|m| !m.regs.is_empty())
    }

    /// The row of one origin.
    #[must_use]
    pub fn row(&self, origin: Origin) -> Option<&Row> {
        self.rows().iter().find(|r| r.origin == origin)
    }

    /// Whether a live row stamped after `dead_until` exists.
    #[must_use]
    pub fn has_live_rows(&self, dead_until: Time) -> bool {
        self.rows().iter().any(|r| r.is_live() && r.last > dead_until)
    }

    /// The sum of all increments that no reset has observed.
    #[must_use]
    pub fn rows_total(&self, dead_until: Time) -> Amount {
        let mut sum = Sum::default();
        for row in self.rows().iter().filter(|r| r.is_live() && r.last > dead_until) {
            sum.add(row.sum);
            sum.sub(row.cut_sum);
        }
        sum.total()
    }

    /// `start` plus [`Cell::rows_total`], saturating.
    #[must_use]
    pub fn total(&self, start: Amount, dead_until: Time) -> Amount {
        let mut sum = Sum::default();
        sum.add(start);
        for row in self.rows().iter().filter(|r| r.is_live() && r.last > dead_until) {
            sum.add(row.sum);
            sum.sub(row.cut_sum);
        }
        sum.total()
    }

    /// Rows that hold nothing any more but must stay until their origin is known to have seen
    /// the reset (an increment to the same row may still be on its way).
    #[must_use]
    pub fn has_residue(&self, me: Origin) -> bool {
        self.rows().iter().any(|r| r.origin != me && !r.is_live())
    }

    /// Drops the empty rows that `may_go` allows.
    pub fn drop_residue(&mut self, mut may_go: impl FnMut(&Row) -> bool) {
        if let Some(more) = &mut self.more {
            more.rows.retain(|row| row.is_live() || !may_go(row));
        }
        self.tidy();
    }

    /// Everything that the context covers goes; `cuts` says where a counter stood when the
    /// author saw it, for rows that have grown here since.
    pub(crate) fn remove_covered<'c>(
        &mut self,
        context: &Context<'_>,
        cuts: impl Iterator<Item = &'c Cut<'c>>,
        me: Origin,
    ) {
        if self.first.as_ref().is_some_and(|r| context.covers(r.dot)) {
            self.first = None;
        }
        let Some(more) = &mut self.more else {
            return;
        };
        more.regs.retain(|r| !context.covers(r.dot));
        for row in more.rows.as_mut_slice() {
            if context.covers(Dot::new(row.last, row.origin)) {
                row.cut(row.last, row.sum);
            }
        }
        for cut in cuts {
            let row = more.rows.as_mut_slice().iter_mut().find(|r| r.origin == cut.origin);
            if let Some(row) = row.filter(|r| r.birth == cut.birth) {
                if cut.last > row.last {
                    row.last = cut.last;
                    row.sum = cut.sum;
                }
                row.cut(cut.last, cut.sum);
            }
        }
        // A region drops its own empty row at once: its next increment opens a new one.
        more.rows.retain(|row| row.origin != me || row.is_live());
        self.tidy();
    }

    /// Writes a value over everything that the context covers.
    #[inline]
    pub(crate) fn assign<'c>(
        &mut self,
        context: &Context<'_>,
        cuts: impl Iterator<Item = &'c Cut<'c>>,
        me: Origin,
        value: &[u8],
        ttl: Time,
    ) {
        // The steady state: one register, seen by the author. A value as long as the old one takes
        // its place and costs no allocation.
        if let (Some(first), None) = (&mut self.first, &self.more)
            && context.covers(first.dot)
        {
            (first.dot, first.ttl) = (context.dot, ttl);
            if first.value.len() == value.len() {
                first.value.copy_from_slice(value);
            } else {
                first.value = value.into();
            }
            return;
        }
        self.remove_covered(context, cuts, me);
        self.insert(Reg::new(context.dot, value.into(), ttl));
    }

    /// Adds a register; the caller has removed what it covers.
    pub(crate) fn insert(&mut self, reg: Reg) {
        let Some(first) = &mut self.first else {
            let earlier = self.more.as_ref().and_then(|m| m.regs.first()).map(|r| r.dot);
            if earlier.is_none_or(|dot| reg.dot < dot) {
                self.first = Some(reg);
                return;
            }
            let more = self.more.get_or_insert_default();
            self.first = Some(more.regs.remove(0));
            return self.insert(reg);
        };
        if first.dot == reg.dot {
            return;
        }
        let reg = if reg.dot < first.dot { std::mem::replace(first, reg) } else { reg };
        let regs = &mut self.more.get_or_insert_default().regs;
        if let Err(at) = regs.binary_search_by_key(&reg.dot, |r| r.dot) {
            regs.insert(at, reg);
        }
    }

    /// Raises one origin's row to a newer cumulative sum.
    pub(crate) fn raise(&mut self, origin: Origin, birth: Time, last: Time, sum: Amount) {
        let rows = &mut self.more.get_or_insert_default().rows;
        let fresh = Row { origin, birth, last, sum, cut_last: Time::ZERO, cut_sum: Amount::ZERO };
        let at = match rows.as_slice().binary_search_by_key(&origin, |r| r.origin) {
            Err(at) => return rows.insert(at, fresh),
            Ok(at) => at,
        };
        let row = &mut rows.as_mut_slice()[at];
        if birth > row.birth {
            *row = fresh;
        } else if birth == row.birth && last > row.last {
            (row.last, row.sum) = (last, sum);
        }
    }

    /// Marks the own time to live of every covered register as superseded.
    pub(crate) fn supersede_ttls(&mut self, context: &Context<'_>) {
        let more = self.more.iter_mut().flat_map(|m| m.regs.iter_mut());
        for reg in self.first.iter_mut().chain(more) {
            if context.covers(reg.dot) {
                reg.supersede_ttl();
            }
        }
    }

    /// Restores the invariant: registers in order, the first outside the box, no empty box.
    fn tidy(&mut self) {
        let Some(more) = &mut self.more else {
            return;
        };
        if self.first.is_none() && !more.regs.is_empty() {
            self.first = Some(more.regs.remove(0));
        }
        if more.regs.is_empty() && more.rows.as_slice().is_empty() {
            self.more = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(origin: u16) -> Row {
        let (birth, last, sum) = (Time(1), Time(2), Amount::from_int(i64::from(origin)));
        Row {
            origin: Origin(origin),
            birth,
            last,
            sum,
            cut_last: Time::ZERO,
            cut_sum: Amount::ZERO,
        }
    }

    #[test]
    fn rows_stand_by_origin_however_many_there_are() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut cell = Cell::default();
            for origin in order {
                let Row { origin, birth, last, sum, .. } = row(origin);
                cell.raise(origin, birth, last, sum);
            }
            assert_eq!(cell.rows(), [row(0), row(1), row(2)]);
            assert_eq!(cell, Cell::from_parts(vec![], vec![row(2), row(0), row(1)]));
            let rows = &mut cell.more.as_mut().unwrap().rows;
            rows.retain(|r| r.origin != Origin(1));
            assert_eq!(rows.as_slice(), [row(0), row(2)]);
            rows.retain(|r| r.origin != Origin(0));
            assert_eq!(*rows, Rows::One(row(2)));
            rows.retain(|_| false);
            assert_eq!(*rows, Rows::None);
        }
    }

    #[test]
    fn a_value_as_long_as_the_old_one_takes_its_place() {
        let seen = meridian_clock::VersionVector::new();
        let mut cell = Cell::default();
        for (time, value) in [(1, "abc"), (2, "xyz"), (3, "longer"), (4, "")] {
            let context = Context { seen: &seen, dot: Dot::new(Time(time), Origin(0)) };
            let ttl = Time(time + 10);
            cell.assign(&context, [].into_iter(), Origin(0), value.as_bytes(), ttl);
            let expected = Reg::new(context.dot, value.as_bytes().into(), ttl);
            assert_eq!(cell.regs().collect::<Vec<_>>(), [&expected]);
        }
    }
}
