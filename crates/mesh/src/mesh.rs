//! The mesh as its user sees it: a configuration, a handle, events.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, Endpoint, TokioRuntime};
use tokio::sync::{mpsc, watch};

use crate::accept::{self, Acceptor};
use crate::backoff::Backoff;
use crate::ca::NodeCertificate;
use crate::identity::{self, BadName};
use crate::lane::Lane;
use crate::limits::{DATAGRAM_BYTES_MAX, SHUTDOWN_TIMEOUT};
use crate::outbox::SendError;
use crate::peer::{self, Dialer, Peer, Source, Stop};
use crate::refusal::{self, Refusal, RefusalCounters};
use crate::stats::{MeshStats, PeerStats};
use crate::tls::{self, TlsError};

/// A session: one connection's life, as this process numbers them. Numbers only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What a mesh needs to know.
#[derive(Debug)]
pub struct MeshConfig {
    /// Where to listen (UDP), and from where to call.
    pub listen: SocketAddr,
    /// The cluster's name, as in the certificates.
    pub cluster: String,
    /// This region's ordinal.
    pub ordinal: u16,
    /// This region's name.
    pub name: String,
    /// The other regions.
    pub peers: Vec<PeerConfig>,
    /// Proves who this node is.
    pub certificate: NodeCertificate,
}

/// Another region. Of two, the one with the lower ordinal calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its ordinal.
    pub ordinal: u16,
    /// Its name; its certificate must be for it.
    pub name: String,
    /// `host:port`, looked up whenever it is called.
    pub address: String,
}

/// A region that was a member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredPeer {
    /// Its ordinal, which nobody else gets.
    pub ordinal: u16,
    /// Its name; a new member may have the same one, and is a peer then.
    pub name: String,
    /// Where it was reached.
    pub address: String,
    /// [`Refusal::DeclaredDead`] or [`Refusal::HasLeft`]: what it is told when it calls, and, if
    /// it waits to be called, what it is called for.
    pub why: Refusal,
}

/// What happens on the mesh. For a session: first `PeerUp`, then anything, last `PeerDown`; a
/// peer's next session begins after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshEvent {
    /// A session began: both sides have accepted each other.
    PeerUp {
        /// The peer's ordinal.
        peer: u16,
        /// The new session.
        session: SessionId,
    },
    /// A session ended; what was queued for it is forgotten.
    PeerDown {
        /// The peer's ordinal.
        peer: u16,
        /// The session that ended.
        session: SessionId,
        /// Why.
        reason: DownReason,
    },
    /// A message arrived; on each lane in the order of sending.
    Message {
        /// Who sent it.
        peer: u16,
        /// In which session.
        session: SessionId,
        /// On which lane.
        lane: Lane,
        /// The message.
        bytes: Bytes,
    },
    /// A datagram arrived; any may be lost or come late.
    Datagram {
        /// Who sent it.
        peer: u16,
        /// What it says.
        bytes: Bytes,
    },
    /// A peer says that this region is no member of the cluster any more.
    Expelled {
        /// Which peer says so.
        peer: u16,
        /// [`Refusal::DeclaredDead`] or [`Refusal::HasLeft`].
        refusal: Refusal,
    },
    /// A lane that was [`SendError::Full`] has room again.
    Writable {
        /// The peer's ordinal.
        peer: u16,
        /// The session.
        session: SessionId,
        /// The lane.
        lane: Lane,
    },
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// Nothing was heard for [`crate::limits::IDLE_TIMEOUT`].
    #[error("nothing was heard")]
    TimedOut,
    /// The peer has restarted and knows nothing of the connection.
    #[error("the peer has restarted")]
    Restarted,
    /// The peer ended it.
    #[error("closed by the peer: {0}")]
    ClosedByPeer(String),
    /// The peer called again: the newer connection took over.
    #[error("replaced by a newer connection")]
    Replaced,
    /// The peer broke the rules.
    #[error("the peer broke the rules: {0}")]
    Violation(Refusal),
    /// [`MeshHandle::disconnect`] was called.
    #[error("disconnected on request")]
    Disconnected,
    /// This mesh ends.
    #[error("shutdown")]
    Shutdown,
    /// The region is not a peer any more ([`MeshHandle::set_peers`]).
    #[error("no longer a peer")]
    Removed,
    /// The peer says that this region is no member any more.
    #[error("refused by the peer for good: {0}")]
    Expelled(Refusal),
    /// QUIC or this side failed.
    #[error("failed: {0}")]
    Failed(String),
}

