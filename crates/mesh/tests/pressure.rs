//! Peers that do not read: the sender's memory is bounded, and other lanes go on.

mod common;

use common::{
    EVENTS_MAX, Node, RAW_WINDOW_BYTES, RawPeer, any, config, connected_pair, noise, peer, until,
};
use meridian_mesh::limits::{BATCH_BYTES, BULK_QUEUE_BYTES_MAX, STREAM_WINDOW_BYTES};
use meridian_mesh::{ClusterCa, Lane, MeshEvent, SendError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_bulk_stops_bulk_only() {
    let ca = ClusterCa::create().expect("ca");
    let mut config = config(&ca, 1);
    config.peers.push(peer(0, any()));
    let mut node = Node::start(config);
    let mut raw = RawPeer::connect(&ca, node.handle.local_addr()).await;
    let session = node.up(0).await;

    // Until the queue is full and more has been written than the peer lets come: from then on
    // nothing moves any more.
    let message_size = 100_000;
    let most = BULK_QUEUE_BYTES_MAX + RAW_WINDOW_BYTES as usize + BATCH_BYTES + message_size;
    let mut accepted = 0;
    loop {
        match node.handle.try_send(0, session, Lane::Bulk, noise(accepted, message_size)) {
            Ok(()) => accepted += 1,
            Err(SendError::Full) => {
                let stats = node.handle.peer_stats(0).expect("peer");
                assert!(stats.queued_bytes[Lane::Bulk.index()] <= BULK_QUEUE_BYTES_MAX);
                if stats.sent.wire_bytes > u64::from(RAW_WINDOW_BYTES) {
                    break;
                }
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(accepted as usize * message_size <= most, "{accepted} messages accepted");
    }

    // The other lanes go on.
    node.send(0, session, Lane::Control, "urgent".into()).await;
    let control = raw.received.get_mut(&0).expect("control lane");
    let mut received = [0; 10];
    control.read_exact(&mut received).await.expect("the message");
    assert_eq!(&received, b"\x06\0\0\0urgent");
    node.send(0, session, Lane::Live, noise(1, 1000)).await;
    let live = raw.received.get_mut(&1).expect("live lane");
    let mut received = vec![0; 1000];
    live.read_exact(&mut received).await.expect("the message");
    assert!(node.handle.peer_stats(0).expect("peer").is_connected());

    // When the peer reads at last, there is room again, and it is told.
    let mut bulk = raw.received.remove(&2).expect("bulk lane");
    let reading =
        tokio::spawn(
            async move { while let Ok(Some(_)) = bulk.read_chunk(usize::MAX, true).await {} },
        );
    node.wait(|event| match event {
        MeshEvent::Writable { peer: 0, session: writable, lane: Lane::Bulk } => {
            assert_eq!(*writable, session);
            Some(())
        }
        _ => None,
    })
    .await;
    until(|| node.handle.peer_stats(0).expect("peer").queued_bytes == [0; 3]).await;
    raw.connection.close(0u32.into(), b"done");
    reading.await.expect("reader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_takes_no_events_slows_its_peer_and_loses_nothing() {
    let (node_0, mut node_1, session_0, _) = connected_pair().await;
    let size = 64 << 10;
    let window = STREAM_WINDOW_BYTES as usize;
    // Everything that may be under way between the two: queue, batch, window, and the messages
    // that wait in the events channel and in the reader's hand.
    let most = (BULK_QUEUE_BYTES_MAX + BATCH_BYTES + window) / size + EVENTS_MAX + 8;
    // With this much written, the window is used up (QUIC renews it in steps of an eighth).
    let stalled = (EVENTS_MAX * size + window / 8 * 7) as u64;
    let mut accepted = 0u64;
    let mut next = noise(accepted, size);
    loop {
        match node_0.handle.try_send(1, session_0, Lane::Bulk, next.clone()) {
            Ok(()) => {
                accepted += 1;
                next = noise(accepted, size);
            }
            Err(SendError::Full) => {
                if node_0.handle.peer_stats(1).expect("peer").sent.wire_bytes >= stalled {
                    break;
                }
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(accepted as usize <= most, "{accepted} messages, at most {most} fit");
    }
    // A pause, however long, is not a loss.
    for i in 0..accepted {
        assert_eq!(node_1.message(Lane::Bulk).await, noise(i, size), "message {i}");
    }
    assert!(node_0.handle.peer_stats(1).expect("peer").is_connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bounded_bandwidth_holds_back_bulk_and_loses_nothing() {
    let (mut node_0, mut node_1, session_0, _) = connected_pair().await;
    // A byte a second: after the first burst nothing more is written until the bound goes.
    node_0.handle.set_bandwidth(1, Some(1));
    let size = 100_000;
    for i in 0..4 {
        node_0.send(1, session_0, Lane::Bulk, noise(i, size)).await;
    }
    node_0.send(1, session_0, Lane::Live, noise(9, size)).await;
    // Control is not held back.
    node_0.send(1, session_0, Lane::Control, "urgent".into()).await;
    assert_eq!(node_1.message(Lane::Control).await, "urgent");
    let queued = node_0.handle.peer_stats(1).expect("peer").queued_bytes;
    assert!(queued[Lane::Bulk.index()] > 0, "{queued:?}");
    node_0.handle.set_bandwidth(1, None);
    for i in 0..4 {
        assert_eq!(node_1.message(Lane::Bulk).await, noise(i, size));
    }
    assert_eq!(node_1.message(Lane::Live).await, noise(9, size));
}
