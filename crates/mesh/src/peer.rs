//! One task per peer: it gets a connection (by dialling or by being called), runs it as a session,
//! tells of it, and begins again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::bucket::Bucket;
use crate::lane::Lane;
use crate::limits::{BANDWIDTH_WAIT_MAX, ESTABLISH_TIMEOUT, FAREWELL_EVERY};
use crate::mesh::{DownReason, MeshEvent, SessionId};
use crate::refusal::{self, Refusal, RefusalCounters};
use crate::session::{self, Lanes, OpenError, Session};
use crate::stats::{PeerStats, TrafficCounters};

/// What is known of a peer, shared by its task, the acceptor and the handle.
pub(crate) struct Peer {
    pub(crate) ordinal: u16,
    pub(crate) name: String,
    pub(crate) sent: TrafficCounters,
    pub(crate) received: TrafficCounters,
    refused: RefusalCounters,
    sessions: AtomicU64,
    current: RwLock<Option<Arc<Session>>>,
    bandwidth: Mutex<Bucket>,
    /// Zero of the bucket's clock.
    began: Instant,
}

/// A connection whose other end is certainly the peer, with its lanes open.
pub(crate) struct Established {
    pub(crate) connection: Connection,
    pub(crate) lanes: Lanes,
    /// The order in which callers knocked: a later one wins over an earlier one.
    pub(crate) sequence: u64,
}

/// Where a peer's connections come from.
pub(crate) enum Source {
    /// This side has the lower ordinal: it dials.
    Dial(Box<Dialer>),
    /// The peer dials; the acceptor passes its connections on.
    Called(mpsc::Receiver<Established>),
}

