//! Starting, syncing, checkpointing, dying: what regions do with their disks.

use meridian_clock::{Origin, Time, VersionVector};
use meridian_store::{CheckpointBatch, CrashModel, MemoryStorage, Meta, Storage};

use super::{Event, World};
use crate::{
    ablation::Ablation,
    control_log::ControlPlane,
    lockstep::Lockstep,
    plan::{MS, SECOND},
    region::{Progress, Region, RegionConfig},
};

/// An end-to-end check ends this often.
const CHECK_EVERY_US: u64 = 500 * MS;

/// Steps of a checkpoint follow each other within this time.
const CHECKPOINT_STEP_US: u64 = 10 * MS;

impl World {
    /// Starts the process of a place from its disk.
    pub(super) fn start(&mut self, place: usize) -> Result<(), String> {
        let topology = self.topology;
        let here = &mut self.places[place];
        here.life += 1;
        here.topology = topology;
        here.syncing = false;
        here.paused_until_us = 0;
        let disk = std::mem::take(&mut here.disk);
        let mut process = Region::start(here.config.clone(), disk)?;
        let vectors = process.vectors();
        here.appended.clone_from(&vectors);
        here.synced.clone_from(&vectors);
        here.looked.clone_from(&vectors);
        here.looked_now = Time::ZERO;
        here.sets = Lockstep::rebuilt(&self.history, &vectors);
        if self.plan.control {
            process.control = Some(self.start_control(place)?);
        }
        let here = &mut self.places[place];
        here.process = Some(process);
        let life = here.life;
        let first_us = self.schedule.range(0, self.plan.turn_us);
        self.add(first_us, Event::Turn(place, life));
        self.add(CHECK_EVERY_US / 2, Event::Check(place, life));
        if let Some(every_us) = self.plan.checkpoint {
            let delay_us = self.schedule.range(0, every_us);
            self.add(delay_us, Event::Checkpoint(place, life));
        }
        Ok(())
    }

    fn start_control(&mut self, place: usize) -> Result<ControlPlane, String> {
        let here = &mut self.places[place];
        let log = std::mem::take(&mut here.control_log);
        let now_ms = here.clocks.steady_ms(self.now_us);
        let incarnation = here.clocks.physical_us(self.now_us);
        let regions = self.plan.regions as u16;
        let round_trip_ms = self.network.round_trip_ms();
        ControlPlane::start(place as u16, regions, round_trip_ms, log, now_ms, incarnation)
    }

    /// Asks for a sync if there is something to sync and none is under way.
    pub(super) fn schedule_sync(&mut self, place: usize) {
        let (from, upto) = self.plan.sync_us[place];
        let here = &mut self.places[place];
        let needs = here.process.as_ref().is_some_and(Region::needs_sync);
        if here.syncing || !needs {
            return;
        }
        here.syncing = true;
        let life = here.life;
        let delay_us = self.schedule.range(from, upto);
        self.add(delay_us, Event::Synced(place, life));
    }

    pub(super) fn log_synced(&mut self, place: usize) -> Result<(), String> {
        self.places[place].syncing = false;
        let Some(process) = self.process(place) else { return Ok(()) };
        process.synced()?;
        let here = &mut self.places[place];
        here.synced.clone_from(&here.appended);
        self.deliver_replies(place)?;
        self.ship(place)
    }

    pub(super) fn checkpoint(&mut self, place: usize) -> Result<(), String> {
        let keys = self.schedule.range(1, 3) as usize;
        let Some(process) = self.process(place) else { return Ok(()) };
        let (progress, frames) = process.checkpoint_step(keys)?;
        self.committed(place, &frames)?;
        let every_us = self.plan.checkpoint.unwrap_or(SECOND);
        let delay_us = match progress {
            Progress::Under => self.schedule.range(0, CHECKPOINT_STEP_US),
            Progress::Idle => self.schedule.range(0, every_us),
            Progress::Complete => {
                self.counts.checkpoints += 1;
                self.schedule.range(0, every_us)
            }
        };
        let life = self.places[place].life;
        self.add(delay_us, Event::Checkpoint(place, life));
        Ok(())
    }

    pub(super) fn check(&mut self, place: usize) {
        let here = &self.places[place];
        let (now_ms, life) = (here.clocks.steady_ms(self.now_us), here.life);
        let took_ms = self.plan.sync_us[place].1 / MS;
        if let Some(plane) = self.process(place).and_then(|p| p.control.as_mut()) {
            plane.check(now_ms, took_ms);
            self.add(CHECK_EVERY_US, Event::Check(place, life));
        }
    }

    /// The process of a place dies, or the whole machine.
    pub(super) fn crash(&mut self, place: usize, machine: bool) -> Result<(), String> {
        let Some(process) = self.places[place].process.take() else { return Ok(()) };
        let Region { storage, control, .. } = process;
        let mut control_log = control.map(ControlPlane::into_log).unwrap_or_default();
        let model = if machine {
            let log_bytes = self.faults.below(storage.unsynced() + 1);
            let batches = self.faults.below(storage.pending_batches() + 1);
            control_log.crash(Some(self.faults.below(control_log.unsynced() + 1)));
            CrashModel::Machine { log_bytes, batches }
        } else {
            control_log.crash(None);
            CrashModel::Process
        };
        let disk = storage.crash(model);
        self.part_from(place);
        let here = &mut self.places[place];
        here.control_log = control_log;
        here.disk = disk;
        if machine {
            here.clocks.uptime_us = self.faults.range(0, 100 * SECOND);
        }
        self.trace.fault(self.now_us, || {
            format!("region {place} dies, {}", if machine { "machine" } else { "process" })
        });
        self.lose_unsynced(place, machine)
    }

