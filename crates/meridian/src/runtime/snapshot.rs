//! How things are, as the executor tells the admin port.

use std::collections::BTreeMap;

use meridian_clock::{Origin, VersionVector};
use meridian_keyspace::{Awaits, SLOTS};
use meridian_node::{DataNode, PeerLag, RepairCounts, RepairProgress};

use super::clients::Clients;

/// Numbers of one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Keys that show something.
    pub keys: u64,
    /// Connected clients.
    pub clients: u64,
    /// Clients refused because there were too many.
    pub clients_refused: u64,
    /// Connections accepted since the start.
    pub connections: u64,
    /// Commands run since the start.
    pub commands: u64,
    /// Calls by command.
    pub calls: BTreeMap<&'static str, u64>,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Clients that wait in MERIDIAN.AWAIT.
    pub clients_waiting: u64,
    /// How MERIDIAN.AWAIT ended.
    pub awaits: Awaits,
    /// Bytes from and to clients.
    pub bytes_read: u64,
    /// See `bytes_read`.
    pub bytes_written: u64,
    /// Operations applied, local and remote.
    pub operations: u64,
    /// Frames of other regions that were applied.
    pub frames_applied: u64,
    /// Frames that were here already.
    pub frames_duplicate: u64,
    /// Frames that had to be asked for again.
    pub frames_missed: u64,
    /// Frames from too far in the future.
    pub frames_from_the_future: u64,
    /// Bytes of frames that wait for what they depend on.
    pub held_bytes: u64,
    /// Origins whose history forked.
    pub quarantined: Vec<u16>,
    /// Keys that hold a conflict.
    pub conflicts: u64,
    /// Values that began to lose, and that ceased to.
    pub conflicts_seen: u64,
    /// See `conflicts_seen`.
    pub conflicts_resolved: u64,
    /// Clients that follow conflicts.
    pub conflict_followers: u64,
    /// Events that a follower had no room for.
    pub conflict_feed_dropped: u64,
    /// Empty counter rows that wait for their origin.
    pub residue: u64,
    /// Lag by peer.
    pub lags: BTreeMap<u16, PeerLag>,
    /// What is known of time.
    pub clock: ClockFacts,
    /// Whom this region asks for whose frames.
    pub upstreams: BTreeMap<u16, Vec<u16>>,
    /// The protocol that is spoken with each peer.
    pub protocols: BTreeMap<u16, u16>,
    /// How often a second way was taken while the first had a session.
    pub detours: u64,
    /// State repairs: counts since the start.
    pub repairs: RepairCounts,
    /// State repairs that are wanted or under way.
    pub repairs_outstanding: usize,
    /// Those under way, and how long each has taken, in milliseconds.
    pub repairing: Vec<(RepairProgress, u64)>,
    /// This region has what its peers had.
    pub caught_up: bool,
    /// A digest of the vectors: equal where the same operations are applied.
    pub vectors_digest: u64,
    /// What every partition has durably applied.
    pub vectors: Vec<VersionVector>,
}

/// Clocks of one moment.
#[derive(Clone, Debug, Default)]
pub struct ClockFacts {
    /// The error that writes get because of this node's clock, or because it has lost writes.
    pub fence: Option<String>,
    /// By peer: what its clock is ahead of this one, and what that may be wrong by, in
    /// microseconds.
    pub offsets: BTreeMap<u16, (i64, u64)>,
    /// By held origin: how far its stamps are ahead of this node's clock, in milliseconds.
    pub held: BTreeMap<u16, u64>,
    /// Peers that claim what cannot be.
    pub doubtful: Vec<u16>,
    /// Holds since the start.
    pub holds: u64,
    /// Fences since the start.
    pub fences: u64,
    /// Watermarks that claimed what cannot be.
    pub watermarks_refused: u64,
    /// Hybrid time minus the time that is believed, in milliseconds.
    pub hybrid_ahead_ms: u64,
}

impl ClockFacts {
    fn take(node: &DataNode) -> ClockFacts {
        let (clocks, clock) = (node.clocks(), node.engine().stage().clock());
        let (watch, physical_ms) = (clocks.watch(), clock.physical().as_ms());
        let is_fenced = clocks.refuses_writes();
        let held = clocks.holds().iter();
        ClockFacts {
            fence: node.engine().environment().refuse_writes.clone().filter(|_| is_fenced),
            offsets: watch.offsets().map(|o| (o.peer.0, (o.offset_us, o.error_us))).collect(),
            held: held.map(|(o, h)| (o.0, h.stamp.as_ms().saturating_sub(physical_ms))).collect(),
            doubtful: clocks.doubtful().iter().map(|o| o.0).collect(),
            holds: clocks.holds().begun,
            fences: watch.fenced_count,
            watermarks_refused: clocks.watermarks_refused,
            hybrid_ahead_ms: clock.now().as_ms().saturating_sub(physical_ms),
        }
    }
}

impl Snapshot {
    /// Takes one.
    #[must_use]
    pub fn take(node: &DataNode, clients: &Clients) -> Snapshot {
        let engine = node.engine();
        let stage = engine.stage();
        let env = engine.environment();
        let partitions = 0..stage.partitions();
        let ordinals = |set: &std::collections::BTreeSet<Origin>| set.iter().map(|o| o.0).collect();
        Snapshot {
            keys: (0..SLOTS).map(|slot| stage.table(slot).live() as u64).sum(),
            clients: clients.len() as u64,
            clients_refused: clients.refused,
            connections: env.connections_received,
            commands: env.commands_processed,
            calls: env.calls().collect(),
            hits: env.hits,
            misses: env.misses,
            clients_waiting: env.waiting,
            awaits: env.awaits,
            bytes_read: clients.bytes_read,
            bytes_written: clients.bytes_written,
            operations: stage.ops_applied(),
            frames_applied: node.frames_applied,
            frames_duplicate: node.inbox().duplicates,
            frames_missed: node.inbox().gaps,
            frames_from_the_future: node.frames_from_the_future,
            held_bytes: node.inbox().held_bytes() as u64,
            quarantined: ordinals(node.inbox().quarantined()),
            conflicts: stage.conflicts().len() as u64,
            conflicts_seen: stage.conflicts().counts().0,
            conflicts_resolved: stage.conflicts().counts().1,
            conflict_followers: env.followers,
            conflict_feed_dropped: env.feed_dropped,
            residue: partitions.map(|p| stage.partition(p).residue() as u64).sum(),
            lags: node.lags().map(|(peer, lag)| (peer.0, lag)).collect(),
            clock: ClockFacts::take(node),
            upstreams: node.upstreams().iter().map(|(p, o)| (p.0, ordinals(o))).collect(),
            protocols: node.protocols().map(|(peer, version)| (peer.0, version)).collect(),
            detours: node.detours(),
            repairs: node.repairs().counts(),
            repairs_outstanding: node.repairs().outstanding(),
            repairing: node
                .repairs()
                .progress()
                .map(|p| (p.clone(), node.now_ms().saturating_sub(p.since_ms)))
                .collect(),
            caught_up: node.is_caught_up(),
            vectors_digest: vectors_digest(&stage.vectors()),
            vectors: engine.durable_vectors().to_vec(),
        }
    }
}

fn vectors_digest(vectors: &[meridian_clock::VersionVector]) -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| digest = (digest ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    for (number, vector) in vectors.iter().enumerate() {
        for (origin, time) in vector.iter() {
            mix(number as u64);
            mix(u64::from(origin.0));
            mix(time.0);
        }
    }
    digest
}
