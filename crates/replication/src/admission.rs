//! The causal gate: may this frame be applied now? (Rules R1 and R2.)

use meridian_clock::VersionVector;
use meridian_store::FrameHeader;

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It follows on what is here and all that its author had seen is here too.
    Apply,
    /// It is here already.
    Duplicate,
    /// It follows, but something that its author had seen is still on its way.
    Wait,
    /// Something of the same origin between here and the frame is missing.
    Gap,
    /// The origin's history is not the one that is known here: a stamp was used twice.
    Fork,
}

/// Judges a frame against what its partition has applied.
#[must_use]
pub fn admit(header: &FrameHeader, vector: &VersionVector) -> Admission {
    let have = vector.get(header.origin);
    if header.last <= have {
        Admission::Duplicate
    } else if header.previous > have {
        Admission::Gap
    } else if header.previous < have {
        Admission::Fork
    } else if vector.dominates(&header.seen) {
        Admission::Apply
    } else {
        Admission::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_clock::{Origin, Time};

    fn check(previous: u64, last: u64, seen: u64, have: (u64, u64)) -> Admission {
        let mut vector = VersionVector::new();
        vector.set(Origin(1), Time(have.0));
        vector.set(Origin(2), Time(have.1));
        let mut context = VersionVector::new();
        context.set(Origin(2), Time(seen));
        let (previous, last) = (Time(previous), Time(last));
        admit(
            &FrameHeader { partition: 0, origin: Origin(1), previous, last, seen: context },
            &vector,
        )
    }

    #[test]
    fn judges_by_the_origins_own_history_first() {
        assert_eq!(check(5, 9, 3, (5, 3)), Admission::Apply);
        assert_eq!(check(5, 9, 4, (5, 3)), Admission::Wait);
        assert_eq!(check(5, 9, 4, (9, 3)), Admission::Duplicate);
        assert_eq!(check(5, 9, 0, (4, 3)), Admission::Gap);
        assert_eq!(check(5, 9, 0, (7, 3)), Admission::Fork);
    }
}
