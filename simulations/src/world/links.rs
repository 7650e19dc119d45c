//! Sessions, lanes and datagrams: what the network does to regions.

use meridian_clock::Origin;
use meridian_node::{ControlEffect, DataEffect, wire::PeerMessage};

use super::{Event, Place, World};
use crate::{
    network::{Arrival, Lane, Pair, pair},
    plan::MS,
    region::ForControl,
};

/// A pair that is not connected tries again after this long.
const DIAL_EVERY_US: u64 = 60 * MS;

impl World {
    /// Two regions try to connect, and will try again.
    pub(super) fn dial(&mut self, pair: Pair) -> Result<(), String> {
        if self.quic.is_some() {
            self.dial_quic(pair);
            return Ok(());
        }
        if pair_is_over(&self.places, pair) {
            return Ok(());
        }
        let again_us = self.dials.range(DIAL_EVERY_US / 2, DIAL_EVERY_US * 3 / 2);
        self.add(again_us, Event::Dial(pair));
        let (a, b) = (&self.places[pair.0], &self.places[pair.1]);
        let both_live = a.process.is_some() && b.process.is_some() && a.topology == b.topology;
        let is_cut = self.network.is_cut(pair.0, pair.1) || self.network.is_cut(pair.1, pair.0);
        if !both_live
            || is_cut
            || self.network.is_connected(pair)
            || !self.recognise(pair.0, pair.1)?
        {
            return Ok(());
        }
        let (number, untold) = self.network.open(pair);
        self.counts.sessions += 1;
        for (end, former) in untold {
            self.end_session(pair, former, end);
        }
        let way_us = self.network.delay_us(pair.0, pair.1);
        for end in [pair.0, pair.1] {
            let delay_us = way_us + self.places[end].turns.range(0, way_us);
            self.add(delay_us, Event::Up { pair, number, end });
        }
        self.trace.line(self.now_us, || format!("{pair:?} session {number}"));
        Ok(())
    }

    pub(super) fn up(&mut self, pair: Pair, number: u64, end: usize) -> Result<(), String> {
        if self.places[end].process.is_none() || !self.network.tell_up(pair, number, end) {
            return Ok(());
        }
        let peer = self.other(pair, end);
        let other = pair.0 + pair.1 - end;
        if !self.knows(end, other) {
            self.break_session(pair, MS);
            return Ok(());
        }
        if let Some(process) = self.process(end) {
            process.peer_up(peer, number);
        }
        self.tell_members(end, other);
        // What the other end sent before this one knew.
        for arrival in self.network.resume(self.now_us, pair) {
            self.queue.add(arrival.at_us, Event::Arrival(arrival));
        }
        self.maybe_end_turn(end)
    }

    pub(super) fn down(&mut self, pair: Pair, number: u64, end: usize) -> Result<(), String> {
        if self.network.tell_down(pair, number, end) {
            self.end_session(pair, number, end);
        }
        self.maybe_end_turn(end)
    }

    fn end_session(&mut self, pair: Pair, number: u64, end: usize) {
        let peer = self.other(pair, end);
        if let Some(process) = self.process(end) {
            process.peer_down(peer, number);
        }
    }

    /// A session breaks; each end learns of it at its own time.
    pub(super) fn break_session(&mut self, pair: Pair, notice_us: u64) {
        if let Some(fabric) = &mut self.quic {
            self.counts.breaks += u64::from(fabric.session(pair.0, pair.1).is_some());
            return fabric.close(self.now_us, pair.0, pair.1);
        }
        let Some(number) = self.network.break_session(pair) else { return };
        self.counts.breaks += 1;
        for end in [pair.0, pair.1] {
            let delay_us = self.places[end].turns.range(0, notice_us);
            self.add(delay_us, Event::Down { pair, number, end });
        }
    }

