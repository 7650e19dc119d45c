//! The mesh as its user sees it: a configuration, a handle, events.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
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
use crate::peer::{self, Dialer, Peer, Source};
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
        let MeshConfig { listen, cluster, ordinal: me, name: _, peers, certificate } = config;
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
        let (stop, stopped) = watch::channel(false);
        let session_ids = Arc::new(AtomicU64::new(0));
        let mut by_ordinal = BTreeMap::new();
        let mut callers = BTreeMap::new();
        for config in peers {
            let peer = Arc::new(Peer::new(config.ordinal, config.name.clone()));
            let (source, calls) = if me < config.ordinal {
                let dialer = Dialer {
                    endpoint: endpoint.clone(),
                    config: client.clone(),
                    server_name: identity::dns_name(&config.name, &cluster)?,
                    address: config.address,
                    me,
                    backoff: Backoff::default(),
                    wait: None,
                    unanswered: 0,
                };
                (Source::Dial(Box::new(dialer)), None)
            } else {
                let (calls, called) = mpsc::channel(1);
                (Source::Called(called), Some(calls))
            };
            tokio::spawn(peer::supervise(
                peer.clone(),
                source,
                events.clone(),
                session_ids.clone(),
                stopped.clone(),
            ));
            by_ordinal.insert(config.ordinal, peer.clone());
            callers.insert(config.name, (peer, calls));
        }
        let refused = RefusalCounters::default();
        let acceptor = Arc::new(Acceptor { me, cluster, callers, refused });
        tokio::spawn(accept::run(acceptor.clone(), endpoint.clone()));
        tokio::spawn(close_at_the_end(endpoint.clone(), events, stopped));
        let inner = Inner { endpoint, local, peers: by_ordinal, acceptor, stop };
        Ok(MeshHandle { inner: Arc::new(inner) })
    }
}

/// Sends to peers and reads statistics, from any thread. Clones share one mesh.
#[derive(Clone)]
pub struct MeshHandle {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    local: SocketAddr,
    peers: BTreeMap<u16, Arc<Peer>>,
    acceptor: Arc<Acceptor>,
    stop: watch::Sender<bool>,
}

impl MeshHandle {
    /// Queues a message for a lane of a session; never waits. After [`SendError::Full`] a
    /// [`MeshEvent::Writable`] tells when to try again.
    pub fn try_send(
        &self,
        peer: u16,
        session: SessionId,
        lane: Lane,
        bytes: Bytes,
    ) -> Result<(), SendError> {
        let current = self.inner.peers.get(&peer).and_then(|peer| peer.session());
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
        let peer = self.inner.peers.get(&peer).ok_or(DatagramError::Gone)?;
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
        let current = self.inner.peers.get(&peer).and_then(|peer| peer.session());
        if let Some(current) = current.filter(|current| current.id == session) {
            current.connection.close(refusal::DISCONNECTED_CODE.into(), b"disconnected");
        }
    }

    /// The smoothed round trip to a peer, while connected.
    pub fn rtt(&self, peer: u16) -> Option<Duration> {
        Some(self.inner.peers.get(&peer)?.session()?.rtt())
    }

    /// What has happened with one peer.
    pub fn peer_stats(&self, peer: u16) -> Option<PeerStats> {
        self.inner.peers.get(&peer).map(|peer| peer.stats())
    }

    /// What has happened so far.
    pub fn stats(&self) -> MeshStats {
        MeshStats {
            peers: self.inner.peers.values().map(|peer| peer.stats()).collect(),
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
        self.inner.stop.send_replace(true);
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
    let mut ordinals = BTreeSet::from([config.ordinal]);
    let mut names = BTreeSet::from([config.name.as_str()]);
    for peer in &config.peers {
        identity::dns_name(&peer.name, &config.cluster)?;
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
    mut stop: watch::Receiver<bool>,
) {
    tokio::select! {
        () = events.closed() => {}
        () = peer::stopped(&mut stop) => {}
    }
    endpoint.close(refusal::SHUTDOWN_CODE.into(), b"shutdown");
}
