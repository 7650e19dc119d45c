//! Runs whose regions talk over quinn's own protocol machines instead of the modelled sessions.

use std::collections::BTreeSet;

use super::{Event, World};
use crate::{
    network::{Lane, Pair},
    outcome::Counts,
    plan::MS,
    quic::{Clock, Happening, Host, HostConfig, Identity, Tally, Windows},
    random::Stream,
};

/// Where a dialler looks whether it is time to dial again.
const LOOK_EVERY_US: u64 = 10 * MS;

/// Sessions of one life of a host.
const SESSIONS_OF_A_LIFE: u64 = 1 << 20;

/// All hosts, by place.
pub(crate) struct Fabric {
    clock: Clock,
    hosts: Vec<Option<Host>>,
    /// By place, when it will be woken.
    wakes_us: Vec<Option<u64>>,
    /// Hosts in which something has changed.
    dirty: BTreeSet<usize>,
}

impl Fabric {
    pub fn new(places: usize) -> Fabric {
        let hosts = std::iter::repeat_with(|| None).take(places).collect();
        Fabric { clock: Clock::new(), hosts, wakes_us: vec![None; places], dirty: BTreeSet::new() }
    }

    /// A host in which something is about to change.
    fn touch(&mut self, place: usize) -> Option<&mut Host> {
        self.dirty.insert(place);
        self.hosts.get_mut(place)?.as_mut()
    }

    /// The number of a session, as one of its ends knows it.
    pub fn session(&self, place: usize, peer: usize) -> Option<u64> {
        self.hosts.get(place)?.as_ref()?.session(peer)
    }

    /// How many bytes more a session's live lane takes.
    pub fn room(&mut self, place: usize, peer: usize, session: u64) -> usize {
        let host = self.hosts.get_mut(place).and_then(Option::as_mut);
        host.map_or(0, |host| host.room(peer, session))
    }

    /// Puts a message on a lane of a session; false if it is lost.
    pub fn send(&mut self, place: usize, to: (usize, u64), lane: Lane, bytes: &[u8]) -> bool {
        self.touch(place).is_some_and(|host| host.send(to.0, to.1, lane, bytes))
    }

    /// Sends a datagram.
    pub fn datagram(&mut self, place: usize, peer: usize, bytes: &[u8]) {
        if let Some(host) = self.touch(place) {
            host.datagram(peer, bytes);
        }
    }

    /// One end closes the session.
    pub fn close(&mut self, now_us: u64, place: usize, peer: usize) {
        if let Some(host) = self.touch(place) {
            host.close(now_us, peer);
        }
    }

    /// What all hosts that still live have counted.
    pub fn harvest(&self, counts: &mut Counts) {
        self.hosts.iter().flatten().for_each(|host| counts.add_quic(&host.tally));
    }
}

impl World {
    /// A region's process has started: it binds its socket.
    pub(super) fn bind(&mut self, place: usize) {
        let Some(fabric) = &mut self.quic else { return };
        let life = self.places[place].life;
        let stream = |who| self.plan.stream(Stream::Quic, who).range(0, u64::MAX);
        let narrow_bytes = self.plan.stream(Stream::Quic, place as u64).spread(200, 8000) as u32;
        let config = HostConfig {
            me: Identity { place: place as u16, origin: self.places[place].config.origin.0 },
            origins: self.places.iter().map(|p| p.config.origin.0).collect(),
            windows: match self.plan.narrow() {
                0 => Windows::PRODUCTION,
                _ => Windows::narrow(narrow_bytes),
            },
            seed: stream(life << 20 | place as u64),
            reset_key: stream(1 << 60 | place as u64),
            first_session: life * SESSIONS_OF_A_LIFE,
        };
        fabric.hosts[place] = Some(Host::new(config, fabric.clock));
        fabric.wakes_us[place] = None;
    }

    /// A region's process is gone, and its socket with it; nobody is told.
    pub(super) fn unbind(&mut self, place: usize) {
        let Some(fabric) = &mut self.quic else { return };
        if let Some(host) = fabric.hosts[place].take() {
            self.counts.add_quic(&host.tally);
        }
        fabric.dirty.remove(&place);
    }