impl DownReason {
    pub(crate) fn of(error: &ConnectionError) -> DownReason {
        match error {
            ConnectionError::TimedOut => DownReason::TimedOut,
            ConnectionError::Reset => DownReason::Restarted,
            ConnectionError::LocallyClosed => DownReason::Disconnected,
            ConnectionError::ApplicationClosed(close) => {
                if let Some(refusal) = refusal::expelled_by(error) {
                    return DownReason::Expelled(refusal);
                }
                DownReason::ClosedByPeer(refusal::printable(&close.reason))
            }
            ConnectionError::ConnectionClosed(close) => {
                DownReason::ClosedByPeer(refusal::printable(&close.reason))
            }
            ConnectionError::TransportError(_)
            | ConnectionError::VersionMismatch
            | ConnectionError::CidsExhausted => {
                DownReason::Failed(refusal::printable(error.to_string().as_bytes()))
            }
        }
    }
}

/// Why a mesh did not start.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// A region or cluster name that cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Two regions have the same ordinal or name.
    #[error("region {name} (ordinal {ordinal}) is in the topology twice")]
    Duplicate {
        /// The name of the second.
        name: String,
        /// The ordinal of the second.
        ordinal: u16,
    },
    /// The certificate is for another region or cluster.
    #[error("the certificate is not for {expected}")]
    NotMyCertificate {
        /// The DNS name that was expected.
        expected: String,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// Why a datagram was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// There is no session.
    #[error("the peer is not connected")]
    Gone,
    /// It is larger than [`DATAGRAM_BYTES_MAX`] or than the path carries.
    #[error("the datagram is too large")]
    TooLarge,
}

/// Starts meshes; see [`Mesh::start`].
#[derive(Debug)]
pub struct Mesh;

impl Mesh {
    /// Listens, calls the peers that are this side's to call, and tells `events` what happens.
    /// Call it within a Tokio runtime.
    ///
    /// The mesh ends with [`MeshHandle::shutdown`], or when the last handle or the receiver of
    /// `events` is dropped; then `events` ends too. Whoever takes events must never wait for the mesh, else nothing is read any more.
    pub fn start(
        config: MeshConfig,
        events: mpsc::Sender<MeshEvent>,
    ) -> Result<MeshHandle, MeshError> {
        check(&config)?;
        let MeshConfig { listen, cluster, ordinal: me, name, peers, certificate } = config;
        let cannot_listen = |source| MeshError::Listen { listen, source };
        let socket = tls::bind(listen).map_err(cannot_listen)?;
        let endpoint = Endpoint::new(
            tls::endpoint_config(&certificate),
            Some(tls::server_config(&certificate)?),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(cannot_listen)?;
        let local = endpoint.local_addr().map_err(cannot_listen)?;
        let client = tls::client_config(&certificate)?;
        let (stop, stopped) = watch::channel(Stop::No);
        let acceptor = Arc::new(Acceptor {
            me,
            cluster: cluster.clone(),
            callers: RwLock::default(),
            retired: RwLock::default(),
            events: events.downgrade(),
            refused: RefusalCounters::default(),
        });
        let inner = Inner {
            me,
            name,
            cluster,
            endpoint: endpoint.clone(),
            client,
            local,
            peers: RwLock::default(),
            farewells: Mutex::default(),
            acceptor: acceptor.clone(),
            session_ids: Arc::new(AtomicU64::new(0)),
            events: events.downgrade(),
            stop,
        };
        let handle = MeshHandle { inner: Arc::new(inner) };
        handle.set_peers(peers, Vec::new())?;
        tokio::spawn(accept::run(acceptor, endpoint.clone()));
        tokio::spawn(close_at_the_end(endpoint, events, stopped));
        Ok(handle)
    }
}

/// Sends to peers and reads statistics, from any thread. Clones share one mesh.
#[derive(Clone)]
pub struct MeshHandle {
    inner: Arc<Inner>,
}

struct Inner {
    me: u16,
    name: String,
    cluster: String,
    endpoint: Endpoint,
    client: quinn::ClientConfig,
    local: SocketAddr,
    peers: RwLock<BTreeMap<u16, Running>>,
    /// Tasks that tell regions that they are no members any more, by ordinal.
    farewells: Mutex<BTreeMap<u16, (RetiredPeer, watch::Sender<Stop>)>>,
    acceptor: Arc<Acceptor>,
    session_ids: Arc<AtomicU64>,
    events: mpsc::WeakSender<MeshEvent>,
    stop: watch::Sender<Stop>,
}

/// A peer and the task that keeps its sessions.
struct Running {
    config: PeerConfig,
    peer: Arc<Peer>,
    stop: watch::Sender<Stop>,
}

impl Inner {
    fn peer(&self, ordinal: u16) -> Option<Arc<Peer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&ordinal).map(|running| running.peer.clone())
    }

    fn dialer(&self, name: &str, address: String) -> Result<Dialer, BadName> {
        Ok(Dialer {
            endpoint: self.endpoint.clone(),
            config: self.client.clone(),
            server_name: identity::dns_name(name, &self.cluster)?,
            address,
            me: self.me,
            backoff: Backoff::default(),
            wait: None,
            unanswered: 0,
        })
    }

    /// Begins to call a peer, or to expect its calls.
    fn add(&self, config: PeerConfig) -> Result<Running, BadName> {
        let peer = Arc::new(Peer::new(config.ordinal, config.name.clone()));
        let (source, calls) = if self.me < config.ordinal {
            let dialer = self.dialer(&config.name, config.address.clone())?;
            (Source::Dial(Box::new(dialer)), None)
        } else {
            let (calls, called) = mpsc::channel(1);
            (Source::Called(called), Some(calls))
        };
        let (stop, stopped) = watch::channel(Stop::No);
        // Without a receiver of events the mesh is ending.
        if let Some(events) = self.events.upgrade() {
            let ids = self.session_ids.clone();
            tokio::spawn(peer::supervise(peer.clone(), source, events, ids, stopped));
        }
        let mut callers = self.acceptor.callers.write().unwrap_or_else(PoisonError::into_inner);
        callers.insert(config.name.clone(), (peer.clone(), calls));
        Ok(Running { config, peer, stop })
    }

    /// Begins and ends to tell regions that they are no members any more.
    fn set_retired(&self, retired: Vec<RetiredPeer>) -> Result<(), BadName> {
        let by_name = retired.iter().map(|peer| (peer.name.clone(), peer.why)).collect();
        *self.acceptor.retired.write().unwrap_or_else(PoisonError::into_inner) = by_name;
        let mut farewells = self.farewells.lock().unwrap_or_else(PoisonError::into_inner);
        // A sender that is dropped ends its task.
        farewells.retain(|_, (peer, _)| retired.contains(peer));
        for peer in retired.into_iter().filter(|peer| peer.ordinal > self.me) {
            if let Entry::Vacant(place) = farewells.entry(peer.ordinal) {
                let dialer = self.dialer(&peer.name, peer.address.clone())?;
                let (stop, stopped) = watch::channel(Stop::No);
                tokio::spawn(peer::take_leave(dialer, peer.why, stopped));
                place.insert((peer, stop));
            }
        }
        Ok(())
    }
}

