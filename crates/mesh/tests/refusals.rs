//! Who is turned away, why, and that it is counted.

mod common;

use std::time::{Duration, SystemTime};

use common::{CLUSTER, Node, REGIONS, RawPeer, any, config, peer, preface, raw_caller, until};
use meridian_mesh::limits::{HANDSHAKES_BEFORE_RETRY, MESSAGE_BYTES_MAX};
use meridian_mesh::{
    ALPN, ClusterCa, DownReason, NodeCertificate, PROTOCOL_VERSION, Refusal, dns_name,
};

/// A node that expects calls from region 0.
fn called_node(ca: &ClusterCa) -> Node {
    let mut config = config(ca, 1);
    config.peers.push(peer(0, any()));
    Node::start(config)
}

/// Calls the node and waits until it has counted the refusal.
async fn refused_caller(
    ca: &ClusterCa,
    node: &Node,
    certificate: Option<&NodeCertificate>,
    alpn: &[u8],
    expected: Refusal,
) {
    let endpoint = raw_caller(ca, certificate, alpn);
    let name = dns_name(REGIONS[1], CLUSTER).expect("name");
    let connecting = endpoint.connect(node.handle.local_addr(), &name).expect("connecting");
    // A caller may believe in the connection until its certificate has been looked at.
    if let Ok(connection) = connecting.await {
        let reason = connection.closed().await;
        println!("{expected}: {reason}");
    }
    until(|| node.handle.stats().refused == [(expected, 1)]).await;
    let peers = node.handle.stats().peers;
    assert!(peers.iter().all(|peer| peer.sessions == 0 && peer.refused.is_empty()), "{peers:?}");
}

#[tokio::test]
async fn a_caller_of_another_authority_is_refused() {
    let ca = ClusterCa::create().expect("ca");
    let other = ClusterCa::create().expect("other ca");
    let node = called_node(&ca);
    let certificate = other.issue(REGIONS[0], CLUSTER).expect("certificate");
    refused_caller(&ca, &node, Some(&certificate), ALPN, Refusal::UntrustedCa).await;
}

#[tokio::test]
async fn a_caller_of_an_unknown_region_is_refused() {
    let ca = ClusterCa::create().expect("ca");
    let node = called_node(&ca);
    let certificate = ca.issue("mars", CLUSTER).expect("certificate");
    refused_caller(&ca, &node, Some(&certificate), ALPN, Refusal::UnknownRegion).await;
}

#[tokio::test]
async fn a_caller_of_another_cluster_is_refused() {
    let ca = ClusterCa::create().expect("ca");
    let node = called_node(&ca);
    let certificate = ca.issue(REGIONS[0], "bank").expect("certificate");
    refused_caller(&ca, &node, Some(&certificate), ALPN, Refusal::UnknownRegion).await;
}

