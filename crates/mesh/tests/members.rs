//! Peers that come and go while the mesh runs.

mod common;

use common::{CLUSTER, EVENTS_MAX, Node, PATIENCE, REGIONS, config, peer};
use meridian_mesh::{ClusterCa, DownReason, MeshEvent, Refusal, RetiredPeer};

fn retired(ordinal: u16, address: String, why: Refusal) -> RetiredPeer {
    RetiredPeer { ordinal, name: REGIONS[ordinal as usize].into(), address, why }
}

async fn expelled(node: &mut Node) -> Refusal {
    node.wait(|event| match event {
        MeshEvent::Expelled { refusal, .. } => Some(*refusal),
        MeshEvent::PeerDown { reason: DownReason::Expelled(refusal), .. } => Some(*refusal),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_new_peer_is_connected_and_others_are_not_disturbed() {
    assert!(EVENTS_MAX > 0 && !CLUSTER.is_empty() && !PATIENCE.is_zero());
    let ca = ClusterCa::create().expect("ca");
    let mut nodes: Vec<Node> = (0..3).map(|n| Node::start(config(&ca, n))).collect();
    let at: Vec<_> = nodes.iter().map(|node| node.handle.local_addr()).collect();
    nodes[0].handle.set_peers(vec![peer(1, at[1])], vec![]).expect("peers");
    nodes[1].handle.set_peers(vec![peer(0, at[0])], vec![]).expect("peers");
    let first = nodes[0].up(1).await;
    nodes[1].up(0).await;
    for (n, others) in [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])] {
        let peers = others.map(|o| peer(o as u16, at[o])).to_vec();
        nodes[n].handle.set_peers(peers, vec![]).expect("peers");
    }
    nodes[2].up(0).await;
    nodes[2].up(1).await;
    nodes[0].up(2).await;
    let session = nodes[0].handle.peer_stats(1).and_then(|stats| stats.session);
    assert_eq!(session, Some(first), "the session with 1 goes on");
    // Without 2 again: its session ends, and it is not called any more.
    nodes[0].handle.set_peers(vec![peer(1, at[1])], vec![]).expect("peers");
    assert_eq!(nodes[0].down(2).await.1, DownReason::Removed);
    assert!(nodes[0].handle.peer_stats(2).is_none());
    let twice = vec![peer(1, at[1]), peer(1, at[1])];
    assert!(nodes[0].handle.set_peers(twice, vec![]).is_err());
    assert_eq!(nodes[0].handle.stats().peers.len(), 1, "nothing was changed");
}

#[tokio::test]
async fn a_connected_region_is_told_that_it_is_no_member() {
    let (mut node_0, mut node_1) = common::pair_via(|address| address).await;
    node_0.up(1).await;
    node_1.up(0).await;
    let at_1 = node_1.handle.local_addr().to_string();
    let gone = retired(1, at_1, Refusal::HasLeft);
    node_0.handle.set_peers(vec![], vec![gone]).expect("peers");
    assert_eq!(expelled(&mut node_1).await, Refusal::HasLeft);
}

#[tokio::test]
async fn the_dead_are_told_when_they_call_and_when_they_wait_to_be_called() {
    let ca = ClusterCa::create().expect("ca");
    let node_1 = Node::start(config(&ca, 1));
    let at_1 = node_1.handle.local_addr();
    // 2 waits to be called by 1, 0 calls 1: both were declared dead while they were away.
    let mut config_2 = config(&ca, 2);
    config_2.peers.push(peer(1, at_1));
    let mut node_2 = Node::start(config_2);
    let mut config_0 = config(&ca, 0);
    config_0.peers.push(peer(1, at_1));
    let mut node_0 = Node::start(config_0);
    let at = |node: &Node| node.handle.local_addr().to_string();
    let dead = vec![
        retired(0, at(&node_0), Refusal::DeclaredDead),
        retired(2, at(&node_2), Refusal::DeclaredDead),
    ];
    node_1.handle.set_peers(vec![], dead.clone()).expect("peers");
    assert_eq!(expelled(&mut node_0).await, Refusal::DeclaredDead);
    assert_eq!(expelled(&mut node_2).await, Refusal::DeclaredDead);
    // A name that a peer has again is nobody's that was: it is not told to go.
    node_1.handle.set_peers(vec![peer(0, node_0.handle.local_addr())], dead).expect("peers");
    node_0.up(1).await;
}
