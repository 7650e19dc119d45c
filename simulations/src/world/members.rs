//! Who belongs to the cluster, as each region's control group says, and what the shell around a
//! region makes of it: whom it talks to, whom it waits for, whether it serves, and when it ends.
//!
//! The production core decides everything. What is here is what the daemon's adapters do: connect to
//! those that a list names, refuse those that are no members any more, start and stop processes.

use meridian_clock::{Origin, VersionVector};
use meridian_failover::{ControlState, MemberStatus, Members};
use meridian_node::wire::PeerMessage;

use super::World;
use crate::{
    network::{Lane, pair},
    plan::{MS, SECOND},
    region::Standing,
};

/// A region that has left goes on for so long, so that the others learn of it from this one too.
const FAREWELL_US: u64 = SECOND;

/// How a place belongs to the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Belonging {
    /// By which number the control group knows it.
    pub id: u16,
    /// The regions that its configuration names.
    pub configured: Vec<u16>,
    /// What it was told when it asked to join.
    pub told: Option<ControlState>,
    /// The members that its parts have been told of, in this life.
    pub followed: Members,
    /// When it saw that it has left.
    pub left_us: Option<u64>,
    /// Its process has ended for good.
    pub is_gone: bool,
}

impl World {
    /// The place that the control group knows by this number.
    pub(crate) fn place_of_id(&self, id: u16) -> Option<usize> {
        self.places.iter().position(|p| p.belonging.id == id)
    }

    /// Places whose processes may still run.
    pub(crate) fn staying(&self) -> impl Iterator<Item = usize> {
        (0..self.places.len()).filter(|place| !self.places[*place].belonging.is_gone)
    }

    /// Tells a region's parts who the members are, when its control plane knows of a change; ends
    /// the process of one that is none any more.
    pub(super) fn follow_members(&mut self, place: usize) -> Result<(), String> {
        if !self.plan.changes_members() {
            return Ok(());
        }
        let now_us = self.now_us;
        let here = &mut self.places[place];
        let belonging = &mut here.belonging;
        let Some(process) = here.process.as_mut() else { return Ok(()) };
        let Some(plane) = process.control.as_ref() else { return Ok(()) };
        let members = plane.control.members();
        match members.status(belonging.id) {
            Some(MemberStatus::Left) => {
                let since_us = *belonging.left_us.get_or_insert(now_us);
                return match now_us >= since_us + FAREWELL_US {
                    true => self.farewell(place, MemberStatus::Left),
                    false => Ok(()),
                };
            }
            Some(MemberStatus::Dead) => return self.farewell(place, MemberStatus::Dead),
            _ => {}
        }
        if *members == belonging.followed {
            return Ok(());
        }
        let (members, id) = (members.clone(), belonging.id);
        belonging.followed.clone_from(&members);
        let others = members.live().map(|(other, _)| other).filter(|other| *other != id);
        let peers: Vec<Origin> = others.map(Origin).collect();
        let standing = Standing::of(members.status(id));
        here.config.peers.clone_from(&peers);
        here.stirred = true;
        process.set_members(peers, members.next_ordinal(), standing);
        self.trace.line(now_us, || format!("{place} follows {:?}", statuses(&members)));
        for other in (0..self.places.len()).filter(|other| *other != place) {
            if self.knows(place, other) {
                self.tell_members(place, other);
            } else {
                self.break_session(pair(place, other), MS);
            }
        }
        Ok(())
    }

    /// Tells a peer who the members are, once that is more than everybody began with.
    pub(super) fn tell_members(&mut self, place: usize, other: usize) {
        if !self.plan.changes_members() {
            return;
        }
        let here = &self.places[place];
        let Some(plane) = here.process.as_ref().and_then(|p| p.control.as_ref()) else { return };
        let state = plane.control.state();
        if state.members.iter().all(|(_, member)| member.since == 0) {
            return;
        }
        let bytes = PeerMessage::Members(state.encode()).encode();
        let peer = self.places[other].config.origin;
        if let Some(number) = self.session(place, other) {
            self.send(place, peer, number, Lane::Control, bytes);
        }
    }

    /// Whether a region takes another one for a member.
    pub(super) fn knows(&self, place: usize, other: usize) -> bool {
        let status = self.status_of(place, other);
        !self.plan.changes_members() || status.is_some_and(MemberStatus::is_live)
    }

    /// What a region takes another one for.
    fn status_of(&self, place: usize, other: usize) -> Option<MemberStatus> {
        self.places[place].belonging.followed.status(self.places[other].belonging.id)
    }

    /// Two regions that call each other: true if both take the other for a member. Who is none any
    /// more is told so, and ends.
    pub(super) fn recognise(&mut self, a: usize, b: usize) -> Result<bool, String> {
        for (host, caller) in [(a, b), (b, a)] {
            if let Some(status) = self.status_of(host, caller).filter(|s| !s.is_live()) {
                self.farewell(caller, status)?;
                return Ok(false);
            }
        }
        Ok(self.knows(a, b) && self.knows(b, a))
    }

