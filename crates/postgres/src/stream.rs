//! The stream of a session: frames in, batches out, acknowledgements back.
//!
//! While batches wait for room nothing is read, so Postgres waits, too; the timers go on, so it
//! still hears from us. Nothing is acknowledged that `durable` does not cover.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use meridian_cdc::{
    Assembled, Assembler, Batch, Change, Counters, Decoder, Ledger, Message, Position,
    ReplicaIdentity, TableName, Tables,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::PostgresError;
use crate::capture::{Capture, capturable};
use crate::config::TailerConfig;
use crate::control::{CatalogTable, Control, Observation};
use crate::limits::{
    CONTROL_LOST_MAX_MS, IDLE_POSITION_MS, OBSERVATIONS_PER_TABLE_CHECK, OBSERVE_INTERVAL_MS,
    SILENCE_MAX_MS, STATUS_INTERVAL_MS, TICK_MS,
};
use crate::replication::{Frame, Replication};
use crate::tailer::Follower;

/// Where a stream begins.
pub(crate) struct Begin {
    pub position: Position,
    /// What the slot was acknowledged up to.
    pub confirmed: u64,
    /// To be written down later.
    pub pending: Option<PendingLedger>,
    /// Tables that were copied at a later place than `position`.
    pub copied: Option<Copied>,
}

/// Copies that the mirror holds once the durable position has come to `due_lsn`.
pub(crate) struct PendingLedger {
    pub due_lsn: u64,
    pub ledger: Ledger,
}

/// Tables that were copied at a place of their own.
pub(crate) struct Copied {
    /// The place.
    pub lsn: u64,
    /// What was held before, and therefore not copied.
    pub before: Ledger,
}

/// The state of a stream.
pub(crate) struct Stream<'a> {
    follower: &'a mut Follower,
    control: Arc<Control>,
    replication: Replication,
    capture: Capture,
    decoder: Decoder,
    assembler: Assembler,
    /// Batches that wait for room; nothing is read while there are any.
    outbox: VecDeque<Batch>,
    pending: Option<PendingLedger>,
    observer: Observer,
    counted: Counters,
    refused_before: usize,
    received_lsn: u64,
    /// From keepalives: everything that committed below has been received.
    idle_lsn: u64,
    /// The server wants to see the idle position stored.
    idle_due: bool,
    acknowledged_lsn: u64,
    heard_at: Instant,
    told_at: Instant,
    stored_at: Instant,
}