impl MeshHandle {
    /// Changes who the peers are: new ones are called (or their calls expected), sessions of
    /// those that are gone end, the others go on undisturbed. `retired` are regions that must not
    /// come back; one whose name a peer has is passed over. Call it within the runtime.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate or two are the same; nothing has changed then.
    pub fn set_peers(
        &self,
        peers: Vec<PeerConfig>,
        mut retired: Vec<RetiredPeer>,
    ) -> Result<(), MeshError> {
        let inner = &self.inner;
        check_peers(inner.me, &inner.name, &inner.cluster, &peers)?;
        let is_taken = |name: &str| *name == inner.name || peers.iter().any(|p| p.name == name);
        retired.retain(|peer| !is_taken(&peer.name));
        for peer in &retired {
            identity::dns_name(&peer.name, &inner.cluster)?;
        }
        let mut running = inner.peers.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<u16> = running
            .iter()
            .filter(|(_, running)| !peers.contains(&running.config))
            .map(|(ordinal, _)| *ordinal)
            .collect();
        for ordinal in gone {
            let Some(gone) = running.remove(&ordinal) else { continue };
            let mut callers =
                inner.acceptor.callers.write().unwrap_or_else(PoisonError::into_inner);
            callers.remove(&gone.config.name);
            let why = retired.iter().find(|peer| peer.ordinal == ordinal).map(|peer| peer.why);
            gone.stop.send_replace(Stop::Removed(why));
        }
        for config in peers {
            if let Entry::Vacant(place) = running.entry(config.ordinal) {
                place.insert(inner.add(config)?);
            }
        }
        drop(running);
        Ok(inner.set_retired(retired)?)
    }

    /// Queues a message for a lane of a session; never waits. After [`SendError::Full`] a
    /// [`MeshEvent::Writable`] tells when to try again.
    pub fn try_send(
        &self,
        peer: u16,
        session: SessionId,
        lane: Lane,
        bytes: Bytes,
    ) -> Result<(), SendError> {
        let current = self.inner.peer(peer).and_then(|peer| peer.session());
        match current {
            Some(current) if current.id == session => current.outboxes[lane.index()].push(bytes),
            _ => Err(SendError::Gone),
        }
    }

