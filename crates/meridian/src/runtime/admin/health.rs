//! Whether this node is well, in words: what load balancers, orchestrators and people ask first.

use meridian_cdc::WalStatus;
use meridian_failover::Level;
use meridian_postgres::State;

use super::{
    facts::Facts,
    limits::{CDC_LAG_BYTES, LOG_PRESSURE},
};

/// A level, and why it is not better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The worst of the reasons'.
    pub level: Level,
    /// Sentences for people; empty when healthy.
    pub reasons: Vec<String>,
}

impl Verdict {
    fn add(&mut self, level: Level, reason: impl Into<String>) {
        self.level = self.level.max(level);
        self.reasons.push(reason.into());
    }
}

/// Judges a node.
#[must_use]
pub fn assess(facts: &Facts) -> Verdict {
    let mut verdict = Verdict { level: Level::Healthy, reasons: Vec::new() };
    if facts.snapshot.is_none() {
        verdict.add(Level::Unhealthy, "the executor does not answer");
    }
    match &facts.view {
        None => verdict.add(Level::Unhealthy, "the control plane has not reported yet"),
        Some(view) => {
            verdict.level = verdict.level.max(view.health.level);
            verdict.reasons.extend(view.health.reasons.iter().map(ToString::to_string));
        }
    }
    peers(facts, &mut verdict);
    storage(facts, &mut verdict);
    tailer(facts, &mut verdict);
    verdict
}

/// Whether traffic may be sent here at all: it has started.
#[must_use]
pub fn is_ready(facts: &Facts) -> bool {
    facts.snapshot.is_some() && facts.view.is_some()
}

fn peers(facts: &Facts, verdict: &mut Verdict) {
    for peer in facts.mesh.peers.iter().filter(|peer| !peer.is_connected()) {
        verdict.add(Level::Degraded, format!("not connected to {}", peer.name));
    }
    for origin in facts.snapshot.iter().flat_map(|snapshot| &snapshot.quarantined) {
        let name = facts.name(*origin);
        verdict
            .add(Level::Degraded, format!("writes of {name} are refused: its history has forked"));
    }
}

fn storage(facts: &Facts, verdict: &mut Verdict) {
    let (bytes, expected) = (facts.log.bytes(), facts.log.expected_bytes);
    if expected > 0 && bytes > expected.saturating_mul(LOG_PRESSURE) {
        verdict.add(
            Level::Degraded,
            format!(
                "the log takes {} where {} should do: a region that is away or a checkpoint that \
                 is late holds it",
                human(bytes),
                human(expected)
            ),
        );
    }
    if facts.checkpoint.stalled {
        verdict.add(Level::Degraded, "RocksDB holds writes back until compaction has caught up");
    }
}

fn tailer(facts: &Facts, verdict: &mut Verdict) {
    let Some(status) = &facts.tailer else { return };
    let error = status.last_error.as_deref().unwrap_or("no error was given");
    match status.state {
        State::Refused => {
            verdict.add(Level::Degraded, format!("Postgres cannot be followed: {error}"));
        }
        State::Retrying { .. } => {
            verdict.add(Level::Degraded, format!("Postgres is tried again and again: {error}"));
        }
        _ => {}
    }
    if status.lag_bytes > CDC_LAG_BYTES {
        let lag = human(status.lag_bytes);
        verdict.add(Level::Degraded, format!("{lag} behind Postgres"));
    }
    match status.wal_status {
        Some(WalStatus::Lost) => {
            verdict.add(Level::Degraded, "Postgres has removed log that the slot needed");
        }
        Some(WalStatus::Unreserved) => {
            verdict.add(Level::Degraded, "Postgres is about to remove log that the slot needs");
        }
        Some(WalStatus::Reserved | WalStatus::Extended) | None => {}
    }
}

/// A size for people.
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}