impl<'a> Stream<'a> {
    /// A stream that was started at `position`.
    pub(crate) fn new(
        follower: &'a mut Follower,
        control: Arc<Control>,
        replication: Replication,
        capture: Capture,
        begin: Begin,
    ) -> Stream<'a> {
        let Begin { position, confirmed, pending, copied } = begin;
        let keys = capture.keys();
        // What is not captured yet needs a copy first, whatever the publication carries.
        let tables = Tables::Listed(keys.keys().cloned().collect());
        let mut assembler = Assembler::new(tables, position);
        for (name, key) in keys {
            if let Some(copied) = copied.as_ref().filter(|c| !c.before.holds(&name, &key)) {
                assembler.copied_at(name.clone(), copied.lsn);
            }
            assembler.primary_key(name.clone(), key.clone());
            assembler.copied_key(name, key);
        }
        let now = Instant::now();
        Stream {
            observer: Observer::spawn(control.clone(), follower.config.clone()),
            follower,
            control,
            replication,
            capture,
            decoder: Decoder::default(),
            assembler,
            outbox: VecDeque::new(),
            pending,
            counted: Counters::default(),
            refused_before: 0,
            received_lsn: position.lsn,
            idle_lsn: 0,
            idle_due: false,
            acknowledged_lsn: confirmed,
            heard_at: now,
            told_at: now,
            stored_at: now,
        }
    }

    /// Runs until something ends it.
    pub(crate) async fn run(mut self) -> Result<Infallible, PostgresError> {
        let mut ticks = interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick().await?,
                room = self.follower.outlet.reserve(), if !self.outbox.is_empty() => {
                    if let Some(batch) = self.outbox.pop_front() {
                        self.follower.outlet.hand_on(room?, batch);
                        self.stored_at = Instant::now();
                    }
                }
                frame = self.replication.next(), if self.outbox.is_empty() => {
                    self.heard_at = Instant::now();
                    self.take(frame?).await?;
                }
            }
        }
    }

    /// Takes a frame and those that have arrived behind it, up to a full batch.
    async fn take(&mut self, first: Frame) -> Result<(), PostgresError> {
        let mut next = Some(first);
        while let Some(frame) = next {
            match frame {
                Frame::Data { lsn, message } => {
                    self.received_lsn = self.received_lsn.max(lsn);
                    self.message(message).await?;
                }
                Frame::Keepalive { lsn, reply } => {
                    self.received_lsn = self.received_lsn.max(lsn);
                    self.idle_lsn = lsn;
                    if reply {
                        // A server that shuts down asks until we have stored its last position.
                        self.idle_due = true;
                        self.tell().await?;
                    }
                }
            }
            if self.collect().await? {
                return Ok(());
            }
            next = self.replication.buffered()?;
        }
        self.assembler.flush();
        self.collect().await?;
        Ok(())
    }

    async fn message(&mut self, bytes: Bytes) -> Result<(), PostgresError> {
        let message = self.decoder.decode(bytes)?;
        if let Message::Relation(relation) = &message
            && relation.identity == ReplicaIdentity::Full
        {
            // Every column counts as key here: only the catalogs know the primary key.
            let name = TableName::new(&relation.schema, &relation.table);
            let key = self.control.key_of(&name).await?;
            self.assembler.primary_key(name, key);
        }
        self.assembler.handle(message)?;
        if self.assembler.refused().len() != self.refused_before {
            self.refused().await?;
        }
        Ok(())
    }

    /// Moves complete batches to the outbox; says whether there are any.
    async fn collect(&mut self) -> Result<bool, PostgresError> {
        while let Some(Assembled { mut batch, refetch }) = self.assembler.poll() {
            for missing in refetch {
                let values = self.control.refetch(&missing).await?;
                // A row that is gone has its delete further down the stream.
                if let Some(Change::Upsert(row)) = batch.changes.get_mut(missing.change) {
                    row.set.extend(values);
                }
            }
            self.outbox.push_back(batch);
        }
        Ok(!self.outbox.is_empty())
    }

    /// Tables were refused in the stream: their copies are worth nothing from here on, and that is
    /// written down before any position beyond is handed on.
    async fn refused(&mut self) -> Result<(), PostgresError> {
        self.refused_before = self.assembler.refused().len();
        for (name, reason) in self.assembler.refused() {
            if self.capture.tables.remove(name).is_some() {
                warn!(table = %name, reason, "the table is no longer followed");
            }
        }
        let refused = self.assembler.refused();
        if let Some(pending) = &mut self.pending {
            pending.ledger.tables.retain(|name, _| !refused.contains_key(name));
        }
        let mut ledger = match (&self.capture.ledger, &self.follower.remembered) {
            (Some(ledger), _) | (None, Some(ledger)) => ledger.clone(),
            (None, None) => self.capture.as_ledger(&self.follower.config.slot),
        };
        ledger.tables.retain(|name, _| !refused.contains_key(name));
        self.write(ledger).await?;
        self.follower.outlet.update(|status| {
            status.refused.extend(self.assembler.refused().clone());
            status.captured = self.capture.tables.keys().cloned().collect();
        });
        Ok(())
    }

    async fn write(&mut self, ledger: Ledger) -> Result<(), PostgresError> {
        if self.capture.ledger.is_some() {
            self.control.write_ledger(&self.follower.config.publication, &ledger).await?;
            self.capture.ledger = Some(ledger);
        } else {
            self.follower.remembered = Some(ledger);
        }
        Ok(())
    }

    async fn tick(&mut self) -> Result<(), PostgresError> {
        if !self.outbox.is_empty() {
            // We do not read: the silence is ours.
            self.heard_at = Instant::now();
        } else if self.heard_at.elapsed() > Duration::from_millis(SILENCE_MAX_MS) {
            return Err(PostgresError::Timeout("the stream"));
        }
        let idle_long = self.stored_at.elapsed() >= Duration::from_millis(IDLE_POSITION_MS);
        if (idle_long || std::mem::take(&mut self.idle_due))
            && self.idle_lsn > self.assembler.position().lsn
            && self.outbox.is_empty()
        {
            self.assembler.idle(self.idle_lsn);
            self.assembler.flush();
            self.collect().await?;
        }
        let quiet = self.told_at.elapsed() < Duration::from_millis(STATUS_INTERVAL_MS);
        if self.durable()? > self.acknowledged_lsn || !quiet {
            self.tell().await?;
        }
        self.settle().await?;
        self.observe()
    }

    /// The newest position that may be acknowledged: durable, and one that we know.
    fn durable(&self) -> Result<u64, PostgresError> {
        let durable = *self.follower.durable.borrow();
        if self.follower.durable.has_changed().is_err() {
            return Err(PostgresError::ReceiverGone);
        }
        let handed_on = self.follower.outlet.position.map_or(0, |position| position.lsn);
        Ok(durable.min(handed_on))
    }

    async fn tell(&mut self) -> Result<(), PostgresError> {
        self.acknowledged_lsn = self.acknowledged_lsn.max(self.durable()?);
        // Never behind what is acknowledged, else the server would think us confused.
        let received = self.received_lsn.max(self.acknowledged_lsn);
        self.replication.status(received, self.acknowledged_lsn, now_us()).await?;
        self.told_at = Instant::now();
        Ok(())
    }

    /// Writes the ledger when the copies that it names are durable.
    async fn settle(&mut self) -> Result<(), PostgresError> {
        let durable = self.durable()?;
        if let Some(pending) = self.pending.take_if(|pending| pending.due_lsn <= durable) {
            info!(tables = pending.ledger.tables.len(), "the copies are complete");
            self.write(pending.ledger).await?;
        }
        Ok(())
    }

    /// Publishes the observer's findings; ends the session if the tables are not what they were.
    fn observe(&mut self) -> Result<(), PostgresError> {
        let seen = self.observer.latest()?;
        let counters = self.assembler.counters();
        let counted = std::mem::replace(&mut self.counted, counters);
        self.follower.outlet.update(|status| {
            status.received_lsn = self.received_lsn;
            status.acknowledged_lsn = self.acknowledged_lsn;
            status.server_lsn = seen.server.wal_lsn.max(self.received_lsn);
            status.lag_bytes = status.server_lsn.saturating_sub(self.acknowledged_lsn);
            status.wal_status = seen.server.wal_status;
            status.safe_wal_bytes = seen.server.safe_wal_bytes;
            status.totals.transactions += counters.transactions - counted.transactions;
            status.totals.ignored += counters.ignored - counted.ignored;
        });
        let now = seen.tables.as_ref().map(|catalog| capturable(catalog, &self.capture.barred));
        if now.is_some_and(|now| now != self.capture.keys()) {
            return Err(PostgresError::TablesChanged);
        }
        Ok(())
    }
}

