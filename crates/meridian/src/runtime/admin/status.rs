//! `/status`: the cluster as this node sees it, as one JSON document for people and programs.

use meridian_cdc::format_lsn;
use meridian_failover::{Cause, Member, RegionState, RegionView};
use meridian_mesh::{PeerStats, Traffic};
use meridian_postgres::Status;
use serde_json::{Map, Value, json};

use super::{facts::Facts, health};
use crate::runtime::snapshot::{ClockFacts, Snapshot};

/// This build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The document. What is not known is `null`; field names end in their unit.
#[must_use]
pub fn document(facts: &Facts) -> Value {
    let view = facts.view.as_ref();
    let snapshot = facts.snapshot.as_deref();
    let verdict = health::assess(facts);
    let log = &facts.log;
    json!({
        "cluster": facts.cluster,
        "region": facts.region,
        "origin": facts.origin,
        "version": VERSION,
        "now_ms": facts.now_us / 1000,
        "uptime_s": facts.uptime.as_secs(),
        "epoch": view.map(|view| view.state.epoch),
        "primary": view.map(|view| facts.name(view.state.primary)),
        "is_primary": view.is_some_and(|view| view.is_primary),
        "leader": view.and_then(|view| view.leader).map(|leader| facts.name(leader)),
        "term": view.map(|view| view.term),
        "health": { "level": verdict.level.to_string(), "reasons": verdict.reasons },
        "regions": regions(facts),
        "members": members(facts),
        "peers": peers(facts),
        "caught_up": snapshot.map(|s| s.caught_up),
        "repairs": snapshot.map(|s| repairs(facts, s)),
        "vectors_digest": snapshot.map(|s| format!("{:016x}", s.vectors_digest)),
        "keys": snapshot.map(|s| s.keys),
        "clients": snapshot.map(|s| s.clients),
        "commands": snapshot.map(|s| s.commands),
        "operations": snapshot.map(|s| s.operations),
        "hits": snapshot.map(|s| s.hits),
        "misses": snapshot.map(|s| s.misses),
        "conflicts": snapshot.map(|s| s.conflicts),
        "quarantined": snapshot
            .map(|s| s.quarantined.iter().map(|o| facts.name(*o)).collect::<Vec<_>>()),
        "clock": snapshot.map(|s| clock(&s.clock, facts)),
        "log": {
            "start": log.start.0,
            "end": log.end.0,
            "durable": log.durable.0,
            "bytes": log.bytes(),
            "segments": log.segments,
            "checkpoint": log.checkpoint.0,
        },
        "disk": {
            "checked_bytes": facts.disk.bytes,
            "last_sound_ms": (facts.disk.sound_ms > 0).then_some(facts.disk.sound_ms),
            "rotten": facts.disk.rotten,
            "checkpoints_rewritten": facts.disk.rewritten,
        },
        "backup": {
            "last_good_ms": (facts.backups.good_ms > 0).then_some(facts.backups.good_ms),
            "last_verified_ms":
                (facts.backups.verified_ms > 0).then_some(facts.backups.verified_ms),
            "running": facts.backups.running.is_some(),
            "error": facts.backups.backup_error,
            "verify_error": facts.backups.verify_error,
        },
        "cdc": facts.tailer.as_ref().map(|status| cdc(status, facts.now_us)),
        "memory_bytes": facts.process.resident_bytes,
        "cpu_s": facts.process.cpu_s,
    })
}

/// One word for a state.
#[must_use]
pub fn state_name(state: RegionState) -> &'static str {
    match state {
        RegionState::Up => "up",
        RegionState::Degraded => "degraded",
        RegionState::Recovering => "recovering",
        RegionState::Down => "down",
    }
}

/// All states, for metrics.
pub const STATES: [RegionState; 4] =
    [RegionState::Up, RegionState::Degraded, RegionState::Recovering, RegionState::Down];

fn cause_text(cause: Cause) -> &'static str {
    match cause {
        Cause::Initial => "as the cluster began",
        Cause::Unreachable => "a majority does not hear it",
        Cause::Unhealthy => "its own checks fail",
        Cause::Slow => "its own checks are slow or fail now and then",
        Cause::Returned => "it is back and catching up",
        Cause::Healthy => "it is back and well",
        Cause::Joined => "it is new and was not heard yet",
    }
}

fn regions(facts: &Facts) -> Value {
    let Some(view) = &facts.view else { return Value::Null };
    let seen = |ordinal: u16| -> Option<&RegionView> {
        view.regions.iter().find(|region| region.region == ordinal)
    };
    let regions = view.state.regions.iter().map(|(ordinal, status)| {
        let region = seen(*ordinal);
        let entry = json!({
            "origin": ordinal,
            "state": state_name(status.state),
            "cause": cause_text(status.cause),
            "since_epoch": status.since,
            "flaps": status.flaps,
            "silent_ms": region.and_then(|r| r.silent_ms),
            "level": region.and_then(|r| r.level).map(|level| level.to_string()),
            "heard_by_majority": region.is_some_and(|r| r.is_heard_by_majority),
        });
        (facts.name(*ordinal), entry)
    });
    Value::Object(regions.collect::<Map<_, _>>())
}

