//! What the executor tells: commands, clients, keys, frames.

use std::fmt;

use prometheus_client::registry::Unit;

use super::super::facts::Facts;
use super::{Out, flag, known, labels, whole};
use crate::runtime::snapshot::Snapshot;

pub(super) fn export(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let snapshot = facts.snapshot.as_deref();
    out.gauge(
        "meridian_executor_up",
        None,
        "1 if the executor answered in time; else what it would tell is missing",
        super::one(flag(snapshot.is_some())),
    )?;
    commands(snapshot, facts, out)?;
    clients(snapshot, out)?;
    keys(snapshot, out)?;
    frames(snapshot, facts, out)
}

fn commands(snapshot: Option<&Snapshot>, facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let calls = snapshot.into_iter().flat_map(|s| &s.calls);
    out.counter(
        "meridian_commands",
        None,
        "Commands run, by name",
        calls.map(|(name, count)| (labels([("command", &name.to_ascii_lowercase())]), *count)),
    )?;
    out.counter(
        "meridian_commands_processed",
        None,
        "Commands run, all of them",
        known(snapshot.map(|s| s.commands)),
    )?;
    out.seconds(
        "meridian_executor_turn",
        "How long turns of the executor take: everything that has arrived, its commit, its replies",
        &facts.turns,
    )
}

fn clients(snapshot: Option<&Snapshot>, out: &mut Out<'_>) -> fmt::Result {
    out.gauge(
        "meridian_clients",
        None,
        "Redis clients that are connected",
        known(snapshot.map(|s| whole(s.clients))),
    )?;
    out.counter(
        "meridian_client_connections",
        None,
        "Connections of Redis clients that were accepted",
        known(snapshot.map(|s| s.connections)),
    )?;
    out.counter(
        "meridian_clients_refused",
        None,
        "Connections of Redis clients that were refused because there were too many",
        known(snapshot.map(|s| s.clients_refused)),
    )?;
    out.gauge(
        "meridian_clients_waiting",
        None,
        "Redis clients that wait in MERIDIAN.AWAIT",
        known(snapshot.map(|s| whole(s.clients_waiting))),
    )?;
    let outcomes = snapshot.into_iter().flat_map(|s| {
        let awaits = s.awaits;
        [("covered", awaits.covered), ("waited", awaits.waited), ("stale", awaits.stale)]
    });
    out.counter(
        "meridian_awaits",
        None,
        "How MERIDIAN.AWAIT ended: covered at once, covered after waiting, or stale",
        outcomes.map(|(outcome, count)| (labels([("outcome", outcome)]), count)),
    )?;
    out.counter(
        "meridian_client_read",
        Some(Unit::Bytes),
        "Bytes read from Redis clients",
        known(snapshot.map(|s| s.bytes_read)),
    )?;
    out.counter(
        "meridian_client_written",
        Some(Unit::Bytes),
        "Bytes written to Redis clients",
        known(snapshot.map(|s| s.bytes_written)),
    )
}

fn keys(snapshot: Option<&Snapshot>, out: &mut Out<'_>) -> fmt::Result {
    out.gauge(
        "meridian_keys",
        None,
        "Keys that show something, mirrored rows among them",
        known(snapshot.map(|s| whole(s.keys))),
    )?;
    out.counter(
        "meridian_key_hits",
        None,
        "Reads that found their key",
        known(snapshot.map(|s| s.hits)),
    )?;
    out.counter(
        "meridian_key_misses",
        None,
        "Reads that did not find their key",
        known(snapshot.map(|s| s.misses)),
    )?;
    out.gauge(
        "meridian_conflict_keys",
        None,
        "Keys that hold a value which lost to a concurrent write",
        known(snapshot.map(|s| whole(s.conflicts))),
    )?;
    let events = snapshot
        .into_iter()
        .flat_map(|s| [("seen", s.conflicts_seen), ("resolved", s.conflicts_resolved)]);
    out.counter(
        "meridian_conflicts",
        None,
        "Values that lost to a concurrent write: seen when that began, resolved when it ended",
        events.map(|(event, count)| (labels([("event", event)]), count)),
    )?;
    out.gauge(
        "meridian_conflict_followers",
        None,
        "Clients that follow conflicts",
        known(snapshot.map(|s| whole(s.conflict_followers))),
    )?;
    out.counter(
        "meridian_conflict_feed_dropped",
        None,
        "Messages about conflicts that a follower did not read in time and was told of by number",
        known(snapshot.map(|s| s.conflict_feed_dropped)),
    )?;
    out.gauge(
        "meridian_counter_residue",
        None,
        "Empty counter rows that wait until their region has seen their removal",
        known(snapshot.map(|s| whole(s.residue))),
    )?;
    out.counter(
        "meridian_operations",
        None,
        "Operations applied, of this region and of the others",
        known(snapshot.map(|s| s.operations)),
    )
}

