//! How far one side is behind the other in the writes of one of them.
//!
//! Two upper bounds, of which the smaller counts. The stamps: the newest record that exists is so
//! much younger than the newest that is here; far too much when the writer has just begun again
//! after an hour. And the time since everything that existed was here; known only once it was.

use meridian_clock::{Origin, Time, VersionVector};

/// What is known of one writer's records at one reader.
#[derive(Clone, Copy, Debug, Default)]
pub struct LagMeter {
    /// The writer's time at the last word that was covered.
    covered: Option<Time>,
    /// The writer's time at the first word.
    first: Option<Time>,
}

impl LagMeter {
    /// The lag in milliseconds, now that the writer's clock shows `now`, there is all of `exists`
    /// and the reader has `has`.
    pub fn measure(
        &mut self,
        writer: Origin,
        now: Time,
        exists: &[VersionVector],
        has: &[VersionVector],
    ) -> u64 {
        let first = *self.first.get_or_insert(now);
        if exists.iter().zip(has).all(|(e, h)| e.get(writer) <= h.get(writer)) {
            self.covered = Some(now);
            return 0;
        }
        let newest = |v: &[VersionVector]| v.iter().map(|v| v.get(writer)).max();
        let (newest, here) = (newest(exists).unwrap_or_default(), newest(has).unwrap_or_default());
        // With nothing here, or something older missing, the stamps tell nothing.
        let by_stamps = (here > Time::ZERO && here < newest).then(|| since(here, newest));
        let by_time = self.covered.or(by_stamps.is_none().then_some(first)).map(|t| since(t, now));
        by_stamps.into_iter().chain(by_time).min().unwrap_or(0)
    }
}

fn since(then: Time, now: Time) -> u64 {
    now.as_ms().saturating_sub(then.as_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn at(ms: u64) -> Vec<VersionVector> {
        let mut vector = VersionVector::new();
        if ms > 0 {
            vector.set(Origin(1), Time::from_ms(ms));
        }
        vec![vector]
    }

    fn check(words: &[(u64, u64, u64)]) -> Vec<u64> {
        let mut meter = LagMeter::default();
        let lag = |(now, exists, has): &(u64, u64, u64)| {
            meter.measure(Origin(1), Time::from_ms(*now), &at(*exists), &at(*has))
        };
        words.iter().map(lag).collect()
    }

    #[test]
    fn nothing_here_yet_is_not_half_a_century() {
        let now = 500_000 * HOUR;
        assert_eq!(check(&[(now, now - 5, 0), (now + 100, now, 0)]), [0, 100]);
    }

    #[test]
    fn a_write_after_an_hour_of_silence_is_not_an_hour_behind() {
        let now = 500_000 * HOUR;
        let (old, new) = (now - HOUR, now + 90);
        assert_eq!(check(&[(now, old, old), (now + 100, new, old)]), [0, 100]);
    }

    #[test]
    fn who_was_away_is_behind_by_what_it_missed() {
        let now = 500_000 * HOUR;
        let words = [(now, now, now - HOUR), (now + 500, now, now - 200)];
        assert_eq!(check(&words), [HOUR, 200]);
    }
}
