//! May this server continue what the mirror has stored? The question before every stream.
//!
//! `START_REPLICATION` below the slot's `confirmed_flush_lsn` is not an error in Postgres: it
//! silently starts later and the rows between are never sent. So the comparison is made here, and
//! every doubt becomes a new copy with a loud reason, a refusal, or a wait, never "start anyway".

use crate::{Position, format_lsn};

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// From `IDENTIFY_SYSTEM`.
    pub system_id: u64,
    /// From `IDENTIFY_SYSTEM`.
    pub timeline: u32,
    /// End of the flushed log, from `IDENTIFY_SYSTEM`.
    pub flush_lsn: u64,
    /// From `TIMELINE_HISTORY`: each earlier timeline and the place where it was left.
    pub history: Vec<(u32, u64)>,
    /// A standby: it has a history of its own only when promoted.
    pub in_recovery: bool,
}

/// How much of the log that a slot needs is still there (`pg_replication_slots.wal_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// Beyond `max_wal_size`, kept for the slot.
    Extended,
    /// To be removed at the next checkpoint.
    Unreserved,
    /// Removed: the slot cannot be used any more.
    Lost,
}

impl WalStatus {
    /// Reads the catalog's word.
    pub fn parse(text: &str) -> Option<WalStatus> {
        match text {
            "reserved" => Some(WalStatus::Reserved),
            "extended" => Some(WalStatus::Extended),
            "unreserved" => Some(WalStatus::Unreserved),
            "lost" => Some(WalStatus::Lost),
            _ => None,
        }
    }
}

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Output plug-in; empty for a physical slot.
    pub plugin: String,
    /// The slot decodes the database that the session is connected to.
    pub same_database: bool,
    /// What the consumer has acknowledged; `None` while the slot is being created.
    pub confirmed_flush: Option<u64>,
    /// `None` where the catalog has none.
    pub wal_status: Option<WalStatus>,
    /// Process that holds the slot.
    pub active_pid: Option<i32>,
}

/// What to do with this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is stored: make the slot (replacing one of that name) and copy all tables.
    Snapshot,
    /// Stream from here.
    Resume(u64),
    /// What is stored cannot be continued: make the slot anew and copy all tables.
    Resnapshot(String),
    /// This must not be touched: an operator has to look.
    Refuse(String),
    /// Not now: ask again soon.
    Wait(String),
}

/// Decides how to go on from `stored` on this server.
pub fn decide(server: &Server, slot: Option<&Slot>, stored: Option<&Position>) -> Decision {
    if server.in_recovery {
        return Decision::Wait("the server is a standby; waiting for a primary".into());
    }
    if let Some(reason) = stored.and_then(|stored| foreign(server, stored)) {
        return Decision::Refuse(reason);
    }
    if let Some(refusal) = slot.and_then(unusable) {
        return refusal;
    }
    let Some(stored) = stored else { return Decision::Snapshot };
    if let Some(reason) = diverged(server, stored) {
        return Decision::Resnapshot(reason);
    }
    let Some(slot) = slot else {
        return Decision::Resnapshot("the replication slot is gone".into());
    };
    if slot.wal_status == Some(WalStatus::Lost) {
        return Decision::Resnapshot(
            "the replication slot has lost log that was not read yet (max_slot_wal_keep_size)"
                .into(),
        );
    }
    match slot.confirmed_flush {
        None => Decision::Wait("the replication slot is being created".into()),
        Some(confirmed) if confirmed > stored.lsn => Decision::Resnapshot(format!(
            "the replication slot was acknowledged up to {}, past the stored {}: \
             changes between them are lost to the stream",
            format_lsn(confirmed),
            format_lsn(stored.lsn)
        )),
        Some(_) => Decision::Resume(stored.lsn),
    }
}

/// Reasons why this server is not the one whose rows are stored.
fn foreign(server: &Server, stored: &Position) -> Option<String> {
    if server.system_id != stored.system_id {
        return Some(format!(
            "the server is another cluster (system {}) than the mirror's (system {})",
            server.system_id, stored.system_id
        ));
    }
    (server.timeline < stored.timeline).then(|| {
        format!(
            "the server is on the old timeline {}; timeline {} was already followed",
            server.timeline, stored.timeline
        )
    })
}

/// Reasons why the slot may be neither used nor replaced.
fn unusable(slot: &Slot) -> Option<Decision> {
    if slot.plugin != "pgoutput" {
        let plugin = if slot.plugin.is_empty() { "none (physical)" } else { &slot.plugin };
        return Some(Decision::Refuse(format!(
            "the replication slot has plug-in {plugin} instead of pgoutput; choose another name"
        )));
    }
    if !slot.same_database {
        return Some(Decision::Refuse(
            "the replication slot belongs to another database; choose another name".into(),
        ));
    }
    slot.active_pid.map(|pid| {
        Decision::Wait(format!("the replication slot is held by another process (pid {pid})"))
    })
}