    /// A region finds that it is no member any more: its process ends for good.
    fn farewell(&mut self, place: usize, status: MemberStatus) -> Result<(), String> {
        self.trace.fault(self.now_us, || format!("region {place} ends: {}", status.as_str()));
        self.counts.returns_of_the_dead += u64::from(status == MemberStatus::Dead);
        self.crash(place, false)?;
        self.places[place].belonging.is_gone = true;
        Ok(())
    }

    /// Tells the control plane what the data says of itself.
    pub(super) fn report_data(&mut self, place: usize) {
        let Some(process) = self.places[place].process.as_mut() else { return };
        let (standing, node) = (process.standing, &process.node);
        let is_caught_up = match standing {
            Standing::Joining => node.is_within(ADMIT_LAG_MS),
            Standing::Serving | Standing::Leaving => node.is_caught_up(),
        };
        let is_drained = standing == Standing::Leaving && node.is_held_by_all();
        if let Some(plane) = &mut process.control {
            plane.control.set_caught_up(is_caught_up);
            plane.control.set_drained(is_drained);
        }
    }

    /// The agreed state has moved on: what the new list of members brings.
    pub(crate) fn note_members(&mut self, state: &ControlState) {
        let before = std::mem::replace(&mut self.agreement.members, state.members.clone());
        for (id, member) in state.members.iter() {
            if before.status(id) == Some(member.status) {
                continue;
            }
            let unquiet = u64::from(!self.calm);
            match member.status {
                MemberStatus::Active if before.status(id).is_some() => {
                    self.counts.joined += unquiet
                }
                MemberStatus::Left => self.counts.left += unquiet,
                MemberStatus::Dead => {
                    self.counts.declared_dead += unquiet;
                    self.bury(id);
                }
                _ => {}
            }
        }
    }

    /// What only a region had that is declared dead is lost, and may be; nothing else.
    fn bury(&mut self, id: u16) {
        self.dead.insert(id);
        let mut durable = vec![VersionVector::new(); self.plan.partitions() as usize];
        for place in self.staying() {
            let here = &self.places[place];
            if !self.dead.contains(&here.belonging.id) {
                durable.iter_mut().zip(&here.synced).for_each(|(all, synced)| all.join(synced));
            }
        }
        let dead = &self.dead;
        self.promises.retain(|p| {
            !dead.contains(&p.dot.origin.0) || durable[usize::from(p.partition)].covers(p.dot)
        });
    }

    /// Whether a region has been declared dead.
    pub(crate) fn is_dead(&self, place: usize) -> bool {
        self.dead.contains(&self.places[place].belonging.id)
    }

    /// What of the changes of members has not come to its end.
    pub(crate) fn members_unsettled(&self) -> Option<String> {
        if !self.plan.changes_members() {
            return None;
        }
        for (id, member) in self.agreement.members.iter() {
            let under_way = matches!(member.status, MemberStatus::Joining | MemberStatus::Leaving);
            if under_way {
                return Some(format!("region {id} is still {}", member.status.as_str()));
            }
            let runs = self.place_of_id(id).is_some_and(|p| self.places[p].process.is_some());
            if runs && !member.status.is_live() {
                return Some(format!("region {id} runs although it is {}", member.status.as_str()));
            }
        }
        None
    }

    /// Whether nothing changes in who belongs to the cluster and who votes, so that it is known
    /// what makes a majority: then those who vote.
    pub(super) fn quiet_voters(&self) -> Option<std::collections::BTreeSet<u16>> {
        let members = &self.agreement.members;
        let planes = self.staying().map(|place| {
            let process = self.places[place].process.as_ref();
            process.and_then(|p| p.control.as_ref())
        });
        let planes: Vec<_> = planes.collect::<Option<_>>()?;
        let (voters, learners) = planes.first()?.control.voters();
        let are_alike = planes.iter().all(|plane| {
            plane.control.state().members == *members
                && plane.control.voters() == (voters.clone(), learners.clone())
        });
        let state = planes.first()?.control.state();
        let step = meridian_failover::next_voter_step(state, &voters, &learners);
        let is_quiet = are_alike && step.is_none() && self.members_unsettled().is_none();
        (is_quiet && !self.asks()).then_some(voters)
    }
}

/// A region that joins is admitted when it lags by no more than this, in milliseconds.
const ADMIT_LAG_MS: u64 = 1_000;

/// The list in short, for the trace.
fn statuses(members: &Members) -> Vec<(u16, &'static str)> {
    members.iter().map(|(id, member)| (id, member.status.as_str())).collect()
}
