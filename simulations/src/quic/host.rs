//! One region's end of all its connections.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, VarInt,
};

use super::{
    clock::Clock,
    config::{self, HostConfig},
    crypto::Identity,
    lanes::{Incoming, Outgoing, Violation, lane_of},
    limits::{self, LANES},
};
use crate::network::Lane;

/// Higher numbers go first, as the mesh has it.
const PRIORITIES: [i32; LANES] = [2, 1, 0];

/// Codes with which connections are closed.
const DONE: VarInt = VarInt::from_u32(0);
const REPLACED: VarInt = VarInt::from_u32(1);
const REFUSED: VarInt = VarInt::from_u32(2);

/// What a host tells its region.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A session began: with which place, and its number here.
    Up(usize, u64),
    /// A message came.
    Message(usize, u64, Lane, Vec<u8>),
    /// A datagram came.
    Datagram(usize, Vec<u8>),
    /// A session is over.
    Down(usize, u64),
}

/// What a host has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub sessions: u64,
    pub lost_packets: u64,
    pub idle_timeouts: u64,
    pub resets: u64,
    pub replaced: u64,
    /// Attempts that took too long.
    pub given_up: u64,
    /// Times that a lane had to wait for the other side or the line.
    pub blocked: u64,
}

/// A connection.
struct Link {
    connection: Connection,
    /// Under which name the region knows it.
    number: u64,
    /// The place that was dialled, or that has said who it is.
    peer: Option<usize>,
    dialled: bool,
    began_us: u64,
    /// Since when both sides have all lanes.
    up_us: Option<u64>,
    /// The region hears no more of it.
    over: bool,
    /// The endpoint has forgotten it.
    is_drained: bool,
    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,
}

/// When a peer is dialled again.
#[derive(Clone, Copy, Debug, Default)]
struct Dial {
    not_before_us: u64,
    wait_ms: u64,
}

/// One region's endpoint.
pub(crate) struct Host {
    config: HostConfig,
    clock: Clock,
    endpoint: Endpoint,
    links: BTreeMap<ConnectionHandle, Link>,
    /// By place: the link of its session.
    sessions: BTreeMap<usize, ConnectionHandle>,
    dials: BTreeMap<usize, Dial>,
    made: u64,
    packets: Vec<(usize, Vec<u8>)>,
    happenings: Vec<Happening>,
    pub tally: Tally,
}

impl Host {
    /// One that has no connection yet.
    pub fn new(config: HostConfig, clock: Clock) -> Host {
        let server = Some(config::server(&config));
        Host {
            endpoint: Endpoint::new(config::endpoint(&config), server, true, None),
            clock,
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            dials: BTreeMap::new(),
            made: 0,
            packets: Vec::new(),
            happenings: Vec::new(),
            tally: Tally::default(),
            config,
        }
    }

    /// The number of the session with a place.
    pub fn session(&self, peer: usize) -> Option<u64> {
        self.sessions.get(&peer).and_then(|handle| self.links.get(handle)).map(|link| link.number)
    }

    /// Dials a place if this is the side that does, and it is time to.
    pub fn dial(&mut self, now_us: u64, peer: usize) {
        let is_mine = self.config.me.origin < self.config.origins[peer];
        let is_busy = |link: &Link| link.peer == Some(peer) && !link.over;
        let dial = self.dials.entry(peer).or_default();
        if !is_mine || now_us < dial.not_before_us || self.links.values().any(is_busy) {
            return;
        }
        let (number, now) = (self.next_number(), self.clock.instant(now_us));
        let client = config::client(&self.config, number);
        let connected = self.endpoint.connect(now, client, address(peer), "region");
        if let Ok((handle, connection)) = connected {
            self.add(now_us, handle, connection, number, Some(peer));
        }
    }

