//! Real datagrams through real links on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use meridian_wan::limits::FLOWS_PER_LINK_MAX;
use meridian_wan::{Direction, Link, LinkId, Shape, Wan, WanError, WanHandle};
use tokio::net::UdpSocket;

const LINK: LinkId = LinkId(0);

/// How long a datagram that must come may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A client and a server with one link between them.
async fn pair(shape: Shape) -> (WanHandle, UdpSocket, UdpSocket) {
    let server = UdpSocket::bind(any()).await.expect("server");
    let to = server.local_addr().expect("address");
    let wan = Wan::start(vec![Link { listen: any(), to, shape }], 7).expect("wan");
    let client = UdpSocket::bind(any()).await.expect("client");
    client.connect(wan.listen_addr(LINK).expect("link")).await.expect("connect");
    (wan, client, server)
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (size, from) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer))
        .await
        .expect("a datagram")
        .expect("receive");
    (buffer[..size].to_vec(), from)
}

/// Waits until the counters say so: what is lost cannot be waited for otherwise.
async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never held");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn datagrams_take_the_delay_both_ways() {
    let delay = Duration::from_millis(40);
    let (_wan, client, server) = pair(Shape::delay(delay)).await;
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let sent = Instant::now();
        client.send(b"ping").await.expect("send");
        let (ping, from) = receive(&server).await;
        assert_eq!(ping, b"ping");
        assert!(sent.elapsed() >= delay, "arrived too early: {:?}", sent.elapsed());
        server.send_to(b"pong", from).await.expect("reply");
        assert_eq!(receive(&client).await.0, b"pong");
        assert!(sent.elapsed() >= 2 * delay, "returned too early: {:?}", sent.elapsed());
        fastest = fastest.min(sent.elapsed());
    }
    println!("80 ms asked, fastest of five {fastest:?}");
}

#[tokio::test]
async fn order_is_kept_without_jitter() {
    let (_wan, client, server) = pair(Shape::delay(Duration::from_millis(20))).await;
    for i in 0..100u32 {
        client.send(&i.to_be_bytes()).await.expect("send");
    }
    for i in 0..100u32 {
        assert_eq!(receive(&server).await.0, i.to_be_bytes());
    }
}

#[tokio::test]
async fn each_client_gets_its_own_answers() {
    let (wan, first, server) = pair(Shape::default()).await;
    let second = UdpSocket::bind(any()).await.expect("second client");
    second.connect(wan.listen_addr(LINK).expect("link")).await.expect("connect");
    first.send(b"one").await.expect("send");
    let (_, first_seen_as) = receive(&server).await;
    second.send(b"two").await.expect("send");
    let (_, second_seen_as) = receive(&server).await;
    assert_ne!(first_seen_as, second_seen_as);
    server.send_to(b"for two", second_seen_as).await.expect("reply");
    server.send_to(b"for one", first_seen_as).await.expect("reply");
    assert_eq!(receive(&first).await.0, b"for one");
    assert_eq!(receive(&second).await.0, b"for two");
    assert_eq!(wan.stats(LINK).expect("stats").flows, 2);
}

#[tokio::test]
async fn loses_what_the_seed_says() {
    const SENT: u64 = 2000;
    let (wan, client, server) = pair(Shape { loss: 0.2, ..Shape::default() }).await;
    let reading = tokio::spawn(async move {
        let mut buffer = [0; 64];
        loop {
            server.recv(&mut buffer).await.expect("receive");
        }
    });
    for i in 0..SENT {
        client.send(b"x").await.expect("send");
        // In step, so that only the link loses packets and no socket buffer does.
        until(|| {
            let way = wan.stats(LINK).expect("stats").forward;
            way.lost + way.forwarded == i + 1
        })
        .await;
    }
    let way = wan.stats(LINK).expect("stats").forward;
    assert!((320..480).contains(&way.lost), "{} of {SENT} lost at 20 %", way.lost);
    reading.abort();
}

#[tokio::test]
async fn a_cut_link_carries_nothing_until_it_heals() {
    let (wan, client, server) = pair(Shape::default()).await;
    wan.cut(LINK).expect("cut");
    client.send(b"into the void").await.expect("send");
    until(|| wan.stats(LINK).expect("stats").forward.cut == 1).await;
    wan.heal(LINK).expect("heal");
    client.send(b"healed").await.expect("send");
    assert_eq!(receive(&server).await.0, b"healed");
}

#[tokio::test]
async fn a_cut_loses_what_is_in_flight() {
    let (wan, client, server) = pair(Shape::delay(Duration::from_secs(1))).await;
    client.send(b"in flight").await.expect("send");
    until(|| wan.stats(LINK).expect("stats").flows == 1).await;
    wan.cut(LINK).expect("cut");
    until(|| wan.stats(LINK).expect("stats").forward.cut == 1).await;
    wan.heal(LINK).expect("heal");
    wan.set_shape(LINK, Shape::default()).expect("shape");
    client.send(b"after").await.expect("send");
    assert_eq!(receive(&server).await.0, b"after");
}

#[tokio::test]
async fn one_direction_can_be_cut_alone() {
    let (wan, client, server) = pair(Shape::default()).await;
    wan.set_cut(LINK, Direction::Backward, true).expect("cut");
    client.send(b"ping").await.expect("send");
    let (_, from) = receive(&server).await;
    server.send_to(b"pong", from).await.expect("reply");
    until(|| wan.stats(LINK).expect("stats").backward.cut == 1).await;
    assert_eq!(wan.stats(LINK).expect("stats").forward.cut, 0);
}

#[tokio::test]
async fn the_delay_can_be_changed_at_run_time() {
    let (wan, client, server) = pair(Shape::default()).await;
    let slow = Duration::from_millis(120);
    wan.set_shape(LINK, Shape::delay(slow)).expect("shape");
    assert_eq!(wan.shape(LINK).expect("shape").one_way_delay, slow);
    let sent = Instant::now();
    client.send(b"slow").await.expect("send");
    receive(&server).await;
    assert!(sent.elapsed() >= slow);
}

#[tokio::test]
async fn clients_are_bounded() {
    let (wan, _client, server) = pair(Shape::default()).await;
    let listen = wan.listen_addr(LINK).expect("link");
    let mut clients = Vec::new();
    for _ in 0..FLOWS_PER_LINK_MAX + 3 {
        let client = UdpSocket::bind(any()).await.expect("client");
        client.send_to(b"hello", listen).await.expect("send");
        clients.push(client);
    }
    for _ in 0..FLOWS_PER_LINK_MAX {
        receive(&server).await;
    }
    until(|| wan.stats(LINK).expect("stats").forward.overflowed == 3).await;
    assert_eq!(wan.stats(LINK).expect("stats").flows, FLOWS_PER_LINK_MAX);
}

#[tokio::test]
async fn refuses_what_makes_no_sense() {
    let link = |shape| Link { listen: any(), to: any(), shape };
    let lossy = Shape { loss: 2.0, ..Shape::default() };
    assert!(matches!(Wan::start(vec![link(lossy)], 0), Err(WanError::Shape { link: 0 })));
    let taken = UdpSocket::bind(any()).await.expect("socket");
    let mut second = link(Shape::default());
    second.listen = taken.local_addr().expect("address");
    let started = Wan::start(vec![link(Shape::default()), second], 0);
    assert!(matches!(started, Err(WanError::Listen { link: 1, .. })));
    let wan = Wan::start(vec![], 0).expect("an empty wan");
    assert!(matches!(wan.cut(LINK), Err(WanError::NoSuchLink { link: 0 })));
    wan.stop();
}
