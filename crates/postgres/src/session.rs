//! One session: find the primary, decide how to go on, copy what has to be copied, stream.

use std::convert::Infallible;
use std::sync::Arc;

use meridian_cdc::{
    Batch, Change, Decision, Ledger, Position, Server, TableName, decide, uncaptured,
};
use tracing::{info, warn};

use crate::capture::Capture;
use crate::control::Control;
use crate::endpoint::Endpoint;
use crate::replication::Replication;
use crate::status::State;
use crate::stream::{Begin, Copied, PendingLedger, Stream};
use crate::tailer::Follower;
use crate::wire::Mode;
use crate::{PostgresError, copy};

/// Runs until something ends it.
pub(crate) async fn run(follower: &mut Follower) -> Result<Infallible, PostgresError> {
    let (endpoint, control, in_recovery) = find_primary(&follower.endpoints).await?;
    follower.outlet.update(|status| status.server = endpoint.name());
    let mut replication = Replication::open(&endpoint, Mode::Replication).await?;
    let server = Server { in_recovery, ..replication.identify().await? };
    let slot = control.slot(&follower.config.slot).await?;
    let decision = decide(&server, slot.as_ref(), follower.outlet.position.as_ref());
    let confirmed_lsn = slot.and_then(|slot| slot.confirmed_flush).unwrap_or_default();
    let session = Session {
        confirmed_lsn,
        follower,
        endpoint,
        control: Arc::new(control),
        replication,
        server,
    };
    match decision {
        Decision::Refuse(reason) => Err(PostgresError::Refused(reason)),
        Decision::Wait(reason) => Err(PostgresError::Waiting(reason)),
        Decision::Snapshot => session.snapshot("nothing is stored yet".into()).await,
        Decision::Resnapshot(reason) => {
            warn!(reason, "all tables are copied anew");
            session.snapshot(reason).await
        }
        Decision::Resume(lsn) => session.resume(lsn).await,
    }
}

struct Session<'a> {
    /// What the slot was acknowledged up to: telling less would move it back.
    confirmed_lsn: u64,
    follower: &'a mut Follower,
    endpoint: Endpoint,
    control: Arc<Control>,
    replication: Replication,
    server: Server,
}

