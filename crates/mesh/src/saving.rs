//! Whether compressing is worth it. Pure.
//!
//! Every so many bytes what was saved is looked at: the share of the bytes, and the bytes for each
//! second of processor time. When either is too small, the next bytes go as they are, for a stretch
//! that doubles as long as samples disappoint; then a sample is compressed again.

use crate::limits::{
    SAVED_BYTES_PER_CPU_SECOND_MIN, SAVED_PERCENT_MIN, SAVING_SAMPLE_BYTES, SAVING_SKIP_BYTES_MAX,
    SAVING_SKIP_BYTES_MIN,
};

/// What compressing has brought lately.
#[derive(Debug, Clone)]
pub struct Saving {
    raw: u64,
    wire: u64,
    /// The batch that was quickest for its size: bytes, and microseconds. The others were kept from
    /// the processor, or had to fetch memory first.
    quickest: (u64, u64),
    /// Bytes to send as they are before the next sample.
    skip: u64,
    /// How many that will be when the next sample disappoints.
    next_skip: u64,
}

/// Slower than any batch.
const NOTHING: (u64, u64) = (1, u64::MAX);

impl Default for Saving {
    fn default() -> Self {
        Saving { raw: 0, wire: 0, quickest: NOTHING, skip: 0, next_skip: SAVING_SKIP_BYTES_MIN }
    }
}

impl Saving {
    /// Whether to compress the next `bytes`.
    pub fn wants(&mut self, bytes: usize) -> bool {
        let wants = self.skip == 0;
        self.skip = self.skip.saturating_sub(bytes as u64);
        wants
    }

    /// So many bytes became so many, in so much time.
    pub fn note(&mut self, raw: usize, wire: usize, spent_us: u64) {
        self.raw += raw as u64;
        self.wire += wire as u64;
        if spent_us.saturating_mul(self.quickest.0) < self.quickest.1.saturating_mul(raw as u64) {
            self.quickest = (raw as u64, spent_us);
        }
        if self.raw < SAVING_SAMPLE_BYTES {
            return;
        }
        let saved = self.raw.saturating_sub(self.wire);
        let is_share = saved * 100 >= self.raw * SAVED_PERCENT_MIN;
        let spent_us = self.quickest.1.saturating_mul(self.raw) / self.quickest.0.max(1);
        let is_cheap = saved * 1_000_000 >= spent_us.saturating_mul(SAVED_BYTES_PER_CPU_SECOND_MIN);
        if is_share && is_cheap {
            self.next_skip = SAVING_SKIP_BYTES_MIN;
        } else {
            self.skip = self.next_skip;
            self.next_skip = (2 * self.next_skip).min(SAVING_SKIP_BYTES_MAX);
        }
        (self.raw, self.wire, self.quickest) = (0, 0, NOTHING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `batches` of 10 kB that compress to `percent` of it, in `us` each; how many were
    /// compressed.
    fn check(saving: &mut Saving, batches: usize, percent: usize, us: u64) -> usize {
        let try_one = |_: &usize| {
            let wants = saving.wants(10_000);
            if wants {
                saving.note(10_000, 100 * percent, us);
            }
            wants
        };
        (0..batches).filter(try_one).count()
    }

    #[test]
    fn what_saves_is_always_compressed() {
        assert_eq!(check(&mut Saving::default(), 10_000, 90, 30), 10_000);
    }

    #[test]
    fn what_saves_nothing_is_tried_ever_more_rarely() {
        let mut saving = Saving::default();
        assert!(check(&mut saving, 10_000, 100, 30) < 300);
        let tried = check(&mut saving, 100_000, 101, 30);
        assert!((1..2500).contains(&tried), "{tried} of 100,000");
        // Other data: found out within one stretch, then for good.
        let skipped = SAVING_SKIP_BYTES_MAX as usize / 10_000 + 1;
        assert!(check(&mut saving, 20_000, 20, 30) >= 20_000 - skipped);
        assert_eq!(check(&mut saving, 1000, 20, 30), 1000);
    }

    #[test]
    fn a_busy_machine_is_not_taken_for_a_slow_compressor() {
        let mut saving = Saving::default();
        for batch in 0..1000 {
            assert!(saving.wants(10_000), "batch {batch}");
            // Every other time somebody else has the processor.
            saving.note(10_000, 5_000, if batch % 2 == 0 { 30 } else { 8_000 });
        }
    }

    #[test]
    fn what_costs_too_much_time_is_not_worth_it() {
        // A tenth saved: 1,000 bytes in a millisecond are 1 MB for a second.
        assert!(check(&mut Saving::default(), 10_000, 90, 1000) < 300);
    }
}