    pub(super) fn arrival(&mut self, arrival: Arrival) -> Result<(), String> {
        let Some(bytes) = self.network.arrive(arrival) else { return Ok(()) };
        let Arrival { pair, number, from, lane, .. } = arrival;
        let to = pair.0 + pair.1 - from;
        self.message(from, to, number, lane, &bytes)?;
        self.maybe_end_turn(to)
    }

    /// A message has come to the end of its lane.
    pub(super) fn message(
        &mut self,
        from: usize,
        to: usize,
        number: u64,
        lane: Lane,
        bytes: &[u8],
    ) -> Result<(), String> {
        let peer = self.places[from].config.origin;
        self.trace.mix(&[from as u64, to as u64, lane as u64]);
        self.trace.mix_bytes(bytes);
        let drops = if self.calm { 0 } else { self.plan.inbound_drops() };
        let drop_batch = lane == Lane::Live && self.places[to].turns.chance(drops);
        self.counts.drops += u64::from(drop_batch);
        if !self.knows(to, from) {
            return Ok(());
        }
        let (from, lenient) = (self.places[from].belonging.id, self.plan.changes_members());
        let Some(process) = self.process(to) else { return Ok(()) };
        match lane {
            Lane::Live => process.piece(peer, number, bytes, drop_batch)?,
            Lane::Control => {
                let message = process.control_message(peer, number, bytes)?;
                if let (Some(message), Some(plane)) = (message, &mut process.control) {
                    let taken = match message {
                        ForControl::Raft(message) => plane.control.step(from, &message),
                        ForControl::Members(state) => plane.control.learn(&state),
                    };
                    // Who has just come or gone may not be known to the group as yet.
                    taken.or_else(|error| if lenient { Ok(()) } else { Err(error) })?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn datagram(
        &mut self,
        pair: Pair,
        number: u64,
        from: usize,
        bytes: &[u8],
    ) -> Result<(), String> {
        let to = pair.0 + pair.1 - from;
        if self.network.is_cut(from, to) || !self.network.is_known(pair, number, to) {
            return Ok(());
        }
        self.heartbeat(from, to, bytes)
    }

    pub(super) fn heartbeat(&mut self, from: usize, to: usize, bytes: &[u8]) -> Result<(), String> {
        let now_ms = self.places[to].clocks.steady_ms(self.now_us);
        self.trace.mix_bytes(bytes);
        if !self.knows(to, from) {
            return Ok(());
        }
        let (from, lenient) = (self.places[from].belonging.id, self.plan.changes_members());
        if let Some(plane) = self.process(to).and_then(|p| p.control.as_mut()) {
            let taken = plane.control.receive(now_ms, from, bytes);
            taken.or_else(|error| if lenient { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }

    /// Sends what a region's data wants sent.
    pub(super) fn send_effects(
        &mut self,
        place: usize,
        effects: Vec<DataEffect>,
    ) -> Result<(), String> {
        for effect in effects {
            match effect {
                DataEffect::Send { peer, session, message } => {
                    let drops = if self.calm { 0 } else { self.plan.outbound_drops() };
                    if self.places[place].turns.chance(drops) {
                        self.counts.drops += 1;
                        continue;
                    }
                    let again =
                        matches!(&message, PeerMessage::Subscribe(asked) if asked.number > 1);
                    self.counts.resubscriptions += u64::from(again);
                    let message = self.as_told(place, message);
                    self.trace.line(self.now_us, || format!("{place} -> {peer} {message:?}"));
                    self.send(place, peer, session, Lane::Control, message.encode());
                }
                DataEffect::Disconnect { peer, reason, .. } => {
                    return Err(format!(
                        "region {place} finds that {peer} broke the rules: {reason}"
                    ));
                }
                DataEffect::Diverged { peer, partition, keys, .. } => {
                    let keys: Vec<_> =
                        keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
                    return Err(format!(
                        "region {place} differs from {peer} in partition {partition}: {keys:?}"
                    ));
                }
                DataEffect::Fork { origin, .. } if self.has_relapsed(origin) => {
                    self.counts.forks += 1;
                    self.trace.line(self.now_us, || format!("{place} quarantines {origin}"));
                }
                DataEffect::Fork { origin, partition } => {
                    return Err(format!(
                        "region {place}: history of {origin} forks in partition {partition}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Does what a region's control plane wants done.
    pub(super) fn send_control(&mut self, place: usize, effects: Vec<ControlEffect>) {
        for effect in effects {
            match effect {
                ControlEffect::Broadcast(bytes) => self.broadcast(place, &bytes),
                ControlEffect::Raft(to, message) => {
                    let Some(to) = self.place_of_id(to) else { continue };
                    let peer = self.places[to].config.origin;
                    if let Some(number) = self.session(place, to) {
                        let bytes = PeerMessage::Raft(message).encode();
                        self.send(place, peer, number, Lane::Control, bytes);
                    }
                }
                ControlEffect::Changed => {}
            }
        }
    }

    fn broadcast(&mut self, from: usize, bytes: &[u8]) {
        for to in 0..self.places.len() {
            if to == from || !self.knows(from, to) {
                continue;
            }
            if let Some(fabric) = &mut self.quic {
                fabric.datagram(from, to, bytes);
                continue;
            }
            let pair = pair(from, to);
            let Some(number) = self.network.number(pair) else { continue };
            if self.network.is_cut(from, to) {
                continue;
            }
            for at_us in self.network.datagram(self.now_us, (from, to)) {
                let bytes = bytes.to_vec();
                self.queue.add(at_us, Event::Datagram { pair, number, from, bytes });
            }
        }
    }

    /// Puts a message on a lane.
    pub(super) fn send(
        &mut self,
        from: usize,
        peer: Origin,
        session: u64,
        lane: Lane,
        bytes: Vec<u8>,
    ) {
        let Some(to) = self.place_of(peer) else { return };
        if let Some(fabric) = &mut self.quic {
            let is_taken = fabric.send(from, (to, session), lane, &bytes);
            self.counts.drops += u64::from(!is_taken);
            return;
        }
        let ways = (from, to);
        let now_us = self.now_us;
        if let Some(arrival) = self.network.send(now_us, ways, session, lane, bytes) {
            self.queue.add(arrival.at_us, Event::Arrival(arrival));
        }
    }

    /// Sends frames, as far as the log is on disk and the lanes have room.
    pub(super) fn ship(&mut self, place: usize) -> Result<(), String> {
        let Some(process) = self.places[place].process.as_ref() else { return Ok(()) };
        if !process.has_to_ship() {
            return Ok(());
        }
        let origins: Vec<Origin> = self.places.iter().map(|p| p.config.origin).collect();
        let (network, quic) = (&self.network, &mut self.quic);
        let Some(process) = self.places[place].process.as_mut() else { return Ok(()) };
        let pieces = process.ship(|peer, session| {
            let to = origins.iter().position(|o| *o == peer);
            match (to, &mut *quic) {
                (Some(to), Some(fabric)) => fabric.room(place, to, session),
                (Some(to), None) => network.room(place, to, session),
                (None, _) => 0,
            }
        })?;
        for (peer, session, piece) in pieces {
            self.trace.line(self.now_us, || format!("{place} -> {peer} {} B", piece.len()));
            self.send(place, peer, session, Lane::Live, piece);
        }
        Ok(())
    }

    /// The number by which a region knows its session with another one.
    pub(super) fn session(&self, place: usize, other: usize) -> Option<u64> {
        match &self.quic {
            Some(fabric) => fabric.session(place, other),
            None => self.network.number(pair(place, other)),
        }
    }

    fn other(&self, pair: Pair, end: usize) -> Origin {
        self.places[pair.0 + pair.1 - end].config.origin
    }
}

/// Whether one of the two has ended for good.
fn pair_is_over(places: &[Place], pair: Pair) -> bool {
    [pair.0, pair.1].iter().any(|place| places[*place].belonging.is_gone)
}
