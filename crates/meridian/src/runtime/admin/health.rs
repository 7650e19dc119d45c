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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::admin::sample;
    use meridian_failover::{Health, Reason};
    use meridian_store::LogPosition;

    /// Changes a node that is well, and sees what is said about it.
    fn check(change: impl FnOnce(&mut Facts), level: Level, reasons: &[&str]) {
        let mut facts = sample::well();
        change(&mut facts);
        let expected = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        assert_eq!(assess(&facts), Verdict { level, reasons: expected });
    }

    #[test]
    fn all_is_well() {
        check(|_| {}, Level::Healthy, &[]);
        check(|facts| facts.tailer = None, Level::Healthy, &[]);
    }

    #[test]
    fn the_worst_reason_decides_and_all_are_told() {
        let isolated = Reason::Isolated { since_ms: Some(700) };
        let reasons = vec![isolated, Reason::Excluded];
        check(
            |facts| {
                let view = facts.view.as_mut().unwrap();
                view.health = Health { level: Level::Unhealthy, reasons };
                facts.mesh.peers[0].session = None;
            },
            Level::Unhealthy,
            &[
                "cut off: no majority of regions has heard this one for 700 ms",
                "the control group does not count this region as up",
                "not connected to eu-central",
            ],
        );
        assert_eq!(assess(&sample::facts()).level, Level::Degraded);
    }

    #[test]
    fn silence_is_unhealthy() {
        check(
            |facts| *facts = sample::silent(),
            Level::Unhealthy,
            &["the executor does not answer", "the control plane has not reported yet"],
        );
        assert!(is_ready(&sample::facts()) && !is_ready(&sample::silent()));
    }

    #[test]
    fn storage_that_is_held_up_is_noticed() {
        check(
            |facts| {
                facts.log.end = LogPosition(facts.log.start.0 + 3 * facts.log.expected_bytes);
                facts.checkpoint.stalled = true;
            },
            Level::Degraded,
            &[
                "the log takes 3.0 GiB where 1.0 GiB should do: a region that is away or a \
                 checkpoint that is late holds it",
                "RocksDB holds writes back until compaction has caught up",
            ],
        );
    }

    #[test]
    fn a_tailer_that_does_not_follow_is_noticed() {
        let tailer = |change: fn(&mut meridian_postgres::Status)| {
            move |facts: &mut Facts| change(facts.tailer.as_mut().unwrap())
        };
        check(
            tailer(|status| {
                status.state = State::Refused;
                status.last_error = Some("wal_level is replica".to_owned());
                status.wal_status = Some(WalStatus::Lost);
            }),
            Level::Degraded,
            &[
                "Postgres cannot be followed: wal_level is replica",
                "Postgres has removed log that the slot needed",
            ],
        );
        check(
            tailer(|status| {
                status.state = State::Retrying { after_ms: 500 };
                status.lag_bytes = CDC_LAG_BYTES + 1;
                status.wal_status = Some(WalStatus::Unreserved);
            }),
            Level::Degraded,
            &[
                "Postgres is tried again and again: no error was given",
                "64.0 MiB behind Postgres",
                "Postgres is about to remove log that the slot needs",
            ],
        );
    }

    #[test]
    fn a_forked_region_is_named() {
        check(
            |facts| facts.snapshot = sample::facts().snapshot,
            Level::Degraded,
            &["writes of ap-southeast are refused: its history has forked"],
        );
    }

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [(0, "0 bytes"), (1023, "1023 bytes"), (1 << 20, "1.0 MiB")] {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(human(u64::MAX), "16384.0 PiB");
    }
}