fn frames(snapshot: Option<&Snapshot>, facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let outcomes = snapshot.into_iter().flat_map(|s| {
        [
            ("applied", s.frames_applied),
            ("duplicate", s.frames_duplicate),
            ("missed", s.frames_missed),
            ("future", s.frames_from_the_future),
        ]
    });
    out.counter(
        "meridian_frames",
        None,
        "Frames of other regions: applied, here already, asked for again after a gap, or refused \
         because they are dated too far in the future",
        outcomes.map(|(outcome, count)| (labels([("outcome", outcome)]), count)),
    )?;
    out.gauge(
        "meridian_frames_held",
        Some(Unit::Bytes),
        "Frames of other regions that wait for what they depend on",
        known(snapshot.map(|s| whole(s.held_bytes))),
    )?;
    out.gauge(
        "meridian_caught_up",
        None,
        "1 if this region has what its peers had when their sessions began",
        known(snapshot.map(|s| flag(s.caught_up))),
    )?;
    let quarantined = snapshot.into_iter().flat_map(|s| {
        let is_in = |ordinal: &u16| s.quarantined.contains(ordinal);
        facts.names.iter().map(move |(o, name)| (labels([("region", name)]), flag(is_in(o))))
    });
    out.gauge(
        "meridian_quarantined",
        None,
        "1 if frames of the region are refused because its history has forked",
        quarantined,
    )?;
    repairs(snapshot, out)
}

fn repairs(snapshot: Option<&Snapshot>, out: &mut Out<'_>) -> fmt::Result {
    let outcomes = snapshot.into_iter().flat_map(|s| {
        let counts = &s.repairs;
        [
            ("applied", counts.completed - counts.equal),
            ("equal", counts.equal),
            ("given_up", counts.failed),
            ("served", counts.served),
        ]
    });
    out.counter(
        "meridian_repairs",
        None,
        "State repairs of partitions: applied here, found equal, given up to begin again, or served \
         to another region",
        outcomes.map(|(outcome, count)| (labels([("outcome", outcome)]), count)),
    )?;
    out.gauge(
        "meridian_repairs_outstanding",
        None,
        "Partitions whose repair is wanted or under way",
        known(snapshot.map(|s| whole(s.repairs_outstanding as u64))),
    )?;
    let bytes = snapshot
        .into_iter()
        .flat_map(|s| [("received", s.repairs.received_bytes), ("sent", s.repairs.sent_bytes)]);
    out.counter(
        "meridian_repair",
        Some(Unit::Bytes),
        "Symbols and elements of state repairs, before compression",
        bytes.map(|(direction, count)| (labels([("direction", direction)]), count)),
    )?;
    let scrubs = snapshot.into_iter().flat_map(|s| {
        [("compared", s.repairs.scrubbed), ("inconclusive", s.repairs.scrubs_inconclusive)]
    });
    out.counter(
        "meridian_scrubs",
        None,
        "Comparisons of a partition with another region's: carried through, or not to be told \
         because too much was on its way or the other side was busy",
        scrubs.map(|(outcome, count)| (labels([("outcome", outcome)]), count)),
    )?;
    out.counter(
        "meridian_divergent_elements",
        None,
        "Elements that differed although both regions had seen the same; the log names their keys",
        known(snapshot.map(|s| s.repairs.divergent)),
    )?;
    out.counter(
        "meridian_repair_elements",
        None,
        "Elements received in state repairs",
        known(snapshot.map(|s| s.repairs.received_elements)),
    )
}
