//! When faults strike, what they do, and how they end.

use super::{Event, VERDICT_EVERY_US, World};
use crate::{
    network::{Pair, pair},
    plan::{Every, MS, SECOND, Weather},
};

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    SessionBreak,
    Cut,
    ProcessCrash,
    MachineCrash,
    Pause,
    ClockJump,
    BackUp,
    Restore,
}

/// What ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relief {
    /// A dead region starts again.
    Start(usize),
    /// A link carries again.
    Heal(Pair),
    /// A session that has been silent for too long is given up.
    Idle(Pair, u64),
    /// All faults and all clients.
    Everything,
}

impl World {
    /// Puts the first of every kind of fault into the queue.
    pub(super) fn plan_faults(&mut self) {
        let faults = self.plan.faults.clone();
        for (every, fault) in [
            (faults.session_break, Fault::SessionBreak),
            (faults.cut, Fault::Cut),
            (faults.process_crash, Fault::ProcessCrash),
            (faults.machine_crash, Fault::MachineCrash),
            (faults.pause, Fault::Pause),
            (faults.clock_jump, Fault::ClockJump),
        ] {
            self.plan_next(every, fault);
        }
        if faults.restore {
            let copied_us = self.faults.range(0, self.plan.active_us / 2);
            let restored_us = self.faults.range(copied_us, self.plan.active_us);
            self.add(copied_us, Event::Strike(Fault::BackUp));
            self.add(restored_us, Event::Strike(Fault::Restore));
        }
    }

    fn plan_next(&mut self, every: Every, fault: Fault) {
        if let Some(every_us) = every {
            let delay_us = self.faults.range(0, 2 * every_us);
            self.add(delay_us, Event::Strike(fault));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), String> {
        if self.calm {
            return Ok(());
        }
        let faults = self.plan.faults.clone();
        match fault {
            Fault::SessionBreak => {
                let pair = self.any_pair();
                let notice_us = self.faults.spread(MS, SECOND);
                self.break_session(pair, notice_us);
                self.plan_next(faults.session_break, fault);
            }
            Fault::Cut => {
                self.cut();
                self.plan_next(faults.cut, fault);
            }
            Fault::ProcessCrash => {
                self.counts.process_crashes += 1;
                self.kill(false)?;
                self.plan_next(faults.process_crash, fault);
            }
            Fault::MachineCrash => {
                self.counts.machine_crashes += 1;
                self.kill(true)?;
                self.plan_next(faults.machine_crash, fault);
            }
            Fault::Pause => {
                self.counts.pauses += 1;
                let place = self.any_place();
                let for_us = self.faults.spread(20 * MS, 2 * SECOND);
                self.places[place].paused_until_us = self.now_us + for_us;
                self.trace.fault(self.now_us, || format!("region {place} stops for {for_us} us"));
                self.plan_next(faults.pause, fault);
            }
            Fault::ClockJump => {
                self.counts.clock_jumps += 1;
                let place = self.any_place();
                let most = faults.clock_jump_us;
                let by_us = self.faults.range(0, 2 * most) as i64 - most as i64;
                self.places[place].clocks.offset_us += by_us;
                self.trace.fault(self.now_us, || format!("clock of {place} jumps {by_us} us"));
                self.plan_next(faults.clock_jump, fault);
            }
            Fault::BackUp => {
                let place = self.any_place();
                self.back_up(place);
            }
            Fault::Restore => self.restore()?,
        }
        Ok(())
    }

    pub(super) fn relieve(&mut self, relief: Relief) -> Result<(), String> {
        match relief {
            Relief::Start(place) => {
                if self.places[place].process.is_none() {
                    self.trace.fault(self.now_us, || format!("region {place} starts"));
                    self.start(place)?;
                }
            }
            Relief::Heal(pair) => self.heal(pair),
            Relief::Idle(pair, number) => {
                let is_cut =
                    self.network.is_cut(pair.0, pair.1) || self.network.is_cut(pair.1, pair.0);
                if is_cut && self.network.number(pair) == Some(number) {
                    self.break_session(pair, 100 * MS);
                }
            }
            Relief::Everything => self.calm_down()?,
        }
        Ok(())
    }

    /// From here on nothing goes wrong any more.
    fn calm_down(&mut self) -> Result<(), String> {
        self.trace.fault(self.now_us, || "everything heals".to_owned());
        self.calm = true;
        self.backup = None;
        for a in 0..self.places.len() {
            for b in a + 1..self.places.len() {
                self.heal(pair(a, b));
            }
            let here = &mut self.places[a];
            here.paused_until_us = 0;
            here.clocks.offset_us = 0;
            here.primary = a == 0;
        }
        self.network.change_weather(|w| Weather {
            loss: 0,
            duplicates: 0,
            window_bytes: 1 << 20,
            ..w
        });
        for place in 0..self.places.len() {
            if self.places[place].process.is_none() {
                self.start(place)?;
            }
        }
        self.add(VERDICT_EVERY_US, Event::Verdict);
        Ok(())
    }

    fn cut(&mut self) {
        self.counts.cuts += 1;
        let pair = self.any_pair();
        let ways = [(pair.0, pair.1), (pair.1, pair.0)];
        let cut = match self.faults.below(3) {
            0 => &ways[..1],
            1 => &ways[1..],
            _ => &ways[..],
        };
        for (from, to) in cut {
            self.network.cut(*from, *to);
        }
        let for_us = self.faults.spread(20 * MS, 4 * SECOND);
        let patience_us = self.faults.spread(200 * MS, 3 * SECOND);
        self.trace.fault(self.now_us, || format!("cut {cut:?} for {for_us} us"));
        self.add(for_us, Event::Relief(Relief::Heal(pair)));
        if let Some(number) = self.network.number(pair) {
            self.add(patience_us, Event::Relief(Relief::Idle(pair, number)));
        }
    }

    fn heal(&mut self, pair: Pair) {
        self.network.heal(pair);
        for arrival in self.network.resume(self.now_us, pair, &mut self.schedule) {
            self.queue.add(arrival.at_us, Event::Arrival(arrival));
        }
    }

    fn kill(&mut self, machine: bool) -> Result<(), String> {
        let place = if machine { self.any_unsynced() } else { self.any_place() };
        if self.places[place].process.is_none() {
            return Ok(());
        }
        let away_us = self.faults.spread(MS, self.plan.faults.away_us.max(MS));
        self.crash(place, machine)?;
        self.add(away_us, Event::Relief(Relief::Start(place)));
        Ok(())
    }

    fn any_place(&mut self) -> usize {
        self.faults.below(self.places.len())
    }

    /// Rather a machine that has something to lose.
    fn any_unsynced(&mut self) -> usize {
        let first = self.any_place();
        let count = self.places.len();
        let has_unsynced =
            |place: &usize| self.places[*place].process.as_ref().is_some_and(|p| p.needs_sync());
        (0..count).map(|step| (first + step) % count).find(has_unsynced).unwrap_or(first)
    }

    fn any_pair(&mut self) -> Pair {
        let a = self.any_place();
        let b =
            (a + self.faults.range(1, self.places.len() as u64 - 1) as usize) % self.places.len();
        pair(a, b)
    }
}