    /// Sends a datagram: now or never, once or not at all.
    pub fn send_datagram(&self, peer: u16, bytes: Bytes) -> Result<(), DatagramError> {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(DatagramError::TooLarge);
        }
        let peer = self.inner.peer(peer).ok_or(DatagramError::Gone)?;
        let session = peer.session().ok_or(DatagramError::Gone)?;
        match session.connection.send_datagram(bytes) {
            Ok(()) => {
                peer.sent.add_datagram();
                Ok(())
            }
            Err(quinn::SendDatagramError::TooLarge) => Err(DatagramError::TooLarge),
            Err(_) => Err(DatagramError::Gone),
        }
    }

    /// Ends a session, say of a peer that sends nonsense. The pair will connect again.
    pub fn disconnect(&self, peer: u16, session: SessionId) {
        let current = self.inner.peer(peer).and_then(|peer| peer.session());
        if let Some(current) = current.filter(|current| current.id == session) {
            current.connection.close(refusal::DISCONNECTED_CODE.into(), b"disconnected");
        }
    }

    /// Bounds what is sent to a peer, in bytes a second after compression; none takes the bound
    /// away. Holds for all sessions. The control lane and datagrams are not held back.
    pub fn set_bandwidth(&self, peer: u16, bytes_per_second: Option<u64>) {
        if let Some(peer) = self.inner.peer(peer) {
            peer.set_bandwidth(bytes_per_second);
        }
    }

    /// The smoothed round trip to a peer, while connected.
    pub fn rtt(&self, peer: u16) -> Option<Duration> {
        Some(self.inner.peer(peer)?.session()?.rtt())
    }

    /// What has happened with one peer.
    pub fn peer_stats(&self, peer: u16) -> Option<PeerStats> {
        self.inner.peer(peer).map(|peer| peer.stats())
    }

    /// What has happened so far.
    pub fn stats(&self) -> MeshStats {
        let peers = self.inner.peers.read().unwrap_or_else(PoisonError::into_inner);
        MeshStats {
            peers: peers.values().map(|running| running.peer.stats()).collect(),
            refused: self.inner.acceptor.refused.snapshot(),
        }
    }

    /// Where the mesh listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// Takes leave of every peer, so that they notice at once, and stops. What is queued is not
    /// waited for. `PeerDown` is told for every session.
    pub async fn shutdown(&self) {
        // First the sessions, that they know why they end; no peer is called again after this.
        self.inner.stop.send_replace(Stop::Shutdown);
        for running in self.inner.peers.read().unwrap_or_else(PoisonError::into_inner).values() {
            running.stop.send_replace(Stop::Shutdown);
        }
        self.inner.farewells.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.inner.endpoint.close(refusal::SHUTDOWN_CODE.into(), b"shutdown");
        let farewell = self.inner.endpoint.wait_idle();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, farewell).await.is_err() {
            tracing::debug!("some peers did not take leave");
        }
    }
}

impl std::fmt::Debug for MeshHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeshHandle").field("local", &self.inner.local).finish_non_exhaustive()
    }
}

fn check(config: &MeshConfig) -> Result<(), MeshError> {
    let expected = identity::dns_name(&config.name, &config.cluster)?;
    let mine = identity::region_of(config.certificate.certificate(), &config.cluster);
    if mine.as_deref() != Ok(&config.name) {
        return Err(MeshError::NotMyCertificate { expected });
    }
    check_peers(config.ordinal, &config.name, &config.cluster, &config.peers)
}

fn check_peers(me: u16, name: &str, cluster: &str, peers: &[PeerConfig]) -> Result<(), MeshError> {
    let mut ordinals = BTreeSet::from([me]);
    let mut names = BTreeSet::from([name]);
    for peer in peers {
        identity::dns_name(&peer.name, cluster)?;
        if !ordinals.insert(peer.ordinal) || !names.insert(&peer.name) {
            return Err(MeshError::Duplicate { name: peer.name.clone(), ordinal: peer.ordinal });
        }
    }
    Ok(())
}

/// Lets go of `events` then, so that their receiver sees the end once every session has ended.
async fn close_at_the_end(
    endpoint: Endpoint,
    events: mpsc::Sender<MeshEvent>,
    mut stop: watch::Receiver<Stop>,
) {
    tokio::select! {
        () = events.closed() => {}
        () = peer::stopped(&mut stop) => {}
    }
    endpoint.close(refusal::SHUTDOWN_CODE.into(), b"shutdown");
}
