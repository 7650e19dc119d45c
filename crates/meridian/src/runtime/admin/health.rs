//! Whether this node is well, in words: what load balancers, orchestrators and people ask first.

use std::time::Duration;

use meridian_cdc::WalStatus;
use meridian_failover::Level;
use meridian_postgres::State;

use super::{
    facts::Facts,
    limits::{BACKUP_PATIENCE, CDC_LAG_BYTES, LOG_PRESSURE},
};
use crate::backup::instant;

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
    clocks(facts, &mut verdict);
    storage(facts, &mut verdict);
    backups(facts, &mut verdict);
    tailer(facts, &mut verdict);
    verdict
}

/// Whether traffic may be sent here at all: it has started, and is a full member (a region that
/// joins has not got its data yet, one that leaves takes no writes).
#[must_use]
pub fn is_ready(facts: &Facts) -> bool {
    let is_member =
        facts.view.as_ref().is_some_and(|view| view.state.members.is_active(facts.origin));
    facts.snapshot.is_some() && is_member
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

fn clocks(facts: &Facts, verdict: &mut Verdict) {
    let Some(clock) = facts.snapshot.as_ref().map(|snapshot| &snapshot.clock) else { return };
    if let Some(why) = &clock.fence {
        verdict.add(Level::Unhealthy, why.clone());
    }
    for (origin, ahead_ms) in &clock.held {
        let name = facts.name(*origin);
        let s = ahead_ms / 1_000;
        verdict.add(
            Level::Degraded,
            format!("writes of {name} are held: they are dated {s} s in the future"),
        );
    }
    for origin in &clock.doubtful {
        let name = facts.name(*origin);
        verdict.add(
            Level::Degraded,
            format!(
                "{name} claims to have writes that cannot be: it lies, or this region goes on from \
                 an old copy"
            ),
        );
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
    for (file, text) in &facts.disk.rotten {
        verdict.add(Level::Degraded, format!("{file} has rotted: {text}"));
    }
    if facts.checkpoint.stalled {
        verdict.add(Level::Degraded, "RocksDB holds writes back until compaction has caught up");
    }
}

fn backups(facts: &Facts, verdict: &mut Verdict) {
    let state = &facts.backups;
    if let Some(error) = &state.backup_error {
        verdict.add(Level::Degraded, format!("the last backup has failed: {error}"));
    }
    if let Some(error) = &state.verify_error {
        verdict.add(Level::Degraded, format!("the last backup that was read back: {error}"));
    }
    let late = |since_ms: u64, every: Option<Duration>| {
        let patience = every.map(|every| every.saturating_mul(BACKUP_PATIENCE));
        // A node that has just been started gets the time that it needs for the first.
        let age = Duration::from_millis((facts.now_us / 1000).saturating_sub(since_ms));
        patience.is_some_and(|patience| age > patience && facts.uptime > patience)
    };
    for (what, since_ms, every) in [
        ("good backup", state.good_ms, state.every),
        ("backup that was read back", state.verified_ms, state.verify_every),
    ] {
        if late(since_ms, every) {
            let when = match since_ms {
                0 => "never was".to_owned(),
                ms => format!("is from {}", instant::show(ms)),
            };
            verdict.add(Level::Degraded, format!("the last {what} {when}"));
        }
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
                facts.disk.rotten.insert("checkpoint".to_owned(), "bad block".to_owned());
            },
            Level::Degraded,
            &[
                "the log takes 3.0 GiB where 1.0 GiB should do: a region that is away or a \
                 checkpoint that is late holds it",
                "checkpoint has rotted: bad block",
                "RocksDB holds writes back until compaction has caught up",
            ],
        );
    }

    #[test]
    fn backups_that_do_not_come_are_noticed() {
        check(
            |facts| {
                facts.backups.backup_error = Some("no space left on device".to_owned());
                facts.backups.verify_error = Some("backup a is damaged".to_owned());
            },
            Level::Degraded,
            &[
                "the last backup has failed: no space left on device",
                "the last backup that was read back: backup a is damaged",
            ],
        );
        let late = |facts: &mut Facts| {
            facts.uptime = Duration::from_secs(10_000);
            facts.backups.every = Some(Duration::from_secs(400));
            facts.backups.verify_every = Some(Duration::from_secs(4_000));
            facts.backups.verified_ms = 0;
        };
        check(
            late,
            Level::Degraded,
            &[
                "the last good backup is from 2023-11-14T21:56:40.000Z",
                "the last backup that was read back never was",
            ],
        );
        let started = |facts: &mut Facts| {
            late(facts);
            facts.uptime = Duration::from_secs(100);
        };
        check(started, Level::Healthy, &[]);
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
            &[
                "writes of ap-southeast are refused: its history has forked",
                "writes of ap-southeast are held: they are dated 28800 s in the future",
                "ap-southeast claims to have writes that cannot be: it lies, or this region goes \
                 on from an old copy",
            ],
        );
    }

    #[test]
    fn a_clock_that_is_off_is_unhealthy() {
        let fence = |facts: &mut Facts| {
            let mut snapshot = facts.snapshot.as_deref().unwrap().clone();
            snapshot.clock.fence = Some("CLOCKSKEW this region's clock is off".to_owned());
            facts.snapshot = Some(std::sync::Arc::new(snapshot));
        };
        check(fence, Level::Unhealthy, &["CLOCKSKEW this region's clock is off"]);
    }

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [(0, "0 bytes"), (1023, "1023 bytes"), (1 << 20, "1.0 MiB")] {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(human(u64::MAX), "16384.0 PiB");
    }
}
