//! Starting, syncing, checkpointing, dying: what regions do with their disks.

use meridian_clock::{Origin, Time, VersionVector};
use meridian_failover::Members;
use meridian_node::ControlAblations;
use meridian_store::{
    CheckpointBatch, CrashModel, Entries, Frame, MemoryStorage, Meta, RepairPart, Storage,
};

use super::{Event, World, faults::Relief, members::Belonging};
use crate::{
    ablation::Ablation,
    control_log::ControlPlane,
    disk::{SimDisk, Step},
    lockstep::Lockstep,
    plan::{MS, SECOND},
    random::Random,
    region::{Progress, Region, RegionConfig},
};

/// An end-to-end check ends this often.
const CHECK_EVERY_US: u64 = 500 * MS;

/// Steps of a checkpoint follow each other within this time.
const CHECKPOINT_STEP_US: u64 = 10 * MS;

impl World {
    /// Starts the process of a place from its disk. A disk that is refused is given up.
    pub(super) fn start(&mut self, place: usize) -> Result<(), String> {
        if self.places[place].belonging.is_gone {
            return Ok(());
        }
        if self.places[place].ruined {
            return self.begin_again(place);
        }
        if self.places[place].behind {
            return self.renumber(place, None);
        }
        let (topology, fences) = (self.topology, self.fences());
        let here = &mut self.places[place];
        here.life += 1;
        here.topology = topology;
        here.syncing = false;
        here.paused_until_us = 0;
        let disk = std::mem::take(&mut here.disk);
        let mut process = match Region::start(here.config.clone(), disk) {
            Err(_) if here.rotten => return self.begin_again(place),
            started => started?,
        };
        process.storage.set_full(here.full);
        self.counts.restarts_from_both += u64::from(process.from_both);
        let vectors = process.vectors();
        here.logged = process.storage.bounds().1;
        here.appended.clone_from(&vectors);
        here.synced.clone_from(&vectors);
        here.looked.clone_from(&vectors);
        if !fences {
            here.looked_now = Time::ZERO;
        }
        here.sets = Lockstep::rebuilt(&self.history, &vectors);
        if self.plan.control() > 0 {
            process.control = Some(self.start_control(place)?);
        }
        let turn_us = self.plan.turn_us();
        let checkpoint_us = self.plan.checkpoint_us();
        self.start_clocks(place, &mut process);
        self.bind(place);
        let here = &mut self.places[place];
        here.process = Some(process);
        here.stirred = true;
        let life = here.life;
        let first_us = here.turns.range(0, turn_us);
        let checkpoint_after_us = here.turns.range(0, checkpoint_us);
        here.control_due_us = 0;
        self.follow_members(place)?;
        self.add(first_us, Event::Turn(place, life));
        self.add(CHECK_EVERY_US / 2, Event::Check(place, life));
        if checkpoint_us > 0 {
            self.add(checkpoint_after_us, Event::Checkpoint(place, life));
        }
        Ok(())
    }

    fn start_control(&mut self, place: usize) -> Result<ControlPlane, String> {
        let here = &mut self.places[place];
        let log = std::mem::take(&mut here.control_log);
        let now_ms = here.clocks.steady_ms(self.now_us);
        let incarnation = here.clocks.physical_us(self.now_us);
        here.belonging.followed = Members::default();
        here.belonging.left_us = None;
        let Belonging { id, configured, told, .. } = here.belonging.clone();
        let now = (now_ms, incarnation);
        let mut plane = ControlPlane::start(id, configured, told, self.round_trip_ms, log, now)?;
        plane.control.ablate(ControlAblations {
            leave_with_vote: self.plan.off == Some(Ablation::LeaveWithVote),
        });
        if self.plan.off == Some(Ablation::VoteUnsynced) {
            plane.be_hasty();
        }
        Ok(plane)
    }

    /// Asks for a sync if there is something to sync and none is under way.
    pub(super) fn schedule_sync(&mut self, place: usize) {
        let here = &mut self.places[place];
        let needs = here.process.as_ref().is_some_and(Region::needs_sync);
        if here.syncing || !needs {
            return;
        }
        here.syncing = true;
        let (life, delay_us) = (here.life, here.sync_us());
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
        let keys = self.places[place].turns.range(1, 3) as usize;
        let Some(process) = self.process(place) else { return Ok(()) };
        let (progress, frames) = process.checkpoint_step(keys)?;
        self.committed(place, &frames)?;
        let every_us = self.plan.checkpoint_us().max(MS);
        let delay_us = match progress {
            Progress::Under => self.places[place].turns.range(0, CHECKPOINT_STEP_US),
            Progress::Idle => self.places[place].turns.range(0, every_us),
            Progress::Complete => {
                self.counts.checkpoints += 1;
                self.places[place].turns.range(0, every_us)
            }
        };
        let life = self.places[place].life;
        self.add(delay_us, Event::Checkpoint(place, life));
        Ok(())
    }

