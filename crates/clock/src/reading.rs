//! Reading another node's clock over a network.
//!
//! Cristian, "Probabilistic clock synchronization" (1989): a question and its answer bracket the
//! moment at which the other clock was read. With the round trip `r` (the other side's own delay
//! taken off), the other clock now shows what it said plus `r/2`, give or take `r/2`. Everything
//! is held against the *steady* clock of this node, so that a jump of its time of day is seen at
//! once and against what was read before.

use std::collections::VecDeque;

use crate::limits::{DRIFT_PPM, OPEN_QUESTIONS, READING_LIFE_US, READINGS_PER_PEER};

/// What a node says to a peer about its clock, again and again: a question, and the answer to the
/// peer's last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClockNote {
    /// Counts the notes of a session.
    pub number: u64,
    /// The author's physical clock, microseconds since 1970.
    pub physical_us: u64,
    /// The newest note of the receiver that had arrived, and how long before, in microseconds.
    pub answers: Option<(u64, u64)>,
}

/// Another clock minus this node's steady one, in microseconds, and what it may be wrong by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    ahead_us: i128,
    error_us: u64,
    at_us: u64,
}

impl Reading {
    /// What it may be wrong by at `now_us` of the steady clock.
    fn error_us(&self, now_us: u64) -> u64 {
        let age = now_us.saturating_sub(self.at_us).min(READING_LIFE_US);
        self.error_us.saturating_add(age * DRIFT_PPM / 1_000_000)
    }

    fn agrees(&self, other: &Reading, now_us: u64) -> bool {
        let apart = self.ahead_us.abs_diff(other.ahead_us);
        apart <= u128::from(self.error_us(now_us)) + u128::from(other.error_us(now_us))
    }
}

/// What is known of one peer's clock.
#[derive(Clone, Debug, Default)]
pub struct PeerClock {
    next: u64,
    /// Questions without an answer: number, and when on the steady clock.
    open: VecDeque<(u64, u64)>,
    /// The peer's newest note, and when it came.
    heard: Option<(u64, u64)>,
    readings: VecDeque<Reading>,
}

impl PeerClock {
    /// The next note to the peer; `steady_us` and `physical_us` are this node's clocks now.
    pub fn ask(&mut self, steady_us: u64, physical_us: u64) -> ClockNote {
        let number = self.next;
        self.next += 1;
        if self.open.len() == OPEN_QUESTIONS {
            self.open.pop_front();
        }
        self.open.push_back((number, steady_us));
        let held = |(number, at): (u64, u64)| (number, steady_us.saturating_sub(at));
        ClockNote { number, physical_us, answers: self.heard.map(held) }
    }

    /// A note of the peer has come. False if it cannot be true: it answers what was never asked,
    /// or held the question for longer than the question is old.
    pub fn hear(&mut self, note: &ClockNote, steady_us: u64) -> bool {
        self.heard = Some((note.number, steady_us));
        let Some((number, held_us)) = note.answers else { return true };
        if number >= self.next {
            return false;
        }
        let Some(at) = self.open.iter().position(|(open, _)| *open == number) else {
            // Answered before: the peer has heard nothing new since.
            return true;
        };
        let (_, asked_us) = self.open[at];
        // What was asked before will not be answered any more.
        self.open.drain(..=at);
        let Some(round_trip_us) = steady_us.saturating_sub(asked_us).checked_sub(held_us) else {
            return false;
        };
        let half = round_trip_us.div_ceil(2);
        let ahead_us = i128::from(note.physical_us) + i128::from(half) - i128::from(steady_us);
        self.take(Reading { ahead_us, error_us: half, at_us: steady_us });
        true
    }

    fn take(&mut self, new: Reading) {
        // A clock that was set makes what was read before worthless.
        self.readings.retain(|old| old.agrees(&new, new.at_us));
        if self.readings.len() == READINGS_PER_PEER {
            self.readings.pop_front();
        }
        self.readings.push_back(new);
    }

