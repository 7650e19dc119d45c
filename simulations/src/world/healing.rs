//! How everything heals: perhaps a part first, which must go on alone, then the rest.
//!
//! A region that waits for one that never comes back is as dead as that one. So a majority heals
//! first, with no more links than connect it, and has to show progress while the others stay away.

use std::collections::BTreeSet;

use meridian_clock::Dot;

use super::{Event, VERDICT_EVERY_US, World};
use crate::{
    network::pair,
    plan::{MS, SECOND, Weather},
    random::Stream,
};

/// Clocks that were wrong by more than this are set ahead of all that was stamped meanwhile.
const WILD_US: u64 = 30 * SECOND;

/// A disk that has healed syncs within this. A leader whose disk takes longer than its lease is
/// deposed while it writes down that it leads: with such disks there may be no leader for minutes.
const HEALED_SYNC_US: u64 = 100 * MS;

/// Of a link that has healed the delay varies by one part in so many: with more a lease that is
/// made for the delay ends before its answer comes, now and then.
const HEALED_JITTER: u64 = 10;

/// So often a region is drawn that may stay away while a part goes on alone.
const TRIES: usize = 200;

/// The part that has healed, and what was written in it since.
#[derive(Debug)]
pub(crate) struct Probe {
    members: Vec<usize>,
    /// By member that has written already: where and what.
    wrote: Vec<(u16, Dot)>,
    /// Members that have not written yet.
    silent: Vec<usize>,
}

impl World {
    /// The time of faults is over.
    pub(super) fn heal_all(&mut self) -> Result<(), String> {
        self.calm = true;
        self.withdraw_all();
        self.go_home();
        (0..self.places.len()).try_for_each(|place| self.replace_rotten(place))?;
        self.backups.clear();
        self.healed_us = self.now_us;
        self.network.change_weather(|w| Weather {
            loss: 0,
            duplicates: 0,
            stalls: 0,
            jitter_us: w.jitter_us.min(w.delay_us / HEALED_JITTER),
            window_bytes: 1 << 20,
            ..w
        });
        self.add(VERDICT_EVERY_US, Event::Verdict);
        if self.plan.partial() == 0 || self.places.len() <= 2 {
            return self.heal_rest();
        }
        self.renew_relapsed()?;
        match self.quiet_voters() {
            _ if !self.plan.changes_members() => self.heal_part(None),
            Some(voters) => self.heal_part(Some(voters)),
            // Who makes a majority is about to change.
            None => self.heal_rest(),
        }
    }

    /// Whether the region stays away while a part goes on alone.
    pub(super) fn is_left_out(&self, place: usize) -> bool {
        self.probe.as_ref().is_some_and(|probe| !probe.members.contains(&place))
    }

    /// Whether only a part has healed as yet.
    pub(crate) fn probing(&self) -> bool {
        self.probe.is_some()
    }

    /// Of those who vote, if that is not everybody, a majority is part of what heals.
    fn heal_part(&mut self, voters: Option<BTreeSet<u16>>) -> Result<(), String> {
        let r = &mut self.plan.stream(Stream::Healing, 0);
        let mut members: Vec<usize> = self.staying().collect();
        let votes = |members: &[usize]| {
            let Some(voters) = &voters else { return true };
            let vote = |place: &&usize| voters.contains(&self.places[**place].belonging.id);
            members.iter().filter(vote).count() > voters.len() / 2
        };
        let enough = members.len() / 2 + 1;
        let mut tries = 0;
        while members.len() > enough && tries < TRIES {
            let gone = r.below(members.len());
            let mut fewer = members.clone();
            fewer.remove(gone);
            if votes(&fewer) {
                members = fewer;
            }
            tries += 1;
        }
        self.trace.fault(self.now_us, || format!("only {members:?} heal"));
        self.counts.partial_heals += 1;
        let mut linked = Vec::new();
        for (index, place) in members.iter().enumerate().skip(1) {
            linked.push(pair(*place, members[r.below(index)]));
        }
        // The control group talks from voter to voter; data finds its way along any tree.
        let all_links = self.plan.control() > 0;
        for a in 0..self.places.len() {
            for b in a + 1..self.places.len() {
                let inside = members.contains(&a) && members.contains(&b);
                if inside && (all_links || linked.contains(&(a, b))) {
                    self.heal((a, b));
                } else {
                    self.network.cut(a, b);
                    self.network.cut(b, a);
                    self.break_session((a, b), SECOND);
                }
            }
        }
        self.probe =
            Some(Probe { members: members.clone(), wrote: Vec::new(), silent: members.clone() });
        members.iter().try_for_each(|place| self.recover_place(*place, members[0]))
    }