    pub(super) fn check(&mut self, place: usize) {
        let here = &self.places[place];
        let (now_ms, life) = (here.clocks.steady_ms(self.now_us), here.life);
        let took_ms = here.config.sync_us.1 / MS;
        if let Some(plane) = self.process(place).and_then(|p| p.control.as_mut()) {
            plane.check(now_ms, took_ms);
            self.add(CHECK_EVERY_US, Event::Check(place, life));
        }
    }

    /// The process of a place dies, or the whole machine.
    pub(super) fn crash(&mut self, place: usize, machine: bool) -> Result<(), String> {
        let Some(process) = self.places[place].process.take() else { return Ok(()) };
        self.counts.harvest(&process);
        if self.places[place].relapsed {
            self.trace.fault(self.now_us, || format!("relapsed region {place} dies"));
            self.part_from(place);
            let mut control_log = process.control.map(ControlPlane::into_log).unwrap_or_default();
            control_log.crash(None);
            self.places[place].control_log = control_log;
            self.give_up_relapsed(place);
            return Ok(());
        }
        let Region { mut storage, control, .. } = process;
        let mut control_log = control.map(ControlPlane::into_log).unwrap_or_default();
        let is_loyal = self.places[place].honest.is_none();
        let r = &mut self.places[place].disk_random;
        let model = if machine {
            control_log.crash(Some(r.below(control_log.unsynced() + 1)));
            lose_part(&mut storage, is_loyal, r)
        } else {
            control_log.crash(None);
            CrashModel::Process
        };
        let appended = storage.bounds().1;
        let disk = storage.reopen(model);
        self.part_from(place);
        let here = &mut self.places[place];
        here.control_log = control_log;
        if machine {
            here.clocks.uptime_us = here.disk_random.range(0, 100 * SECOND);
            // What it heard and had not synced may have moved its time beyond the floor.
            here.looked_now = Time::ZERO;
        }
        self.trace.fault(self.now_us, || {
            format!("region {place} dies, {}", if machine { "machine" } else { "process" })
        });
        match disk {
            Ok(disk) => {
                self.counts.torn_tails += u64::from(disk.bounds().1 < appended);
                self.learn_unseen(place, &disk)?;
                self.places[place].disk = disk;
                self.lose_unsynced(place, machine)
            }
            // What a liar says of itself may contradict what it holds.
            Err(_) if self.places[place].rotten || !is_loyal => {
                self.give_up(place);
                Ok(())
            }
            Err(error) => Err(format!("region {place} finds what nobody has done: {error}")),
        }
    }

    /// A process whose disk has failed ends.
    pub(super) fn fall(&mut self, place: usize) -> Result<(), String> {
        let failed = self.places[place].process.as_ref().and_then(|p| p.storage.failed());
        self.trace.fault(self.now_us, || format!("disk of {place} fails: {failed:?}"));
        match failed {
            Some(Step::Append) => self.counts.failed_appends += 1,
            Some(Step::Sync) => self.counts.failed_syncs += 1,
            Some(Step::Portion | Step::Record) => self.counts.failed_checkpoints += 1,
            Some(Step::Release) => self.counts.failed_releases += 1,
            Some(Step::Read) => self.counts.failed_reads += 1,
            None => {}
        }
        // After a sync that failed nobody knows what of it is on disk.
        self.crash(place, failed == Some(Step::Sync))?;
        let mut r = self.places[place].disk_random.clone();
        self.come_back(place, &mut r);
        self.places[place].disk_random = r;
        Ok(())
    }

    /// Clients and peers lose a process that has died.
    fn part_from(&mut self, place: usize) {
        self.unbind(place);
        self.network.forget_end(place);
        for other in (0..self.places.len()).filter(|other| *other != place) {
            let notice_us = self.places[place].turns.spread(MS, SECOND);
            self.break_session(crate::network::pair(place, other), notice_us);
        }
        for (slot, home) in self.homes.iter().enumerate() {
            if *home == place {
                self.clients[slot] = None;
            }
        }
    }

