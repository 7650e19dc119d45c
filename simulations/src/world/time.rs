//! Regions that look after their clocks: floors on disk, notes between peers, and the fence.

use meridian_clock::Time;
use meridian_node::{Alarm, wire::PeerMessage};

use super::{Event, World};
use crate::{ablation::Ablation, plan::MS, region::Region};

/// What a liar's clock is ahead or behind now and then.
const EIGHT_HOURS_US: u64 = 8 * 3600 * 1000 * MS;

/// How far off a clock may be where the plan does not say, in milliseconds.
const LOOSE_FENCE_MS: u64 = 60_000;

impl World {
    /// Whether regions compare their clocks, refuse to write while theirs is off, and reserve time
    /// on disk. Always where sessions go from region to region: a session that waits relies on what
    /// watermarks promised, which without a floor a restart would take back (docs/adr/0016).
    pub(crate) fn fences(&self) -> bool {
        self.plan.fence_ms() > 0 || self.plan.travel() > 0
    }

    fn fence_ms(&self) -> u64 {
        if self.plan.fence_ms() > 0 { self.plan.fence_ms() } else { LOOSE_FENCE_MS }
    }

    /// A process begins above the floor that its disk holds, and reserves some more at once.
    pub(super) fn start_clocks(&mut self, place: usize, process: &mut Region) {
        if !self.fences() {
            return;
        }
        let fence_ms = self.fence_ms();
        let here = &mut self.places[place];
        let (steady_us, unix_us) = here.clocks.both_us(self.now_us);
        here.latest_us = here.latest_us.max(unix_us);
        if self.plan.off == Some(Ablation::ForgetClockFloor) {
            here.floor = Time::ZERO;
        }
        process.node.start_clocks(steady_us, unix_us, here.floor, fence_ms);
        if let Some(upto) = process.node.floor_wanted() {
            here.floor = here.floor.max(upto);
            process.node.floor_granted(here.floor);
        }
    }

    /// More time is reserved when it is needed, and fences are counted.
    pub(super) fn look_after_clocks(&mut self, place: usize) -> Result<(), String> {
        if !self.fences() {
            return Ok(());
        }
        let Some(process) = self.process(place) else { return Ok(()) };
        let (wanted, alarms) = (process.node.floor_wanted(), process.node.take_alarms());
        let fenced = alarms.iter().filter(|alarm| matches!(alarm, Alarm::Fenced(_))).count();
        let unfenced = alarms.iter().filter(|alarm| matches!(alarm, Alarm::Unfenced)).count();
        self.counts.fences += fenced as u64;
        self.counts.fences_lifted += unfenced as u64;
        if fenced > 0 {
            self.check_fence(place)?;
        }
        self.counts.outlived += alarms.iter().filter(|a| **a == Alarm::Outlived).count() as u64;
        for alarm in alarms {
            self.trace.line(self.now_us, || format!("{place} {alarm:?}"));
        }
        if let Some(upto) = wanted {
            let (life, delay_us) = (self.places[place].life, self.places[place].sync_us());
            self.add(delay_us, Event::FloorSynced(place, life, upto));
        }
        Ok(())
    }

    /// The region that lies about its clock, while it does.
    fn liar(&self) -> Option<usize> {
        (self.plan.liar() > 0 && !self.calm).then(|| self.places.len() - 1)
    }

    /// A message as a region sends it: the liar's clock shows anything.
    pub(super) fn as_told(&mut self, place: usize, mut message: PeerMessage) -> PeerMessage {
        if self.liar() != Some(place) {
            return message;
        }
        let near_us = (2 * self.fence_ms() * MS) as i64;
        let mut lie = |told_us: u64| {
            self.counts.lies += 1;
            match self.lies.below(5) {
                0 => told_us.saturating_add(EIGHT_HOURS_US),
                1 => told_us.saturating_sub(EIGHT_HOURS_US),
                2 => told_us.saturating_add_signed(self.lies.around(near_us.unsigned_abs())),
                3 => 0,
                _ => u64::MAX,
            }
        };
        match &mut message {
            PeerMessage::Clock(note) => note.physical_us = lie(note.physical_us),
            PeerMessage::Watermark(mark) => mark.physical_ms = lie(mark.physical_ms * MS) / MS,
            _ => {}
        }
        message
    }

    /// A region whose clock agrees with those of all honest ones does not fence itself, whatever
    /// another one says.
    fn check_fence(&self, place: usize) -> Result<(), String> {
        let Some(liar) = self.liar().filter(|liar| *liar != place) else { return Ok(()) };
        if self.plan.clock_jump_us() > 0 {
            // What another clock showed before it jumped may still count.
            return Ok(());
        }
        let shows = |place: usize| self.places[place].clocks.physical_us(self.now_us);
        let honest = (0..self.places.len()).filter(|other| *other != liar);
        let apart_us = honest.map(|other| shows(other).abs_diff(shows(place))).max();
        if apart_us.is_some_and(|us| us < self.fence_ms() * MS / 2) {
            return Err(format!(
                "region {place} fences itself although no honest clock is far from its own"
            ));
        }
        Ok(())
    }

    /// Time is reserved on disk.
    pub(super) fn floor_synced(&mut self, place: usize, upto: Time) {
        let floor = &mut self.places[place].floor;
        *floor = upto.max(*floor);
        let upto = *floor;
        if let Some(process) = self.process(place) {
            process.node.floor_granted(upto);
        }
    }
}