impl Peer {
    pub(crate) fn new(ordinal: u16, name: String) -> Peer {
        Peer {
            ordinal,
            name,
            sent: TrafficCounters::default(),
            received: TrafficCounters::default(),
            refused: RefusalCounters::default(),
            sessions: AtomicU64::new(0),
            current: RwLock::new(None),
            bandwidth: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Bounds what is sent to the peer, in bytes a second.
    pub(crate) fn set_bandwidth(&self, rate: Option<u64>) {
        let now_us = self.now_us();
        self.bucket().set_rate(now_us, rate);
    }

    pub(crate) fn is_bounded(&self) -> bool {
        self.bucket().is_bounded()
    }

    /// How long a lane must wait before it sends; at most so long that a changed bound is noticed.
    pub(crate) fn wait_for(&self, lane: Lane) -> Option<Duration> {
        let now_us = self.now_us();
        let wait = Duration::from_micros(self.bucket().wait_us(now_us, lane));
        (!wait.is_zero()).then(|| wait.min(BANDWIDTH_WAIT_MAX))
    }

    pub(crate) fn spend(&self, bytes: usize) {
        let now_us = self.now_us();
        self.bucket().spend(now_us, bytes);
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bandwidth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a refusal; logs the first, second, fourth and so on, as attempts repeat.
    pub(crate) fn count_refusal(&self, refusal: Refusal, detail: &str) {
        let count = self.refused.add(refusal);
        if count.is_power_of_two() {
            tracing::warn!(peer = %self.name, reason = %refusal, count, detail, "refused");
        }
    }

    pub(crate) fn stats(&self) -> PeerStats {
        let session = self.session();
        let quic = session.as_ref().map(|session| session.connection.stats());
        let udp = |way: fn(&quinn::ConnectionStats) -> u64| quic.as_ref().map_or(0, way);
        PeerStats {
            ordinal: self.ordinal,
            name: self.name.clone(),
            session: session.as_ref().map(|session| session.id),
            remote: session.as_ref().map(|session| session.connection.remote_address()),
            rtt: session.as_ref().map(|session| session.rtt()),
            queued_bytes: session.as_ref().map_or([0; _], |session| {
                session.outboxes.each_ref().map(|outbox| outbox.queued_bytes())
            }),
            sent: self.sent.snapshot(udp(|quic| quic.udp_tx.bytes)),
            received: self.received.snapshot(udp(|quic| quic.udp_rx.bytes)),
            sessions: self.sessions.load(Relaxed),
            refused: self.refused.snapshot(),
        }
    }

    fn set_current(&self, session: Option<Arc<Session>>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// The session's traffic moves from its connection's own count to the peer's.
    fn retire(&self, session: &Session) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let quic = session.connection.stats();
        self.sent.add_udp(quic.udp_tx.bytes);
        self.received.add_udp(quic.udp_rx.bytes);
        *current = None;
    }
}

/// Whether a peer's task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It does.
    No,
    /// This mesh ends.
    Shutdown,
    /// The region is not this side's peer any more; if it is no member either, why.
    Removed(Option<Refusal>),
}

impl Stop {
    /// What the other side is told, and what this one's user.
    fn farewell(self) -> (quinn::VarInt, &'static str, DownReason) {
        match self {
            Stop::No | Stop::Shutdown => {
                (refusal::SHUTDOWN_CODE.into(), "shutdown", DownReason::Shutdown)
            }
            Stop::Removed(None) => {
                (refusal::REMOVED_CODE.into(), "no longer a peer", DownReason::Removed)
            }
            Stop::Removed(Some(why)) => (why.close_code(), why.as_str(), DownReason::Removed),
        }
    }
}

/// Runs a peer's sessions one after the other until told to stop or nobody listens.
pub(crate) async fn supervise(
    peer: Arc<Peer>,
    mut source: Source,
    events: mpsc::Sender<MeshEvent>,
    session_ids: Arc<AtomicU64>,
    mut stop: watch::Receiver<Stop>,
) {
    let mut waiting: Option<Established> = None;
    loop {
        let established = match waiting.take() {
            Some(established) => established,
            None => tokio::select! {
                () = stopped(&mut stop) => return,
                _ = events.closed() => return,
                next = source.next(&peer, &events) => match next {
                    Some(established) => established,
                    None => return,
                },
            },
        };
        let sequence = established.sequence;
        let id = SessionId(session_ids.fetch_add(1, Relaxed) + 1);
        let session = Arc::new(Session::new(id, established.connection));
        peer.sessions.fetch_add(1, Relaxed);
        peer.set_current(Some(session.clone()));
        tracing::info!(
            peer = %peer.name, session = id.0, remote = %session.connection.remote_address(), "peer up"
        );
        let up = MeshEvent::PeerUp { peer: peer.ordinal, session: id };
        if events.send(up).await.is_err() {
            return;
        }
        let began = Instant::now();
        let running =
            session::run(peer.clone(), session.clone(), established.lanes, events.clone());
        tokio::pin!(running);
        let reason = tokio::select! {
            reason = &mut running => reason,
            () = stopped(&mut stop) => {
                let (code, words, reason) = stop.borrow().farewell();
                session.connection.close(code, words.as_bytes());
                running.await;
                reason
            }
            newer = source.newer(sequence) => {
                // The peer would not call again if it still had the old connection.
                session.connection.close(refusal::REPLACED_CODE.into(), b"replaced");
                running.await;
                waiting = newer;
                DownReason::Replaced
            }
        };
        // Closing the endpoint may have reached the session before the word to stop did.
        let reason = match *stop.borrow() {
            Stop::No => reason,
            stopped => stopped.farewell().2,
        };
        peer.retire(&session);
        tracing::info!(peer = %peer.name, session = id.0, %reason, "peer down");
        source.ended(began.elapsed());
        let down = MeshEvent::PeerDown { peer: peer.ordinal, session: id, reason };
        if events.send(down).await.is_err() {
            return;
        }
    }
}

/// Waits for the word to stop, or until nobody is left who could give it.
pub(crate) async fn stopped(stop: &mut watch::Receiver<Stop>) {
    drop(stop.wait_for(|stop| *stop != Stop::No).await);
}

impl Source {
    /// The next connection; None when there will be none.
    async fn next(&mut self, peer: &Peer, events: &mpsc::Sender<MeshEvent>) -> Option<Established> {
        match self {
            Source::Dial(dialer) => Some(dialer.dial_until_connected(peer, events).await),
            Source::Called(calls) => calls.recv().await,
        }
    }

    /// A connection that is to replace the running one; a dialler has none.
    async fn newer(&mut self, than: u64) -> Option<Established> {
        let Source::Called(calls) = self else {
            return std::future::pending().await;
        };
        loop {
            match calls.recv().await {
                Some(call) if call.sequence > than => return Some(call),
                Some(late) => {
                    late.connection.close(refusal::REPLACED_CODE.into(), b"replaced");
                }
                None => return std::future::pending().await,
            }
        }
    }

    fn ended(&mut self, lasted: Duration) {
        if let Source::Dial(dialer) = self {
            dialer.wait = Some(dialer.backoff.ended(lasted));
        }
    }
}

/// Dials a peer again and again.
pub(crate) struct Dialer {
    pub(crate) endpoint: Endpoint,
    pub(crate) config: ClientConfig,
    /// Where the peer is, `host:port`; resolved for each attempt, since addresses move.
    pub(crate) address: String,
    /// What the peer's certificate must say.
    pub(crate) server_name: String,
    pub(crate) me: u16,
    pub(crate) backoff: Backoff,
    /// How long to wait before the next attempt.
    pub(crate) wait: Option<Duration>,
    /// Attempts without an answer since the last session.
    pub(crate) unanswered: u64,
}

impl Dialer {
    async fn dial_until_connected(
        &mut self,
        peer: &Peer,
        events: &mpsc::Sender<MeshEvent>,
    ) -> Established {
        loop {
            if let Some(wait) = self.wait.take() {
                tokio::time::sleep(wait).await;
            }
            match tokio::time::timeout(ESTABLISH_TIMEOUT, self.dial(peer.ordinal)).await {
                Ok(Ok(established)) => {
                    self.unanswered = 0;
                    return established;
                }
                Ok(Err(DialError::Refused(refusal, detail))) => {
                    peer.count_refusal(refusal, &detail);
                }
                Ok(Err(DialError::Expelled(refusal))) => {
                    peer.count_refusal(refusal, "by the peer");
                    let expelled = MeshEvent::Expelled { peer: peer.ordinal, refusal };
                    drop(events.send(expelled).await);
                }
                Ok(Err(DialError::Unreachable(detail))) => self.tell_unanswered(peer, &detail),
                Err(_) => self.tell_unanswered(peer, "not in time"),
            }
            self.wait = Some(self.backoff.failed());
        }
    }

    /// Logs the first, second, fourth and so on: a peer may be away for days.
    fn tell_unanswered(&mut self, peer: &Peer, detail: &str) {
        self.unanswered += 1;
        if self.unanswered.is_power_of_two() {
            tracing::info!(
                peer = %peer.name, address = %self.address, attempts = self.unanswered, detail,
                "no answer"
            );
        }
    }

    async fn dial(&self, peer: u16) -> Result<Established, DialError> {
        let connection = self.connect().await?;
        match session::open_lanes(&connection, self.me, peer).await {
            Ok(lanes) => Ok(Established { connection, lanes, sequence: 0 }),
            Err(OpenError::Lost(error)) => Err(DialError::of(error)),
            Err(OpenError::Refused(refusal)) => {
                connection.close(refusal.close_code(), refusal.as_str().as_bytes());
                Err(DialError::Refused(refusal, "while opening lanes".into()))
            }
        }
    }

    async fn connect(&self) -> Result<Connection, DialError> {
        let local = self.endpoint.local_addr().map_err(DialError::unreachable)?;
        let address = tokio::net::lookup_host(&self.address)
            .await
            .map_err(DialError::unreachable)?
            .find(|address| can_reach(local, *address))
            .ok_or_else(|| DialError::unreachable("the name has no address of this family"))?;
        self.endpoint
            .connect_with(self.config.clone(), address, &self.server_name)
            .map_err(DialError::unreachable)?
            .await
            .map_err(DialError::of)
    }
}

/// Tells a region that waits to be called that it is no member any more, now and then: it may be
/// away for long, and nobody else would tell it.
pub(crate) async fn take_leave(dialer: Dialer, why: Refusal, mut stop: watch::Receiver<Stop>) {
    let farewells = async {
        loop {
            let connecting = tokio::time::timeout(ESTABLISH_TIMEOUT, dialer.connect()).await;
            if let Ok(Ok(connection)) = connecting {
                connection.close(why.close_code(), why.as_str().as_bytes());
                tracing::info!(name = %dialer.server_name, reason = %why, "told so");
            }
            tokio::time::sleep(FAREWELL_EVERY).await;
        }
    };
    tokio::select! {
        () = stopped(&mut stop) => {}
        () = farewells => {}
    }
}

/// An IPv6 socket also reaches IPv4 addresses.
fn can_reach(local: SocketAddr, remote: SocketAddr) -> bool {
    local.is_ipv6() || remote.is_ipv4()
}

enum DialError {
    Refused(Refusal, String),
    /// This region is no member any more.
    Expelled(Refusal),
    Unreachable(String),
}

impl DialError {
    fn unreachable(error: impl std::fmt::Display) -> DialError {
        DialError::Unreachable(error.to_string())
    }

    fn of(error: ConnectionError) -> DialError {
        if let Some(refusal) = refusal::expelled_by(&error) {
            return DialError::Expelled(refusal);
        }
        let detail = refusal::printable(error.to_string().as_bytes());
        match refusal::of_connection_error(&error, true) {
            Some(refusal) => DialError::Refused(refusal, detail),
            None => DialError::Unreachable(detail),
        }
    }
}
