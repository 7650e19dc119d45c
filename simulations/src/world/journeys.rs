//! Clients that move from region to region and take a session token with them.
//!
//! What a session has written, and what it has read, must be there when the next region has said
//! that it has all that the token covers.

use std::collections::BTreeMap;

use meridian_clock::{Dot, Origin, VersionVector};
use meridian_resp::Value;

use super::World;
use crate::{ablation::Ablation, client::Sent};

/// How long a client waits in the next region, at most, in milliseconds.
const WAIT_MS: &[u8] = b"400";

/// A client that has asked for a token, and what it has when it arrives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journey {
    /// Writes of the session that were acknowledged.
    pub wrote: Vec<(u16, Dot)>,
    /// What it wrote or read last of each key.
    pub own: BTreeMap<Vec<u8>, Dot>,
}

impl World {
    /// Perhaps a client sets out instead of sending a command. True if it is on its way.
    pub(super) fn travels(&mut self, slot: usize) -> bool {
        if self.clients[slot].as_ref().is_some_and(|client| client.travels) {
            return true;
        }
        let travel = self.plan.travel();
        if travel == 0 || !self.journeys[slot].chance(travel) {
            return false;
        }
        self.connect(slot);
        if let Some(client) = self.clients[slot].as_mut() {
            client.travels = true;
            self.execute(slot, vec![b"MERIDIAN.TOKEN".to_vec()]);
        }
        true
    }

    /// The session has its token: it goes on in another region.
    pub(super) fn depart(&mut self, slot: usize, token: &[u8]) -> Result<(), String> {
        let here = self.homes[slot];
        let living = |place: &usize| *place != here && self.places[*place].process.is_some();
        let others: Vec<usize> = (0..self.places.len()).filter(living).collect();
        let Some(client) = self.clients[slot].as_mut() else { return Ok(()) };
        client.travels = false;
        if others.is_empty() || self.calm {
            return Ok(());
        }
        let journey = Journey { wrote: client.wrote.clone(), own: client.own.clone() };
        let there = self.journeys[slot].pick(&others);
        self.move_to(slot, there);
        self.trace.line(self.now_us, || format!("client {slot} goes from {here} to {there}"));
        if let Some(client) = self.clients[slot].as_mut() {
            client.travels = true;
            client.journey = Some(journey);
        }
        if self.plan.off == Some(Ablation::GoUnaware) {
            return self.arrive(slot, &Value::Simple(b"OK".to_vec()));
        }
        let wait = vec![b"MERIDIAN.AWAIT".to_vec(), token.to_vec(), WAIT_MS.to_vec()];
        self.execute(slot, wait);
        Ok(())
    }

    /// The next region has answered.
    pub(super) fn arrive(&mut self, slot: usize, value: &Value) -> Result<(), String> {
        let place = self.homes[slot];
        let Some(client) = self.clients[slot].as_mut() else { return Ok(()) };
        client.travels = false;
        let Some(journey) = client.journey.take() else { return Ok(()) };
        if matches!(value, Value::Error(_)) {
            self.counts.stale_sessions += 1;
            return Ok(());
        }
        let Some(process) = &self.places[place].process else { return Ok(()) };
        let vectors = process.vectors();
        if let Some((_, dot)) =
            journey.wrote.iter().find(|(number, dot)| !vectors[usize::from(*number)].covers(*dot))
        {
            return Err(format!(
                "region {place} says that it has what a session needs, and lacks its write {dot}"
            ));
        }
        self.counts.moved_sessions += 1;
        self.carry(slot, journey);
        Ok(())
    }

    /// The session goes on with what it knows.
    fn carry(&mut self, slot: usize, journey: Journey) {
        if let Some(client) = self.clients[slot].as_mut() {
            client.wrote = journey.wrote;
            client.own = journey.own;
        }
    }

    /// What a client was told is a part of its session.
    pub(super) fn remember(&mut self, slot: usize, sent: &Sent, value: &Value) {
        if self.plan.travel() == 0 {
            return;
        }
        let read = match sent.command[0].as_slice() {
            b"GET" => value.as_bytes().and_then(|value| self.history.writer(value)),
            _ => None,
        };
        let Some(client) = self.clients[slot].as_mut() else { return };
        for (partition, dot) in &sent.wrote {
            client.wrote.retain(|(p, d)| (*p, d.origin) != (*partition, dot.origin));
            client.wrote.push((*partition, *dot));
        }
        if let Some(read) = read {
            client.own.insert(sent.command[1].clone(), read);
        }
    }

    /// What a region has lost with its machine is no part of any session.
    pub(super) fn forget_lost(&mut self, origin: Origin, kept: &[VersionVector]) {
        let is_kept = |(number, dot): &(u16, Dot)| {
            dot.origin != origin || kept[usize::from(*number)].covers(*dot)
        };
        for client in self.clients.iter_mut().flatten() {
            client.wrote.retain(is_kept);
            if let Some(journey) = &mut client.journey {
                journey.wrote.retain(is_kept);
            }
        }
    }

    /// Everybody goes back to where they began, and waits for nothing.
    pub(super) fn go_home(&mut self) {
        for slot in 0..self.homes.len() {
            let home = slot / self.plan.clients() as usize;
            let travels = self.clients[slot].as_ref().is_some_and(|client| client.travels);
            if travels || self.homes[slot] != home {
                self.move_to(slot, home);
            }
        }
    }

    /// Whose region has ended for good goes to another one.
    pub(super) fn leave_the_gone(&mut self, slot: usize) {
        if self.places[self.homes[slot]].belonging.is_gone {
            let there: Vec<usize> = self.staying().collect();
            let there = self.journeys[slot].pick(&there);
            self.move_to(slot, there);
        }
    }

    /// A region gives no token: the session stays.
    pub(super) fn stay(&mut self, slot: usize) {
        if let Some(client) = self.clients[slot].as_mut() {
            client.travels = false;
        }
    }

    /// A client closes its connection and opens another one.
    fn move_to(&mut self, slot: usize, place: usize) {
        let here = self.homes[slot];
        if let Some(client) = self.clients[slot].take()
            && let Some(process) = self.process(here)
        {
            process.node.engine_mut().disconnect(client.id);
        }
        self.homes[slot] = place;
        if self.places[place].process.is_some() {
            self.connect(slot);
        }
    }
}
