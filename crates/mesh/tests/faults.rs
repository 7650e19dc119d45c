//! Cuts, restarts and crossed connections; the lines are those of `meridian-wan`.

mod common;

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use common::{CLUSTER, Node, REGIONS, RawPeer, any, config, pair_via, peer, until};
use meridian_mesh::{ClusterCa, DownReason, Lane, MeshConfig, MeshEvent, PeerConfig};
use meridian_wan::{Link, LinkId, Shape, Wan, WanHandle};

const LINK: LinkId = LinkId(0);

/// Two connected nodes with a link between them.
async fn pair_over(shape: Shape) -> (WanHandle, Node, Node) {
    let wan = OnceLock::new();
    let (node_0, node_1) = pair_via(|to| {
        let started = Wan::start(vec![Link { listen: any(), to, shape }], 1).expect("wan");
        wan.get_or_init(|| started).listen_addr(LINK).expect("link")
    })
    .await;
    (wan.into_inner().expect("started"), node_0, node_1)
}

#[tokio::test]
async fn a_cut_is_noticed_by_both_and_healed_by_the_dialler() {
    let (wan, mut node_0, mut node_1) = pair_over(Shape::delay(Duration::from_millis(5))).await;
    let (first_0, first_1) = (node_0.up(1).await, node_1.up(0).await);
    wan.cut(LINK).expect("cut");
    assert_eq!(node_0.down(1).await, (first_0, DownReason::TimedOut));
    assert_eq!(node_1.down(0).await, (first_1, DownReason::TimedOut));
    wan.heal(LINK).expect("heal");
    let (second_0, second_1) = (node_0.up(1).await, node_1.up(0).await);
    assert!(second_0 > first_0 && second_1 > first_1);
    node_0.send(1, second_0, Lane::Live, "healed".into()).await;
    assert_eq!(node_1.message(Lane::Live).await, "healed");
    node_1.send(0, second_1, Lane::Control, "indeed".into()).await;
    assert_eq!(node_0.message(Lane::Control).await, "indeed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_slow_line_delivers_everything_in_order() {
    let shape = Shape {
        one_way_delay: Duration::from_millis(20),
        jitter: Duration::from_millis(3),
        loss: 0.02,
        ..Shape::default()
    };
    let (wan, mut node_0, mut node_1) = pair_over(shape).await;
    let session = node_0.up(1).await;
    const COUNT: u32 = 300;
    let sending = tokio::spawn(async move {
        for i in 0..COUNT {
            let mut message = i.to_le_bytes().to_vec();
            message.resize(2000, i as u8);
            node_0.send(1, session, Lane::Live, message.into()).await;
        }
        node_0
    });
    for i in 0..COUNT {
        let message = node_1.message(Lane::Live).await;
        assert_eq!(message[..4], i.to_le_bytes());
    }
    let node_0 = sending.await.expect("sender");
    let rtt = node_0.handle.rtt(1).expect("connected");
    assert!(rtt >= Duration::from_millis(40), "{rtt:?}");
    assert!(wan.stats(LINK).expect("stats").forward.forwarded > 0);
}

#[tokio::test]
async fn a_restarted_callee_is_found_again() {
    let ca = ClusterCa::create().expect("ca");
    // The certificate is kept over the restart, as on disk.
    let directory = tempfile::tempdir().expect("directory");
    ca.issue(REGIONS[1], CLUSTER).expect("certificate").save(directory.path()).expect("save");
    let config_1 = |listen| MeshConfig {
        listen,
        certificate: meridian_mesh::NodeCertificate::load(directory.path()).expect("load"),
        peers: vec![peer(0, any())],
        ..config(&ca, 1)
    };
    // A runtime of its own, so that its end is as sudden as a killed process's.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime");
    let node_1 = {
        let _inside = runtime.enter();
        Node::start(config_1(any()))
    };
    let address = node_1.handle.local_addr();
    let mut config_0 = config(&ca, 0);
    config_0.peers.push(peer(1, address));
    let mut node_0 = Node::start(config_0);
    let first = node_0.up(1).await;
    runtime.shutdown_background();
    drop(node_1);
    // The port is free as soon as the old runtime has let go of it.
    let mut restarted = None;
    until(|| {
        if std::net::UdpSocket::bind(address).is_err() {
            return false;
        }
        restarted = Some(Node::start(config_1(address)));
        true
    })
    .await;
    let mut node_1 = restarted.expect("restarted");
    // Not by timing out: the new process says that it does not know the connection.
    assert_eq!(node_0.down(1).await, (first, DownReason::Restarted));
    let second = node_0.up(1).await;
    node_1.up(0).await;
    node_0.send(1, second, Lane::Live, "welcome back".into()).await;
    assert_eq!(node_1.message(Lane::Live).await, "welcome back");
}

#[tokio::test]
async fn a_callers_newer_connection_takes_over() {
    let ca = ClusterCa::create().expect("ca");
    let mut config = config(&ca, 1);
    config.peers.push(peer(0, any()));
    let mut node = Node::start(config);
    let first = RawPeer::connect(&ca, node.handle.local_addr()).await;
    let first_session = node.up(0).await;
    // The caller restarts: it knows nothing of its first connection and calls again.
    let second = RawPeer::connect(&ca, node.handle.local_addr()).await;
    assert_eq!(node.down(0).await, (first_session, DownReason::Replaced));
    let second_session = node.up(0).await;
    assert!(second_session > first_session);
    let reason = first.connection.closed().await.to_string();
    assert!(reason.contains("replaced"), "{reason}");
    node.send(0, second_session, Lane::Control, "hello".into()).await;
    let mut control = second.received;
    let mut received = [0; 9];
    control.get_mut(&0).expect("lane").read_exact(&mut received).await.expect("message");
    assert_eq!(&received, b"\x05\0\0\0hello");
}

#[tokio::test]
async fn a_callee_that_comes_late_is_found() {
    let ca = ClusterCa::create().expect("ca");
    // Reserve a port, then free it: nobody listens there yet.
    let address =
        std::net::UdpSocket::bind(any()).and_then(|socket| socket.local_addr()).expect("port");
    let mut config_0 = config(&ca, 0);
    // By name, as in a real topology.
    config_0.peers.push(PeerConfig {
        ordinal: 1,
        name: REGIONS[1].into(),
        address: format!("localhost:{}", address.port()),
    });
    let mut node_0 = Node::start(config_0);
    let mut config_1 = config(&ca, 1);
    config_1.listen = address;
    config_1.peers.push(peer(0, any()));
    let mut node_1 = Node::start(config_1);
    let session = node_0.up(1).await;
    node_1.up(0).await;
    node_0.send(1, session, Lane::Live, Bytes::from("found")).await;
    assert_eq!(node_1.message(Lane::Live).await, "found");
}

#[tokio::test]
async fn events_of_a_session_stand_between_its_up_and_its_down() {
    let (mut node_0, mut node_1, ..) = common::connected_pair().await;
    let mut session = None;
    for round in 0..3 {
        let current = match session.take() {
            None => node_0.handle.peer_stats(1).and_then(|stats| stats.session).expect("up"),
            Some(session) => session,
        };
        for i in 0..20u32 {
            let bytes = i.to_le_bytes().to_vec().into();
            node_0.handle.try_send(1, current, Lane::Live, bytes).expect("room");
        }
        node_0.handle.disconnect(1, current);
        assert_eq!(node_0.down(1).await.0, current, "round {round}");
        session = Some(node_0.up(1).await);
    }
    node_0.handle.shutdown().await;
    // What the other side saw, in order.
    let mut live = None;
    let mut downs = 0;
    while downs < 4 {
        match node_1.wait(|event| Some(event.clone())).await {
            MeshEvent::PeerUp { session, .. } => {
                assert_eq!(live.replace(session), None, "up before the earlier one was down");
            }
            MeshEvent::Message { session, .. } => assert!(downs == 0 || live == Some(session)),
            MeshEvent::PeerDown { session, .. } => {
                // The first session's PeerUp was taken when the pair connected.
                assert!(live.take().is_none_or(|up| up == session));
                downs += 1;
            }
            _ => {}
        }
    }
}