    /// A datagram has arrived from a place.
    pub fn receive(&mut self, now_us: u64, from: usize, bytes: &[u8]) {
        let (now, mut out) = (self.clock.instant(now_us), Vec::new());
        let data = BytesMut::from(bytes);
        match self.endpoint.handle(now, address(from), None, None, data, &mut out) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(link) = self.links.get_mut(&handle) {
                    link.connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.accept(incoming, now, &mut out, None) {
                    Ok((handle, connection)) => {
                        let number = self.next_number();
                        self.add(now_us, handle, connection, number, None);
                    }
                    Err(error) => self.respond(from, error.response.is_some(), out),
                }
            }
            Some(DatagramEvent::Response(_)) => self.respond(from, true, out),
            None => {}
        }
    }

    /// Whatever is due by now happens.
    pub fn wake(&mut self, now_us: u64) {
        let now = self.clock.instant(now_us);
        let mut late = Vec::new();
        for (handle, link) in &mut self.links {
            if link.connection.poll_timeout().is_some_and(|due| due <= now) {
                link.connection.handle_timeout(now);
            }
            if link.deadline_us().is_some_and(|due| due <= now_us) {
                late.push(*handle);
            }
        }
        for handle in late {
            self.tally.given_up += 1;
            self.end(now_us, handle, REFUSED, b"not in time");
        }
    }

    /// Puts a message on a lane of a session. False if there is no such session or no room.
    pub fn send(&mut self, peer: usize, number: u64, lane: Lane, message: &[u8]) -> bool {
        let link = self.link(peer, number);
        let lanes = link.and_then(|link| link.outgoing.get_mut(lane as usize));
        lanes.is_some_and(|outgoing| outgoing.push(lane, message))
    }

    /// How many more bytes may be put on the live lane.
    pub fn room(&mut self, peer: usize, number: u64) -> usize {
        let most = self.config.windows.live_queue;
        let link = self.link(peer, number);
        let live = link.and_then(|link| link.outgoing.get(Lane::Live as usize));
        live.map_or(0, |live| most.saturating_sub(live.queued()))
    }

    /// Sends a datagram, if there is a session. Older ones make room.
    pub fn datagram(&mut self, peer: usize, bytes: &[u8]) {
        let handle = self.sessions.get(&peer).copied();
        if let Some(link) = handle.and_then(|handle| self.links.get_mut(&handle)) {
            // One that is too large for the path is lost like any other.
            drop(link.connection.datagrams().send(Bytes::copy_from_slice(bytes), true));
        }
    }

    /// Ends the session with a place.
    pub fn close(&mut self, now_us: u64, peer: usize) {
        if let Some(handle) = self.sessions.get(&peer).copied() {
            self.end(now_us, handle, DONE, b"closed");
        }
    }

    /// Lets all connections go on: what leaves, to which place, and what the region is told.
    pub fn poll(&mut self, now_us: u64) -> (Vec<(usize, Vec<u8>)>, Vec<Happening>) {
        let handles: Vec<ConnectionHandle> = self.links.keys().copied().collect();
        for handle in handles {
            self.advance(now_us, handle);
        }
        (std::mem::take(&mut self.packets), std::mem::take(&mut self.happenings))
    }

    /// When it must be woken, in microseconds.
    pub fn wake_us(&mut self) -> Option<u64> {
        let clock = self.clock;
        let due = self.links.values_mut().flat_map(|link| {
            let timer = link.connection.poll_timeout();
            let timer = timer.map(|due| clock.us(due));
            [timer, link.deadline_us()]
        });
        due.flatten().min()
    }

    fn add(
        &mut self,
        now_us: u64,
        handle: ConnectionHandle,
        connection: Connection,
        number: u64,
        peer: Option<usize>,
    ) {
        let link = Link {
            connection,
            number,
            peer,
            dialled: peer.is_some(),
            began_us: now_us,
            up_us: None,
            over: false,
            is_drained: false,
            outgoing: Vec::new(),
            incoming: Vec::new(),
        };
        self.links.insert(handle, link);
    }

    fn advance(&mut self, now_us: u64, handle: ConnectionHandle) {
        self.events(now_us, handle);
        if let Err(violation) = self.exchange(now_us, handle) {
            self.end(now_us, handle, REFUSED, violation.0.as_bytes());
        }
        self.transmit(now_us, handle);
        self.endpoint_events(handle);
        // What the region is to know comes before a connection is forgotten.
        self.events(now_us, handle);
        if self.links.get(&handle).is_some_and(|link| link.is_drained)
            && let Some(link) = self.links.remove(&handle)
        {
            self.tally.lost_packets += link.connection.stats().path.lost_packets;
        }
    }

    fn events(&mut self, now_us: u64, handle: ConnectionHandle) {
        while let Some(event) = self.links.get_mut(&handle).and_then(|l| l.connection.poll()) {
            match event {
                Event::Connected => {
                    if let Err(violation) = self.connected(handle) {
                        self.end(now_us, handle, REFUSED, violation.0.as_bytes());
                    }
                }
                Event::ConnectionLost { reason } => self.lost(now_us, handle, &reason),
                _ => {}
            }
        }
    }

    /// What a connection wants of the endpoint.
    fn endpoint_events(&mut self, handle: ConnectionHandle) {
        let Some(link) = self.links.get_mut(&handle) else { return };
        while let Some(event) = link.connection.poll_endpoint_events() {
            link.is_drained |= event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(handle, event) {
                link.connection.handle_event(answer);
            }
        }
    }

    /// The handshake is over: who is it, and may they call? Then this side's lanes are opened.
    fn connected(&mut self, handle: ConnectionHandle) -> Result<(), Violation> {
        let Some(link) = self.links.get_mut(&handle).filter(|link| !link.over) else {
            return Ok(());
        };
        let identity = link.connection.crypto_session().peer_identity();
        let identity = identity.and_then(|who| who.downcast::<Identity>().ok());
        let identity = *identity.ok_or(Violation("nobody"))?;
        let place = usize::from(identity.place);
        if self.config.origins.get(place) != Some(&identity.origin) {
            return Err(Violation("unknown region"));
        }
        let is_right = match link.peer {
            Some(dialled) => dialled == place,
            None => identity.origin < self.config.me.origin,
        };
        if !is_right {
            return Err(Violation("wrong direction"));
        }
        link.peer = Some(place);
        for (number, priority) in PRIORITIES.into_iter().enumerate() {
            let stream = link.connection.streams().open(Dir::Uni);
            let stream = stream.ok_or(Violation("no stream"))?;
            let ordered = link.connection.send_stream(stream).set_priority(priority);
            ordered.map_err(|_| Violation("no stream"))?;
            link.outgoing.push(Outgoing::new(stream, number, self.config.me.origin));
        }
        Ok(())
    }

    /// Reads what has come and writes what waits.
    fn exchange(&mut self, now_us: u64, handle: ConnectionHandle) -> Result<(), Violation> {
        let Some(link) = self.links.get_mut(&handle).filter(|link| !link.over) else {
            return Ok(());
        };
        let Some(peer) = link.peer.filter(|_| !link.outgoing.is_empty()) else { return Ok(()) };
        for outgoing in &mut link.outgoing {
            self.tally.blocked += u64::from(outgoing.write(&mut link.connection)?);
        }
        while let Some(stream) = link.connection.streams().accept(Dir::Uni) {
            link.incoming.push(Incoming::new(stream));
        }
        for incoming in &mut link.incoming {
            incoming.read(&mut link.connection, self.config.origins[peer])?;
        }
        if link.up_us.is_none() {
            let mut numbers: Vec<usize> = link.incoming.iter().flat_map(Incoming::number).collect();
            numbers.sort_unstable();
            if numbers.windows(2).any(|two| two[0] == two[1]) {
                return Err(Violation("a lane was opened twice"));
            }
            if numbers.len() < LANES {
                return Ok(());
            }
            self.begin(now_us, handle, peer);
        }
        let Some(link) = self.links.get_mut(&handle) else { return Ok(()) };
        for incoming in &mut link.incoming {
            let lane = incoming.number().and_then(lane_of);
            for message in incoming.messages()? {
                let lane = lane.ok_or(Violation("a lane that is not used"))?;
                self.happenings.push(Happening::Message(peer, link.number, lane, message));
            }
        }
        while let Some(bytes) = link.connection.datagrams().recv() {
            self.happenings.push(Happening::Datagram(peer, bytes.to_vec()));
        }
        Ok(())
    }

    /// A session begins. The peer would not call again if it still had an older one.
    fn begin(&mut self, now_us: u64, handle: ConnectionHandle, peer: usize) {
        if let Some(older) = self.sessions.get(&peer).copied() {
            self.tally.replaced += 1;
            self.end(now_us, older, REPLACED, b"replaced");
            self.transmit(now_us, older);
        }
        if let Some(link) = self.links.get_mut(&handle) {
            link.up_us = Some(now_us);
            self.sessions.insert(peer, handle);
            self.tally.sessions += 1;
            self.happenings.push(Happening::Up(peer, link.number));
        }
    }

    fn lost(&mut self, now_us: u64, handle: ConnectionHandle, reason: &ConnectionError) {
        match reason {
            ConnectionError::TimedOut => self.tally.idle_timeouts += 1,
            ConnectionError::Reset => self.tally.resets += 1,
            _ => {}
        }
        self.part(now_us, handle);
    }

    /// Ends a connection from this side.
    fn end(&mut self, now_us: u64, handle: ConnectionHandle, code: VarInt, reason: &[u8]) {
        let now = self.clock.instant(now_us);
        if let Some(link) = self.links.get_mut(&handle) {
            link.connection.close(now, code, Bytes::copy_from_slice(reason));
        }
        self.part(now_us, handle);
    }

    /// The region hears no more of a connection; it is dialled again after a while.
    fn part(&mut self, now_us: u64, handle: ConnectionHandle) {
        let Some(link) = self.links.get_mut(&handle).filter(|link| !link.over) else { return };
        link.over = true;
        let Some(peer) = link.peer else { return };
        if link.up_us.is_some() {
            self.happenings.push(Happening::Down(peer, link.number));
            self.sessions.remove(&peer);
        }
        if link.dialled {
            let is_good =
                link.up_us.is_some_and(|up_us| now_us >= up_us + limits::STABLE_AFTER_MS * 1000);
            let dial = self.dials.entry(peer).or_default();
            if is_good || dial.wait_ms == 0 {
                dial.wait_ms = limits::BACKOFF_FIRST_MS;
            }
            dial.not_before_us = now_us + dial.wait_ms * 1000;
            dial.wait_ms = (dial.wait_ms * 2).min(limits::BACKOFF_MAX_MS);
        }
    }

    fn transmit(&mut self, now_us: u64, handle: ConnectionHandle) {
        let now = self.clock.instant(now_us);
        let Some(link) = self.links.get_mut(&handle) else { return };
        loop {
            let mut bytes = Vec::new();
            let Some(packet) = link.connection.poll_transmit(now, 1, &mut bytes) else { return };
            if let Some(place) = place_of(packet.destination) {
                self.packets.push((place, bytes));
            }
        }
    }

    fn respond(&mut self, to: usize, has_response: bool, bytes: Vec<u8>) {
        if has_response {
            self.packets.push((to, bytes));
        }
    }

    fn link(&mut self, peer: usize, number: u64) -> Option<&mut Link> {
        let handle = self.sessions.get(&peer)?;
        self.links.get_mut(handle).filter(|link| link.number == number)
    }

    fn next_number(&mut self) -> u64 {
        self.made += 1;
        self.config.first_session + self.made
    }
}

impl Link {
    /// When a connection that has not come about is given up.
    fn deadline_us(&self) -> Option<u64> {
        let is_open = self.up_us.is_none() && !self.over;
        is_open.then_some(self.began_us + limits::ESTABLISH_TIMEOUT_MS * 1000)
    }
}

/// Where a place is reached, in all of its lives.
fn address(place: usize) -> SocketAddr {
    let number = (place as u16).to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, number[0], number[1])), 7000)
}

fn place_of(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) => Some(usize::from(u16::from_be_bytes([ip.octets()[2], ip.octets()[3]]))),
        IpAddr::V6(_) => None,
    }
}
