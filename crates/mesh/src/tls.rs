//! TLS and QUIC settings: mutual authentication by the cluster's authority, TLS 1.3 only, no
//! resumption (a certificate is looked at on every connection), bounded buffers.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use socket2::{Domain, Protocol, Socket, Type};

use crate::ca::NodeCertificate;
use crate::lane::LANES;
use crate::limits;

/// The application protocol that both sides must name.
pub const ALPN: &[u8] = b"meridian/1";

/// Why the settings could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate or key is not acceptable.
    #[error("the node's certificate cannot be used")]
    Certificate(#[from] rustls::Error),
    /// The authority's certificate is not acceptable.
    #[error("the authority's certificate cannot be used")]
    Authority(#[from] rustls::server::VerifierBuilderError),
    /// The cryptography lacks what QUIC needs.
    #[error("the cryptography lacks what QUIC needs")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// For accepting: callers must show a certificate of the cluster.
pub(crate) fn server_config(node: &NodeCertificate) -> Result<quinn::ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(node)?, provider.clone()).build()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![node.certificate().clone()], node.key().clone_key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.send_tls13_tickets = 0;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport_config()));
    config.max_incoming(limits::INCOMING_MAX);
    config.incoming_buffer_size(limits::INCOMING_BUFFER_BYTES);
    config.incoming_buffer_size_total(limits::INCOMING_BUFFER_TOTAL_BYTES);
    Ok(config)
}

/// For dialling: the one who answers must hold the cluster's certificate for the name dialled.
pub(crate) fn client_config(node: &NodeCertificate) -> Result<quinn::ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(node)?)
        .with_client_auth_cert(vec![node.certificate().clone()], node.key().clone_key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport_config()));
    Ok(config)
}

/// Keys that survive a restart: the restarted node can tell peers at once that it has forgotten
/// their connections (stateless reset, RFC 9000, 10.3), instead of leaving them to time out.
pub(crate) fn endpoint_config(node: &NodeCertificate) -> quinn::EndpointConfig {
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, node.key().secret_der());
    let reset = ring::hmac::sign(&secret, b"meridian stateless reset");
    let ids = ring::hmac::sign(&secret, b"meridian connection ids");
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset.as_ref());
    let id_key = ids.as_ref().iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte));
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    config
}

/// A socket with buffers as large as the kernel grants.
pub(crate) fn bind(listen: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    // Less than asked is no error: QUIC repairs what is lost.
    drop(socket.set_recv_buffer_size(limits::SOCKET_BUFFER_BYTES));
    drop(socket.set_send_buffer_size(limits::SOCKET_BUFFER_BYTES));
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

fn roots(node: &NodeCertificate) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(node.ca().clone())?;
    Ok(Arc::new(roots))
}

fn transport_config() -> quinn::TransportConfig {
    let idle = quinn::VarInt::from_u32(limits::IDLE_TIMEOUT.as_millis() as u32);
    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(0u32.into())
        .max_concurrent_uni_streams((LANES as u32).into())
        .stream_receive_window(limits::STREAM_WINDOW_BYTES.into())
        .receive_window(limits::CONNECTION_WINDOW_BYTES.into())
        // What a lane has under way must not stop the others either.
        .send_window(u64::from(limits::CONNECTION_WINDOW_BYTES))
        .datagram_receive_buffer_size(Some(limits::DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(limits::DATAGRAM_BUFFER_BYTES)
        .keep_alive_interval(Some(limits::KEEP_ALIVE))
        .max_idle_timeout(Some(idle.into()))
        .initial_rtt(limits::INITIAL_RTT);
    config
}
