//! Joining what two regions hold, for state repair: neither has the operations any more that lead
//! from one to the other, but each knows what it has seen.
//!
//! A dot that one side holds and the other does not is either news to the other (not in its
//! vector) or something that the other has seen and removed. That is the rule of the ORSWOT
//! (Bieniusa et al., "An optimized conflict-free replicated set", 2012), here for registers,
//! counter rows and deadlines. Both states must be whole: all that their vector covers, and
//! nothing else.

use meridian_clock::{Dot, Origin, Time, VersionVector};

use crate::{
    Cell, Effect, ElementKey, Object, Reg, Row,
    cell::{OwnTtl, Parts},
};

/// Who joins, and what each of the two states had seen.
#[derive(Clone, Copy, Debug)]
pub struct Join<'v> {
    /// The region that holds the state that is changed.
    pub me: Origin,
    /// What that state has seen.
    pub ours: &'v VersionVector,
    /// What the other state has seen.
    pub theirs: &'v VersionVector,
    /// Both have seen the same and yet differ: what either holds is kept, and the vectors say nothing.
    pub is_union: bool,
}

/// The other side of one element, as it is stored there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The deadlines of a key.
    Deadlines(Vec<(Dot, Time)>),
    /// The cell of a string, a field or a member.
    Cell(Cell),
}

impl Stored {
    /// Whether it holds each write, increment and deadline of `other` in the same state. Empty
    /// counter rows do not count.
    #[must_use]
    pub fn holds(&self, other: &Stored) -> bool {
        match (self, other) {
            (Stored::Deadlines(ours), Stored::Deadlines(theirs)) => {
                theirs.iter().all(|deadline| ours.contains(deadline))
            }
            (Stored::Cell(ours), Stored::Cell(theirs)) => {
                let mut rows = theirs.rows().iter().filter(|row| row.is_live());
                theirs.regs().all(|reg| ours.regs().any(|ours| ours == reg))
                    && rows.all(|row| ours.rows().contains(row))
            }
            _ => false,
        }
    }
}

impl Join<'_> {
    fn keeps(&self, dot: Dot, they_hold_it: bool) -> bool {
        they_hold_it || !self.theirs.covers(dot)
    }

    fn takes(&self, dot: Dot) -> bool {
        !self.ours.covers(dot)
    }
}

impl Cell {
    /// Joins the cell with the other side's; see the module.
    pub fn join(&mut self, theirs: &Cell, join: &Join<'_>) {
        let Parts { mut regs, mut rows } = std::mem::take(self).into_parts();
        join_regs(&mut regs, theirs, join);
        join_rows(&mut rows, theirs.rows(), join);
        *self = Cell::from_parts(regs, rows);
    }

    /// Whether it holds a write or an increment that `seen` does not cover.
    #[must_use]
    pub fn is_news(&self, seen: &VersionVector) -> bool {
        let row = |row: &Row| row.last > seen.get(row.origin);
        self.regs().any(|reg| !seen.covers(reg.dot)) || self.rows().iter().any(row)
    }

    /// The cell without the values of writes that `seen` covers. For a join with the state of
    /// whoever has seen that it is the same as the whole cell: they hold those values, or have
    /// removed them.
    #[must_use]
    pub fn without_values(self, seen: &VersionVector) -> Cell {
        let Parts { mut regs, rows } = self.into_parts();
        for reg in regs.iter_mut().filter(|reg| seen.covers(reg.dot)) {
            reg.value = Box::default();
        }
        Cell::from_parts(regs, rows)
    }
}

fn join_regs(regs: &mut Vec<Reg>, theirs: &Cell, join: &Join<'_>) {
    regs.retain_mut(|mine| {
        let same = theirs.regs().find(|other| other.dot == mine.dot);
        // The same write: if either side has seen a later EXPIRE, its own time to live is over.
        if same.is_some_and(|other| other.own_ttl() == OwnTtl::Superseded) {
            mine.supersede_ttl();
        }
        join.keeps(mine.dot, same.is_some())
    });
    let held: Vec<Dot> = regs.iter().map(|r| r.dot).collect();
    let news = theirs.regs().filter(|r| !held.contains(&r.dot) && join.takes(r.dot));
    regs.extend(news.cloned());
}

fn join_rows(rows: &mut Vec<Row>, theirs: &[Row], join: &Join<'_>) {
    // A row that they had seen and hold no more was reset, and its origin knows of the reset. So
    // was one of which they hold less than they had seen: its last increments were left out of a
    // bundle, which happens only together with the reset that follows on them.
    for mine in rows.iter_mut() {
        let seen = join.theirs.get(mine.origin);
        let other = theirs.iter().find(|r| r.origin == mine.origin && r.birth == mine.birth);
        if other.is_none_or(|other| other.last < mine.last) && mine.last <= seen {
            mine.cut(seen, mine.sum);
        }
    }
    for other in theirs {
        let mine = rows.iter_mut().find(|r| r.origin == other.origin);
        match mine {
            // This region's own row: it is gone because this region has reset it. Otherwise it is one
            // that it has lost, with all that it wrote since, and regains.
            None if other.origin == join.me && join.is_union => {}
            Some(mine) if mine.birth == other.birth => {
                let was_left_out = mine.last < other.last;
                mine.raise(other);
                if was_left_out && other.last <= join.ours.get(other.origin) {
                    mine.cut(other.last, other.sum);
                }
            }
            _ if other.last <= join.ours.get(other.origin) => {}
            None => rows.push(other.clone()),
            Some(mine) if mine.birth < other.birth => *mine = other.clone(),
            Some(_) => {}
        }
    }
    rows.retain(|row| row.origin != join.me || row.is_live());
}

