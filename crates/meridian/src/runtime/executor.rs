//! The executor: one thread that serves the clients' sockets and changes the data.
//!
//! Readiness brings many requests at once; all of them are executed, their commit is appended to
//! the log with one write, and only then are the replies written. Sockets and execution share the
//! thread because handing requests over costs more than executing them (docs/adr/0002). What
//! other threads want (frames, Postgres rows, a checkpoint's portions) comes through one bounded
//! channel and takes the same way.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use meridian_clock::{Origin, Time};
use meridian_disk::LogWriter;
use meridian_failover::{CheckReport, StepOutcome};
use meridian_keyspace::Engine;
use meridian_node::{DataEffect, DataNode, export, export_slot, wire::PeerMessage};
use mio::{Events, Poll, Token};
use tokio::sync::{mpsc, watch};

use super::{
    alarms,
    backups::mark_of,
    clients::Clients,
    inbound::{Acknowledgement, Checks, ToExecutor},
    limits::{COMMIT_BYTES, EVENTS_PER_POLL, IDLE_WAKE, MESSAGES_PER_TURN},
    members::{Company, Standing},
    shared::{Outgoing, Shared},
    snapshot::Snapshot,
};

/// The token of the waker; the listener's and the connections' follow.
pub const WAKER: Token = Token(0);
/// The token of the listener.
pub const LISTENER: Token = Token(1);

/// Everything that the executor thread owns.
pub struct Executor {
    node: DataNode,
    log: LogWriter,
    clients: Clients,
    poll: Poll,
    inbound: mpsc::Receiver<ToExecutor>,
    outgoing: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    started: Instant,
    checks: Checks,
    /// Tailer batches that are applied and not acknowledged.
    mirrored: std::collections::VecDeque<Acknowledgement>,
    mirror_acks: watch::Sender<u64>,
    floors: std::sync::mpsc::SyncSender<Time>,
    floor: Time,
    marked: u64,
    standing: Standing,
    admit_lag_ms: u64,
    stop: bool,
}

/// What an executor is made of.
pub struct Parts {
    /// The data.
    pub node: DataNode,
    /// Where commits go.
    pub log: LogWriter,
    /// The clients' sockets.
    pub clients: Clients,
    /// Readiness of the sockets and of the channel.
    pub poll: Poll,
    /// What other threads want.
    pub inbound: mpsc::Receiver<ToExecutor>,
    /// What other regions are to be told.
    pub outgoing: mpsc::Sender<Outgoing>,
    /// What all threads see.
    pub shared: Arc<Shared>,
    /// Positions that Postgres may forget.
    pub mirror_acks: watch::Sender<u64>,
    /// Time that is to be reserved on disk.
    pub floors: std::sync::mpsc::SyncSender<Time>,
    /// Beyond what distance from the majority's clocks nothing is written, in milliseconds.
    pub skew_limit_ms: u64,
    /// A region that joins serves when it lags behind its peers by no more than this, in ms.
    pub admit_lag_ms: u64,
}

