//! A machine that is set back to an older copy and not told: a snapshot of it was put back. It goes on
//! under its old ordinal, and what it writes is another history than the one that the others have.
//! They must refuse it, and it must notice by their word, refuse to write, and go on under a new
//! ordinal, from nothing.

use meridian_clock::{Origin, VersionVector};
use meridian_store::MemoryStorage;

use super::{Place, World};
use crate::random::Random;

impl World {
    /// Sets a machine back to its copy, if all others have more of it than the copy: then nobody can
    /// take the other history for the one that is known.
    pub(super) fn relapse(&mut self, r: &mut Random) -> Result<(), String> {
        let places: Vec<usize> = self.backups.keys().copied().collect();
        if places.is_empty() || !self.has_ordinals() || !self.can_relapse() {
            return Ok(());
        }
        let place = r.pick(&places);
        let here = &self.places[place];
        if here.process.is_none() || here.relapsed || here.honest.is_some() || here.rotten {
            return Ok(());
        }
        self.crash(place, true)?;
        self.come_back(place, r);
        let Some((had, disk)) = self.backups.remove(&place) else { return Ok(()) };
        let me = self.places[place].config.origin;
        let own = |vectors: &[VersionVector]| vectors.iter().map(|v| v.get(me)).max();
        let wrote = own(&self.places[place].synced);
        let has_all = |p: &Place| {
            let pairs = &mut p.synced.iter().zip(&had);
            own(&p.synced) == wrote && !p.relapsed && pairs.all(|(has, had)| has.dominates(had))
        };
        if own(&had) == wrote || !self.places.iter().all(has_all) {
            return Ok(());
        }
        self.counts.relapses += 1;
        self.trace.fault(self.now_us, || format!("machine of {place} is set back unnoticed"));
        let here = &mut self.places[place];
        here.disk = disk;
        here.relapsed = true;
        (here.forked, here.lost) = (false, wrote.unwrap_or_default());
        // Time is not set back with it: otherwise the other history could have the same stamps.
        here.floor = here.floor.max(here.lost.plus_ms(1));
        Ok(())
    }

    /// What else must not be on, so that nobody else forgets what the machine has lost: then two
    /// histories could not be told apart.
    fn can_relapse(&self) -> bool {
        let plan = &self.plan;
        let others = plan.restore_us() + plan.bit_rot_us() + plan.lying_sync_us();
        let alone = others == 0 && plan.travel() == 0 && !plan.changes_members();
        plan.partitions() == 1 && alone && self.fences()
    }

    /// A repair has given a machine that was set back what it had lost, before it wrote anything: then
    /// there is no other history.
    pub(super) fn regains(&mut self, place: usize, seen: &VersionVector) {
        let here = &mut self.places[place];
        let regained = seen.get(here.config.origin) >= here.lost;
        let outlived = here.process.as_ref().is_some_and(|p| p.node.clocks().is_outlived());
        if here.relapsed && regained && !here.forked && !outlived {
            here.relapsed = false;
        }
    }

    /// Whether the ordinal is that of a machine that was set back, given up or not.
    pub(super) fn has_relapsed(&self, origin: Origin) -> bool {
        let has = |p: &Place| p.config.origin == origin && (p.relapsed || p.behind);
        self.plan.relapse_us() > 0 && self.places.iter().any(has)
    }

    /// A machine that was set back is given up: its region goes on under a new ordinal, from nothing.
    pub(super) fn give_up_relapsed(&mut self, place: usize) {
        self.backups.remove(&place);
        let here = &mut self.places[place];
        (here.relapsed, here.knows_its_loss, here.behind) = (false, false, true);
        here.disk = MemoryStorage::new();
        let nothing = vec![VersionVector::new(); here.appended.len()];
        here.appended.clone_from(&nothing);
        here.synced = nothing;
    }

    /// Operators renew the regions that say that they have lost writes.
    pub(crate) fn renew_who_knows(&mut self) -> Result<(), String> {
        for place in 0..self.places.len() {
            if self.places[place].relapsed && self.places[place].knows_its_loss {
                self.crash(place, false)?;
                self.start(place)?;
            }
        }
        Ok(())
    }

    /// Those that only heal in part, or are healed by force, are renewed whether they know or not.
    pub(super) fn renew_relapsed(&mut self) -> Result<(), String> {
        for place in 0..self.places.len() {
            if self.places[place].relapsed && self.places[place].process.is_some() {
                self.crash(place, false)?;
            } else if self.places[place].relapsed {
                self.give_up_relapsed(place);
            }
        }
        Ok(())
    }
}