impl Object {
    /// Joins one element with what the other side holds of it, or with nothing.
    pub fn join(
        &mut self,
        place: &ElementKey,
        theirs: Option<&Stored>,
        join: &Join<'_>,
        seed: u64,
    ) -> Effect {
        let nothing = Cell::default();
        match (place.element(), theirs) {
            (Some(element), theirs) => {
                let theirs = match theirs {
                    Some(Stored::Cell(cell)) => cell,
                    _ => &nothing,
                };
                self.change_cell(element, seed, |cell| cell.join(theirs, join));
            }
            (None, Some(Stored::Deadlines(theirs))) => self.join_deadlines(theirs, join, seed),
            (None, _) => self.join_deadlines(&[], join, seed),
        }
        let mut effect = Effect { residue: false, conflict: self.has_mixed_types() };
        if let Some(element) = place.element()
            && let Some(cell) = self.cell(element)
        {
            effect.residue = cell.has_residue(join.me);
            effect.conflict |= Object::is_conflict(element, cell);
        }
        effect
    }

    fn join_deadlines(&mut self, theirs: &[(Dot, Time)], join: &Join<'_>, seed: u64) {
        let holds = |list: &[(Dot, Time)], dot: Dot| list.iter().any(|(d, _)| *d == dot);
        let mut all = self.deadlines().to_vec();
        all.retain(|(dot, _)| join.keeps(*dot, holds(theirs, *dot)));
        let news = theirs.iter().filter(|(dot, _)| !holds(&all, *dot) && join.takes(*dot));
        let news: Vec<_> = news.copied().collect();
        all.extend(news);
        all.sort_unstable();
        self.restore_deadlines(all, seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Amount;

    fn vector(of: &[(u16, u64)]) -> VersionVector {
        let mut vector = VersionVector::new();
        for (origin, time) in of {
            vector.set(Origin(*origin), Time(*time));
        }
        vector
    }

    fn reg(time: u64, origin: u16) -> Reg {
        Reg::new(Dot::new(Time(time), Origin(origin)), [origin as u8].into(), Time::MAX)
    }

    fn row(origin: u16, birth: u64, last: u64, sum: i64) -> Row {
        Row {
            origin: Origin(origin),
            birth: Time(birth),
            last: Time(last),
            sum: Amount::from_int(sum),
            cut_last: Time::ZERO,
            cut_sum: Amount::ZERO,
        }
    }

    fn joined(mine: Cell, ours: &[(u16, u64)], other: &Cell, theirs: &[(u16, u64)]) -> Cell {
        let (ours, theirs) = (vector(ours), vector(theirs));
        let mut cell = mine;
        let join = Join { me: Origin(0), ours: &ours, theirs: &theirs, is_union: false };
        cell.join(other, &join);
        cell
    }

    #[test]
    fn one_side_holds_all_that_the_other_does_only_in_the_same_state() {
        let cell = |regs: &[u64], rows: &[Row]| {
            let regs = regs.iter().map(|time| reg(*time, 1)).collect();
            Stored::Cell(Cell::from_parts(regs, rows.to_vec()))
        };
        let live = row(1, 2, 5, 10);
        let dead = Row { cut_last: Time(3), cut_sum: Amount::ZERO, ..row(2, 3, 3, 0) };
        let ours = cell(&[5, 6], std::slice::from_ref(&live));
        for less in [cell(&[5], &[]), cell(&[], &[live.clone(), dead]), ours.clone()] {
            assert!(ours.holds(&less), "{less:?}");
        }
        for more in
            [cell(&[5, 7], &[]), cell(&[], &[row(1, 2, 6, 11)]), cell(&[], &[row(3, 1, 1, 1)])]
        {
            assert!(!ours.holds(&more), "{more:?}");
        }
        let mut other = reg(5, 1);
        other.value = [9].into();
        assert!(!ours.holds(&Stored::Cell(Cell::from_parts(vec![other], vec![]))), "another value");
        let deadlines = |times: &[u64]| {
            let dot = |time: &u64| (Dot::new(Time(*time), Origin(1)), Time(9));
            Stored::Deadlines(times.iter().map(dot).collect())
        };
        assert!(deadlines(&[1, 2]).holds(&deadlines(&[2])));
        assert!(!deadlines(&[2]).holds(&deadlines(&[1])) && !deadlines(&[1]).holds(&ours));
    }

    #[test]
    fn what_the_other_has_seen_and_not_got_goes_and_news_come() {
        let mine = Cell::from_parts(vec![reg(5, 1), reg(6, 0)], vec![]);
        let other = Cell::from_parts(vec![reg(7, 2), reg(3, 3)], vec![]);
        let cell = joined(mine, &[(0, 6), (1, 5), (3, 3)], &other, &[(1, 5), (2, 7), (3, 3)]);
        let dots: Vec<u64> = cell.regs().map(|r| r.dot.time.0).collect();
        assert_eq!(dots, [6, 7], "5 was removed there, 3 was removed here");
    }

    #[test]
    fn values_that_have_been_seen_need_not_come() {
        let ours = [(0, 6), (1, 5), (3, 3)];
        let mine = Cell::from_parts(vec![reg(5, 1), reg(6, 0)], vec![]);
        let other = Cell::from_parts(vec![reg(5, 1), reg(7, 2), reg(3, 3)], vec![row(1, 2, 5, 1)]);
        let theirs = [(1, 5), (2, 7), (3, 3)];
        let short = other.clone().without_values(&vector(&ours));
        let bytes = |cell: &Cell| cell.regs().map(|reg| reg.value.len()).sum::<usize>();
        assert_eq!((bytes(&other), bytes(&short)), (3, 1), "only what is news");
        let whole = joined(mine.clone(), &ours, &other, &theirs);
        assert_eq!(joined(mine, &ours, &short, &theirs), whole);
    }

    #[test]
    fn rows_grow_to_the_newer_and_keep_the_later_cut() {
        let mut mine = row(1, 2, 5, 10);
        mine.cut(Time(4), Amount::from_int(7));
        let other = row(1, 2, 9, 30);
        let cell = joined(
            Cell::from_parts(vec![], vec![mine]),
            &[(1, 5)],
            &Cell::from_parts(vec![], vec![other]),
            &[(1, 9)],
        );
        assert_eq!(cell.rows_total(Time::ZERO), Amount::from_int(23));
    }

    #[test]
    fn a_row_that_was_reset_there_and_collected_counts_no_more() {
        let mine = Cell::from_parts(vec![], vec![row(1, 2, 5, 10), row(0, 1, 3, 4)]);
        let cell = joined(mine, &[(0, 3), (1, 5)], &Cell::default(), &[(1, 8)]);
        assert_eq!(cell.rows_total(Time::ZERO), Amount::from_int(4), "its own was not seen there");
        assert!(cell.has_residue(Origin(0)));
    }

    #[test]
    fn increments_that_a_bundle_left_out_were_reset_with_it() {
        // One side has applied them one by one and not the reset; the other a bundle of both.
        let mut short = row(1, 2, 5, 10);
        short.cut(Time(5), Amount::from_int(10));
        let long = row(1, 2, 7, 13);
        let cell = |row: &Row| Cell::from_parts(vec![], vec![row.clone()]);
        let there = joined(cell(&long), &[(1, 7)], &cell(&short), &[(1, 9)]);
        assert_eq!(there.rows_total(Time::ZERO), Amount::from_int(0), "the reset was seen there");
        let here = joined(cell(&short), &[(1, 9)], &cell(&long), &[(1, 7)]);
        assert_eq!(here.rows_total(Time::ZERO), Amount::from_int(0), "the reset was seen here");
        let grown = joined(cell(&short), &[(1, 5)], &cell(&long), &[(1, 7)]);
        assert_eq!(grown.rows_total(Time::ZERO), Amount::from_int(3), "these are news");
    }

    #[test]
    fn an_own_row_that_was_reset_here_does_not_come_back() {
        let other = Cell::from_parts(vec![], vec![row(0, 1, 3, 4)]);
        assert!(joined(Cell::default(), &[(0, 9)], &other, &[(0, 3)]).is_empty());
    }

    #[test]
    fn an_own_row_that_was_lost_comes_back() {
        let other = Cell::from_parts(vec![], vec![row(0, 5, 7, 4)]);
        let regained = joined(Cell::default(), &[(0, 3)], &other, &[(0, 7)]);
        assert_eq!(regained.rows_total(Time::ZERO), Amount::from_int(4));
        // Where both have seen all of it and differ all the same, the vectors do not say who is right.
        let nothing = VersionVector::new();
        let mut cell = Cell::default();
        let join = Join { me: Origin(0), ours: &nothing, theirs: &nothing, is_union: true };
        cell.join(&other, &join);
        assert!(cell.is_empty(), "reset here");
    }

    #[test]
    fn a_row_of_a_later_birth_takes_the_place_of_an_earlier_one() {
        let mine = Cell::from_parts(vec![], vec![row(1, 2, 5, 10)]);
        let other = Cell::from_parts(vec![], vec![row(1, 7, 8, 1)]);
        let cell = joined(mine, &[(1, 5)], &other, &[(1, 8)]);
        assert_eq!(cell.rows_total(Time::ZERO), Amount::from_int(1));
    }
}