/// Looks at the server now and then, beside the stream.
struct Observer {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
    lost_at: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    server: Observation,
    tables: Option<BTreeMap<TableName, CatalogTable>>,
}

impl Observer {
    fn spawn(control: Arc<Control>, config: TailerConfig) -> Observer {
        let (sender, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(async move {
            if let Err(error) = observe(&control, &config, &sender).await {
                warn!("observing postgres: {error}");
            }
        });
        Observer { seen, task, lost_at: None }
    }

    /// What was seen last; an error if nothing could be seen for too long.
    fn latest(&mut self) -> Result<Seen, PostgresError> {
        let seen = self.seen.borrow_and_update().clone();
        if self.seen.has_changed().is_err() {
            let lost_at = *self.lost_at.get_or_insert_with(Instant::now);
            if lost_at.elapsed() > Duration::from_millis(CONTROL_LOST_MAX_MS) {
                return Err(PostgresError::Closed);
            }
        }
        Ok(seen)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn observe(
    control: &Control,
    config: &TailerConfig,
    sender: &watch::Sender<Seen>,
) -> Result<(), PostgresError> {
    let mut ticks = interval(Duration::from_millis(OBSERVE_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in 1_u32.. {
        ticks.tick().await;
        let server = control.observe(&config.slot).await?;
        let due = count % OBSERVATIONS_PER_TABLE_CHECK == 0;
        let tables = if due { Some(control.tables(&config.tables).await?) } else { None };
        sender.send_modify(|seen| {
            seen.server = server;
            seen.tables = tables;
        });
    }
    Ok(())
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