impl Executor {
    /// An executor, ready to run.
    #[must_use]
    pub fn new(parts: Parts) -> Executor {
        let marked = parts.log.end().0;
        let started = Instant::now();
        let floor = Time(parts.shared.clock_floor.load(Ordering::Acquire));
        let mut node = parts.node;
        node.start_clocks(0, unix_us(), floor, parts.skew_limit_ms);
        Executor {
            node,
            log: parts.log,
            clients: parts.clients,
            poll: parts.poll,
            inbound: parts.inbound,
            outgoing: parts.outgoing,
            shared: parts.shared,
            started,
            checks: Checks::default(),
            mirrored: std::collections::VecDeque::new(),
            mirror_acks: parts.mirror_acks,
            floors: parts.floors,
            floor,
            marked,
            standing: Standing::default(),
            admit_lag_ms: parts.admit_lag_ms,
            stop: false,
        }
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// When the log cannot be written: the process must end.
    pub fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        while !self.stop {
            let busy = self.clients.has_unread() || self.node.has_work();
            let wait = if busy { Duration::ZERO } else { self.idle() };
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e).context("waiting for sockets"),
            }
            self.turn(&events)?;
        }
        self.commit()?;
        Ok(())
    }

    /// How long nothing needs to be done if nothing arrives.
    fn idle(&self) -> Duration {
        let due = self.node.engine().next_wake_ms().map(Duration::from_millis);
        due.map_or(IDLE_WAKE, |due| due.saturating_sub(self.started.elapsed()).min(IDLE_WAKE))
    }

    /// One turn: everything that has arrived, one commit, everything that may leave.
    fn turn(&mut self, events: &Events) -> Result<()> {
        let began = Instant::now();
        self.follow_clocks();
        for event in events {
            match event.token() {
                WAKER => {}
                LISTENER => self.clients.accept(self.node.engine_mut(), self.poll.registry()),
                token => self.clients.ready(token, event),
            }
        }
        while let Some(place) = self.clients.next_unread() {
            self.clients.read(place, self.node.engine_mut());
            if self.node.engine().pending_bytes() > COMMIT_BYTES {
                self.commit()?;
            }
        }
        for _ in 0..MESSAGES_PER_TURN {
            let Ok(message) = self.inbound.try_recv() else { break };
            self.handle(message)?;
            if self.node.engine().pending_bytes() > COMMIT_BYTES {
                self.commit()?;
            }
        }
        let now_ms = self.started.elapsed().as_millis() as u64;
        self.node.tick(now_ms, self.shared.primary.load(Ordering::Relaxed));
        self.commit()?;
        self.note_durable();
        self.clients.flush(self.node.engine_mut());
        self.send_effects();
        let is_caught_up = match self.standing {
            Standing::Joining => self.node.is_within(self.admit_lag_ms),
            Standing::Serving | Standing::Leaving => self.node.is_caught_up(),
        };
        self.shared.caught_up.store(is_caught_up, Ordering::Relaxed);
        let is_drained = self.standing == Standing::Leaving && self.node.is_held_by_all();
        self.shared.drained.store(is_drained, Ordering::Relaxed);
        let foreign = self.node.engine().stage().foreign_mirror_ops();
        self.shared.foreign_mirror_ops.store(foreign, Ordering::Relaxed);
        self.shared.turn_seconds.observe(began.elapsed());
        Ok(())
    }

    /// What the clocks show now, and how far time may go.
    fn follow_clocks(&mut self) {
        let steady_us = self.started.elapsed().as_micros() as u64;
        self.node.set_clocks(steady_us, unix_us());
        let granted = Time(self.shared.clock_floor.load(Ordering::Acquire));
        if granted > self.floor {
            self.floor = granted;
            self.node.floor_granted(granted);
        }
        if let Some(upto) = self.node.floor_wanted() {
            // Without room the disk stands still, and so does time; more is asked for soon.
            let _ = self.floors.try_send(upto);
        }
        for alarm in self.node.take_alarms() {
            alarms::tell(&alarm);
        }
    }

    /// Appends the commit that has been filled; its replies become releasable.
    fn commit(&mut self) -> Result<()> {
        let engine = self.node.engine_mut();
        let commit = engine.commit();
        let mut end = self.log.end();
        if let Some(entry) = &commit.entry {
            end = self.log.append(entry).context("appending to the log")?;
            self.shared.appended(end);
        }
        engine.appended(commit, end);
        if end.0 - self.marked >= meridian_replication::limits::MARK_EVERY_BYTES {
            self.marked = end.0;
            let vectors = engine.stage().vectors();
            self.send(Outgoing::Mark(end, vectors));
        }
        Ok(())
    }

    /// Passes on what the sync thread has achieved.
    fn note_durable(&mut self) {
        let durable = self.shared.durable();
        let (_, known) = self.node.engine().log_bounds();
        if durable > known {
            self.node.engine_mut().synced(durable);
            let waits = self.checks.synced(durable, self.node.engine().stage());
            self.shared.check_waits.store(waits, Ordering::Relaxed);
        }
        while let Some(front) = self.mirrored.front() {
            let safe = front.position <= durable && self.node.is_safe_elsewhere(&front.vectors);
            if !safe {
                break;
            }
            if let Some(done) = self.mirrored.pop_front() {
                self.mirror_acks.send_replace(done.lsn);
            }
        }
    }

    fn handle(&mut self, message: ToExecutor) -> Result<()> {
        match message {
            ToExecutor::PeerUp(peer, session) => self.node.peer_up(peer, session),
            ToExecutor::PeerDown(peer, session) => self.node.peer_down(peer, session),
            ToExecutor::Message(peer, session, message) => {
                if matches!(message, PeerMessage::Clock(_)) {
                    // The note may have been written after this turn began: with the time of then
                    // the peer's clock would seem to be ahead by as much.
                    self.follow_clocks();
                }
                self.node.message(peer, session, message);
            }
            ToExecutor::Batch(peer, session, bytes) => self.node.batch(peer, session, &bytes),
            ToExecutor::Export(portion, reply) => {
                let batch = export(self.node.engine().stage(), &portion);
                // What has been executed in this turn is in the batch: it must be in the log.
                self.commit()?;
                let _ = reply.send((batch, self.log.end()));
            }
            ToExecutor::ExportSlot(slot, reply) => {
                let batch = export_slot(self.node.engine().stage(), slot);
                self.commit()?;
                let _ = reply.send((batch, self.log.end()));
            }
            ToExecutor::Digest(slots, reply) => {
                for slot in slots {
                    self.node.engine_mut().stage_mut().slot_digest(slot);
                }
                let _ = reply.send(());
            }
            ToExecutor::Mark(reply) => {
                self.commit()?;
                let end = self.log.end();
                let _ = reply.send(mark_of(self.node.engine_mut().stage_mut(), end));
            }
            ToExecutor::BeginMirror(stream, reply) => {
                self.mirrored.clear();
                let _ = reply.send(self.node.begin_mirror(&stream));
            }
            ToExecutor::Mirror(stream, batch) => self.mirror(&stream, &batch)?,
            ToExecutor::Check(reply) if self.standing == Standing::Leaving => {
                // A check is a write, and a region that leaves writes nothing more.
                let fine = StepOutcome::Ok { took_ms: 0 };
                let _ = reply.send(CheckReport { write: fine, fsync: fine, read: fine });
            }
            ToExecutor::Check(reply) if self.node.clocks().refuses_writes() => {
                // A region that refuses its clients' writes is not well, whatever its disk does.
                let fine = StepOutcome::Ok { took_ms: 0 };
                let write = StepOutcome::Failed;
                let _ = reply.send(CheckReport { write, fsync: fine, read: fine });
            }
            ToExecutor::Check(reply) => {
                let key = Checks::write(self.node.engine_mut().stage_mut());
                self.commit()?;
                self.checks.begin(key, self.log.end(), reply);
                self.shared.check_waits.store(true, Ordering::Relaxed);
            }
            ToExecutor::Snapshot(reply) => {
                let snapshot = Snapshot::take(&self.node, &self.clients);
                let _ = reply.send(snapshot);
            }
            ToExecutor::Info(info) => self.node.engine_mut().environment_mut().info = info,
            ToExecutor::Members(company) => self.follow(company),
            ToExecutor::RoundTrips(measured) => self.node.set_round_trips(measured),
            ToExecutor::Stop => self.stop = true,
        }
        Ok(())
    }

    /// Takes over who the other regions are, and how this one belongs to them.
    fn follow(&mut self, company: Company) {
        let Company { peers, handed_out, names, standing } = company;
        self.node.set_members(peers, handed_out);
        let env = self.node.engine_mut().environment_mut();
        let region = &env.region;
        env.loading = (standing == Standing::Joining)
            .then(|| format!("region {region} joins the cluster and is getting its data"));
        env.leaving = (standing == Standing::Leaving)
            .then(|| format!("region {region} leaves the cluster: write to another region"));
        env.regions = names;
        self.standing = standing;
    }

    fn mirror(&mut self, stream: &str, batch: &meridian_cdc::Batch) -> Result<()> {
        self.commit()?;
        self.node.mirror(stream, batch);
        self.commit()?;
        if let Some(position) = &batch.position {
            let vectors = own_entries(self.node.engine());
            let (lsn, position) = (position.lsn, self.log.end());
            self.mirrored.push_back(Acknowledgement { lsn, position, vectors });
        }
        if batch.commit_time_us > 0 {
            self.shared.last_mirrored_commit_us.store(batch.commit_time_us, Ordering::Relaxed);
        }
        Ok(())
    }

    fn send_effects(&mut self) {
        for effect in self.node.take_effects() {
            if let DataEffect::Diverged { peer, partition, keys, count } = &effect {
                let keys: Vec<_> = keys.iter().map(|k| String::from_utf8_lossy(k)).collect();
                tracing::error!(
                    %peer, partition, count, ?keys,
                    "a scrub found what differs although both regions had seen the same; both now \
                     hold what either held"
                );
            }
            if let DataEffect::Fork { origin, partition } = &effect {
                tracing::error!(%origin, partition, "history forked: its frames are refused");
            }
            self.send(Outgoing::Effect(effect));
        }
    }

    /// Never waits. What is lost here is said again: watermarks and subscriptions repeat.
    fn send(&mut self, outgoing: Outgoing) {
        if self.outgoing.try_send(outgoing).is_err() {
            self.shared.outgoing_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What this region itself has written, by partition.
fn own_entries(engine: &Engine) -> Vec<meridian_clock::VersionVector> {
    let me: Origin = engine.stage().me();
    let own = |vector: meridian_clock::VersionVector| {
        let mut own = meridian_clock::VersionVector::new();
        own.set(me, vector.get(me));
        own
    };
    engine.stage().vectors().into_iter().map(own).collect()
}

/// Microseconds since 1970.
pub fn unix_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