impl Session<'_> {
    /// Makes the slot and copies all tables at its beginning. No position is handed on before the
    /// last table is complete; an interrupted copy begins again.
    async fn snapshot(mut self, reason: String) -> Result<Infallible, PostgresError> {
        info!(reason, "copying all tables");
        let slot = self.follower.config.slot.clone();
        // The publication has to be there before the slot: the stream looks it up in the past.
        let planned = self.prepare().await?;
        self.follower.outlet.update(|status| {
            status.state = State::CreatingSlot;
            status.snapshot_reason = Some(reason);
            status.totals.snapshots += 1;
        });
        self.control.drop_slot(&slot).await?;
        let created = self.replication.create_slot(&slot, false).await?;
        // Read again: columns may have come since. Tables that have come since are left to the
        // next look at the catalogs, because the slot has not seen their beginning.
        let mut capture = self.prepare().await?;
        capture.tables.retain(|name, _| planned.tables.contains_key(name));
        // Without a position, like all of a copy: it is no news in any order of positions.
        let changes = uncaptured(capture.tables.keys());
        self.follower.outlet.send(Batch { changes, ..Batch::default() }).await?;
        self.copy(&mut capture, &created.snapshot, None).await?;
        self.confirmed_lsn = created.consistent_lsn;
        // Before the position: without it all of this is done again.
        let ledger = capture.as_ledger(&slot);
        if capture.ledger.is_some() {
            self.control.write_ledger(&self.follower.config.publication, &ledger).await?;
            capture.ledger = Some(ledger);
        } else {
            self.follower.remembered = Some(ledger);
        }
        let position = self.position(created.consistent_lsn);
        let last = Batch { position: Some(position), ..Batch::default() };
        self.follower.outlet.send(last).await?;
        self.stream(capture, position, None, None).await
    }

    /// Goes on at the stored position, after copying tables that the mirror does not hold yet.
    async fn resume(mut self, lsn: u64) -> Result<Infallible, PostgresError> {
        let mut capture = self.prepare().await?;
        let position = self.position(lsn);
        let ledger = self.ledger(&capture);
        let holds = |name: &_, key: &[String]| ledger.holds(name, key);
        let missing = capture.keys().iter().any(|(name, key)| !holds(name, key));
        let gone: Vec<_> =
            ledger.tables.keys().filter(|name| !capture.tables.contains_key(name)).collect();
        if !missing && gone.is_empty() {
            return self.stream(capture, position, None, None).await;
        }
        info!(?gone, "the captured tables have changed: copying what is new");
        let empty = |name: &&TableName| Change::Truncate { prefix: name.prefix() };
        let mut changes: Vec<Change> = gone.iter().map(empty).collect();
        let mut copied_at = None;
        if missing {
            self.follower.outlet.state(State::CreatingSlot);
            // A slot of its own gives a snapshot of one exact place in the log, from which on the
            // stream's changes of these tables count. It vanishes with its connection.
            let mut helper = Replication::open(&self.endpoint, Mode::Replication).await?;
            let name = format!("{:.58}_copy", self.follower.config.slot);
            let created = helper.create_slot(&name, true).await?;
            let failed = self.copy(&mut capture, &created.snapshot, Some(&ledger)).await?;
            changes.extend(failed.iter().map(|name| Change::Truncate { prefix: name.prefix() }));
            copied_at = Some(created.consistent_lsn);
        }
        self.follower.outlet.send(Batch { changes, ..Batch::default() }).await?;
        let new = capture.as_ledger(&self.follower.config.slot);
        let copied = copied_at.map(|lsn| Copied { lsn, before: ledger });
        // The copy carries no position: a later one than today's proves that it is stored.
        let pending = PendingLedger { due_lsn: lsn + 1, ledger: new };
        self.stream(capture, position, Some(pending), copied).await
    }

    fn position(&self, lsn: u64) -> Position {
        let Server { system_id, timeline, .. } = self.server;
        Position { system_id, timeline, lsn }
    }

    async fn prepare(&mut self) -> Result<Capture, PostgresError> {
        let follower = &mut self.follower;
        let capture = Capture::prepare(&self.control, &follower.config, &follower.given_up).await?;
        follower.outlet.update(|status| {
            status.refused = capture.refused.clone();
            status.captured = capture.tables.keys().cloned().collect();
        });
        Ok(capture)
    }

    /// What the mirror holds, by the publication's word or by our own memory.
    fn ledger(&self, capture: &Capture) -> Ledger {
        if let Some(ledger) = capture.ledger.as_ref().or(self.follower.remembered.as_ref()) {
            return ledger.clone();
        }
        // Neither: the publication belongs to someone else and this process has just begun. The
        // stored position stands for a copy of all its tables.
        capture.as_ledger(&self.follower.config.slot)
    }

    /// Copies the tables that `held` does not hold. Those that fail are captured no more.
    async fn copy(
        &mut self,
        capture: &mut Capture,
        snapshot: &str,
        held: Option<&Ledger>,
    ) -> Result<Vec<TableName>, PostgresError> {
        let missing = capture.tables.values().filter(|table| {
            let shape = &table.shape;
            !held.is_some_and(|held| held.holds(&shape.name, &shape.key_columns()))
        });
        let outlet = &mut self.follower.outlet;
        let failed = copy::tables(&self.endpoint, snapshot, missing, outlet).await?;
        let names = failed.keys().cloned().collect();
        for (name, reason) in failed {
            capture.tables.remove(&name);
            capture.refused.insert(name.clone(), reason.clone());
            capture.barred.insert(name.clone());
            self.follower.given_up.insert(name, reason);
        }
        self.follower.outlet.update(|status| {
            status.refused = capture.refused.clone();
            status.captured = capture.tables.keys().cloned().collect();
        });
        Ok(names)
    }

    async fn stream(
        mut self,
        capture: Capture,
        position: Position,
        pending: Option<PendingLedger>,
        copied: Option<Copied>,
    ) -> Result<Infallible, PostgresError> {
        let config = &self.follower.config;
        self.replication.start(&config.slot, position.lsn, &config.publication).await?;
        info!(%position, tables = capture.tables.len(), "streaming");
        self.follower.outlet.update(|status| {
            status.state = State::Streaming;
            status.totals.sessions += 1;
            status.received_lsn = position.lsn;
        });
        let confirmed = self.confirmed_lsn;
        let begin = Begin { position, confirmed, pending, copied };
        Stream::new(self.follower, self.control, self.replication, capture, begin).run().await
    }
}

/// The first server that is not a standby; if there is none, the first that answers.
async fn find_primary(endpoints: &[Endpoint]) -> Result<(Endpoint, Control, bool), PostgresError> {
    let mut standby = None;
    let mut failure = PostgresError::Config("no server is configured".into());
    for endpoint in endpoints {
        let control = match Control::open(endpoint).await {
            Ok(control) => control,
            Err(error) => {
                failure = error;
                continue;
            }
        };
        if !control.in_recovery().await? {
            return Ok((endpoint.clone(), control, false));
        }
        standby.get_or_insert((endpoint.clone(), control, true));
    }
    standby.ok_or(failure)
}