    /// The peer's clock minus this node's time of day, and what that may be wrong by; none if
    /// nothing was read lately. A peer that claims the absurd is taken to be as far off as the
    /// numbers go.
    #[must_use]
    pub fn offset_us(&self, steady_us: u64, physical_us: u64) -> Option<(i64, u64)> {
        let young = |r: &&Reading| steady_us.saturating_sub(r.at_us) <= READING_LIFE_US;
        let best = self.readings.iter().filter(young).min_by_key(|r| r.error_us(steady_us))?;
        let mine = i128::from(physical_us) - i128::from(steady_us);
        let limit = i128::from(i64::MAX / 4);
        let offset = (best.ahead_us - mine).clamp(-limit, limit) as i64;
        Some((offset, best.error_us(steady_us)))
    }

    /// Whether the peer has been asked and has answered at all.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.readings.is_empty()
    }

    /// A new session: questions and answers of the old one do not count, what was read does.
    pub fn new_session(&mut self) {
        (self.next, self.heard) = (0, None);
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_US: u64 = 1_700_000_000_000_000;

    /// One exchange: out, held, and back; the peer's clock is ahead by `offset`.
    fn exchange(
        clock: &mut PeerClock,
        at: u64,
        (out, held, back): (u64, u64, u64),
        offset: i64,
    ) -> u64 {
        let question = clock.ask(at, DAY_US + at);
        let said = at + out + held;
        let note = ClockNote {
            number: question.number,
            physical_us: (DAY_US + said).saturating_add_signed(offset),
            answers: Some((question.number, held)),
        };
        let end = said + back;
        assert!(clock.hear(&note, end));
        end
    }

    #[test]
    fn the_truth_lies_within_the_bound_whatever_the_way_took() {
        for (out, held, back) in [(40_000, 0, 40_000), (1_000, 300_000, 90_000), (5, 7, 0)] {
            for offset in [0, 612_000, -28_800_000_000] {
                let mut clock = PeerClock::default();
                let now = exchange(&mut clock, 1_000, (out, held, back), offset);
                let (said, error) = clock.offset_us(now, DAY_US + now).unwrap();
                assert!(said.abs_diff(offset) <= error, "{said} {offset} {error}");
                assert!(error <= (out + back).div_ceil(2));
            }
        }
    }

    #[test]
    fn the_most_exact_reading_counts_until_it_is_old() {
        let mut clock = PeerClock::default();
        let now = exchange(&mut clock, 0, (1_000, 0, 1_000), 50_000);
        let now = exchange(&mut clock, now, (80_000, 0, 10_000), 50_000);
        assert_eq!(clock.offset_us(now, DAY_US + now).unwrap().1, 1_000 + 90);
        let late = now + READING_LIFE_US + 1;
        assert_eq!(clock.offset_us(late, DAY_US + late), None);
    }

    #[test]
    fn a_jump_on_either_side_shows_at_once() {
        let mut clock = PeerClock::default();
        let now = exchange(&mut clock, 0, (500, 0, 500), 0);
        let eight_hours = 28_800_000_000;
        let (offset, _) = clock.offset_us(now, DAY_US + now + eight_hours).unwrap();
        assert_eq!(offset, -(eight_hours as i64), "this node's own, without another word");
        let now = exchange(&mut clock, now, (40_000, 0, 40_000), eight_hours as i64);
        let (offset, error) = clock.offset_us(now, DAY_US + now).unwrap();
        assert!(offset.abs_diff(eight_hours as i64) <= error, "the exact old reading is forgotten");
    }

    #[test]
    fn lies_are_refused_or_stay_within_numbers() {
        let mut clock = PeerClock::default();
        let question = clock.ask(1_000, DAY_US);
        let note = |number, held, physical_us| ClockNote {
            number: 0,
            physical_us,
            answers: Some((number, held)),
        };
        assert!(!clock.hear(&note(99, 0, DAY_US), 2_000), "never asked");
        assert!(!clock.hear(&note(question.number, 5_000, DAY_US), 2_000), "held for too long");
        assert_eq!(clock.offset_us(2_000, DAY_US), None);
        for physical_us in [0, u64::MAX] {
            let question = clock.ask(3_000, DAY_US);
            assert!(clock.hear(&note(question.number, 0, physical_us), 4_000));
            assert!(clock.offset_us(4_000, DAY_US).unwrap().0 != 0);
        }
        for at in 0..100 {
            clock.ask(5_000 + at, DAY_US);
        }
        assert_eq!(clock.open.len(), OPEN_QUESTIONS);
    }
}
