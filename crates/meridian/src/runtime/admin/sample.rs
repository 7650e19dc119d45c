//! A made-up node in the middle of its work: something in every field that is shown.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use meridian_cdc::{TableName, WalStatus};
use meridian_clock::Origin;
use meridian_disk::CheckpointStats;
use meridian_dns::DnsCounts;
use meridian_failover::{
    Cause, ControlState, FailoverConfig, Health, Level, Reason, RegionState, RegionView,
};
use meridian_keyspace::Awaits;
use meridian_mesh::{MeshStats, PeerStats, Refusal, SessionId, Traffic};
use meridian_node::{PeerLag, RepairCounts, RepairProgress};
use meridian_postgres::{State, Status, Totals};
use meridian_store::LogPosition;

use super::{
    facts::{Counters, Durations, Facts, Log},
    process::Process,
};
use crate::runtime::{
    backups::{Counts, State as Backups},
    disk_check::DiskState,
    plane::View,
    shared::Histogram,
    snapshot::{ClockFacts, Snapshot},
};

/// us-east in a cluster of three, primary, with ap-southeast down.
pub fn facts() -> Facts {
    Facts {
        cluster: "demo".to_owned(),
        region: "us-east".to_owned(),
        origin: 0,
        names: [(0, "us-east"), (1, "eu-central"), (2, "ap-southeast")]
            .map(|(ordinal, name)| (ordinal, name.to_owned()))
            .into(),
        uptime: Duration::from_millis(90_500),
        now_us: 1_700_000_000_000_000,
        snapshot: Some(Arc::new(snapshot())),
        view: Some(view()),
        mesh: MeshStats {
            peers: vec![connected(), away()],
            refused: vec![(Refusal::UntrustedCa, 3), (Refusal::NoCertificate, 1)],
        },
        backlog: BTreeMap::from([(1, 4096)]),
        dns: DnsCounts {
            udp: 100,
            tcp: 5,
            answered: 98,
            no_data: 1,
            no_such_name: 2,
            refused: 3,
            malformed: 1,
            with_subnet: 50,
            send_failed: 0,
        },
        tailer: Some(tailer()),
        log: Log {
            start: LogPosition(1 << 20),
            end: LogPosition(9 << 20),
            durable: LogPosition((9 << 20) - 512),
            checkpoint: LogPosition(5 << 20),
            segments: 2,
            expected_bytes: 1 << 30,
        },
        checkpoint: CheckpointStats {
            keys: 1200,
            disk_bytes: 3 << 20,
            cache_bytes: 2 << 20,
            memtable_bytes: 1 << 20,
            compaction_debt_bytes: 77,
            stalled: false,
        },
        counters: Counters {
            outgoing_dropped: 4,
            inbound_dropped: 6,
            checkpoints: 2,
            last_mirrored_commit_us: 1_699_999_999_250_000,
        },
        turns: durations(&[30, 30, 700]),
        syncs: durations(&[1_500, 2_000_000]),
        disk: DiskState {
            walks: 3,
            bytes: 9 << 20,
            sound_ms: 1_699_999_900_000,
            rotten: BTreeMap::new(),
            rewritten: 1,
        },
        backups: Backups {
            good_ms: 1_699_999_000_000,
            verified_ms: 1_699_990_000_000,
            counts: Counts { taken: 3, failed: 1, sound: 2, unsound: 0 },
            copied: 5 << 20,
            ..Backups::default()
        },
        process: Process {
            cpu_s: 12.5,
            resident_bytes: 150 << 20,
            start_s: 1_699_999_909.5,
            threads: 9,
            open_files: 40,
        },
    }
}

/// The same node before anything has answered.
pub fn silent() -> Facts {
    Facts {
        snapshot: None,
        view: None,
        mesh: MeshStats { peers: Vec::new(), refused: Vec::new() },
        backlog: BTreeMap::new(),
        tailer: None,
        ..facts()
    }
}

/// The same node when all is well everywhere.
pub fn well() -> Facts {
    let mut facts = facts();
    facts.mesh.peers[1] = PeerStats { session: Some(SessionId(9)), ..away() };
    if let Some(view) = &mut facts.view {
        view.health = Health { level: Level::Healthy, reasons: Vec::new() };
    }
    let mut snapshot = Snapshot { quarantined: Vec::new(), ..snapshot() };
    snapshot.clock.held.clear();
    snapshot.clock.doubtful.clear();
    facts.snapshot = Some(Arc::new(snapshot));
    if let Some(tailer) = &mut facts.tailer {
        tailer.last_error = None;
    }
    facts
}

