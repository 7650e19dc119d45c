//! QUIC between regions: mutual TLS, lanes, datagrams.
//!
//! Each pair of nodes has one connection; the one with the lower ordinal dials, both check the
//! other's certificate against the cluster's authority and the topology. On the connection run
//! three ordered [`Lane`]s each way and unreliable datagrams; what arrives is told as
//! [`MeshEvent`]s. Everything that a peer or a slow reader can make grow is bounded in [`limits`]:
//! senders are told [`SendError::Full`], receivers stop reading and QUIC stops the sender.
//!
//! Pure parts (`framing`, `backoff`, `bucket`, `saving`, `lane`, `outbox`) know nothing of sockets; `session` carries
//! one connection, `peer` the succession of them, `accept` answers calls. The mesh does not
//! interpret messages, and keeps none for a peer that is away: replication reads its log again.

mod accept;
mod backoff;
mod bucket;
mod ca;
mod compression;
mod framing;
mod identity;
mod lane;
pub mod limits;
mod mesh;
mod outbox;
mod peer;
mod refusal;
mod saving;
mod session;
mod signature;
mod stats;
mod tls;

pub use ca::{
    CA_CERTIFICATE_FILE, CA_KEY_FILE, CA_VALIDITY, CaError, ClusterCa, NODE_CERTIFICATE_FILE,
    NODE_KEY_FILE, NODE_VALIDITY, NodeCertificate, VALID_BEFORE,
};
pub use identity::{BadName, dns_name};
pub use lane::{LANES, Lane, PROTOCOL_VERSION};
pub use mesh::{
    DatagramError, DownReason, Mesh, MeshConfig, MeshError, MeshEvent, MeshHandle, PeerConfig,
    RetiredPeer, SessionId,
};
pub use outbox::SendError;
pub use refusal::Refusal;
pub use signature::SignError;
pub use stats::{MeshStats, PeerStats, Traffic};
pub use tls::{ALPN, TlsError};