/// Every region that has an ordinal, and those that had one: names may come twice.
fn members(facts: &Facts) -> Value {
    let Some(view) = &facts.view else { return Value::Null };
    let text = |address: Option<std::net::SocketAddr>| address.map(|a| a.to_string());
    let entry = |(ordinal, member): (u16, &Member)| {
        json!({
            "name": member.name,
            "origin": ordinal,
            "status": member.status.as_str(),
            "since_epoch": member.since,
            "votes": view.voters.contains(&ordinal),
            "mesh": member.addresses.mesh,
            "redis": text(member.addresses.redis),
            "admin": text(member.addresses.admin),
            "dns": text(member.addresses.dns),
        })
    };
    Value::Array(view.state.members.iter().map(entry).collect())
}

fn peers(facts: &Facts) -> Value {
    let entry = |peer: &PeerStats| {
        let snapshot = facts.snapshot.as_deref();
        let lag = snapshot.and_then(|s| s.lags.get(&peer.ordinal));
        let clock = snapshot.and_then(|s| s.clock.offsets.get(&peer.ordinal));
        let upstream_for: Vec<String> = snapshot
            .and_then(|s| s.upstreams.get(&peer.ordinal))
            .into_iter()
            .flatten()
            .map(|origin| facts.name(*origin))
            .collect();
        json!({
            "origin": peer.ordinal,
            "connected": peer.is_connected(),
            "protocol": snapshot.and_then(|s| s.protocols.get(&peer.ordinal)),
            "address": peer.remote.map(|address| address.to_string()),
            "rtt_ms": peer.rtt.map(|rtt| rtt.as_micros() as f64 / 1e3),
            "lag_ms": lag.map(|lag| lag.behind_ms),
            "unacknowledged_ms": lag.map(|lag| lag.unacknowledged_ms),
            "backlog_bytes": facts.backlog.get(&peer.ordinal),
            "clock_offset_ms": clock.map(|(offset_us, _)| *offset_us as f64 / 1e3),
            "clock_error_ms": clock.map(|(_, error_us)| *error_us as f64 / 1e3),
            "queued_bytes": peer.queued_bytes.iter().sum::<usize>(),
            "sent": traffic(&peer.sent),
            "received": traffic(&peer.received),
            "reconnects": peer.reconnects(),
            "upstream_for": upstream_for,
        })
    };
    let peers = facts.mesh.peers.iter().map(|peer| (peer.name.clone(), entry(peer)));
    Value::Object(peers.collect::<Map<_, _>>())
}

fn repairs(facts: &Facts, snapshot: &Snapshot) -> Value {
    let under_way = snapshot.repairing.iter().map(|(progress, ms)| {
        let left = progress.expected.saturating_sub(progress.received);
        // At the pace so far; unknown before anything has come.
        let estimate = (progress.received > 0).then(|| left * ms / progress.received);
        json!({
            "partition": progress.partition,
            "from": facts.name(progress.donor.0),
            "phase": progress.phase,
            "elements": progress.received,
            "elements_expected": progress.expected,
            "bytes": progress.bytes,
            "for_ms": ms,
            "left_ms": estimate,
        })
    });
    json!({
        "outstanding": snapshot.repairs_outstanding,
        "under_way": under_way.collect::<Vec<_>>(),
        "completed": snapshot.repairs.completed,
        "given_up": snapshot.repairs.failed,
        "elements": snapshot.repairs.received_elements,
        "received_bytes": snapshot.repairs.received_bytes,
        "scrubbed": snapshot.repairs.scrubbed,
        "divergent": snapshot.repairs.divergent,
    })
}

fn clock(clock: &ClockFacts, facts: &Facts) -> Value {
    let held = clock.held.iter().map(|(origin, ahead_ms)| (facts.name(*origin), json!(ahead_ms)));
    json!({
        "fenced": clock.fence,
        "fences": clock.fences,
        "hybrid_ahead_ms": clock.hybrid_ahead_ms,
        "held": held.collect::<Map<_, _>>(),
        "doubtful": clock.doubtful.iter().map(|o| facts.name(*o)).collect::<Vec<_>>(),
    })
}

fn traffic(traffic: &Traffic) -> Value {
    json!({
        "messages": traffic.messages,
        "raw_bytes": traffic.raw_bytes,
        "wire_bytes": traffic.wire_bytes,
        "udp_bytes": traffic.udp_bytes,
        "datagrams": traffic.datagrams,
    })
}