fn snapshot() -> Snapshot {
    Snapshot {
        keys: 1000,
        clients: 7,
        clients_refused: 1,
        connections: 20,
        commands: 5000,
        calls: BTreeMap::from([("GET", 3000), ("SET", 2000)]),
        hits: 2900,
        misses: 100,
        clients_waiting: 2,
        awaits: Awaits { covered: 40, waited: 10, stale: 1 },
        bytes_read: 200_000,
        bytes_written: 300_000,
        operations: 2100,
        frames_applied: 900,
        frames_duplicate: 3,
        frames_missed: 2,
        frames_from_the_future: 1,
        held_bytes: 640,
        quarantined: vec![2],
        conflicts: 5,
        conflicts_seen: 12,
        conflicts_resolved: 7,
        conflict_followers: 1,
        conflict_feed_dropped: 3,
        residue: 8,
        lags: BTreeMap::from([
            (1, PeerLag { behind_ms: 45, unacknowledged_ms: 90 }),
            (2, PeerLag::default()),
        ]),
        clock: ClockFacts {
            fence: None,
            offsets: BTreeMap::from([(1, (-12_000, 40_500))]),
            held: BTreeMap::from([(2, 28_800_000)]),
            doubtful: vec![2],
            holds: 3,
            fences: 1,
            watermarks_refused: 9,
            hybrid_ahead_ms: 4,
        },
        upstreams: BTreeMap::from([(1, vec![1, 2])]),
        protocols: BTreeMap::from([(1, 2)]),
        detours: 6,
        repairs: RepairCounts { begun: 3, completed: 2, ..RepairCounts::default() },
        repairs_outstanding: 1,
        repairing: vec![(
            RepairProgress {
                partition: 4,
                donor: Origin(1),
                phase: "fetching",
                received: 100,
                expected: 400,
                bytes: 12_000,
                since_ms: 50,
            },
            200,
        )],
        caught_up: true,
        vectors_digest: 0xabc,
        vectors: Vec::new(),
    }
}

/// A view of this state and nothing else.
pub fn view_of(state: ControlState) -> View {
    View { state, ..view() }
}

fn view() -> View {
    let config = FailoverConfig::new(0, vec![0, 1, 2]);
    let mut state = ControlState::initial(&config).expect("a valid configuration");
    state.epoch = 4;
    let lost = state.regions.get_mut(&2).expect("a region of the configuration");
    (lost.state, lost.cause, lost.since, lost.flaps) =
        (RegionState::Down, Cause::Unreachable, 4, 1);
    let seen = |region, state, silent_ms, level| RegionView {
        region,
        state,
        silent_ms,
        level,
        is_heard_by_majority: state == RegionState::Up,
    };
    View {
        state,
        health: Health { level: Level::Degraded, reasons: vec![Reason::CatchingUp] },
        regions: vec![
            seen(0, RegionState::Up, Some(0), Some(Level::Degraded)),
            seen(1, RegionState::Up, Some(31), Some(Level::Healthy)),
            seen(2, RegionState::Down, None, None),
        ],
        leader: Some(1),
        term: 3,
        voters: [0, 1, 2].into(),
        is_primary: true,
    }
}

fn connected() -> PeerStats {
    PeerStats {
        ordinal: 1,
        name: "eu-central".to_owned(),
        session: Some(SessionId(2)),
        remote: Some(([127, 0, 0, 2], 7400).into()),
        rtt: Some(Duration::from_micros(80_250)),
        queued_bytes: [0, 100, 0],
        sent: traffic(1),
        received: traffic(2),
        sessions: 3,
        refused: vec![(Refusal::WrongName, 2)],
    }
}

fn away() -> PeerStats {
    PeerStats {
        ordinal: 2,
        name: "ap-southeast".to_owned(),
        session: None,
        remote: None,
        rtt: None,
        queued_bytes: [0; 3],
        sent: Traffic::default(),
        received: Traffic::default(),
        sessions: 0,
        refused: Vec::new(),
    }
}

fn traffic(factor: u64) -> Traffic {
    Traffic {
        messages: 10 * factor,
        raw_bytes: 9000 * factor,
        wire_bytes: 3000 * factor,
        udp_bytes: 4000 * factor,
        datagrams: 70 * factor,
    }
}

fn tailer() -> Status {
    let table = |name: &str| TableName::parse(name).expect("a table's name");
    Status {
        state: State::Streaming,
        server: "127.0.0.1:5432".to_owned(),
        received_lsn: 0x16_b374_d800,
        acknowledged_lsn: 0x16_b374_d000,
        server_lsn: 0x16_b374_d848,
        lag_bytes: 0x848,
        last_commit_time_us: 1_699_999_999_500_000,
        wal_status: Some(WalStatus::Reserved),
        safe_wal_bytes: Some(1 << 30),
        totals: Totals {
            sessions: 2,
            failures: 1,
            batches: 30,
            changes: 400,
            transactions: 25,
            snapshots: 1,
            rows_copied: 360,
            ignored: 9,
        },
        last_error: Some("the connection was lost".to_owned()),
        refused: BTreeMap::from([(table("public.notes"), "it has no key".to_owned())]),
        captured: vec![table("public.orders"), table("public.customers")],
        ..Status::default()
    }
}

fn durations(microseconds: &[u64]) -> Durations {
    let histogram = Histogram::default();
    microseconds.iter().for_each(|us| histogram.observe(Duration::from_micros(*us)));
    let (buckets, sum_s) = histogram.read();
    Durations { buckets, sum_s }
}
