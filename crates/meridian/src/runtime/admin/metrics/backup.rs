//! Backups.

use std::fmt;

use prometheus_client::registry::Unit;

use super::super::facts::Facts;
use super::{Out, known, labels, one, whole};

pub(super) fn export(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let state = &facts.backups;
    let counts = state.counts;
    out.counter(
        "meridian_backups",
        None,
        "Backups of this node since it was started, by how they ended",
        [
            (labels([("outcome", "taken")]), counts.taken),
            (labels([("outcome", "failed")]), counts.failed),
        ],
    )?;
    out.counter(
        "meridian_backup_verifications",
        None,
        "Backups that were read back since the start, by what was found",
        [
            (labels([("outcome", "sound")]), counts.sound),
            (labels([("outcome", "unsound")]), counts.unsound),
        ],
    )?;
    let seconds = |ms: u64| (ms > 0).then_some(ms as f64 / 1000.0);
    out.gauge(
        "meridian_backup_last_timestamp",
        Some(Unit::Seconds),
        "When the last good backup was taken, since 1970",
        known(seconds(state.good_ms)),
    )?;
    out.gauge(
        "meridian_backup_verified_timestamp",
        Some(Unit::Seconds),
        "When a backup was last read back and found sound, since 1970",
        known(seconds(state.verified_ms)),
    )?;
    out.gauge(
        "meridian_backup_copied",
        Some(Unit::Bytes),
        "What the last backup had to copy; the rest was there from earlier ones",
        one(whole(state.copied)),
    )
}
