//! One hybrid logical clock per writer, on top of `uhlc`.
//!
//! `uhlc::HLC` wants to read the system clock through a plain function; here physical time must
//! come in as an argument so that the simulator owns it. So the physical reading is kept in the
//! clock and `uhlc`'s arithmetic types carry it; the rule is the one of Kulkarni et al., "Logical
//! Physical Clocks" (2014): the next stamp is the larger of physical time and the last one plus
//! one.

use std::time::Duration;

use thiserror::Error;
use uhlc::NTP64;

use crate::{Time, limits::MAX_AHEAD_MS};

/// The last second that a stamp can hold, in 2106, in microseconds since 1970. A clock that shows more
/// is wrong; what it shows must not end the process.
const LAST_US: u64 = u32::MAX as u64 * 1_000_000;

/// Why a remote stamp was not accepted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ClockError {
    /// The stamp lies further in the future than [`MAX_AHEAD_MS`].
    #[error("stamp is {ahead_ms} ms ahead of this region's clock (limit {MAX_AHEAD_MS} ms)")]
    TooFarAhead {
        /// By how much.
        ahead_ms: u64,
    },
}

/// A clock that never repeats and never goes back, whatever the physical clock does.
#[derive(Clone, Debug)]
pub struct HybridClock {
    physical: Time,
    last: Time,
    /// Time does not pass this by the physical clock alone: it is not reserved yet.
    reserved: Time,
}

impl HybridClock {
    /// A clock that issues only stamps above `floor` (the largest stamp known to have been
    /// issued before a restart).
    #[must_use]
    pub fn new(floor: Time) -> HybridClock {
        HybridClock { physical: Time::ZERO, last: floor, reserved: Time::MAX }
    }

    /// Lets the physical clock carry hybrid time up to here and not beyond, until more is allowed
    /// (see [`crate::Reservation`]). Without a call there is no bound. Stamps go on above it, one
    /// by one: they are in the log.
    pub fn reserve(&mut self, upto: Time) {
        self.last = self.now();
        self.reserved = upto;
    }

    /// Tells the clock what physical time it is, in microseconds since 1970. When that goes back,
    /// hybrid time stands still: what has been shown as expired stays so, and what was promised
    /// about [`HybridClock::now`] holds.
    pub fn set_physical_us(&mut self, us: u64) {
        let physical = Time(NTP64::from(Duration::from_micros(us.min(LAST_US))).as_u64());
        if physical < self.physical {
            self.last = self.now();
        }
        self.physical = physical;
    }

    /// The current hybrid time: no stamp issued from now on is at or below it.
    #[must_use]
    pub fn now(&self) -> Time {
        self.physical.min(self.reserved).max(self.last)
    }

    /// Physical time as last told.
    #[must_use]
    pub fn physical(&self) -> Time {
        self.physical
    }

    /// The next stamp, larger than every stamp issued or observed before, and larger than every
    /// [`HybridClock::now`] that was shown: peers were promised that nothing comes at or below it.
    pub fn tick(&mut self) -> Time {
        self.last = Time(self.now().0.saturating_add(1));
        self.last
    }

    /// Checks a remote stamp against the bound without moving the clock.
    ///
    /// # Errors
    /// [`ClockError::TooFarAhead`] when it lies beyond [`MAX_AHEAD_MS`].
    pub fn check(&self, remote: Time) -> Result<(), ClockError> {
        if remote > self.physical.plus_ms(MAX_AHEAD_MS) {
            let ahead_ms = remote.as_ms().saturating_sub(self.physical.as_ms());
            return Err(ClockError::TooFarAhead { ahead_ms });
        }
        Ok(())
    }

    /// Moves the clock past a stamp that was applied here.
    pub fn observe(&mut self, remote: Time) {
        self.last = self.last.max(remote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strictly_increasing_while_the_physical_clock_jumps() {
        let mut clock = HybridClock::new(Time::ZERO);
        let mut last = Time::ZERO;
        for us in [5, 1_000_000, 10, 0, 7_000_000, 6_999_999, 7_000_000] {
            clock.set_physical_us(us);
            for _ in 0..3 {
                let next = clock.tick();
                assert!(next > last);
                last = next;
            }
        }
    }

    #[test]
    fn a_clock_beyond_all_stamps_is_the_last_second() {
        let mut clock = HybridClock::new(Time::ZERO);
        clock.set_physical_us(u64::MAX);
        assert_eq!(clock.physical().as_us(), LAST_US);
        let shown = clock.now();
        assert!(clock.tick() > shown);
    }

    #[test]
    fn hybrid_time_never_goes_back_with_the_physical_clock() {
        let mut clock = HybridClock::new(Time::ZERO);
        clock.set_physical_us(7_000_000);
        let shown = clock.now();
        clock.set_physical_us(1_000_000);
        assert!(clock.now() >= shown);
        assert!(clock.tick() > shown, "nothing is stamped at or below what was shown");
    }

    #[test]
    fn nothing_is_stamped_at_the_time_that_was_shown() {
        let mut clock = HybridClock::new(Time::ZERO);
        for us in [0, 3, 3, 1_000_000, 2, 2_000_000] {
            clock.set_physical_us(us);
            let shown = clock.now();
            assert!(clock.tick() > shown, "at {us} µs");
        }
        clock.reserve(clock.now());
        clock.set_physical_us(9_000_000);
        let shown = clock.now();
        assert!(clock.tick() > shown, "at the end of what is reserved");
    }

    #[test]
    fn starts_above_its_floor_and_above_what_it_observed() {
        let mut clock = HybridClock::new(Time::from_ms(10_000));
        clock.set_physical_us(1_000_000);
        assert!(clock.tick() > Time::from_ms(10_000));
        clock.observe(Time::from_ms(20_000));
        assert!(clock.tick() > Time::from_ms(20_000));
    }

    #[test]
    fn does_not_pass_what_is_reserved_except_by_stamps() {
        let mut clock = HybridClock::new(Time::ZERO);
        clock.reserve(Time::from_ms(2_000));
        clock.set_physical_us(9_000_000);
        assert_eq!(clock.now(), Time::from_ms(2_000));
        assert_eq!(clock.tick().0, Time::from_ms(2_000).0 + 1);
        assert_eq!(clock.tick().0, Time::from_ms(2_000).0 + 2);
        assert_eq!(clock.physical(), Time::from_ms(9_000), "peers are judged by the real one");
        clock.reserve(Time::from_ms(9_500));
        assert_eq!(clock.now(), Time::from_ms(9_000));
    }

    #[test]
    fn agrees_with_uhlc_about_units() {
        let mut clock = HybridClock::new(Time::ZERO);
        clock.set_physical_us(1_700_000_000_000_000);
        let theirs = NTP64::from(Duration::from_secs(1_700_000_000));
        assert_eq!(clock.now().0, theirs.as_u64());
        assert_eq!(clock.now().as_ms(), 1_700_000_000_000);
    }

    #[test]
    fn refuses_a_stamp_from_the_far_future() {
        let mut clock = HybridClock::new(Time::ZERO);
        clock.set_physical_us(0);
        assert!(clock.check(Time::from_ms(MAX_AHEAD_MS)).is_ok());
        assert!(clock.check(Time::from_ms(MAX_AHEAD_MS + 1_000)).is_err());
    }
}
