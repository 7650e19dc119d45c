//! The ten bytes that are at once the last-writer-wins stamp and the causal dot.

use crate::Origin;

/// Milliseconds in one second.
const MS_PER_S: u128 = 1000;

/// A point in hybrid logical time: 64-bit NTP (32 bits of seconds since 1970, 32 bits of
/// fraction), as `uhlc` counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Before every event.
    pub const ZERO: Time = Time(0);
    /// Later than every event; as a deadline it means "never".
    pub const MAX: Time = Time(u64::MAX);

    /// From milliseconds since 1970; what does not fit becomes the last representable time.
    #[must_use]
    pub fn from_ms(ms: u64) -> Time {
        let ntp = (u128::from(ms) << 32) / MS_PER_S;
        Time(u64::try_from(ntp).unwrap_or(u64::MAX))
    }

    /// Milliseconds since 1970, rounded to the nearest, so that `from_ms` then `as_ms` is exact.
    #[must_use]
    pub fn as_ms(self) -> u64 {
        let ms = (u128::from(self.0) * MS_PER_S + (1 << 31)) >> 32;
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    /// Microseconds since 1970, rounded down.
    #[must_use]
    pub fn as_us(self) -> u64 {
        u64::try_from((u128::from(self.0) * 1_000_000) >> 32).unwrap_or(u64::MAX)
    }

    /// This time plus `ms` milliseconds, saturating.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Time {
        let ntp = (u128::from(ms) << 32) / MS_PER_S;
        Time(self.0.saturating_add(u64::try_from(ntp).unwrap_or(u64::MAX)))
    }
}

/// When and where: unique for every operation of the cluster, totally ordered by time and then
/// by ordinal. (`uhlc`'s own `Timestamp` orders its ID by little-endian bytes and is not used.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Hybrid time of the operation.
    pub time: Time,
    /// Region that performed it.
    pub origin: Origin,
}

impl Dot {
    /// A dot from its parts.
    #[must_use]
    pub fn new(time: Time, origin: Origin) -> Dot {
        Dot { time, origin }
    }
}

impl std::fmt::Display for Dot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.time.0, self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_survive_the_round_trip() {
        for ms in [0, 1, 999, 1_000, 1_700_000_000_123, 4_294_967_295_999] {
            assert_eq!(Time::from_ms(ms).as_ms(), ms);
        }
        assert_eq!(Time::from_ms(u64::MAX), Time::MAX);
    }

    #[test]
    fn dots_order_by_time_then_origin() {
        let d = |t, o| Dot::new(Time(t), Origin(o));
        assert!(d(1, 0x0100) < d(2, 0x0002));
        assert!(d(2, 0x0002) < d(2, 0x0100), "numeric order, not byte order");
    }
}