    /// A pair dials if it is time to.
    pub(super) fn dial_quic(&mut self, pair: Pair) {
        self.add(LOOK_EVERY_US, Event::Dial(pair));
        let now_us = self.now_us;
        let Some(fabric) = &mut self.quic else { return };
        for (place, peer) in [pair, (pair.1, pair.0)] {
            if self.places[place].paused_until_us > now_us {
                continue;
            }
            if let Some(host) = fabric.touch(place) {
                host.dial(now_us, peer);
            }
        }
    }

    /// A packet reaches a place.
    pub(super) fn packet(&mut self, from: usize, to: usize, bytes: &[u8]) {
        if self.network.is_cut(from, to) {
            return;
        }
        self.trace.mix(&[from as u64, to as u64]);
        self.trace.mix_bytes(bytes);
        let now_us = self.now_us;
        if let Some(host) = self.quic.as_mut().and_then(|fabric| fabric.touch(to)) {
            self.counts.packets += 1;
            host.receive(now_us, from, bytes);
        }
    }

    /// A host is woken.
    pub(super) fn wake(&mut self, place: usize) {
        let now_us = self.now_us;
        let Some(fabric) = &mut self.quic else { return };
        fabric.wakes_us[place] = None;
        if let Some(host) = fabric.touch(place) {
            host.wake(now_us);
        }
    }

    /// Lets hosts go on in which something has changed, until nothing changes any more.
    pub(super) fn settle_quic(&mut self) -> Result<(), String> {
        while let Some(place) = self.quic.as_mut().and_then(|fabric| fabric.dirty.pop_first()) {
            let now_us = self.now_us;
            let Some(fabric) = &mut self.quic else { break };
            let Some(host) = fabric.hosts[place].as_mut() else { continue };
            let (packets, happenings) = host.poll(now_us);
            let wake_us = host.wake_us().map(|due_us| due_us.max(now_us + 1));
            let planned_us = &mut fabric.wakes_us[place];
            if let Some(due_us) = wake_us
                && planned_us.is_none_or(|planned_us| due_us < planned_us)
            {
                *planned_us = Some(due_us);
                let life = self.places[place].life;
                self.add(due_us - now_us, Event::Wake(place, life));
            }
            for (to, bytes) in packets {
                self.send_packet(place, to, bytes);
            }
            let had_happenings = !happenings.is_empty();
            for happening in happenings {
                self.happened(place, happening)?;
            }
            if had_happenings {
                self.maybe_end_turn(place)?;
            }
        }
        Ok(())
    }

    fn send_packet(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if to >= self.places.len() || self.network.is_cut(from, to) {
            return;
        }
        for at_us in self.network.packet(self.now_us, (from, to), bytes.len()) {
            self.queue.add(at_us, Event::Packet { from, to, bytes: bytes.clone() });
        }
    }

    fn happened(&mut self, place: usize, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Up(peer, number) => {
                self.counts.sessions += 1;
                self.trace.line(self.now_us, || format!("{place} has session {number} to {peer}"));
                let peer = self.places[peer].config.origin;
                if let Some(process) = self.process(place) {
                    process.peer_up(peer, number);
                }
            }
            Happening::Down(peer, number) => {
                self.trace.line(self.now_us, || format!("{place} loses session {number}"));
                let peer = self.places[peer].config.origin;
                if let Some(process) = self.process(place) {
                    process.peer_down(peer, number);
                }
            }
            Happening::Message(peer, number, lane, bytes) => {
                self.message(peer, place, number, lane, &bytes)?;
            }
            Happening::Datagram(peer, bytes) => self.heartbeat(peer, place, &bytes)?,
        }
        Ok(())
    }
}

impl Counts {
    /// Adds what a host has counted in its life.
    fn add_quic(&mut self, tally: &Tally) {
        self.quic_sessions += tally.sessions;
        self.lost_packets += tally.lost_packets;
        self.idle_timeouts += tally.idle_timeouts;
        self.stateless_resets += tally.resets;
        self.replaced_sessions += tally.replaced;
        self.late_handshakes += tally.given_up;
        self.blocked_writes += tally.blocked;
    }
}