    /// What the process had just appended when it died, and nobody has seen yet.
    fn learn_unseen(&mut self, place: usize, disk: &MemoryStorage) -> Result<(), String> {
        let logged = self.places[place].logged;
        let me = self.places[place].config.origin;
        if disk.bounds().1 <= logged {
            return Ok(());
        }
        let bytes = disk.read(logged, usize::MAX).map_err(|e| e.to_string())?;
        for entry in Entries::new(&bytes, logged) {
            for bytes in entry.frames() {
                self.trace.mix_bytes(bytes);
                if RepairPart::is_one(bytes) {
                    self.learn_repair(place, bytes)?;
                    continue;
                }
                let frame = Frame::decode(bytes).map_err(|e| e.to_string())?;
                let header = &frame.header;
                if header.origin == me {
                    self.history.learn(&frame)?;
                }
                let appended = &mut self.places[place].appended;
                appended[usize::from(header.partition)].raise(header.origin, header.last);
            }
        }
        Ok(())
    }

    /// Finds out what the dead region's disk still holds; the rest of its own writes never was.
    fn lose_unsynced(&mut self, place: usize, machine: bool) -> Result<(), String> {
        let here = &mut self.places[place];
        let (me, config) = (here.config.origin, here.config.clone());
        let kept = match recovered(config, here.disk.clone()) {
            Err(_) if here.rotten => {
                self.give_up(place);
                return Ok(());
            }
            kept => kept?,
        };
        let is_loyal = here.honest.is_none();
        for (number, (kept, synced)) in kept.iter().zip(&here.synced).enumerate() {
            if is_loyal && !kept.dominates(synced) {
                return Err(format!("region {place} lost synced frames of partition {number}"));
            }
        }
        if !machine && kept != here.appended {
            return Err(format!("region {place} has lost frames with its process alone"));
        }
        let before: Vec<VersionVector> = std::mem::replace(&mut here.appended, kept.clone());
        here.synced.clone_from(&kept);
        if !is_loyal {
            // What it lost may live on elsewhere: it has said that it was durable.
            self.history.forget_notes(me);
            let here = &mut self.places[place];
            here.honest = None;
            here.behind = before != kept;
            self.counts.betrayals += u64::from(before != kept);
            return Ok(());
        }
        self.forget_lost(me, &kept);
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
        Ok(())
    }

    /// The disk of a dead region is refused: what only it had is lost.
    fn give_up(&mut self, place: usize) {
        self.trace.fault(self.now_us, || format!("the disk of {place} is refused"));
        let here = &mut self.places[place];
        here.ruined = true;
        here.honest = None;
        here.disk = MemoryStorage::new();
        let nothing = vec![VersionVector::new(); here.appended.len()];
        here.appended.clone_from(&nothing);
        here.synced = nothing;
        let me = here.config.origin;
        self.history.forget_notes(me);
    }

    /// Takes a copy of a region's disk as it would be found after the machine's death.
    pub(super) fn back_up(&mut self, place: usize) {
        let here = &self.places[place];
        let is_sound = here.honest.is_none() && !here.relapsed;
        let Some(process) = here.process.as_ref().filter(|_| is_sound) else {
            return;
        };
        let model = CrashModel::Machine { log_bytes: 0, batches: 0 };
        // A copy reads everything and is refused where that is damaged.
        let Ok(disk) = process.storage.clone().reopen(model) else { return };
        if !self.places[place].rotten {
            self.backups.insert(place, (self.places[place].synced.clone(), disk));
            self.trace.fault(self.now_us, || format!("region {place} is copied"));
        }
    }

    /// Sets a region back to its copy.
    pub(super) fn restore(&mut self, r: &mut Random) -> Result<(), String> {
        let places: Vec<usize> = self.backups.keys().copied().collect();
        if places.is_empty() || !self.has_ordinals() {
            return Ok(());
        }
        let place = r.pick(&places);
        let Some((_, disk)) = self.backups.remove(&place) else { return Ok(()) };
        self.counts.restores += 1;
        self.renumber(place, Some(disk))
    }

    /// A region whose disk is refused begins again: from its copy if there is one, else from
    /// nothing.
    fn begin_again(&mut self, place: usize) -> Result<(), String> {
        let backup = self.backups.remove(&place);
        match &backup {
            Some(_) => self.counts.restores += 1,
            None => self.counts.rebirths += 1,
        }
        self.renumber(place, Some(backup.map(|(_, disk)| disk).unwrap_or_default()))
    }

