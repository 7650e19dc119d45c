//! Which checkpoint and which log lead to a point in time.
//!
//! A checkpoint is fuzzy: it may hold what is newer than its position, so it serves an instant only
//! if nothing in it is newer than that. The log after it may come from several backups of the same
//! directory, as long as it has no gap.

use std::collections::BTreeMap;

use super::manifest::{Manifest, Piece};
use meridian_clock::Time;

/// A way to restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whose checkpoint.
    pub base: Manifest,
    /// The log from the checkpoint's position or before it, without gaps.
    pub log: Vec<Piece>,
    /// What is stamped after this stays out; none for all of the base.
    pub upto: Option<Time>,
}

/// Why there is no way to an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlan {
    /// There is no backup.
    Nothing,
    /// Every checkpoint holds later writes: the first instant at which one does not.
    Before(Time),
    /// The log ends here, milliseconds since 1970.
    After(u64),
}

impl Plan {
    /// Exactly what one backup holds.
    #[must_use]
    pub fn whole(base: Manifest) -> Plan {
        let log = base.log.clone();
        Plan { base, log, upto: None }
    }

    /// The way to an instant, from backups of one region.
    ///
    /// # Errors
    /// [`NoPlan`] when they do not lead there.
    pub fn at(backups: &[Manifest], upto: Time) -> Result<Plan, NoPlan> {
        let Some(owner) = backups.last().map(|newest| &newest.owner) else {
            return Err(NoPlan::Nothing);
        };
        let backups: Vec<&Manifest> = backups.iter().filter(|m| m.is_of(owner)).collect();
        let early = backups.iter().filter(|m| m.checkpoint_last() <= upto);
        let Some(base) = early.max_by_key(|m| m.checkpoint.until) else {
            let first = backups.iter().map(|m| m.checkpoint_last()).min().unwrap_or_default();
            return Err(NoPlan::Before(first));
        };
        let log = chain(&backups, base);
        let reached = log.last().map_or(base.checkpoint.position, |piece| piece.to);
        let ends =
            backups.iter().filter(|m| (base.end.position..=reached).contains(&m.end.position));
        let until_ms = ends.map(|m| m.created_ms).max().unwrap_or(base.created_ms);
        if upto.as_ms() > until_ms {
            return Err(NoPlan::After(until_ms));
        }
        Ok(Plan { base: (*base).clone(), log, upto: Some(upto) })
    }
}

/// All log from the base's position on, as far as it goes without a gap.
fn chain(backups: &[&Manifest], base: &Manifest) -> Vec<Piece> {
    let mut by_start: BTreeMap<u64, &Piece> = BTreeMap::new();
    for piece in backups.iter().flat_map(|m| &m.log) {
        let longest = by_start.entry(piece.from).or_insert(piece);
        if piece.to > longest.to {
            *longest = piece;
        }
    }
    let mut log: Vec<Piece> = base.log.clone();
    let mut at = base.end.position;
    while let Some(piece) = by_start.get(&at).filter(|piece| piece.to > at) {
        log.push((*piece).clone());
        at = piece.to;
    }
    log
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::{manifest, object};
    use super::*;

    /// A backup whose checkpoint holds stamps up to `last`, with log between positions.
    fn backup(id: &str, created_ms: u64, last_ms: u64, log: &[(u64, u64)]) -> Manifest {
        let mut backup = manifest(id);
        backup.created_ms = created_ms;
        let piece = |(from, to): &(u64, u64)| {
            let object = object(*to as u8, to - from);
            Piece { from: *from, to: *to, first: 0, object }
        };
        backup.log = log.iter().map(piece).collect();
        backup.end.position = log.last().unwrap().1;
        backup.checkpoint.position = log[0].0;
        backup.checkpoint.until = log[0].0 + 1;
        backup.checkpoint.last = Time::from_ms(last_ms).0;
        backup
    }

    fn check(backups: &[Manifest], at_ms: u64, expected: Result<(&str, u64), NoPlan>) {
        match (Plan::at(backups, Time::from_ms(at_ms)), expected) {
            (Ok(plan), Ok((id, end))) => {
                assert_eq!((plan.base.id.as_str(), plan.log.last().unwrap().to), (id, end));
                let ends = plan.log.windows(2).all(|pair| pair[0].to == pair[1].from);
                assert!(ends, "no gap");
            }
            (Err(error), Err(expected)) => assert_eq!(error, expected),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn the_newest_checkpoint_before_the_instant_and_all_log_after_it() {
        let backups = [
            backup("a", 1000, 900, &[(0, 50)]),
            backup("b", 2000, 1800, &[(20, 50), (50, 120)]),
            backup("c", 3000, 2900, &[(120, 200)]),
        ];
        check(&backups, 899, Err(NoPlan::Before(Time::from_ms(900))));
        check(&backups, 900, Ok(("a", 200)));
        check(&backups, 1799, Ok(("a", 200)));
        check(&backups, 1800, Ok(("b", 200)));
        check(&backups, 3000, Ok(("c", 200)));
        check(&backups, 3001, Err(NoPlan::After(3000)));
        check(&[], 1, Err(NoPlan::Nothing));
    }

    #[test]
    fn a_gap_in_the_log_ends_what_can_be_restored() {
        let backups = [backup("a", 1000, 900, &[(0, 50)]), backup("c", 3000, 2900, &[(120, 200)])];
        check(&backups, 1000, Ok(("a", 50)));
        check(&backups, 1500, Err(NoPlan::After(1000)));
        check(&backups, 2900, Ok(("c", 200)));
    }

    #[test]
    fn another_life_of_the_region_is_another_history() {
        let mut before = backup("a", 1000, 900, &[(0, 50)]);
        before.owner.ordinal = 5;
        let backups = [before, backup("b", 2000, 1800, &[(50, 120)])];
        check(&backups, 1000, Err(NoPlan::Before(Time::from_ms(1800))));
        check(&backups, 1900, Ok(("b", 120)));
    }
}
