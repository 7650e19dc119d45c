//! Whether this node's clock may be used for writing.
//!
//! A node whose time of day is further from the majority's than a limit fences itself: what it
//! wrote would win, or lose, against everybody by the error of its clock. Reading goes on, on the
//! majority's time. A jump is noticed in the same instant, because what is known of the other
//! clocks is held against the steady clock ([`PeerClock`]).

use std::collections::BTreeMap;

use crate::{
    ClockNote, Origin, PeerClock, Time,
    limits::{
        CALM_US, DEFAULT_SKEW_LIMIT_MS, JUDGE_EVERY_US, JUMP_US, START_LEAP_MS, START_PATIENCE_US,
    },
    majority::{Majority, majority},
};

/// Why a node does not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Its clock is off: the majority is ahead by so many microseconds (behind, if negative).
    Skewed {
        /// What the majority is ahead.
        ahead_us: i64,
    },
    /// It was started with a clock far ahead of when it last ran, and nobody has confirmed it.
    Unconfirmed {
        /// How far ahead, in milliseconds.
        leap_ms: u64,
    },
}

/// One peer's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerOffset {
    /// Whose.
    pub peer: Origin,
    /// It is ahead of this node's time of day by so much, in microseconds.
    pub offset_us: i64,
    /// That may be wrong by so much.
    pub error_us: u64,
}

/// This node's clocks beside its peers'.
#[derive(Clone, Debug)]
pub struct ClockWatch {
    limit_us: u64,
    peers: BTreeMap<Origin, PeerClock>,
    steady_us: u64,
    physical_us: u64,
    fence: Option<Fence>,
    /// The true time minus the steady clock, while fenced.
    truth_us: i128,
    /// Since when, on the steady clock, the clock has been right although fenced.
    calm_since_us: Option<u64>,
    /// Until when, on the steady clock, a doubtful start waits for a word.
    patience_us: u64,
    /// When it was last judged: the steady clock, and the time of day minus it.
    judged: (u64, i128),
    /// How often writing was refused since the start.
    pub fenced_count: u64,
    /// Notes that could not be true.
    pub absurd_notes: u64,
    /// For tests of the tests: the first peer's clock is the truth.
    believes_one: bool,
}

impl Default for ClockWatch {
    fn default() -> Self {
        ClockWatch::new(DEFAULT_SKEW_LIMIT_MS)
    }
}

impl ClockWatch {
    /// A watch that fences beyond `limit_ms`.
    #[must_use]
    pub fn new(limit_ms: u64) -> ClockWatch {
        ClockWatch {
            limit_us: limit_ms.saturating_mul(1_000),
            peers: BTreeMap::new(),
            steady_us: 0,
            physical_us: 0,
            fence: None,
            truth_us: 0,
            calm_since_us: None,
            patience_us: 0,
            judged: (0, 0),
            fenced_count: 0,
            absurd_notes: 0,
            believes_one: false,
        }
    }

    /// Begins with a clock that shows `physical_us`, after the node last ran at `floor` (zero if
    /// it never did), among `peers` others. A leap of hours waits for confirmation, if there are
    /// enough regions to give it.
    pub fn start(&mut self, steady_us: u64, physical_us: u64, floor: Time, peers: usize) {
        (self.steady_us, self.physical_us) = (steady_us, physical_us);
        let leap_ms = (physical_us / 1_000).saturating_sub(floor.as_ms());
        if floor > Time::ZERO && leap_ms > START_LEAP_MS && peers >= 2 {
            self.patience_us = steady_us + START_PATIENCE_US;
            self.truth_us = i128::from(floor.as_us()) - i128::from(steady_us);
            self.raise(Fence::Unconfirmed { leap_ms });
        }
    }

    /// What time it is: the time of day, or what is believed instead of it. Both are in
    /// microseconds; the steady clock's zero is anywhere.
    pub fn set(&mut self, steady_us: u64, physical_us: u64) -> u64 {
        (self.steady_us, self.physical_us) = (steady_us, physical_us);
        // Asked many thousand times a second; clocks wander by less than a millisecond in one.
        let (at_us, apart_us) = self.judged;
        let moved_us = (i128::from(physical_us) - i128::from(steady_us) - apart_us).unsigned_abs();
        if moved_us > JUMP_US || steady_us.saturating_sub(at_us) > JUDGE_EVERY_US {
            self.judge();
        }
        self.trusted_us()
    }

