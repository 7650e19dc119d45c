//! What has been seen: one time per origin.

use crate::{Dot, Origin, Time};

/// For every origin `o`, all of its records stamped at or below `get(o)` are included.
///
/// Dense by ordinal because ordinals are small and the vector is consulted for every operation.
/// Two vectors are equal when they cover the same dots, whatever their trailing zeros.
#[derive(Clone, Debug, Default)]
pub struct VersionVector {
    times: Vec<Time>,
}

impl VersionVector {
    /// Covers nothing.
    #[must_use]
    pub fn new() -> VersionVector {
        VersionVector::default()
    }

    /// The covered time of one origin.
    #[must_use]
    #[inline]
    pub fn get(&self, origin: Origin) -> Time {
        self.times.get(origin.index()).copied().unwrap_or_default()
    }

    /// Sets one entry.
    pub fn set(&mut self, origin: Origin, time: Time) {
        if self.times.len() <= origin.index() {
            self.times.resize(origin.index() + 1, Time::ZERO);
        }
        self.times[origin.index()] = time;
    }

    /// Raises one entry, never lowers it.
    pub fn raise(&mut self, origin: Origin, time: Time) {
        if time > self.get(origin) {
            self.set(origin, time);
        }
    }

    /// Raises every entry to the other's.
    pub fn join(&mut self, other: &VersionVector) {
        for (origin, time) in other.iter() {
            self.raise(origin, time);
        }
    }

    /// Whether the dot has been seen.
    #[must_use]
    #[inline]
    pub fn covers(&self, dot: Dot) -> bool {
        dot.time <= self.get(dot.origin)
    }

    /// Whether everything that `other` has seen has been seen here.
    #[must_use]
    pub fn dominates(&self, other: &VersionVector) -> bool {
        other.iter().all(|(origin, time)| time <= self.get(origin))
    }

    /// The entries above zero, by ordinal.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, Time)> + '_ {
        self.times
            .iter()
            .enumerate()
            .filter(|(_, time)| **time > Time::ZERO)
            .filter_map(|(index, time)| u16::try_from(index).ok().map(|o| (Origin(o), *time)))
    }
}

impl PartialEq for VersionVector {
    fn eq(&self, other: &VersionVector) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for VersionVector {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_up_to_and_including() {
        let mut vector = VersionVector::new();
        vector.raise(Origin(2), Time(7));
        vector.raise(Origin(2), Time(5));
        assert!(vector.covers(Dot::new(Time(7), Origin(2))));
        assert!(!vector.covers(Dot::new(Time(8), Origin(2))));
        assert!(!vector.covers(Dot::new(Time(1), Origin(9))));
    }

    #[test]
    fn equality_ignores_trailing_zeros() {
        let mut a = VersionVector::new();
        a.set(Origin(5), Time::ZERO);
        assert_eq!(a, VersionVector::new());
        assert!(a.dominates(&VersionVector::new()));
    }
}