/// Reasons why the server's history does not contain the stored position.
fn diverged(server: &Server, stored: &Position) -> Option<String> {
    if server.timeline > stored.timeline {
        let left = server.history.iter().find(|(timeline, _)| *timeline == stored.timeline);
        let Some((_, switch)) = left else {
            return Some(format!(
                "timeline {} is not an ancestor of the server's timeline {}",
                stored.timeline, server.timeline
            ));
        };
        if stored.lsn > *switch {
            return Some(format!(
                "timeline {} was left at {}, before the stored {}: applied changes were lost in \
                 the promotion",
                stored.timeline,
                format_lsn(*switch),
                format_lsn(stored.lsn)
            ));
        }
    }
    (stored.lsn > server.flush_lsn).then(|| {
        format!(
            "the server's log ends at {}, before the stored {}: it was set back",
            format_lsn(server.flush_lsn),
            format_lsn(stored.lsn)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: Position = Position { system_id: 7, timeline: 2, lsn: 1000 };

    fn server() -> Server {
        Server {
            system_id: 7,
            timeline: 2,
            flush_lsn: 5000,
            history: vec![(1, 500)],
            in_recovery: false,
        }
    }

    fn slot() -> Slot {
        Slot {
            plugin: "pgoutput".into(),
            same_database: true,
            confirmed_flush: Some(900),
            wal_status: Some(WalStatus::Reserved),
            active_pid: None,
        }
    }

    #[track_caller]
    fn check(server: Server, slot: Option<Slot>, stored: Option<Position>, expect: &str) {
        let got = format!("{:?}", decide(&server, slot.as_ref(), stored.as_ref()));
        assert!(got.contains(expect), "{got} does not contain {expect}");
    }

    #[test]
    fn the_usual_ways() {
        check(server(), None, None, "Snapshot");
        check(server(), Some(slot()), None, "Snapshot");
        check(server(), Some(slot()), Some(STORED), "Resume(1000)");
        let even = Slot { confirmed_flush: Some(1000), ..slot() };
        check(server(), Some(even), Some(STORED), "Resume(1000)");
    }

    #[test]
    fn gaps_are_loud() {
        let ahead = Slot { confirmed_flush: Some(1001), ..slot() };
        check(server(), Some(ahead), Some(STORED), "Resnapshot(\"the replication slot was ack");
        check(server(), None, Some(STORED), "Resnapshot(\"the replication slot is gone");
        let lost = Slot { wal_status: Some(WalStatus::Lost), confirmed_flush: None, ..slot() };
        check(server(), Some(lost), Some(STORED), "Resnapshot(\"the replication slot has lost");
        let back = Server { flush_lsn: 999, ..server() };
        check(back, Some(slot()), Some(STORED), "Resnapshot(\"the server's log ends");
    }

    #[test]
    fn promotions() {
        let promoted =
            |switch| Server { timeline: 3, history: vec![(1, 500), (2, switch)], ..server() };
        check(promoted(1000), Some(slot()), Some(STORED), "Resume(1000)");
        check(promoted(999), Some(slot()), Some(STORED), "lost in the promotion");
        let stranger = Server { timeline: 4, history: vec![(1, 500), (3, 700)], ..server() };
        check(stranger, Some(slot()), Some(STORED), "not an ancestor");
        let old = Server { timeline: 1, history: vec![], ..server() };
        check(old, Some(slot()), Some(STORED), "Refuse(\"the server is on the old timeline");
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let other = Server { system_id: 8, ..server() };
        check(other, Some(slot()), Some(STORED), "Refuse(\"the server is another cluster");
        let plugin = Slot { plugin: "wal2json".into(), ..slot() };
        check(server(), Some(plugin.clone()), Some(STORED), "Refuse");
        check(server(), Some(plugin), None, "Refuse");
        let physical = Slot { plugin: String::new(), ..slot() };
        check(server(), Some(physical), None, "physical");
        let elsewhere = Slot { same_database: false, ..slot() };
        check(server(), Some(elsewhere), None, "Refuse(\"the replication slot belongs");
    }

    #[test]
    fn waits() {
        let held = Slot { active_pid: Some(4), ..slot() };
        check(server(), Some(held.clone()), Some(STORED), "Wait");
        check(server(), Some(held), None, "pid 4");
        let standby = Server { in_recovery: true, ..server() };
        check(standby, None, None, "Wait");
        let young = Slot { confirmed_flush: None, ..slot() };
        check(server(), Some(young), Some(STORED), "being created");
    }
}