    /// The time that is believed.
    #[must_use]
    pub fn trusted_us(&self) -> u64 {
        if self.fence.is_none() {
            return self.physical_us;
        }
        u64::try_from(self.truth_us + i128::from(self.steady_us)).unwrap_or_default()
    }

    /// The next note to a peer.
    pub fn ask(&mut self, peer: Origin) -> ClockNote {
        self.peers.entry(peer).or_default().ask(self.steady_us, self.physical_us)
    }

    /// A peer's note has come.
    pub fn hear(&mut self, peer: Origin, note: &ClockNote) {
        let known = self.peers.entry(peer).or_default().hear(note, self.steady_us);
        self.absurd_notes += u64::from(!known);
        self.judge();
    }

    /// A new session with a peer.
    pub fn new_session(&mut self, peer: Origin) {
        self.peers.entry(peer).or_default().new_session();
    }

    /// Whether the peer's clock has been read at all.
    #[must_use]
    pub fn knows(&self, peer: Origin) -> bool {
        self.peers.get(&peer).is_some_and(PeerClock::is_known)
    }

    /// Why this node does not write, if it does not.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.fence
    }

    /// Beyond what distance it fences, in microseconds.
    #[must_use]
    pub fn limit_us(&self) -> u64 {
        self.limit_us
    }

    /// The peers' clocks that were read lately.
    pub fn offsets(&self) -> impl Iterator<Item = PeerOffset> + '_ {
        self.peers.iter().filter_map(|(peer, clock)| {
            let (offset_us, error_us) = clock.offset_us(self.steady_us, self.physical_us)?;
            Some(PeerOffset { peer: *peer, offset_us, error_us })
        })
    }

    /// Asks no majority: the first peer's clock is the truth. For tests of the tests only.
    pub fn believe_one(&mut self) {
        self.believes_one = true;
    }

    /// What the majority says now, if there is one.
    #[must_use]
    pub fn majority(&self) -> Option<Majority> {
        if self.believes_one {
            let ahead_us = self.offsets().next()?.offset_us;
            return Some(Majority { low_us: ahead_us, high_us: ahead_us, members: 1, ahead_us });
        }
        let others: Vec<(i64, u64)> = self.offsets().map(|o| (o.offset_us, o.error_us)).collect();
        if others.is_empty() {
            return None;
        }
        majority(&others, self.limit_us)
    }

    fn judge(&mut self) {
        let apart_us = i128::from(self.physical_us) - i128::from(self.steady_us);
        self.judged = (self.steady_us, apart_us);
        if matches!(self.fence, Some(Fence::Unconfirmed { .. }))
            && self.steady_us >= self.patience_us
        {
            // Nobody to ask: as without other regions, the clock is believed.
            self.fence = None;
        }
        let Some(majority) = self.majority() else {
            // Without a majority the last verdict stands.
            self.calm_since_us = None;
            return;
        };
        let ahead_us = majority.ahead_us;
        // Half of the limit is in the majority's own tolerance.
        let is_off = majority.distance_us() > self.limit_us / 2;
        // As right as can be told: what a long way may hide of an offset is no reason to stay fenced
        // for ever, if it is more than the limit.
        let is_right = ahead_us.unsigned_abs() <= self.limit_us / 2 || majority.distance_us() == 0;
        match self.fence {
            None if is_off => self.raise(Fence::Skewed { ahead_us }),
            None => return,
            Some(Fence::Unconfirmed { .. }) if is_off => self.raise(Fence::Skewed { ahead_us }),
            Some(Fence::Unconfirmed { .. }) if is_right => {
                self.fence = None;
                return;
            }
            Some(_) if is_right => {
                let since = *self.calm_since_us.get_or_insert(self.steady_us);
                if self.steady_us.saturating_sub(since) >= CALM_US {
                    (self.fence, self.calm_since_us) = (None, None);
                    return;
                }
            }
            Some(_) => self.calm_since_us = None,
        }
        if let Some(Fence::Skewed { ahead_us: shown }) = &mut self.fence {
            *shown = ahead_us;
            let truth = i128::from(self.physical_us) + i128::from(ahead_us);
            self.truth_us = truth - i128::from(self.steady_us);
        }
    }

    fn raise(&mut self, fence: Fence) {
        self.fenced_count += u64::from(self.fence.is_none());
        (self.fence, self.calm_since_us) = (Some(fence), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::READING_LIFE_US;

    const DAY_US: u64 = 1_700_000_000_000_000;
    const EIGHT_HOURS_US: i64 = 28_800_000_000;

    /// A node among others, on the true time line.
    struct World {
        watch: ClockWatch,
        now_us: u64,
        /// What this node's time of day is wrong by, and the peers' (by ordinal from 1).
        mine_us: i64,
        theirs_us: Vec<i64>,
        drift_ppm: i64,
        round_trip_us: u64,
    }

    impl World {
        fn new(theirs_us: &[i64]) -> World {
            let theirs_us = theirs_us.to_vec();
            let watch = ClockWatch::default();
            let round_trip_us = 80_000;
            World { watch, now_us: 0, mine_us: 0, theirs_us, drift_ppm: 0, round_trip_us }
        }

        fn steady(&self) -> u64 {
            let gained = self.now_us as i64 * self.drift_ppm / 1_000_000;
            7_000_000 + self.now_us.saturating_add_signed(gained)
        }

        /// What is believed now.
        fn look(&mut self) -> u64 {
            let physical = (DAY_US + self.steady()).saturating_add_signed(self.mine_us);
            self.watch.set(self.steady(), physical)
        }

        /// One exchange with every peer.
        fn exchange(&mut self) {
            self.look();
            let peers: Vec<Origin> = (1..=self.theirs_us.len()).map(|o| Origin(o as u16)).collect();
            let questions: Vec<u64> = peers.iter().map(|p| self.watch.ask(*p).number).collect();
            self.now_us += self.round_trip_us / 2;
            let read = DAY_US + 7_000_000 + self.now_us;
            self.now_us += self.round_trip_us / 2;
            self.look();
            for ((peer, number), wrong) in peers.iter().zip(questions).zip(&self.theirs_us) {
                let physical_us = read.saturating_add_signed(*wrong);
                let note = ClockNote { number, physical_us, answers: Some((number, 0)) };
                self.watch.hear(*peer, &note);
            }
        }

        fn exchange_for(&mut self, us: u64) {
            let end = self.now_us + us;
            while self.now_us < end {
                self.exchange();
                self.now_us += 420_000;
            }
        }
    }

    #[test]
    fn a_jump_of_eight_hours_fences_at_once_and_is_never_believed() {
        for jump in [EIGHT_HOURS_US, -EIGHT_HOURS_US] {
            let mut world = World::new(&[3_000, -2_000]);
            world.exchange_for(1_000_000);
            assert_eq!(world.watch.fence(), None);
            world.mine_us = jump;
            let believed = world.look();
            let Some(Fence::Skewed { ahead_us }) = world.watch.fence() else { panic!("no fence") };
            assert!(ahead_us.abs_diff(-jump) < 200_000, "{ahead_us}");
            assert!(believed.abs_diff(DAY_US + world.steady()) < 200_000, "time goes on: no jump");
            world.exchange_for(10_000_000);
            assert!(world.watch.fence().is_some());
            world.mine_us = 0;
            world.exchange();
            assert!(world.watch.fence().is_some(), "not at once");
            world.exchange_for(CALM_US + 1_000_000);
            assert_eq!(world.watch.fence(), None);
            assert_eq!(world.watch.fenced_count, 1);
        }
    }

    #[test]
    fn drift_fences_when_it_has_become_too_much() {
        let mut world = World::new(&[0, 0]);
        world.drift_ppm = 1_000;
        world.exchange_for(150_000_000);
        assert_eq!(world.watch.fence(), None, "150 ms off");
        world.exchange_for(250_000_000);
        assert!(world.watch.fence().is_some(), "400 ms off, 40 ms uncertain");
    }

    #[test]
    fn between_the_limits_it_stays_as_it_is() {
        let mut world = World::new(&[0, 0]);
        world.mine_us = 200_000;
        world.exchange_for(5_000_000);
        assert_eq!(world.watch.fence(), None);
        world.mine_us = 400_000;
        world.exchange();
        assert!(world.watch.fence().is_some());
        world.mine_us = 200_000;
        world.exchange_for(20_000_000);
        assert!(world.watch.fence().is_some(), "200 is too much for one that was fenced");
        world.mine_us = 100_000;
        world.exchange_for(5_000_000);
        assert_eq!(world.watch.fence(), None);
    }

    #[test]
    fn a_way_that_hides_more_than_the_limit_does_not_keep_it_fenced() {
        let mut world = World::new(&[30_000, 35_000]);
        world.watch = ClockWatch::new(50);
        world.round_trip_us = 80_000;
        world.mine_us = -2_000_000;
        world.exchange_for(1_000_000);
        assert!(world.watch.fence().is_some());
        // Set right; the others seem to be ahead, by less than the way there and back could hide.
        world.mine_us = 0;
        world.exchange_for(CALM_US + 2_000_000);
        assert_eq!(world.watch.fence(), None);
    }

    #[test]
    fn two_alone_cannot_know_and_one_liar_is_outvoted() {
        let mut two = World::new(&[EIGHT_HOURS_US]);
        two.exchange_for(10_000_000);
        assert_eq!(two.watch.fence(), None);
        for lie in [EIGHT_HOURS_US, -EIGHT_HOURS_US, i64::MAX, i64::MIN] {
            let mut three = World::new(&[0, lie]);
            three.exchange_for(5_000_000);
            assert_eq!(three.watch.fence(), None, "{lie}");
        }
        let mut apart = World::new(&[EIGHT_HOURS_US, -EIGHT_HOURS_US]);
        apart.exchange_for(5_000_000);
        assert_eq!(apart.watch.fence(), None, "nobody agrees with anybody");
    }

    #[test]
    fn who_hears_nobody_any_more_stays_fenced() {
        let mut world = World::new(&[0, 0]);
        world.mine_us = 900_000;
        world.exchange_for(1_000_000);
        assert!(world.watch.fence().is_some());
        world.now_us += 10 * READING_LIFE_US;
        let believed = world.look();
        assert_eq!(world.watch.offsets().count(), 0);
        assert!(world.watch.fence().is_some());
        assert!(believed.abs_diff(DAY_US + world.steady()) < 200_000, "and keeps the true time");
    }

    #[test]
    fn a_leap_at_the_start_waits_for_a_word() {
        let floor = Time::from_ms(DAY_US / 1000);
        let started = |leap_us: i64, peers: usize| {
            let mut world = World::new(&vec![0; peers]);
            world.mine_us = leap_us;
            let physical = (DAY_US + world.steady()).saturating_add_signed(leap_us);
            world.watch.start(world.steady(), physical, floor, peers);
            world.look();
            world
        };
        assert_eq!(started(1_000_000, 2).watch.fence(), None, "an ordinary restart");
        assert_eq!(started(EIGHT_HOURS_US, 1).watch.fence(), None, "nobody could tell");
        let mut wrong = started(EIGHT_HOURS_US, 2);
        assert!(matches!(wrong.watch.fence(), Some(Fence::Unconfirmed { .. })));
        assert!(wrong.look() < DAY_US + 60_000_000, "not believed");
        wrong.exchange();
        assert!(matches!(wrong.watch.fence(), Some(Fence::Skewed { .. })));
        // It was away for eight hours, and the clock is right.
        let mut right = started(EIGHT_HOURS_US, 2);
        right.theirs_us = vec![EIGHT_HOURS_US; 2];
        right.exchange();
        assert_eq!(right.watch.fence(), None);
        // Nobody answers.
        let mut alone = started(EIGHT_HOURS_US, 2);
        alone.now_us += START_PATIENCE_US;
        assert!(alone.look() > DAY_US + EIGHT_HOURS_US as u64);
        assert_eq!(alone.watch.fence(), None);
    }
}
