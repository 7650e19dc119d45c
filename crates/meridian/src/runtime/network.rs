//! Between the mesh and the rest: what arrives is sorted, what leaves is fed from the log.
//!
//! Two tasks. The dispatcher takes the mesh's events and never waits for long, since heartbeats
//! come behind data; a batch that the executor does not take in time is dropped and will be asked
//! for again. The shipper sends: control messages of the executor, and frames from the log as far
//! as it is durable and the peer's window is open.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use meridian_clock::{Origin, VersionVector};
use meridian_disk::{LogReader, LogSyncer};
use meridian_failover::{ControlState, MemberChange};
use meridian_mesh::{DownReason, Lane, MeshEvent, MeshHandle, Refusal, SendError, SessionId};
use meridian_node::{
    DataEffect, Shipper,
    watermarks::{Listener, Teller},
    wire::{Assembler, PeerMessage, pieces},
};
use meridian_replication::{Batch, MOVED_SINCE, Subscribe};
use meridian_store::{LogPosition, StoreError};
use mio::Waker;
use tokio::sync::{mpsc, oneshot};

use super::{
    inbound::ToExecutor,
    limits::INBOUND_PATIENCE,
    shared::{Outgoing, Shared},
};

/// What the dispatcher tells the shipper.
pub enum ToShipper {
    /// A peer asks for frames.
    Subscribe(Origin, u64, Subscribe),
    /// A peer has greeted, and speaks protocols up to this.
    Greeted(Origin, u16),
    /// Some peer's lane has room again.
    Writable,
    /// A session is over.
    PeerDown(Origin, u64),
    /// The other regions are these.
    Members(Vec<Origin>),
    /// A peer has durably applied this.
    Acknowledged(Origin, Vec<VersionVector>),
}

/// What the dispatcher tells the control plane.
pub enum ToControl {
    /// A heartbeat.
    Heartbeat(u16, Bytes),
    /// A Raft message.
    Raft(u16, Vec<u8>),
    /// A session with a peer began.
    PeerUp(u16, SessionId),
    /// A peer tells the agreed state as it knows it.
    Learn(Vec<u8>),
    /// A peer says that this region is no member any more.
    Expelled(u16, Refusal),
    /// An operator asks for a change of the members.
    Member(MemberChange, oneshot::Sender<Result<ControlState, String>>),
}

/// The executor's channel and what wakes it.
#[derive(Clone)]
pub struct ExecutorHandle {
    sender: mpsc::Sender<ToExecutor>,
    waker: Arc<Waker>,
}

impl ExecutorHandle {
    /// A handle.
    #[must_use]
    pub fn new(sender: mpsc::Sender<ToExecutor>, waker: Arc<Waker>) -> ExecutorHandle {
        ExecutorHandle { sender, waker }
    }

    /// Waits for room.
    ///
    /// # Errors
    /// When the executor has ended.
    pub async fn send(&self, message: ToExecutor) -> Result<()> {
        self.sender.send(message).await.ok().context("the executor has ended")?;
        self.waker.wake().context("waking the executor")
    }

    /// Does not wait: without room the message is dropped.
    pub fn offer_now(&self, message: ToExecutor) {
        if self.sender.try_send(message).is_ok() {
            // The executor wakes by itself soon enough.
            let _ = self.waker.wake();
        }
    }

    /// Does not wait; whether there was room.
    pub fn try_now(&self, message: ToExecutor) -> bool {
        self.sender.try_send(message).is_ok() && self.waker.wake().is_ok()
    }

    /// The same from a thread outside of the runtime.
    ///
    /// # Errors
    /// When the executor has ended.
    pub fn send_blocking(&self, message: ToExecutor) -> Result<()> {
        self.sender.blocking_send(message).ok().context("the executor has ended")?;
        self.waker.wake().context("waking the executor")
    }

    /// Waits a little for room; false if there was none.
    async fn offer(&self, message: ToExecutor) -> bool {
        let sent = match self.sender.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(message)) => {
                self.sender.send_timeout(message, INBOUND_PATIENCE).await.is_ok()
            }
        };
        sent && self.waker.wake().is_ok()
    }
}

/// Sorts what arrives.
pub struct Dispatcher {
    /// Of the mesh.
    pub events: mpsc::Receiver<MeshEvent>,
    /// Data goes here.
    pub executor: ExecutorHandle,
    /// Subscriptions and windows go here.
    pub shipper: mpsc::Sender<ToShipper>,
    /// Heartbeats and Raft go here.
    pub control: mpsc::Sender<ToControl>,
    /// To end sessions of peers that break the rules.
    pub mesh: MeshHandle,
    /// Number of partitions.
    pub partitions: u16,
    /// Counters.
    pub shared: Arc<Shared>,
}

