//! A small cluster on loopback, shared by the tests.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_mesh::{
    ALPN, ClusterCa, DownReason, Lane, Mesh, MeshConfig, MeshEvent, MeshHandle, NODE_KEY_FILE,
    NodeCertificate, PROTOCOL_VERSION, PeerConfig, SendError, SessionId, dns_name,
};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc;

pub const CLUSTER: &str = "shop";
pub const REGIONS: [&str; 3] = ["us-east", "eu-central", "ap-southeast"];

/// How long something that must happen may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The events channel of a test node.
pub const EVENTS_MAX: usize = 64;

pub fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A running mesh and its events.
pub struct Node {
    pub handle: MeshHandle,
    pub events: mpsc::Receiver<MeshEvent>,
    /// Seen while waiting for something else.
    seen: VecDeque<MeshEvent>,
}

/// What a node of region `ordinal` is started with, without peers.
pub fn config(ca: &ClusterCa, ordinal: u16) -> MeshConfig {
    let name = REGIONS[ordinal as usize];
    MeshConfig {
        listen: any(),
        cluster: CLUSTER.into(),
        ordinal,
        name: name.into(),
        peers: vec![],
        certificate: ca.issue(name, CLUSTER).expect("certificate"),
    }
}

pub fn peer(ordinal: u16, address: SocketAddr) -> PeerConfig {
    PeerConfig { ordinal, name: REGIONS[ordinal as usize].into(), address: address.to_string() }
}

/// Two nodes: 1 is called by 0, directly or at `via` (given where 1 listens).
pub async fn pair_via(via: impl FnOnce(SocketAddr) -> SocketAddr) -> (Node, Node) {
    let ca = ClusterCa::create().expect("ca");
    let mut config_1 = config(&ca, 1);
    config_1.peers.push(peer(0, any()));
    let node_1 = Node::start(config_1);
    let mut config_0 = config(&ca, 0);
    config_0.peers.push(peer(1, via(node_1.handle.local_addr())));
    (Node::start(config_0), node_1)
}

pub async fn connected_pair() -> (Node, Node, SessionId, SessionId) {
    let (mut node_0, mut node_1) = pair_via(|address| address).await;
    let session_0 = node_0.up(1).await;
    let session_1 = node_1.up(0).await;
    (node_0, node_1, session_0, session_1)
}

impl Node {
    pub fn start(config: MeshConfig) -> Node {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let handle = Mesh::start(config, sender).expect("mesh");
        Node { handle, events, seen: VecDeque::new() }
    }

    /// The next event that is wanted; others are kept for later.
    pub async fn wait<T>(&mut self, mut wanted: impl FnMut(&MeshEvent) -> Option<T>) -> T {
        if let Some(at) = self.seen.iter().position(|event| wanted(event).is_some()) {
            let event = self.seen.remove(at).expect("it is there");
            return wanted(&event).expect("still wanted");
        }
        let waiting = async {
            loop {
                let event = self.events.recv().await.expect("the mesh runs");
                match wanted(&event) {
                    Some(found) => return found,
                    None => self.seen.push_back(event),
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the event comes")
    }

    pub async fn up(&mut self, from: u16) -> SessionId {
        self.wait(|event| match event {
            MeshEvent::PeerUp { peer, session } if *peer == from => Some(*session),
            _ => None,
        })
        .await
    }

    pub async fn down(&mut self, from: u16) -> (SessionId, DownReason) {
        self.wait(|event| match event {
            MeshEvent::PeerDown { peer, session, reason } if *peer == from => {
                Some((*session, reason.clone()))
            }
            _ => None,
        })
        .await
    }

    pub async fn message(&mut self, on: Lane) -> Bytes {
        self.wait(|event| match event {
            MeshEvent::Message { lane, bytes, .. } if *lane == on => Some(bytes.clone()),
            _ => None,
        })
        .await
    }

    /// Sends, waiting for room as a careful sender does.
    pub async fn send(&mut self, to: u16, session: SessionId, lane: Lane, bytes: Bytes) {
        while let Err(error) = self.handle.try_send(to, session, lane, bytes.clone()) {
            assert_eq!(error, SendError::Full);
            self.wait(|event| match event {
                MeshEvent::Writable { lane: writable, .. } => (*writable == lane).then_some(()),
                _ => None,
            })
            .await;
        }
    }
}

/// Bytes that do not compress, different for each seed (a linear congruential generator).
pub fn noise(seed: u64, size: usize) -> Bytes {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(size)
    .collect()
}

/// Waits until a condition on counters holds.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "the condition never held");
        tokio::task::yield_now().await;
    }
}

/// How much a raw caller lets come on a lane that it does not read.
pub const RAW_WINDOW_BYTES: u32 = 1 << 20;

/// A QUIC caller that can behave as badly as a test wants. It trusts `ca` and shows
/// `certificate`, if any.
pub fn raw_caller(
    ca: &ClusterCa,
    certificate: Option<&NodeCertificate>,
    alpn: &[u8],
) -> quinn::Endpoint {
    let mut roots = RootCertStore::empty();
    let trusted = ca.issue(REGIONS[0], CLUSTER).expect("certificate");
    roots.add(trusted.ca().clone()).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots);
    let mut tls = match certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let directory = tempfile::tempdir().expect("directory");
            certificate.save(directory.path()).expect("save");
            let key = PrivateKeyDer::from_pem_file(directory.path().join(NODE_KEY_FILE));
            builder
                .with_client_auth_cert(vec![certificate.certificate().clone()], key.expect("key"))
                .expect("client certificate")
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("quic");
    let mut endpoint = quinn::Endpoint::client(any()).expect("endpoint");
    let mut config = quinn::ClientConfig::new(Arc::new(quic));
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(RAW_WINDOW_BYTES.into());
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    endpoint
}

/// The bytes that open a lane.
pub fn preface(version: u8, lane: u8, ordinal: u16) -> Vec<u8> {
    let mut preface = b"MRDN".to_vec();
    preface.extend([version, lane]);
    preface.extend(ordinal.to_le_bytes());
    preface
}

/// Calls region 1 as region 0 and opens the lanes as a good peer does.
pub struct RawPeer {
    pub connection: quinn::Connection,
    pub lanes: Vec<quinn::SendStream>,
    /// The other side's lanes by their number; not read.
    pub received: BTreeMap<u8, quinn::RecvStream>,
    _endpoint: quinn::Endpoint,
}

impl RawPeer {
    pub async fn connect(ca: &ClusterCa, to: SocketAddr) -> RawPeer {
        let certificate = ca.issue(REGIONS[0], CLUSTER).expect("certificate");
        let endpoint = raw_caller(ca, Some(&certificate), ALPN);
        let name = dns_name(REGIONS[1], CLUSTER).expect("name");
        let connection =
            endpoint.connect(to, &name).expect("connecting").await.expect("connection");
        let mut lanes = Vec::new();
        for lane in 0..3 {
            let mut stream = connection.open_uni().await.expect("stream");
            stream.write_all(&preface(PROTOCOL_VERSION, lane, 0)).await.expect("preface");
            lanes.push(stream);
        }
        let mut received = BTreeMap::new();
        for _ in 0..3 {
            let mut stream = connection.accept_uni().await.expect("stream");
            let mut opening = [0; 8];
            stream.read_exact(&mut opening).await.expect("preface");
            assert_eq!(opening[..], preface(PROTOCOL_VERSION, opening[5], 1));
            received.insert(opening[5], stream);
        }
        RawPeer { connection, lanes, received, _endpoint: endpoint }
    }
}
