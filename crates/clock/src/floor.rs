//! Hybrid time is reserved on disk before it is used.
//!
//! Stamps are safe without this: a stamp leaves the node only after it is in the durable log, and
//! recovery starts above the log. What is *not* in the log is time itself: a promise that nothing
//! more comes from before now, and a key that was shown as expired. After a crash and with a
//! clock that was set back both would be broken. So a floor is written ahead, time does not pass
//! it, and the next life begins at it (docs/adr on clock floors).

use crate::{Time, limits::FLOOR_AHEAD_MS};

/// How much time is reserved, and how much has been asked for.
#[derive(Clone, Copy, Debug)]
pub struct Reservation {
    granted: Time,
    asked: Time,
}

impl Reservation {
    /// With what the disk holds.
    #[must_use]
    pub fn new(granted: Time) -> Reservation {
        Reservation { granted, asked: granted }
    }

    /// What should be reserved now that physical time is `physical`, if that is more than was
    /// asked for already.
    pub fn wanted(&mut self, physical: Time) -> Option<Time> {
        if physical.plus_ms(FLOOR_AHEAD_MS / 2) <= self.asked {
            return None;
        }
        self.asked = physical.plus_ms(FLOOR_AHEAD_MS);
        Some(self.asked)
    }

    /// It is on disk: time may pass up to it.
    pub fn grant(&mut self, upto: Time) {
        self.granted = self.granted.max(upto);
        self.asked = self.asked.max(upto);
    }

    /// Up to where time may pass.
    #[must_use]
    pub fn granted(&self) -> Time {
        self.granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_again_when_half_is_used_and_once_only() {
        let mut floor = Reservation::new(Time::ZERO);
        let first = floor.wanted(Time::from_ms(5_000));
        assert_eq!(first, Some(Time::from_ms(6_000)));
        assert_eq!(floor.granted(), Time::ZERO, "asked is not granted");
        assert_eq!(floor.wanted(Time::from_ms(5_400)), None);
        floor.grant(Time::from_ms(6_000));
        assert_eq!(floor.granted(), Time::from_ms(6_000));
        assert_eq!(floor.wanted(Time::from_ms(5_600)), Some(Time::from_ms(6_600)));
        assert_eq!(floor.wanted(Time::from_ms(1_000)), None, "a clock set back needs no more");
    }
}
