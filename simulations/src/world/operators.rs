//! Operators: they let regions join, tell regions to leave, and declare dead who does not come back.
//!
//! An operator asks whoever answers, and asks again until the agreed list shows what was wanted, as
//! `meridian join`, `region leave` and `region dead` do. Where the answer comes from may change
//! between two tries.

use meridian_clock::Origin;
use meridian_failover::{ControlState, MemberAddresses, MemberChange, MemberStatus};

use super::{Event, World, members::Belonging};
use crate::{
    ablation::Ablation,
    plan::{MS, SECOND},
    random::Random,
};

/// Regions that may join in one run.
pub(super) const JOINERS: usize = 3;

/// An operator asks again after this, in microseconds: from and to.
const ASK_AGAIN_US: (u64, u64) = (200 * MS, SECOND);

/// What an operator wants.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    change: MemberChange,
    random: Random,
    /// It is made, or given up.
    is_over: bool,
    /// The ordinal that was next when it was asked for: to test the tests.
    guess: u16,
}

impl World {
    /// Whether some operator still waits.
    pub(super) fn asks(&self) -> bool {
        self.requests.iter().any(|request| !request.is_over)
    }

    /// A new region asks to join.
    pub(super) fn want_join(&mut self, r: &mut Random) {
        let is_add = |request: &&Request| matches!(request.change, MemberChange::Add { .. });
        let number = self.requests.iter().filter(is_add).count();
        if !self.plan.changes_members() || number >= JOINERS {
            return;
        }
        let addresses = MemberAddresses {
            mesh: format!("new-{number}:7400"),
            clients: vec![[10, 0, 1, number as u8].into()],
            ..MemberAddresses::default()
        };
        let (name, token) = (format!("new-{number}"), r.range(1, u64::MAX));
        self.want(MemberChange::Add { name, token, addresses }, r);
    }

    /// A region is told to leave.
    pub(super) fn want_leave(&mut self, r: &mut Random) {
        let place = self.any_place(r);
        if self.plan.changes_members() && !self.places[place].belonging.is_gone {
            let region = self.places[place].belonging.id;
            self.want(MemberChange::Leave { region }, r);
        }
    }

    /// A region goes away for long, and an operator takes it for dead.
    pub(super) fn want_dead(&mut self, r: &mut Random) -> Result<(), String> {
        let place = self.any_place(r);
        let (ends, machine) = (r.chance(500), r.chance(500));
        let away_us = r.spread(2 * SECOND, 10 * SECOND);
        let is_open = self.plan.changes_members() && !self.places[place].belonging.is_gone;
        if !is_open || self.is_dead(place) {
            return Ok(());
        }
        if ends {
            self.crash(place, machine)?;
            self.places[place].away_until_us = self.now_us + away_us;
            self.come_back_after(place, away_us);
        } else {
            self.isolate_place(place, away_us, r.spread(200 * MS, 3 * SECOND));
        }
        let region = self.places[place].belonging.id;
        self.want(MemberChange::Dead { region }, r);
        Ok(())
    }

    fn want(&mut self, change: MemberChange, r: &mut Random) {
        self.trace.fault(self.now_us, || format!("an operator wants {change:?}"));
        let number = self.requests.len();
        let request = Request { change, random: r.clone(), is_over: false, guess: 0 };
        self.requests.push(request);
        self.add(0, Event::Ask(number));
    }

    /// Nothing new is asked for. Who has asked to join looks whether it was heard before.
    pub(super) fn withdraw_all(&mut self) {
        for request in &mut self.requests {
            request.is_over |= !matches!(request.change, MemberChange::Add { .. });
        }
    }

    /// An operator asks one of the regions.
    pub(super) fn ask(&mut self, number: usize) -> Result<(), String> {
        let now_us = self.now_us;
        let answers = |place: &usize| {
            let here = &self.places[*place];
            here.process.is_some() && here.paused_until_us <= now_us
        };
        let living: Vec<usize> = (0..self.places.len()).filter(answers).collect();
        let calm = self.calm;
        let Some(request) = self.requests.get_mut(number).filter(|r| !r.is_over) else {
            return Ok(());
        };
        let again_us = request.random.range(ASK_AGAIN_US.0, ASK_AGAIN_US.1);
        self.queue.add(now_us + again_us, Event::Ask(number));
        if living.is_empty() {
            return Ok(());
        }
        let place = request.random.pick(&living);
        let process = self.places[place].process.as_mut();
        let Some(plane) = process.and_then(|p| p.control.as_mut()) else { return Ok(()) };
        let state = plane.control.state();
        if !is_made(&request.change, state) {
            if !calm {
                request.guess = state.members.next_ordinal();
                // Refused while there is no leader, or while it is not possible yet.
                let _ = plane.control.propose_member(request.change.clone());
            }
            return Ok(());
        }
        request.is_over = true;
        let MemberChange::Add { name, token, .. } = &request.change else { return Ok(()) };
        let Some(mut id) = state.members.joined_as(name, *token) else { return Ok(()) };
        if self.plan.off == Some(Ablation::GuessOrdinal) {
            id = request.guess;
        }
        let told = state.clone();
        self.settle_newcomer(id, told)
    }

    /// A region that has been given an ordinal starts with what it was told and an empty disk.
    fn settle_newcomer(&mut self, id: u16, told: ControlState) -> Result<(), String> {
        if self.place_of(Origin(id)).is_some() {
            return Err(format!("ordinal {id} is used by a second region"));
        }
        let index = self.places.len();
        let mut place = self.place(index);
        place.config.origin = Origin(id);
        let others = told.members.live().map(|(other, _)| other).filter(|other| *other != id);
        let mut configured: Vec<u16> = others.collect();
        place.config.peers = configured.iter().copied().map(Origin).collect();
        configured.push(id);
        place.belonging = Belonging { id, configured, told: Some(told), ..Belonging::default() };
        self.trace.fault(self.now_us, || format!("region {index} joins with ordinal {id}"));
        self.places.push(place);
        if self.calm {
            self.recover_place(index, 0)?;
        } else {
            self.start(index)?;
        }
        for other in 0..index {
            self.add(MS, Event::Dial((other, index)));
        }
        self.seat_clients(index);
        Ok(())
    }
}

/// Whether the list shows what was asked for.
fn is_made(change: &MemberChange, state: &ControlState) -> bool {
    use MemberStatus::{Active, Dead, Leaving, Left};
    let members = &state.members;
    let is = |region: &u16, wanted: &[MemberStatus]| {
        members.status(*region).is_some_and(|status| wanted.contains(&status))
    };
    match change {
        MemberChange::Add { name, token, .. } => members.joined_as(name, *token).is_some(),
        MemberChange::Admit { region } => is(region, &[Active]),
        MemberChange::Leave { region } => is(region, &[Leaving, Left, Dead]),
        MemberChange::Left { region } => is(region, &[Left]),
        MemberChange::Dead { region } => is(region, &[Dead, Left]),
    }
}
