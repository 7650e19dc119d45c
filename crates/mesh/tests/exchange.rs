//! Messages and datagrams between two nodes over real QUIC.

mod common;

use bytes::Bytes;
use common::{Node, REGIONS, config, connected_pair, noise, peer, until};
use meridian_mesh::limits::{DATAGRAM_BYTES_MAX, MESSAGE_BYTES_MAX};
use meridian_mesh::{
    ClusterCa, DatagramError, DownReason, Lane, Mesh, MeshError, MeshEvent, SendError, SessionId,
};

#[tokio::test]
async fn messages_go_both_ways_on_every_lane() {
    let (mut node_0, mut node_1, session_0, session_1) = connected_pair().await;
    for lane in Lane::ALL {
        let (there, back) = (format!("{lane:?} there"), format!("{lane:?} back"));
        node_0.send(1, session_0, lane, there.clone().into()).await;
        assert_eq!(node_1.message(lane).await, there);
        node_1.send(0, session_1, lane, back.clone().into()).await;
        assert_eq!(node_0.message(lane).await, back);
    }
    let stats = node_0.handle.peer_stats(1).expect("peer");
    assert!(stats.is_connected());
    assert_eq!((stats.sent.messages, stats.received.messages), (3, 3));
    assert!(stats.sent.udp_bytes > stats.sent.wire_bytes);
    assert!(stats.rtt.is_some_and(|rtt| !rtt.is_zero()));
    assert_eq!(stats.queued_bytes, [0; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lane_keeps_its_order() {
    const COUNT: u32 = 20_000;
    let (mut node_0, mut node_1, session_0, _) = connected_pair().await;
    let sending = tokio::spawn(async move {
        for i in 0..COUNT {
            for lane in Lane::ALL {
                // Of many sizes, so that batches begin and end everywhere.
                let mut message = i.to_le_bytes().to_vec();
                message.resize(4 + (i as usize * 7) % 300, lane as u8);
                node_0.send(1, session_0, lane, message.into()).await;
            }
        }
        node_0
    });
    let mut next = [0; 3];
    for _ in 0..3 * COUNT {
        let (lane, bytes) = node_1
            .wait(|event| match event {
                MeshEvent::Message { lane, bytes, .. } => Some((*lane, bytes.clone())),
                _ => None,
            })
            .await;
        let number = u32::from_le_bytes(*bytes.first_chunk().expect("a number"));
        assert_eq!(number, next[lane.index()], "on {lane:?}");
        assert_eq!(bytes.len(), 4 + (number as usize * 7) % 300);
        next[lane.index()] += 1;
    }
    let node_0 = sending.await.expect("sender");
    let stats = node_0.handle.peer_stats(1).expect("peer");
    assert_eq!(stats.sent.messages, 3 * u64::from(COUNT));
    // Two of three lanes compress, and this compresses well.
    assert!(stats.sent.wire_bytes * 2 < stats.sent.raw_bytes, "{stats:?}");
}

#[tokio::test]
async fn the_largest_message_passes_and_a_larger_one_is_refused() {
    let (mut node_0, mut node_1, session, _) = connected_pair().await;
    let noise = noise(1, MESSAGE_BYTES_MAX);
    for lane in Lane::ALL {
        node_0.send(1, session, lane, noise.clone()).await;
        assert_eq!(node_1.message(lane).await, noise);
    }
    let larger = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    let refused = node_0.handle.try_send(1, session, Lane::Bulk, larger);
    assert_eq!(refused, Err(SendError::TooLarge));
    node_0.send(1, session, Lane::Bulk, Bytes::new()).await;
    assert_eq!(node_1.message(Lane::Bulk).await, Bytes::new());
}

#[tokio::test]
async fn datagrams_arrive() {
    let (node_0, mut node_1, ..) = connected_pair().await;
    let payload = Bytes::from(vec![7; DATAGRAM_BYTES_MAX]);
    node_0.handle.send_datagram(1, payload.clone()).expect("sent");
    let received = node_1
        .wait(|event| match event {
            MeshEvent::Datagram { peer: 0, bytes } => Some(bytes.clone()),
            _ => None,
        })
        .await;
    assert_eq!(received, payload);
    let larger = Bytes::from(vec![7; DATAGRAM_BYTES_MAX + 1]);
    assert_eq!(node_0.handle.send_datagram(1, larger), Err(DatagramError::TooLarge));
    assert_eq!(node_0.handle.send_datagram(9, payload), Err(DatagramError::Gone));
}

#[tokio::test]
async fn three_regions_make_three_connections() {
    let ca = ClusterCa::create().expect("ca");
    // The highest ordinal only listens, so addresses are known when they are needed.
    let mut nodes: Vec<Node> = Vec::new();
    for ordinal in (0..3).rev() {
        let mut config = config(&ca, ordinal);
        for other in (0..3).filter(|other| *other != ordinal) {
            let listening = nodes.iter().find(|node| node.handle.peer_stats(other).is_none());
            let address = match (other > ordinal, listening) {
                (true, Some(node)) => node.handle.local_addr(),
                _ => common::any(),
            };
            config.peers.push(peer(other, address));
        }
        nodes.push(Node::start(config));
    }
    nodes.reverse();
    for ordinal in 0..3u16 {
        for other in (0..3).filter(|other| *other != ordinal) {
            let session = nodes[ordinal as usize].up(other).await;
            let hello = format!("{ordinal} to {other}");
            nodes[ordinal as usize].send(other, session, Lane::Live, hello.into()).await;
        }
    }
    for ordinal in 0..3u16 {
        for other in (0..3u16).filter(|other| *other != ordinal) {
            let expected = format!("{other} to {ordinal}");
            nodes[ordinal as usize]
                .wait(|event| match event {
                    MeshEvent::Message { peer, bytes, .. } if *peer == other => {
                        (*bytes == expected).then_some(())
                    }
                    _ => None,
                })
                .await;
        }
    }
}

#[tokio::test]
async fn a_shutdown_is_noticed_at_once_and_ends_the_events() {
    let (mut node_0, mut node_1, session_0, session_1) = connected_pair().await;
    node_0.handle.shutdown().await;
    assert_eq!(node_0.down(1).await, (session_0, DownReason::Shutdown));
    assert_eq!(node_0.events.recv().await, None);
    let (session, reason) = node_1.down(0).await;
    assert_eq!((session, reason), (session_1, DownReason::ClosedByPeer("shutdown".into())));
    let gone = node_1.handle.try_send(0, session_1, Lane::Live, Bytes::from("late"));
    assert_eq!(gone, Err(SendError::Gone));
    assert!(!node_1.handle.peer_stats(0).expect("peer").is_connected());
}

#[tokio::test]
async fn a_dropped_receiver_ends_the_mesh() {
    let (mut node_0, node_1, ..) = connected_pair().await;
    drop(node_1.events);
    let (_, reason) = node_0.down(1).await;
    assert_eq!(reason, DownReason::ClosedByPeer("shutdown".into()));
    until(|| !node_1.handle.peer_stats(0).expect("peer").is_connected()).await;
}

#[tokio::test]
async fn a_session_that_is_not_current_cannot_be_used() {
    let (node_0, _node_1, session, _) = connected_pair().await;
    let other = SessionId(session.0 + 1);
    let message = Bytes::from("x");
    assert_eq!(node_0.handle.try_send(1, other, Lane::Live, message.clone()), Err(SendError::Gone));
    assert_eq!(node_0.handle.try_send(7, session, Lane::Live, message), Err(SendError::Gone));
    node_0.handle.disconnect(1, other);
    assert!(node_0.handle.rtt(1).is_some());
}

#[tokio::test]
async fn a_disconnected_pair_connects_again() {
    let (mut node_0, mut node_1, session_0, session_1) = connected_pair().await;
    node_1.handle.disconnect(0, session_1);
    assert_eq!(node_1.down(0).await, (session_1, DownReason::Disconnected));
    assert_eq!(node_0.down(1).await.0, session_0);
    let session_0 = node_0.up(1).await;
    node_1.up(0).await;
    node_0.send(1, session_0, Lane::Live, "again".into()).await;
    assert_eq!(node_1.message(Lane::Live).await, "again");
    assert_eq!(node_0.handle.peer_stats(1).expect("peer").reconnects(), 1);
}

#[tokio::test]
async fn a_wrong_configuration_does_not_start() {
    let ca = ClusterCa::create().expect("ca");
    let start = |change: fn(&mut meridian_mesh::MeshConfig)| {
        let mut config = config(&ca, 0);
        config.peers = vec![peer(1, common::any()), peer(2, common::any())];
        change(&mut config);
        Mesh::start(config, tokio::sync::mpsc::channel(1).0)
    };
    assert!(start(|_| ()).is_ok());
    assert!(matches!(
        start(|config| config.name = "mars".into()),
        Err(MeshError::NotMyCertificate { expected }) if expected == "mars.shop.meridian"
    ));
    assert!(matches!(start(|config| config.cluster = "A B".into()), Err(MeshError::Name(_))));
    assert!(matches!(
        start(|config| config.peers[1].ordinal = 1),
        Err(MeshError::Duplicate { ordinal: 1, .. })
    ));
    assert!(matches!(
        start(|config| config.peers[0].name = REGIONS[0].into()),
        Err(MeshError::Duplicate { .. })
    ));
    let taken = std::net::UdpSocket::bind(common::any()).expect("socket");
    let mut config = config(&ca, 0);
    config.listen = taken.local_addr().expect("address");
    let started = Mesh::start(config, tokio::sync::mpsc::channel(1).0);
    assert!(matches!(started, Err(MeshError::Listen { .. })));
}
