//! When faults strike, what they do, and how they end.

use super::{Event, Place, World};
use crate::{
    disk::{Blow, Moment},
    network::{Pair, pair},
    plan::{Fault, MS, SECOND},
    random::{Random, Stream},
};

/// Ordinals are handed out once, and there are only so many.
const MAX_ORIGINS: u16 = meridian_clock::MAX_REGIONS as u16;

/// What ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relief {
    /// A dead region starts again.
    Start(usize),
    /// A link carries again.
    Heal(Pair),
    /// A session that has been silent for too long is given up.
    Idle(Pair, u64),
    /// There is room on a disk again.
    Room(usize),
    /// The machine whose disk has lied dies.
    Betrayal(usize, u64),
    /// All faults and all clients.
    Everything,
}

impl World {
    /// Puts the first strike of every kind of fault into the queue.
    pub(super) fn plan_faults(&mut self) {
        for (_, fault) in Fault::ALL {
            self.plan_strike(fault, 0);
        }
    }

    /// Every strike has a stream of its own: one that is skipped moves no other.
    fn stream_of(&self, fault: Fault, number: u64) -> Random {
        self.plan.stream(Stream::Strike, ((fault as u64) << 32) | number)
    }

    fn plan_strike(&mut self, fault: Fault, number: u64) {
        let every_us = self.plan.every_us(fault);
        if every_us > 0 {
            let delay_us = self.stream_of(fault, number).range(0, 2 * every_us);
            self.add(delay_us, Event::Strike(fault, number));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault, number: u64) -> Result<(), String> {
        if self.calm {
            return Ok(());
        }
        self.plan_strike(fault, number + 1);
        if self.plan.skipped.contains(&(fault, number)) {
            return Ok(());
        }
        self.struck.push((fault, number));
        // Apart from the stream that its time came from.
        let r = &mut self.stream_of(fault, number | 1 << 31);
        self.trace.fault(self.now_us, || format!("{}.{number}", fault.name()));
        match fault {
            Fault::SessionBreak => {
                let pair = self.any_pair(r);
                self.break_session(pair, r.spread(MS, SECOND));
            }
            Fault::Cut => self.cut(r),
            Fault::Isolation => self.isolate(r),
            Fault::ProcessCrash => self.kill(false, r)?,
            Fault::MachineCrash => self.kill(true, r)?,
            Fault::StepCrash => {
                let moment = r.pick(&[Moment::Before, Moment::Halfway, Moment::After]);
                self.doom(Blow { after_steps: r.range(0, 12), moment }, r);
            }
            Fault::IoError => {
                self.counts.io_errors += 1;
                self.doom(Blow { after_steps: r.range(0, 3), moment: Moment::Before }, r);
            }
            Fault::DiskFull => self.fill_up(r),
            Fault::BitRot => self.rot(r),
            Fault::LyingSync => self.lie(r),
            Fault::Pause => {
                self.counts.pauses += 1;
                let (place, for_us) = (self.any_place(r), r.spread(20 * MS, 2 * SECOND));
                self.places[place].paused_until_us = self.now_us + for_us;
                self.trace.fault(self.now_us, || format!("region {place} stops for {for_us} us"));
            }
            Fault::ClockJump => {
                self.counts.clock_jumps += 1;
                let (place, by_us) = (self.any_place(r), r.around(self.plan.jump_us()));
                self.places[place].clocks.offset_us += by_us;
                self.trace.fault(self.now_us, || format!("clock of {place} jumps {by_us} us"));
            }
            Fault::BackUp => {
                let place = self.any_place(r);
                self.back_up(place);
            }
            Fault::Restore => self.restore(r)?,
            Fault::Join => self.want_join(r),
            Fault::Leave => self.want_leave(r),
            Fault::DeclareDead => self.want_dead(r)?,
            Fault::Relapse => self.relapse(r)?,
        }
        Ok(())
    }

    pub(super) fn relieve(&mut self, relief: Relief) -> Result<(), String> {
        match relief {
            Relief::Start(place) => {
                let here = &self.places[place];
                let is_away = here.away_until_us > self.now_us && !self.calm;
                if here.process.is_none()
                    && !here.belonging.is_gone
                    && !is_away
                    && !self.is_left_out(place)
                {
                    self.trace.fault(self.now_us, || format!("region {place} starts"));
                    self.start(place)?;
                }
            }
            Relief::Heal(pair) => {
                if self.probe.is_none() {
                    self.heal(pair);
                }
            }
            Relief::Idle(pair, number) => {
                let is_cut =
                    self.network.is_cut(pair.0, pair.1) || self.network.is_cut(pair.1, pair.0);
                if is_cut && self.network.number(pair) == Some(number) {
                    self.break_session(pair, 100 * MS);
                }
            }
            Relief::Room(place) => self.make_room(place),
            Relief::Betrayal(place, life) => {
                if self.lives(place, life) && self.places[place].honest.is_some() && !self.calm {
                    self.betray(place)?;
                }
            }
            Relief::Everything => self.heal_all()?,
        }
        Ok(())
    }

    /// Whether another ordinal can be handed out.
    pub(super) fn has_ordinals(&self) -> bool {
        let will_need_one = |p: &&Place| p.rotten || p.ruined || p.behind || p.honest.is_some();
        let needed = self.places.iter().filter(will_need_one).count();
        usize::from(self.next_origin) + needed < usize::from(MAX_ORIGINS)
    }

    fn cut(&mut self, r: &mut Random) {
        self.counts.cuts += 1;
        let pair = self.any_pair(r);
        let ways = [(pair.0, pair.1), (pair.1, pair.0)];
        let cut = match r.below(3) {
            0 => &ways[..1],
            1 => &ways[1..],
            _ => &ways[..],
        };
        let (for_us, patience_us) = (r.spread(20 * MS, 4 * SECOND), r.spread(200 * MS, 3 * SECOND));
        self.cut_ways(pair, cut, for_us, patience_us);
    }

    fn isolate(&mut self, r: &mut Random) {
        self.counts.isolations += 1;
        let place = self.any_place(r);
        let (for_us, patience_us) = (r.spread(20 * MS, 4 * SECOND), r.spread(200 * MS, 3 * SECOND));
        self.isolate_place(place, for_us, patience_us);
    }

    /// All links of a region carry nothing for a while.
    pub(super) fn isolate_place(&mut self, place: usize, for_us: u64, patience_us: u64) {
        for other in (0..self.places.len()).filter(|other| *other != place) {
            let ways = [(place, other), (other, place)];
            self.cut_ways(pair(place, other), &ways, for_us, patience_us);
        }
    }

    fn cut_ways(&mut self, pair: Pair, ways: &[(usize, usize)], for_us: u64, patience_us: u64) {
        for (from, to) in ways {
            self.network.cut(*from, *to);
        }
        self.trace.fault(self.now_us, || format!("cut {ways:?} for {for_us} us"));
        self.add(for_us, Event::Relief(Relief::Heal(pair)));
        if let Some(number) = self.network.number(pair) {
            self.add(patience_us, Event::Relief(Relief::Idle(pair, number)));
        }
    }

    pub(super) fn heal(&mut self, pair: Pair) {
        self.network.heal(pair);
        for arrival in self.network.resume(self.now_us, pair) {
            self.queue.add(arrival.at_us, Event::Arrival(arrival));
        }
    }

    fn kill(&mut self, machine: bool, r: &mut Random) -> Result<(), String> {
        let place = if machine { self.any_unsynced(r) } else { self.any_place(r) };
        if self.places[place].process.is_none() {
            return Ok(());
        }
        if machine {
            self.counts.machine_crashes += 1;
        } else {
            self.counts.process_crashes += 1;
        }
        self.crash(place, machine)?;
        self.come_back(place, r);
        Ok(())
    }

    /// What died starts again, later.
    pub(super) fn come_back(&mut self, place: usize, r: &mut Random) {
        let away_us = r.spread(MS, self.plan.away_us().max(MS));
        self.come_back_after(place, away_us);
    }

    pub(super) fn come_back_after(&mut self, place: usize, away_us: u64) {
        self.add(away_us, Event::Relief(Relief::Start(place)));
    }

    fn doom(&mut self, blow: Blow, r: &mut Random) {
        let place = self.any_place(r);
        if let Some(process) = &mut self.places[place].process {
            process.storage.strike(blow);
        }
    }

    pub(super) fn any_place(&mut self, r: &mut Random) -> usize {
        r.below(self.places.len())
    }

    /// Rather a machine that has something to lose.
    fn any_unsynced(&mut self, r: &mut Random) -> usize {
        let first = self.any_place(r);
        let count = self.places.len();
        let has_unsynced =
            |place: &usize| self.places[*place].process.as_ref().is_some_and(|p| p.needs_sync());
        (0..count).map(|step| (first + step) % count).find(has_unsynced).unwrap_or(first)
    }

    fn any_pair(&mut self, r: &mut Random) -> Pair {
        let a = self.any_place(r);
        let b = (a + r.range(1, self.places.len() as u64 - 1) as usize) % self.places.len();
        pair(a, b)
    }
}