impl Dispatcher {
    /// Runs until the mesh ends.
    ///
    /// # Errors
    /// When another part of the node has ended.
    pub async fn run(mut self) -> Result<()> {
        let mut assembler = Assembler::default();
        let mut listeners = BTreeMap::new();
        while let Some(event) = self.events.recv().await {
            match event {
                MeshEvent::PeerUp { peer, session } => {
                    tracing::info!(peer, "peer connected");
                    self.executor.send(ToExecutor::PeerUp(Origin(peer), session.0)).await?;
                    // Told again whenever the members change.
                    let _ = self.control.try_send(ToControl::PeerUp(peer, session));
                }
                MeshEvent::Expelled { peer, refusal } => {
                    let _ = self.control.try_send(ToControl::Expelled(peer, refusal));
                }
                MeshEvent::PeerDown { peer, session, reason } => {
                    if let DownReason::Expelled(refusal) = reason {
                        let _ = self.control.try_send(ToControl::Expelled(peer, refusal));
                    }
                    tracing::info!(peer, %reason, "peer disconnected");
                    let origin = Origin(peer);
                    assembler.forget(origin);
                    listeners.remove(&peer);
                    self.executor.send(ToExecutor::PeerDown(origin, session.0)).await?;
                    self.tell_shipper(ToShipper::PeerDown(origin, session.0)).await?;
                }
                MeshEvent::Message { peer, session, lane, bytes } => {
                    let taken = match lane {
                        Lane::Control | Lane::Bulk => {
                            let heard =
                                listeners.entry(peer).or_insert((session, Listener::default()));
                            if heard.0 != session {
                                *heard = (session, Listener::default());
                            }
                            self.control_message(peer, session, &bytes, &mut heard.1).await
                        }
                        Lane::Live => self.piece(&mut assembler, peer, session, &bytes).await,
                    };
                    if let Err(error) = taken {
                        tracing::warn!(peer, error = %format!("{error:#}"), "peer broke the rules");
                        self.mesh.disconnect(peer, session);
                    }
                }
                MeshEvent::Datagram { peer, bytes } => {
                    // A lost heartbeat is no harm; a late one would be.
                    let _ = self.control.try_send(ToControl::Heartbeat(peer, bytes));
                }
                MeshEvent::Writable { .. } => {
                    self.tell_shipper(ToShipper::Writable).await?;
                }
            }
        }
        Ok(())
    }

    async fn tell_shipper(&self, message: ToShipper) -> Result<()> {
        self.shipper.send(message).await.ok().context("the shipper has ended")
    }

    async fn control_message(
        &self,
        peer: u16,
        session: SessionId,
        bytes: &[u8],
        listener: &mut Listener,
    ) -> Result<()> {
        let origin = Origin(peer);
        let Some(message) = PeerMessage::decode(bytes)? else {
            tracing::debug!(peer, kind = bytes.first(), "a newer peer says what is not known here");
            return Ok(());
        };
        let Some(message) = listener.hear(message)? else {
            tracing::debug!(peer, "a watermark does not follow on what was heard");
            return Ok(());
        };
        match message {
            PeerMessage::Raft(message) => {
                // Raft repeats what is lost.
                let _ = self.control.try_send(ToControl::Raft(peer, message));
                Ok(())
            }
            PeerMessage::Members(state) => {
                let _ = self.control.try_send(ToControl::Learn(state));
                Ok(())
            }
            PeerMessage::Subscribe(request) => {
                self.tell_shipper(ToShipper::Subscribe(origin, session.0, request)).await
            }
            message => {
                if let PeerMessage::Hello(hello) = &message {
                    self.tell_shipper(ToShipper::Greeted(origin, hello.version)).await?;
                }
                if let PeerMessage::Watermark(watermark) = &message {
                    let vectors = watermark.vectors.unpack(self.partitions)?;
                    self.tell_shipper(ToShipper::Acknowledged(origin, vectors)).await?;
                }
                self.executor.send(ToExecutor::Message(origin, session.0, message)).await
            }
        }
    }