    /// Clients and peers lose a process that has died.
    fn part_from(&mut self, place: usize) {
        self.network.forget_end(place);
        for other in (0..self.places.len()).filter(|other| *other != place) {
            let notice_us = self.faults.spread(MS, SECOND);
            self.break_session(crate::network::pair(place, other), notice_us);
        }
        for (slot, home) in self.homes.iter().enumerate() {
            if *home == place {
                self.clients[slot] = None;
            }
        }
        self.history.forget_notes(self.places[place].config.origin);
    }

    /// Finds out what the dead region's disk still holds; the rest of its own writes never was.
    fn lose_unsynced(&mut self, place: usize, machine: bool) -> Result<(), String> {
        let here = &self.places[place];
        let (me, config) = (here.config.origin, here.config.clone());
        let kept = recovered(config, here.disk.clone())?;
        for (number, (kept, synced)) in kept.iter().zip(&here.synced).enumerate() {
            if !kept.dominates(synced) {
                return Err(format!("region {place} lost synced frames of partition {number}"));
            }
        }
        if !machine && kept != here.appended {
            return Err(format!("region {place} has lost frames with its process alone"));
        }
        let lost = self.history.forget(me, &kept);
        self.counts.lost_operations += lost.len() as u64;
        for promise in &self.promises {
            let is_kept = kept[usize::from(promise.partition)].covers(promise.dot);
            if promise.dot.origin == me && promise.durable && !is_kept {
                return Err(format!("acknowledged as durable and lost: {}", promise.dot));
            }
        }
        self.promises
            .retain(|p| p.dot.origin != me || kept[usize::from(p.partition)].covers(p.dot));
        let here = &mut self.places[place];
        here.appended.clone_from(&kept);
        here.synced = kept;
        Ok(())
    }

    /// Takes a copy of a region's disk as it would be found after the machine's death.
    pub(super) fn back_up(&mut self, place: usize) {
        let Some(process) = &self.places[place].process else { return };
        let disk = process.storage.clone().crash(CrashModel::Machine { log_bytes: 0, batches: 0 });
        self.backup = Some((place, self.places[place].synced.clone(), disk));
        self.trace.fault(self.now_us, || format!("region {place} is copied"));
    }

    /// Sets a region back to the copy, under a new ordinal, of which every region is told: all
    /// processes start again with the new topology.
    pub(super) fn restore(&mut self) -> Result<(), String> {
        let Some((place, _, disk)) = self.backup.take() else { return Ok(()) };
        for other in 0..self.places.len() {
            self.crash(other, false)?;
        }
        self.counts.restores += 1;
        let former = self.places[place].config.origin;
        let here = &mut self.places[place];
        here.disk = disk;
        if self.ablation != Some(Ablation::ReuseOrdinal) {
            here.config.origin = Origin(self.next_origin);
            self.next_origin += 1;
            reidentify(&mut here.disk, &here.config)?;
        }
        let kept = recovered(here.config.clone(), here.disk.clone())?;
        here.appended.clone_from(&kept);
        here.synced.clone_from(&kept);
        self.forget_unshipped(former);
        self.topology += 1;
        let origins: Vec<Origin> = self.places.iter().map(|p| p.config.origin).collect();
        for place in &mut self.places {
            let me = place.config.origin;
            place.config.peers = origins.iter().copied().filter(|o| *o != me).collect();
        }
        self.trace.fault(self.now_us, || format!("region {place} is set back, was {former}"));
        (0..self.places.len()).try_for_each(|place| self.start(place))
    }

    /// What only the former incarnation had is lost, and may be; nothing else.
    fn forget_unshipped(&mut self, former: Origin) {
        let durable = self.durable_somewhere();
        if self.ablation == Some(Ablation::ReuseOrdinal) {
            let kept: Vec<VersionVector> = self
                .places
                .iter()
                .find(|p| p.config.origin == former)
                .map(|p| p.synced.clone())
                .unwrap_or_default();
            self.history.forget(former, &kept);
        }
        self.promises.retain(|p| durable[usize::from(p.partition)].covers(p.dot));
    }
}

/// What a disk holds, by partition.
fn recovered(config: RegionConfig, disk: MemoryStorage) -> Result<Vec<VersionVector>, String> {
    Ok(Region::start(config, disk)?.vectors())
}

/// Puts a new identity on a copied disk.
fn reidentify(disk: &mut MemoryStorage, config: &RegionConfig) -> Result<(), String> {
    let Some(bytes) = disk.meta().map_err(|e| e.to_string())? else { return Ok(()) };
    let mut meta = Meta::decode(&bytes).map_err(|e| e.to_string())?;
    meta.identity = config.identity();
    let batch = CheckpointBatch { meta: Some(meta.encode()), ..CheckpointBatch::default() };
    disk.checkpoint(batch).map_err(|e| e.to_string())
}
