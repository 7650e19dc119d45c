//! What the mesh counts, and how it is read.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::lane::LANES;
use crate::mesh::SessionId;
use crate::refusal::Refusal;

/// What went over the lanes one way, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Messages.
    pub messages: u64,
    /// Bytes of messages with their lengths, before compression.
    pub raw_bytes: u64,
    /// Bytes given to QUIC, after compression.
    pub wire_bytes: u64,
    /// Bytes of UDP payload, with everything that QUIC adds and repeats.
    pub udp_bytes: u64,
    /// Datagrams.
    pub datagrams: u64,
}

/// What is known about one peer.
#[derive(Debug, Clone)]
pub struct PeerStats {
    /// The peer's ordinal.
    pub ordinal: u16,
    /// The peer's region.
    pub name: String,
    /// The session, while connected.
    pub session: Option<SessionId>,
    /// Where the peer is, while connected.
    pub remote: Option<SocketAddr>,
    /// The smoothed round trip, while connected.
    pub rtt: Option<Duration>,
    /// Bytes that wait to be sent, by lane.
    pub queued_bytes: [usize; LANES],
    /// Sent to the peer.
    pub sent: Traffic,
    /// Received from the peer.
    pub received: Traffic,
    /// Sessions that began.
    pub sessions: u64,
    /// Refusals that certainly concern this peer.
    pub refused: Vec<(Refusal, u64)>,
}

impl PeerStats {
    /// Whether there is a session.
    pub fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// Sessions that began after the first.
    pub fn reconnects(&self) -> u64 {
        self.sessions.saturating_sub(1)
    }
}

/// What is known about the mesh.
#[derive(Debug, Clone)]
pub struct MeshStats {
    /// By ordinal.
    pub peers: Vec<PeerStats>,
    /// Callers refused before it was certain who they are.
    pub refused: Vec<(Refusal, u64)>,
}

/// One way's counters.
#[derive(Debug, Default)]
pub(crate) struct TrafficCounters {
    messages: AtomicU64,
    raw_bytes: AtomicU64,
    wire_bytes: AtomicU64,
    udp_bytes: AtomicU64,
    datagrams: AtomicU64,
}

impl TrafficCounters {
    pub(crate) fn add_lane(&self, messages: u64, raw_bytes: usize, wire_bytes: usize) {
        self.messages.fetch_add(messages, Relaxed);
        self.raw_bytes.fetch_add(raw_bytes as u64, Relaxed);
        self.wire_bytes.fetch_add(wire_bytes as u64, Relaxed);
    }

    pub(crate) fn add_datagram(&self) {
        self.datagrams.fetch_add(1, Relaxed);
    }

    /// Adds what an ended session had sent; a live session's is added when read.
    pub(crate) fn add_udp(&self, bytes: u64) {
        self.udp_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn snapshot(&self, live_udp_bytes: u64) -> Traffic {
        Traffic {
            messages: self.messages.load(Relaxed),
            raw_bytes: self.raw_bytes.load(Relaxed),
            wire_bytes: self.wire_bytes.load(Relaxed),
            udp_bytes: self.udp_bytes.load(Relaxed) + live_udp_bytes,
            datagrams: self.datagrams.load(Relaxed),
        }
    }
}
