//! Regions that look after their clocks: floors on disk, notes between peers, and the fence.

use meridian_clock::Time;
use meridian_node::Alarm;

use super::{Event, World};
use crate::{ablation::Ablation, region::Region};

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
    pub(super) fn look_after_clocks(&mut self, place: usize) {
        if !self.fences() {
            return;
        }
        let Some(process) = self.process(place) else { return };
        let (wanted, alarms) = (process.node.floor_wanted(), process.node.take_alarms());
        let fenced = alarms.iter().filter(|alarm| matches!(alarm, Alarm::Fenced(_))).count();
        let unfenced = alarms.iter().filter(|alarm| matches!(alarm, Alarm::Unfenced)).count();
        self.counts.fences += fenced as u64;
        self.counts.fences_lifted += unfenced as u64;
        for alarm in alarms {
            self.trace.line(self.now_us, || format!("{place} {alarm:?}"));
        }
        if let Some(upto) = wanted {
            let (life, delay_us) = (self.places[place].life, self.places[place].sync_us());
            self.add(delay_us, Event::FloorSynced(place, life, upto));
        }
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