fn cdc(status: &Status, now_us: u64) -> Value {
    let refused = status.refused.iter().map(|(table, why)| (table.to_string(), json!(why)));
    json!({
        "state": status.state.to_string(),
        "server": status.server,
        "lsn": format_lsn(status.received_lsn),
        "acknowledged_lsn": format_lsn(status.acknowledged_lsn),
        "server_lsn": format_lsn(status.server_lsn),
        "lag_bytes": status.lag_bytes,
        "last_commit_ms_ago": ms_ago(status.last_commit_time_us, now_us),
        "rows_copied": status.totals.rows_copied,
        "changes": status.totals.changes,
        "transactions": status.totals.transactions,
        "captured": status.captured.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "refused": refused.collect::<Map<_, _>>(),
        "last_error": status.last_error,
    })
}

/// How long ago a time of another clock was: never negative, unknown for zero.
#[must_use]
pub fn ms_ago(then_us: i64, now_us: u64) -> Option<u64> {
    let then_us = u64::try_from(then_us).ok().filter(|us| *us > 0)?;
    Some(now_us.saturating_sub(then_us) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::admin::sample;

    fn check(document: &Value, pointer: &str, expected: Value) {
        assert_eq!(document.pointer(pointer), Some(&expected), "{pointer}");
    }

    #[test]
    fn the_document_tells_what_is_known() {
        let document = document(&sample::facts());
        check(&document, "/region", json!("us-east"));
        check(&document, "/uptime_s", json!(90));
        check(&document, "/epoch", json!(4));
        check(&document, "/primary", json!("us-east"));
        check(&document, "/is_primary", json!(true));
        check(&document, "/leader", json!("eu-central"));
        check(&document, "/health/level", json!("degraded"));
        check(&document, "/health/reasons/0", json!("catching up with the other regions"));
        check(&document, "/regions/ap-southeast/state", json!("down"));
        check(&document, "/regions/ap-southeast/cause", json!("a majority does not hear it"));
        check(&document, "/regions/ap-southeast/silent_ms", Value::Null);
        check(&document, "/regions/eu-central/silent_ms", json!(31));
        check(&document, "/members/2/origin", json!(2));
        check(&document, "/members/2/status", json!("active"));
        check(&document, "/members/2/votes", json!(true));
        check(&document, "/peers/eu-central/connected", json!(true));
        check(&document, "/peers/eu-central/rtt_ms", json!(80.25));
        check(&document, "/peers/eu-central/lag_ms", json!(45));
        check(&document, "/peers/eu-central/protocol", json!(2));
        check(&document, "/peers/eu-central/unacknowledged_ms", json!(90));
        check(&document, "/peers/eu-central/backlog_bytes", json!(4096));
        check(&document, "/peers/eu-central/clock_offset_ms", json!(-12.0));
        check(&document, "/peers/eu-central/clock_error_ms", json!(40.5));
        check(&document, "/clock/fenced", Value::Null);
        check(&document, "/clock/held/ap-southeast", json!(28_800_000));
        check(&document, "/clock/doubtful", json!(["ap-southeast"]));
        check(&document, "/peers/eu-central/sent/wire_bytes", json!(3000));
        check(&document, "/peers/eu-central/received/raw_bytes", json!(18000));
        check(&document, "/peers/eu-central/upstream_for", json!(["eu-central", "ap-southeast"]));
        check(&document, "/peers/ap-southeast/connected", json!(false));
        check(&document, "/vectors_digest", json!("0000000000000abc"));
        check(&document, "/keys", json!(1000));
        check(&document, "/log/bytes", json!(8 << 20));
        check(&document, "/log/checkpoint", json!(5 << 20));
        check(&document, "/cdc/state", json!("streaming"));
        check(&document, "/cdc/lsn", json!("16/B374D800"));
        check(&document, "/cdc/acknowledged_lsn", json!("16/B374D000"));
        check(&document, "/cdc/last_commit_ms_ago", json!(500));
        check(&document, "/cdc/refused", json!({ "public.notes": "it has no key" }));
        check(&document, "/quarantined", json!(["ap-southeast"]));
    }

    #[test]
    fn what_is_not_known_is_null() {
        let document = document(&sample::silent());
        for field in
            ["epoch", "primary", "leader", "regions", "members", "keys", "vectors_digest", "cdc"]
        {
            assert!(document[field].is_null(), "{field}: {}", document[field]);
        }
        check(&document, "/is_primary", json!(false));
        check(&document, "/health/level", json!("unhealthy"));
    }

    #[test]
    fn times_of_other_clocks_are_never_negative() {
        assert_eq!(ms_ago(0, 5_000_000), None);
        assert_eq!(ms_ago(-1, 5_000_000), None);
        assert_eq!(ms_ago(4_000_000, 5_000_000), Some(1000));
        assert_eq!(ms_ago(6_000_000, 5_000_000), Some(0));
    }
}
