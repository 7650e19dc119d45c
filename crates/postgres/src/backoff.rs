//! Pauses between attempts: doubling, bounded, and forgotten after success.

use crate::limits::{BACKOFF_MAX_MS, BACKOFF_MIN_MS};

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// After a failure: how long to pause, in milliseconds.
    pub(crate) fn next_ms(&mut self) -> u64 {
        let doubled = BACKOFF_MIN_MS.checked_shl(self.failures).unwrap_or(BACKOFF_MAX_MS);
        // Keeps the shift far from overflow.
        self.failures = (self.failures + 1).min(16);
        doubled.min(BACKOFF_MAX_MS)
    }

    /// After success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_a_bound() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..8).map(|_| backoff.next_ms()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        for _ in 0..100 {
            assert!(backoff.next_ms() <= BACKOFF_MAX_MS);
        }
        backoff.reset();
        assert_eq!(backoff.next_ms(), BACKOFF_MIN_MS);
    }
}