    fn heal_rest(&mut self) -> Result<(), String> {
        self.trace.fault(self.now_us, || "everything heals".to_owned());
        self.probe = None;
        self.healed_us = self.now_us;
        for a in 0..self.places.len() {
            for b in a + 1..self.places.len() {
                self.heal(pair(a, b));
            }
        }
        (0..self.places.len()).try_for_each(|place| self.recover_place(place, 0))
    }

    /// Nothing is wrong any more with a region, and it runs.
    pub(super) fn recover_place(&mut self, place: usize, primary: usize) -> Result<(), String> {
        let jump_us = self.plan.jump_us() as i64;
        let wild = self.plan.clock_jump_us() > 0 && self.plan.jump_us() > WILD_US;
        let (now_us, fences) = (self.now_us, self.fences());
        let here = &mut self.places[place];
        if here.belonging.is_gone {
            return Ok(());
        }
        here.paused_until_us = 0;
        let (from_us, upto_us) = here.config.sync_us;
        here.config.sync_us = (from_us.min(HEALED_SYNC_US), upto_us.min(HEALED_SYNC_US));
        here.clocks.offset_us = if wild { 64 * jump_us } else { 0 };
        if fences {
            // Where clocks that wander apart would be fenced again.
            here.clocks.set_right(now_us, here.clocks.offset_us);
        }
        here.primary = place == primary;
        self.make_room(place);
        let here = &mut self.places[place];
        if let Some(process) = &mut here.process {
            process.storage.be_kind();
            return Ok(());
        }
        self.start(place)
    }

    /// The part that has healed shows that it goes on: what is written in one member reaches all.
    pub(crate) fn part_verdict(&mut self) -> Result<(), String> {
        let Some(mut probe) = self.probe.take() else { return Ok(()) };
        let ended = probe.members.iter().any(|place| self.places[*place].belonging.is_gone);
        if ended || self.members_unsettled().is_some() {
            // A change that was in somebody's log already: who leaves takes no writes and cannot go
            // before the rest is there, and votes may have moved to those who stay away.
            self.add(VERDICT_EVERY_US, Event::Verdict);
            return self.heal_rest();
        }
        for place in std::mem::take(&mut probe.silent) {
            let wrote = self.write_probe(place);
            let process = self.places[place].process.as_ref();
            // Clocks of those who stay away count for a minute: so long a fence may last.
            let refuses = process.is_some_and(|p| p.node.clocks().refuses_writes());
            if wrote.is_empty() && !refuses {
                probe.silent.push(place);
            }
            probe.wrote.extend(wrote);
        }
        for place in &probe.members {
            self.end_turn(*place)?;
        }
        let Some(why) = self.stuck(&probe) else {
            self.add(VERDICT_EVERY_US, Event::Verdict);
            return self.heal_rest();
        };
        let members = probe.members.clone();
        self.probe = Some(probe);
        if self.now_us > self.healed_us + self.patience_us() {
            return Err(format!("regions {members:?} do not go on without the others: {why}"));
        }
        self.add(VERDICT_EVERY_US, Event::Verdict);
        Ok(())
    }

    fn write_probe(&mut self, place: usize) -> Vec<(u16, Dot)> {
        let key = format!("y{place}").into_bytes();
        if !self.keys.contains(&key) {
            self.keys.push(key.clone());
        }
        let Some(slot) = self.homes.iter().position(|home| *home == place) else {
            return Vec::new();
        };
        self.connect(slot);
        self.execute(slot, vec![b"SET".to_vec(), key, format!("probe{place}").into_bytes()])
    }

    fn stuck(&self, probe: &Probe) -> Option<String> {
        if !probe.silent.is_empty() {
            return Some(format!("regions {:?} do not write", probe.silent));
        }
        for place in &probe.members {
            let Some(process) = &self.places[*place].process else {
                return Some(format!("region {place} is dead"));
            };
            let vectors = process.vectors();
            for (partition, dot) in &probe.wrote {
                if !vectors[usize::from(*partition)].covers(*dot) {
                    return Some(format!("region {place} lacks {dot}"));
                }
            }
        }
        if self.plan.control() == 0 {
            return None;
        }
        let primaries = probe.members.iter().filter(|place| self.is_primary(**place)).count();
        (primaries != 1).then(|| format!("{primaries} regions are primary"))
    }
}
