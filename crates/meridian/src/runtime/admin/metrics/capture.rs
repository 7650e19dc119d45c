//! The tailer: what comes from Postgres, while this region is the primary one.

use std::fmt;

use meridian_postgres::{State, Status};
use prometheus_client::registry::Unit;

use super::super::facts::Facts;
use super::{Out, flag, known, labels, one, whole};

const STATES: [&str; 7] =
    ["connecting", "creating_slot", "copying", "streaming", "retrying", "refused", "stopped"];

pub(super) fn export(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let status = facts.tailer.as_ref();
    out.gauge(
        "meridian_cdc_active",
        None,
        "1 while this region follows Postgres; else the other numbers of the tailer are missing",
        one(flag(status.is_some())),
    )?;
    let states = status.into_iter().flat_map(|status| {
        let now = state_name(&status.state);
        STATES.map(|state| (labels([("state", state)]), flag(state == now)))
    });
    out.gauge(
        "meridian_cdc_state",
        None,
        "1 for what the tailer is doing, 0 for what it is not",
        states,
    )?;
    lag(facts, status, out)?;
    totals(status, out)?;
    let tables = status.into_iter().flat_map(|status| {
        [("captured", status.captured.len()), ("refused", status.refused.len())]
    });
    out.gauge(
        "meridian_cdc_tables",
        None,
        "Tables that are mirrored, and tables that cannot be",
        tables.map(|(state, count)| (labels([("state", state)]), whole(count as u64))),
    )
}

fn state_name(state: &State) -> &'static str {
    match state {
        State::Connecting => "connecting",
        State::CreatingSlot => "creating_slot",
        State::Copying { .. } => "copying",
        State::Streaming => "streaming",
        State::Retrying { .. } => "retrying",
        State::Refused => "refused",
        State::Stopped => "stopped",
    }
}

fn lag(facts: &Facts, status: Option<&Status>, out: &mut Out<'_>) -> fmt::Result {
    out.gauge(
        "meridian_cdc_lag",
        Some(Unit::Bytes),
        "Log between the end of Postgres's and what it was told that it may forget",
        known(status.map(|status| whole(status.lag_bytes))),
    )?;
    out.gauge(
        "meridian_cdc_lag",
        Some(Unit::Seconds),
        "Age of the last transaction received, while Postgres has log that was not received; else 0",
        known(status.map(|status| lag_s(status, facts.now_us))),
    )?;
    let mirrored = facts.counters.last_mirrored_commit_us;
    out.gauge(
        "meridian_cdc_mirrored_commit_timestamp",
        Some(Unit::Seconds),
        "Commit time of the last transaction that was mirrored here, since 1970 by Postgres's clock",
        known((mirrored > 0).then_some(mirrored as f64 / 1e6)),
    )?;
    out.gauge(
        "meridian_cdc_safe_wal",
        Some(Unit::Bytes),
        "Log that Postgres can still write before the slot is lost, where that is limited",
        known(status.and_then(|status| status.safe_wal_bytes)),
    )
}

/// How far the stream is behind in time, as far as it can be told from here.
fn lag_s(status: &Status, now_us: u64) -> f64 {
    let then_us = u64::try_from(status.last_commit_time_us).unwrap_or(0);
    if status.received_lsn >= status.server_lsn || then_us == 0 {
        return 0.0;
    }
    now_us.saturating_sub(then_us) as f64 / 1e6
}

fn totals(status: Option<&Status>, out: &mut Out<'_>) -> fmt::Result {
    let totals = status.map(|status| status.totals);
    let counters = [
        ("sessions", "Times that the tailer came to streaming", totals.map(|t| t.sessions)),
        ("failures", "Sessions with Postgres that failed", totals.map(|t| t.failures)),
        ("transactions", "Transactions received from Postgres", totals.map(|t| t.transactions)),
        ("batches", "Batches of rows handed to the executor", totals.map(|t| t.batches)),
        ("rows", "Changed rows handed to the executor", totals.map(|t| t.changes)),
        ("copies", "Copies of all tables begun", totals.map(|t| t.snapshots)),
        ("rows_copied", "Rows read by copies of tables", totals.map(|t| t.rows_copied)),
        ("rows_ignored", "Changes of tables that cannot be mirrored", totals.map(|t| t.ignored)),
    ];
    for (name, help, total) in counters {
        out.counter(&format!("meridian_cdc_{name}"), None, help, known(total))?;
    }
    Ok(())
}
