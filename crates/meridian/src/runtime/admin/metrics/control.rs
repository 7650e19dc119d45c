//! The control plane: health, states of regions, roles, and what DNS was asked.

use std::fmt;

use meridian_failover::Level;
use prometheus_client::registry::Unit;

use super::super::{facts::Facts, health, status};
use super::{Out, flag, known, labels, one, whole};

const LEVELS: [Level; 3] = [Level::Healthy, Level::Degraded, Level::Unhealthy];

pub(super) fn export(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let level = health::assess(facts).level;
    out.gauge(
        "meridian_health",
        None,
        "1 for this node's present level of health, 0 for the others",
        LEVELS.map(|each| (labels([("level", &each.to_string())]), flag(each == level))),
    )?;
    regions(facts, out)?;
    roles(facts, out)?;
    dns(facts, out)
}

fn regions(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let agreed = || facts.view.iter().flat_map(|view| &view.state.regions);
    let states = agreed().flat_map(|(ordinal, region)| {
        let name = facts.name(*ordinal);
        status::STATES.map(|state| {
            let labels = labels([("region", &name), ("state", status::state_name(state))]);
            (labels, flag(state == region.state))
        })
    });
    out.gauge(
        "meridian_region_state",
        None,
        "1 for the state that the control group has agreed on for the region, 0 for the others",
        states,
    )?;
    out.gauge(
        "meridian_region_flaps",
        None,
        "Times in a row that the region went down soon after it came up",
        agreed().map(|(ordinal, region)| {
            (labels([("region", &facts.name(*ordinal))]), i64::from(region.flaps))
        }),
    )?;
    let seen = facts.view.iter().flat_map(|view| &view.regions);
    let silence = seen.filter_map(|region| {
        let seconds = region.silent_ms? as f64 / 1e3;
        Some((labels([("region", &facts.name(region.region))]), seconds))
    });
    out.gauge(
        "meridian_region_silence",
        Some(Unit::Seconds),
        "Time since a heartbeat of the region came here",
        silence,
    )
}

fn roles(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let view = facts.view.as_ref();
    out.gauge(
        "meridian_epoch",
        None,
        "Decisions of the control group that took effect",
        known(view.map(|view| whole(view.state.epoch))),
    )?;
    let primary = |name: &str, is_primary| (labels([("region", name)]), flag(is_primary));
    let primaries = view.into_iter().flat_map(|view| {
        facts.names.iter().map(move |(o, name)| primary(name, *o == view.state.primary))
    });
    out.gauge(
        "meridian_primary",
        None,
        "1 for the region that the control group has made primary, 0 for the others",
        primaries,
    )?;
    out.gauge(
        "meridian_is_primary",
        None,
        "1 while this region may act as primary: it has the role and its lease holds",
        known(view.map(|view| flag(view.is_primary))),
    )?;
    out.gauge(
        "meridian_raft_term",
        None,
        "The control group's term",
        known(view.map(|view| whole(view.term))),
    )?;
    let leaders = view.into_iter().flat_map(|view| {
        facts.names.iter().map(move |(o, name)| primary(name, Some(*o) == view.leader))
    });
    out.gauge(
        "meridian_raft_leader",
        None,
        "1 for the region that leads the control group, as far as known here, 0 for the others",
        leaders,
    )
}

fn dns(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let counts = &facts.dns;
    let transports = [("udp", counts.udp), ("tcp", counts.tcp)];
    out.counter(
        "meridian_dns_queries",
        None,
        "DNS queries received",
        transports.map(|(name, count)| (labels([("transport", name)]), count)),
    )?;
    let outcomes = [
        ("answered", counts.answered),
        ("no_data", counts.no_data),
        ("no_such_name", counts.no_such_name),
        ("refused", counts.refused),
        ("malformed", counts.malformed),
        ("send_failed", counts.send_failed),
    ];
    out.counter(
        "meridian_dns_answers",
        None,
        "DNS queries, by how they ended",
        outcomes.map(|(name, count)| (labels([("outcome", name)]), count)),
    )?;
    out.counter(
        "meridian_dns_queries_with_subnet",
        None,
        "DNS queries that told the client's network",
        one(counts.with_subnet),
    )
}
