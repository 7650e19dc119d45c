//! How long to wait before dialling again. Pure: no clock, no randomness. Jitter is not needed: one
//! side of a pair dials, and a region has few peers.

use std::time::Duration;

use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX, STABLE_AFTER};

/// Waits that double from [`BACKOFF_FIRST`] to [`BACKOFF_MAX`].
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: BACKOFF_FIRST }
    }
}

impl Backoff {
    /// How long to wait after one more failure.
    pub fn failed(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(BACKOFF_MAX);
        wait
    }

    /// How long to wait after a session of this length ended. One that ended at once (say, for a
    /// message that is too large) counts as a failure, so that such pairs do not spin.
    pub fn ended(&mut self, lasted: Duration) -> Duration {
        if lasted >= STABLE_AFTER {
            self.next = BACKOFF_FIRST;
        }
        self.failed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_bound() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..7).map(|_| backoff.failed().as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn is_quick_after_a_good_session_only() {
        let mut backoff = Backoff::default();
        let _slow = (0..5).map(|_| backoff.failed()).max();
        assert_eq!(backoff.ended(Duration::from_millis(3)), BACKOFF_MAX);
        assert_eq!(backoff.ended(Duration::from_secs(60)), BACKOFF_FIRST);
    }
}
