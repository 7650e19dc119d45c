//! A bound on the bytes that go to a peer. Pure: time comes in, in microseconds of any steady clock.
//!
//! A token bucket that may go into debt: whoever may send sends a whole piece, and the next one
//! waits for longer. The control lane never waits and is counted all the same; the live lane waits
//! until there is no debt; the bulk lane until the bucket is half full, so that it gets only what the
//! others leave.

use crate::lane::Lane;
use crate::limits::{BANDWIDTH_BURST_BYTES_MIN, BANDWIDTH_BURST_US};

/// The bound for one peer.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    /// Bytes a second; none: no bound.
    rate: Option<u64>,
    /// What may be sent now, in bytes; below zero: a debt.
    tokens: i64,
    filled_us: u64,
}

impl Bucket {
    /// Changes the bound. The bucket is full then.
    pub fn set_rate(&mut self, now_us: u64, rate: Option<u64>) {
        self.rate = rate.map(|rate| rate.max(1));
        self.filled_us = now_us;
        self.tokens = self.burst();
    }

    /// Whether there is a bound.
    pub fn is_bounded(&self) -> bool {
        self.rate.is_some()
    }

    /// How long a lane has to wait before it may send its next piece, in microseconds.
    pub fn wait_us(&mut self, now_us: u64, lane: Lane) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        self.fill(now_us, rate);
        let needed = match lane {
            Lane::Control => return 0,
            Lane::Live => 0,
            Lane::Bulk => self.burst() / 2,
        };
        let missing = u64::try_from(needed - self.tokens).unwrap_or(0);
        // Rounded up, so that waiting is over when it is over.
        (u128::from(missing) * 1_000_000).div_ceil(u128::from(rate)) as u64
    }

    /// Notes what is sent.
    pub fn spend(&mut self, now_us: u64, bytes: usize) {
        if let Some(rate) = self.rate {
            self.fill(now_us, rate);
            self.tokens = self.tokens.saturating_sub_unsigned(bytes as u64);
        }
    }

    fn fill(&mut self, now_us: u64, rate: u64) {
        let passed_us = now_us.saturating_sub(self.filled_us);
        let earned = (u128::from(passed_us) * u128::from(rate) / 1_000_000) as u64;
        if earned > 0 {
            self.filled_us = now_us;
            self.tokens = self.tokens.saturating_add_unsigned(earned).min(self.burst());
        }
    }

    fn burst(&self) -> i64 {
        let burst = u128::from(self.rate.unwrap_or(0)) * u128::from(BANDWIDTH_BURST_US) / 1_000_000;
        i64::try_from(burst).unwrap_or(i64::MAX).max(BANDWIDTH_BURST_BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// Sends pieces as fast as allowed for ten seconds; bytes by lane.
    fn run(rate: Option<u64>, lanes: &[Lane], piece: usize) -> Vec<u64> {
        let mut bucket = Bucket::default();
        bucket.set_rate(0, rate);
        let mut sent = vec![0; lanes.len()];
        let mut now = 0;
        while now < 10 * SECOND {
            for (lane, sent) in lanes.iter().zip(&mut sent) {
                if bucket.wait_us(now, *lane) == 0 {
                    bucket.spend(now, piece);
                    *sent += piece as u64;
                }
            }
            now += 1000;
        }
        sent
    }

    #[test]
    fn the_rate_is_kept_whatever_the_pieces() {
        for rate in [50_000, 1_000_000, 40_000_000] {
            for piece in [100, 16 << 10, 100 << 10] {
                let sent = run(Some(rate), &[Lane::Live], piece)[0];
                let possible = (10 * SECOND / 1000) * piece as u64;
                let most = 10 * rate + rate / 10 + (64 << 10) + piece as u64;
                assert!(sent <= most, "{rate} {piece}: {sent}");
                assert!(sent >= (10 * rate).min(possible) * 9 / 10, "{rate} {piece}: {sent}");
            }
        }
    }

    #[test]
    fn bulk_gets_what_live_leaves() {
        let both = run(Some(1_000_000), &[Lane::Live, Lane::Bulk], 16 << 10);
        assert!(both[1] * 20 < both[0], "{both:?}");
        // Ten bytes a millisecond leave most of it.
        let mut bucket = Bucket::default();
        bucket.set_rate(0, Some(1_000_000));
        let mut bulk = 0;
        for now in (0..10 * SECOND).step_by(1000) {
            bucket.spend(now, 10);
            if bucket.wait_us(now, Lane::Bulk) == 0 {
                bucket.spend(now, 16 << 10);
                bulk += 16 << 10;
            }
        }
        assert!(bulk > 9_500_000, "{bulk}");
    }

    #[test]
    fn control_never_waits_but_counts_and_without_a_bound_nobody_waits() {
        let mut bucket = Bucket::default();
        bucket.spend(0, 1 << 30);
        assert_eq!(bucket.wait_us(0, Lane::Bulk), 0);
        bucket.set_rate(0, Some(1_000_000));
        bucket.spend(0, 1_100_000);
        assert_eq!(bucket.wait_us(0, Lane::Control), 0);
        assert_eq!(bucket.wait_us(0, Lane::Live), SECOND);
        assert_eq!(bucket.wait_us(SECOND, Lane::Live), 0);
    }
}