    async fn piece(
        &self,
        assembler: &mut Assembler,
        peer: u16,
        session: SessionId,
        bytes: &[u8],
    ) -> Result<()> {
        let origin = Origin(peer);
        if let Some(batch) = assembler.push(origin, bytes)? {
            // Here rather than on the executor's thread.
            let plain = match Batch::plain(&batch)? {
                Cow::Owned(plain) => Some(plain),
                Cow::Borrowed(_) => None,
            };
            let batch = plain.unwrap_or(batch);
            let message = ToExecutor::Batch(origin, session.0, batch);
            if !self.executor.offer(message).await {
                self.shared.inbound_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Sends what leaves.
pub struct ShipperTask {
    /// The senders.
    pub shipper: Shipper,
    /// The log.
    pub reader: LogReader,
    /// To let go of what nobody needs.
    pub syncer: Arc<LogSyncer>,
    /// The peers.
    pub mesh: MeshHandle,
    /// Of the dispatcher.
    pub inbox: mpsc::Receiver<ToShipper>,
    /// Of the executor.
    pub outgoing: mpsc::Receiver<Outgoing>,
    /// Positions.
    pub shared: Arc<Shared>,
    /// How much log is kept although nobody needs it, in bytes.
    pub retention: u64,
    /// How much log is kept at most for a region that is away, in bytes.
    pub limit: u64,
    /// Read from the log and cut into pieces, but not sent: at most one read for each peer.
    pub waiting: BTreeMap<Origin, VecDeque<Bytes>>,
    /// What each peer was told last in its session.
    pub tellers: BTreeMap<Origin, (u64, Teller)>,
    /// Answers to repairs that wait for room: at most what the peers have granted.
    pub waiting_bulk: BTreeMap<Origin, VecDeque<Bytes>>,
    /// Backlog by peer, for metrics.
    pub backlog: Arc<std::sync::Mutex<BTreeMap<u16, u64>>>,
}

/// The log's needless part is looked for this often.
const RELEASE_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

impl ShipperTask {
    /// Runs until the node ends.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn run(mut self) -> Result<()> {
        let mut release = tokio::time::interval(RELEASE_EVERY);
        let shared = Arc::clone(&self.shared);
        let mut is_busy = false;
        loop {
            tokio::select! {
                biased;
                _ = release.tick() => self.release()?,
                message = self.inbox.recv() => match message {
                    None => return Ok(()),
                    Some(message) => self.take(message),
                },
                outgoing = self.outgoing.recv() => match outgoing {
                    None => return Ok(()),
                    Some(Outgoing::Mark(position, vectors)) => {
                        self.shipper.mark(position, vectors);
                    }
                    Some(Outgoing::Effect(effect)) => self.effect(effect),
                },
                () = shared.more_durable.notified() => {}
                () = tokio::task::yield_now(), if is_busy => {}
            }
            is_busy = self.ship()?;
        }
    }

    fn take(&mut self, message: ToShipper) {
        match message {
            ToShipper::Subscribe(peer, session, request) => {
                self.waiting.remove(&peer);
                if let Err(error) = self.shipper.subscribe(peer, session, &request) {
                    tracing::warn!(%peer, %error, "subscription refused");
                    self.mesh.disconnect(peer.0, SessionId(session));
                }
            }
            ToShipper::Greeted(peer, newest) => self.shipper.greeted(peer, newest),
            ToShipper::Writable => {}
            ToShipper::PeerDown(peer, session) => {
                self.waiting.remove(&peer);
                self.waiting_bulk.remove(&peer);
                self.tellers.remove(&peer);
                self.shipper.peer_down(peer, session);
            }
            ToShipper::Members(peers) => {
                self.waiting.retain(|peer, _| peers.contains(peer));
                self.shipper.set_peers(&peers);
            }
            ToShipper::Acknowledged(peer, vectors) => self.shipper.acknowledge(peer, vectors),
        }
    }

    fn effect(&mut self, effect: DataEffect) {
        match effect {
            DataEffect::Send { peer, session, message } if message.is_bulk() => {
                let queue = self.waiting_bulk.entry(peer).or_default();
                queue.push_back(Bytes::from(message.encode()));
                self.send_bulk(peer, session);
            }
            DataEffect::Send { peer, session, message } => {
                self.shipper.said(&message, self.reader.durable());
                let message = self.shorten(peer, session, message);
                let bytes = Bytes::from(message.encode());
                let sent = self.mesh.try_send(peer.0, SessionId(session), Lane::Control, bytes);
                if let Err(error) = sent {
                    if let Some((_, teller)) = self.tellers.get_mut(&peer) {
                        teller.lost();
                    }
                    tracing::debug!(%peer, ?error, "control message not sent");
                }
            }
            DataEffect::Disconnect { peer, session, reason } => {
                tracing::warn!(%peer, reason, "peer broke the rules");
                self.mesh.disconnect(peer.0, SessionId(session));
            }
            DataEffect::Fork { .. } | DataEffect::Diverged { .. } => {}
        }
    }

    /// A watermark tells only what has moved, to who understands that.
    fn shorten(&mut self, peer: Origin, session: u64, message: PeerMessage) -> PeerMessage {
        let PeerMessage::Watermark(watermark) = message else { return message };
        if !self.shipper.understands(peer, MOVED_SINCE) {
            return PeerMessage::Watermark(watermark);
        }
        let (current, teller) = self.tellers.entry(peer).or_default();
        if *current != session {
            (*current, *teller) = (session, Teller::default());
        }
        teller.tell(watermark)
    }

    /// Sends what may be sent now, with one read of the log for each peer, those that have the least
    /// to come first: who lives on the newest never waits behind somebody's catching up. True when
    /// there is more to read; what has arrived in the meantime comes first.
    fn ship(&mut self) -> Result<bool> {
        let durable = self.reader.durable();
        let mut sessions: Vec<_> = self.shipper.sessions(durable).collect();
        sessions.sort_by_key(|(peer, ..)| self.shipper.backlog(*peer, durable));
        let mut is_busy = false;
        // Peers that stand at the same place are served by one read.
        let mut last: Option<(LogPosition, Vec<u8>)> = None;
        for (peer, session, _) in &sessions {
            let (peer, session) = (*peer, *session);
            self.send_bulk(peer, session);
            if !self.send_waiting(peer, session) {
                continue;
            }
            let reader = &self.reader;
            let read = |from: LogPosition, max: usize| match &last {
                Some((at, bytes)) if *at == from => Ok(bytes.clone()),
                _ => {
                    let bytes = reader.read_durable(from, max)?;
                    last = Some((from, bytes.clone()));
                    Ok(bytes)
                }
            };
            let batches = match self.shipper.next(peer, durable, read) {
                Ok(batches) => batches,
                Err(error @ StoreError::Corrupt { .. }) => {
                    tracing::error!(%peer, "rot: {error}; the peer is repaired from the state");
                    let next = |at| reader.next_segment(at).unwrap_or(durable).min(durable);
                    self.shipper.lose(peer, next);
                    is_busy = true;
                    continue;
                }
                Err(error) => return Err(error).context("reading the log for a peer"),
            };
            let queue = self.waiting.entry(peer).or_default();
            queue.extend(batches.iter().flat_map(|b| pieces(b)).map(Bytes::from));
            if self.send_waiting(peer, session) {
                is_busy |= self.shipper.sessions(durable).any(|(p, _, more)| p == peer && more);
            }
        }
        for (peer, session, message) in self.shipper.take_messages() {
            self.effect(DataEffect::Send { peer, session, message });
        }
        let end = self.reader.bounds().1;
        let behind = |(peer, ..): &(Origin, u64, bool)| (peer.0, self.shipper.backlog(*peer, end));
        let backlog = sessions.iter().map(behind).collect();
        *self.backlog.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = backlog;
        Ok(is_busy)
    }

    /// Sends what was read before; true when nothing of it is left.
    fn send_waiting(&mut self, peer: Origin, session: u64) -> bool {
        let queue = self.waiting.entry(peer).or_default();
        send_queued(&self.mesh, (peer, session), Lane::Live, queue)
    }

    fn send_bulk(&mut self, peer: Origin, session: u64) {
        if let Some(queue) = self.waiting_bulk.get_mut(&peer) {
            send_queued(&self.mesh, (peer, session), Lane::Bulk, queue);
        }
    }

    fn release(&mut self) -> Result<()> {
        let checkpoint = LogPosition(self.shared.checkpoint.load(Ordering::Acquire));
        let (start, end) = self.reader.bounds();
        let keep_from = LogPosition(end.0.saturating_sub(self.retention));
        if keep_from <= start {
            return Ok(());
        }
        // A region that is away for long must not fill this one's disk: it will be repaired.
        let must = LogPosition(end.0.saturating_sub(self.limit));
        let needless = self.shipper.release(checkpoint.min(keep_from), must);
        self.syncer.release(needless).context("removing old log segments")
    }
}

/// Sends what waits for one lane; true when nothing of it is left.
fn send_queued(
    mesh: &MeshHandle,
    (peer, session): (Origin, u64),
    lane: Lane,
    queue: &mut VecDeque<Bytes>,
) -> bool {
    while let Some(piece) = queue.front() {
        match mesh.try_send(peer.0, SessionId(session), lane, piece.clone()) {
            Ok(()) => {
                queue.pop_front();
            }
            Err(SendError::Full) => return false,
            Err(error) => {
                // The session is over; its end is on the way here.
                tracing::debug!(%peer, ?error, "not sent");
                queue.clear();
                return false;
            }
        }
    }
    true
}