#[tokio::test]
async fn a_caller_whose_certificate_has_expired_is_refused() {
    let ca = ClusterCa::create().expect("ca");
    let node = called_node(&ca);
    let hour = Duration::from_secs(3600);
    let now = SystemTime::now();
    let certificate =
        ca.issue_between(REGIONS[0], CLUSTER, now - 2 * hour, now - hour).expect("certificate");
    refused_caller(&ca, &node, Some(&certificate), ALPN, Refusal::Expired).await;
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused() {
    let ca = ClusterCa::create().expect("ca");
    let node = called_node(&ca);
    refused_caller(&ca, &node, None, ALPN, Refusal::NoCertificate).await;
}

#[tokio::test]
async fn a_caller_of_another_protocol_is_refused() {
    let ca = ClusterCa::create().expect("ca");
    let node = called_node(&ca);
    let certificate = ca.issue(REGIONS[0], CLUSTER).expect("certificate");
    refused_caller(&ca, &node, Some(&certificate), b"h3", Refusal::WrongProtocol).await;
}

#[tokio::test]
async fn a_caller_that_should_have_waited_is_refused() {
    let ca = ClusterCa::create().expect("ca");
    let mut config = config(&ca, 1);
    config.peers.push(peer(2, any()));
    let node = Node::start(config);
    let certificate = ca.issue(REGIONS[2], CLUSTER).expect("certificate");
    refused_caller(&ca, &node, Some(&certificate), ALPN, Refusal::WrongDirection).await;
}

/// Region 0 calls region 1 and finds `answering` there.
async fn dialled_wrong(expected: Refusal, answering: impl FnOnce(&ClusterCa) -> Node) {
    let ca = ClusterCa::create().expect("ca");
    let other = answering(&ca);
    let mut config = config(&ca, 0);
    config.peers.push(peer(1, other.handle.local_addr()));
    let dialler = Node::start(config);
    let count = |node: &Node, peer| {
        let refused = node.handle.peer_stats(peer).map_or(vec![], |stats| stats.refused);
        refused.iter().find(|(reason, _)| *reason == expected).map_or(0, |(_, count)| *count)
    };
    // It tries again, and is right to refuse again.
    until(|| count(&dialler, 1) >= 2).await;
    let stats = dialler.handle.peer_stats(1).expect("peer");
    assert_eq!(stats.refused.len(), 1, "{stats:?}");
    assert_eq!(stats.sessions, 0);
    // The one who was found wanting is told.
    until(|| other.handle.stats().refused.iter().any(|(r, _)| *r == Refusal::RefusedByPeer)).await;
}

#[tokio::test]
async fn a_dialler_refuses_a_region_that_it_did_not_dial() {
    dialled_wrong(Refusal::WrongName, |ca| {
        let mut config = config(ca, 2);
        config.peers.push(peer(0, any()));
        Node::start(config)
    })
    .await;
}

#[tokio::test]
async fn a_dialler_refuses_another_authority() {
    dialled_wrong(Refusal::UntrustedCa, |_| called_node(&ClusterCa::create().expect("another ca")))
        .await;
}

#[tokio::test]
async fn a_dialler_refuses_an_expired_certificate() {
    dialled_wrong(Refusal::Expired, |ca| {
        let mut config = config(ca, 1);
        config.peers.push(peer(0, any()));
        let hour = Duration::from_secs(3600);
        let now = SystemTime::now();
        config.certificate =
            ca.issue_between(REGIONS[1], CLUSTER, now - 2 * hour, now - hour).expect("certificate");
        Node::start(config)
    })
    .await;
}

/// Opens the lanes with these prefaces after a good handshake.
async fn refused_lanes(expected: Refusal, prefaces: Vec<Vec<u8>>) {
    let ca = ClusterCa::create().expect("ca");
    let node = called_node(&ca);
    let certificate = ca.issue(REGIONS[0], CLUSTER).expect("certificate");
    let endpoint = raw_caller(&ca, Some(&certificate), ALPN);
    let name = dns_name(REGIONS[1], CLUSTER).expect("name");
    let connection = endpoint
        .connect(node.handle.local_addr(), &name)
        .expect("connecting")
        .await
        .expect("connection");
    for preface in prefaces {
        let mut stream = connection.open_uni().await.expect("stream");
        stream.write_all(&preface).await.expect("preface");
    }
    connection.closed().await;
    until(|| node.handle.peer_stats(0).expect("peer").refused == [(expected, 1)]).await;
    assert_eq!(node.handle.peer_stats(0).expect("peer").sessions, 0);
}

#[tokio::test]
async fn lanes_that_are_not_right_are_refused() {
    let good = |lane| preface(PROTOCOL_VERSION, lane, 0);
    refused_lanes(Refusal::WrongProtocol, vec![preface(PROTOCOL_VERSION + 1, 0, 0)]).await;
    refused_lanes(Refusal::WrongProtocol, vec![b"GET / HT".to_vec()]).await;
    refused_lanes(Refusal::WrongOrdinal, vec![preface(PROTOCOL_VERSION, 0, 2)]).await;
    refused_lanes(Refusal::Malformed, vec![good(0), good(0)]).await;
    refused_lanes(Refusal::Malformed, vec![good(0), good(9)]).await;
}

#[tokio::test]
async fn a_caller_that_opens_no_lanes_is_given_up() {
    let ca = ClusterCa::create().expect("ca");
    let node = called_node(&ca);
    let certificate = ca.issue(REGIONS[0], CLUSTER).expect("certificate");
    refused_caller(&ca, &node, Some(&certificate), ALPN, Refusal::Slow).await;
}

#[tokio::test]
async fn idle_callers_do_not_keep_a_good_one_out() {
    let ca = ClusterCa::create().expect("ca");
    let mut node = called_node(&ca);
    let certificate = ca.issue(REGIONS[0], CLUSTER).expect("certificate");
    let name = dns_name(REGIONS[1], CLUSTER).expect("name");
    let endpoint = raw_caller(&ca, Some(&certificate), ALPN);
    // So many that from now on callers must prove their address first.
    let mut idle = Vec::new();
    for _ in 0..HANDSHAKES_BEFORE_RETRY + 2 {
        let connecting = endpoint.connect(node.handle.local_addr(), &name).expect("connecting");
        idle.push(connecting.await.expect("connection"));
    }
    let good = RawPeer::connect(&ca, node.handle.local_addr()).await;
    node.up(0).await;
    assert!(good.connection.close_reason().is_none());
}

/// A good peer turns bad: writes `bytes` on a lane.
async fn violates(lane: usize, bytes: &[u8], expected: Refusal) {
    let ca = ClusterCa::create().expect("ca");
    let mut node = called_node(&ca);
    let mut raw = RawPeer::connect(&ca, node.handle.local_addr()).await;
    node.up(0).await;
    // The connection may end in the middle of it.
    drop(raw.lanes[lane].write_all(bytes).await);
    assert_eq!(node.down(0).await.1, DownReason::Violation(expected));
    let stats = node.handle.peer_stats(0).expect("peer");
    assert_eq!(stats.refused, [(expected, 1)]);
    let reason = raw.connection.closed().await.to_string();
    assert!(reason.contains(expected.as_str()), "{reason}");
}

#[tokio::test]
async fn an_oversize_message_ends_the_session() {
    let announced = (MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes();
    violates(0, &announced, Refusal::Oversize).await;
    let compressed = zstd::bulk::compress(&announced, 1).expect("compress");
    violates(1, &compressed, Refusal::Oversize).await;
}

#[tokio::test]
async fn a_broken_compressed_stream_ends_the_session() {
    violates(1, b"certainly not zstd", Refusal::Malformed).await;
    violates(2, &[0xff; 64], Refusal::Malformed).await;
}

#[tokio::test]
async fn a_lane_that_ends_ends_the_session() {
    let ca = ClusterCa::create().expect("ca");
    let mut node = called_node(&ca);
    let mut raw = RawPeer::connect(&ca, node.handle.local_addr()).await;
    node.up(0).await;
    raw.lanes[2].finish().expect("finish");
    assert_eq!(node.down(0).await.1, DownReason::Violation(Refusal::Malformed));
}

#[tokio::test]
async fn garbage_on_the_port_changes_nothing() {
    let (mut node_0, mut node_1, session_0, _) = common::connected_pair().await;
    let garbage = tokio::net::UdpSocket::bind(any()).await.expect("socket");
    let to = node_1.handle.local_addr();
    for size in (0..1500).step_by(13) {
        for first in [0x00, 0x40, 0xc0, 0xff] {
            let mut datagram = vec![(size * 31 % 251) as u8; size];
            if let Some(byte) = datagram.first_mut() {
                *byte = first;
            }
            garbage.send_to(&datagram, to).await.expect("send");
        }
    }
    node_0.send(1, session_0, meridian_mesh::Lane::Live, "still here".into()).await;
    assert_eq!(node_1.message(meridian_mesh::Lane::Live).await, "still here");
    assert_eq!(node_1.handle.stats().refused, []);
    assert_eq!(node_1.handle.peer_stats(0).expect("peer").sessions, 1);
}
