//! Virtual time as the protocol machine wants it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "an Instant can be had from a clock alone; only differences to the first one are used"
)]

use std::time::{Duration, Instant};

/// Turns moments of virtual time, in microseconds, into instants and back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Stands for zero.
    base: Instant,
}

impl Clock {
    /// Any moment will do for zero.
    pub fn new() -> Clock {
        Clock { base: Instant::now() }
    }

    pub fn instant(self, at_us: u64) -> Instant {
        self.base + Duration::from_micros(at_us)
    }

    /// The first microsecond that is not before.
    pub fn us(self, instant: Instant) -> u64 {
        instant.duration_since(self.base).as_nanos().div_ceil(1000) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_not_woken_too_early() {
        let clock = Clock::new();
        assert_eq!(clock.us(clock.instant(7)), 7);
        assert_eq!(clock.us(clock.instant(7) + Duration::from_nanos(1)), 8);
    }
}