    /// A region goes on under a new ordinal, with another disk or its own, of which every region
    /// is told: all processes start again with the new topology.
    fn renumber(&mut self, place: usize, disk: Option<MemoryStorage>) -> Result<(), String> {
        let dead: Vec<bool> = self.places.iter().map(|p| p.process.is_none()).collect();
        for other in 0..self.places.len() {
            self.crash(other, false)?;
        }
        let former = self.places[place].config.origin;
        let here = &mut self.places[place];
        here.disk = disk.unwrap_or(std::mem::take(&mut here.disk));
        (here.rotten, here.ruined, here.behind, here.honest) = (false, false, false, None);
        here.looked_now = Time::ZERO;
        if self.plan.off != Some(Ablation::ReuseOrdinal) {
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
        self.trace.fault(self.now_us, || format!("region {place} goes on anew, was {former}"));
        let living = (0..self.places.len()).filter(|other| *other == place || !dead[*other]);
        let living: Vec<usize> = living.filter(|other| !self.is_left_out(*other)).collect();
        living.into_iter().try_for_each(|place| self.start(place))
    }

    /// What only the former incarnation had is lost, and may be; nothing else.
    fn forget_unshipped(&mut self, former: Origin) {
        let durable = self.durable_somewhere();
        if self.plan.off == Some(Ablation::ReuseOrdinal) {
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

    /// A disk has no room for a while.
    pub(super) fn fill_up(&mut self, r: &mut Random) {
        self.counts.full_disks += 1;
        let (place, for_us) = (self.any_place(r), r.spread(20 * MS, SECOND));
        let here = &mut self.places[place];
        here.full = true;
        if let Some(process) = &mut here.process {
            process.storage.set_full(true);
        }
        self.trace.fault(self.now_us, || format!("disk of {place} is full for {for_us} us"));
        self.add(for_us, Event::Relief(Relief::Room(place)));
    }

    pub(super) fn make_room(&mut self, place: usize) {
        let here = &mut self.places[place];
        here.full = false;
        if let Some(process) = &mut here.process {
            process.storage.set_full(false);
        }
    }

    /// A bit of what a region has on disk changes.
    pub(super) fn rot(&mut self, r: &mut Random) {
        let place = self.any_place(r);
        let (in_log, at, bit) = (r.chance(700), r.range(0, 1 << 40), r.range(0, 7));
        let has_ordinals = self.has_ordinals();
        let here = &mut self.places[place];
        let Some(process) = here.process.as_mut().filter(|_| here.honest.is_none()) else {
            return;
        };
        let synced = process.storage.synced_position().0 - process.storage.bounds().0.0;
        if !has_ordinals || (in_log && synced == 0) {
            return;
        }
        here.rotten = true;
        self.counts.rots += 1;
        if in_log {
            process.storage.inner_mut().flip_log_bit((at % synced) as usize, bit as u8);
        } else {
            process.storage.inner_mut().flip_checkpoint_bit();
        }
        self.trace.fault(self.now_us, || format!("disk of {place} rots, in log: {in_log}"));
    }

    /// A disk whose damage nobody has met yet is found by a scrub and given up.
    pub(super) fn replace_rotten(&mut self, place: usize) -> Result<(), String> {
        if !self.places[place].rotten {
            return Ok(());
        }
        self.crash(place, false)?;
        if !self.places[place].ruined {
            self.give_up(place);
        }
        self.start(place)
    }

    /// A disk begins to lie, until its machine dies.
    pub(super) fn lie(&mut self, r: &mut Random) {
        let (place, for_us) = (self.any_place(r), r.spread(20 * MS, SECOND));
        let has_ordinals = self.has_ordinals();
        let here = &mut self.places[place];
        let Some(process) = here.process.as_mut().filter(|_| !here.rotten) else { return };
        if here.honest.is_none() && has_ordinals {
            process.storage.lie();
            here.honest = Some(here.synced.clone());
            let life = here.life;
            self.trace.fault(self.now_us, || format!("disk of {place} lies"));
            self.add(for_us, Event::Relief(Relief::Betrayal(place, life)));
        }
    }

    /// The machine of a lying disk dies: the region is behind what it has shown, and has to go on
    /// under a new ordinal.
    pub(super) fn betray(&mut self, place: usize) -> Result<(), String> {
        self.crash(place, true)?;
        self.start(place)
    }
}

/// Decides what of the unsynced the machine's death leaves.
fn lose_part(storage: &mut SimDisk, is_loyal: bool, r: &mut Random) -> CrashModel {
    let unsynced = storage.bounds().1.0 - storage.inner().synced_position().0;
    let unsynced = unsynced as usize;
    if unsynced > 0 && r.chance(300) {
        storage.inner_mut().lose_sector(r.below(unsynced));
    }
    let log_bytes = r.below(unsynced + 1);
    let batches = r.below(storage.pending_batches() + 1);
    // Tables may hold what the lying log has lost: they go with it.
    CrashModel::Machine { log_bytes, batches: if is_loyal { batches } else { 0 } }
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
