//! Packets that are not honest queries: the server answers as the protocol says or not at all,
//! and goes on.

#[allow(dead_code)] // each test uses its part of it
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use meridian_dns::{ClientNetwork, DnsServer, MAX_TCP_CONNECTIONS, probe};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use support::{US_ADDRESS, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Failing to get an answer in this time is a failure; nobody waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(10);

/// `redis.meridian.test A`, with id 0x1234.
fn query() -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["redis", "meridian", "test"] {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// An additional OPT record with these options.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut bytes = query();
    bytes[11] = 1;
    bytes.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0]);
    bytes.extend(u16::try_from(options.len()).expect("short").to_be_bytes());
    bytes.extend(options);
    bytes
}

async fn socket(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await.expect("a free port");
    socket.connect(server).await.expect("loopback");
    socket
}

/// The response code and the number of answers to a packet.
async fn answer(server: SocketAddr, packet: &[u8]) -> (u8, u8) {
    let socket = socket(server).await;
    socket.send(packet).await.expect("sent");
    let mut buffer = [0; 2048];
    let length =
        timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("in time").expect("received");
    assert!(length >= 12 && buffer[..2] == packet[..2] && buffer[2] & 0x80 != 0);
    (buffer[3] & 0x0f, buffer[7])
}

async fn is_well(server: &DnsServer) {
    let client = ClientNetwork { address: [10, 0, 0, 0].into(), prefix: 16 };
    let answer = probe(server.local_addr(), "redis.meridian.test", Some(client)).await;
    assert_eq!(answer.expect("an answer").addresses[0], US_ADDRESS);
}

#[tokio::test]
async fn malformed_queries_are_told_so() {
    const FORMERR: (u8, u8) = (1, 0);
    let server = serve().await;
    let address = server.local_addr();
    assert_eq!(answer(address, &query()).await, (0, 1));
    let header = &query()[..12];
    assert_eq!(answer(address, header).await, FORMERR, "a question is announced and missing");
    let mut none = header.to_vec();
    none[5] = 0;
    assert_eq!(answer(address, &none).await, FORMERR, "no question");
    let two = [&query()[..], &query()[12..]].concat();
    let two = [&two[..5], &[2], &two[6..]].concat();
    assert_eq!(answer(address, &two).await, FORMERR, "two questions");
    let mut loops = header.to_vec();
    loops.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(answer(address, &loops).await, FORMERR, "a name that points at itself");
    // Client subnets: family 3; IPv4 with 40 bits; bits beyond the prefix; twice.
    let subnet = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        [&[0, 8][..], &length, bytes].concat()
    };
    let fine = subnet(&[0, 1, 16, 0, 10, 0]);
    assert_eq!(answer(address, &with_options(&fine)).await, (0, 1));
    for option in [
        subnet(&[0, 1, 40, 0, 10, 0, 0, 0, 0]),
        subnet(&[0, 1, 16, 0, 10]),
        subnet(&[0, 1, 12, 0, 10, 0xff]),
        subnet(&[0, 1, 16, 9, 10, 0]),
        [fine.clone(), fine.clone()].concat(),
    ] {
        assert_eq!(answer(address, &with_options(&option)).await, FORMERR, "{option:?}");
    }
    assert!(server.handle().counts().malformed >= 9);
    is_well(&server).await;
}

#[tokio::test]
async fn responses_and_fragments_get_no_answer() {
    let server = serve().await;
    let socket = socket(server.local_addr()).await;
    let mut response = query();
    response[2] |= 0x80;
    for packet in [&response[..], &query()[..11], &[]] {
        socket.send(packet).await.expect("sent");
    }
    // An honest query after them: its answer is the only one that arrives.
    let mut last = query();
    last[0] = 0x77;
    socket.send(&last).await.expect("sent");
    let mut buffer = [0; 2048];
    timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("in time").expect("received");
    assert_eq!(buffer[0], 0x77);
    is_well(&server).await;
    let counts = server.handle().counts();
    assert_eq!((counts.malformed, counts.answered), (3, 3), "{counts:?}");
    assert!(socket.try_recv(&mut buffer).is_err(), "nothing else was sent");
}

#[tokio::test]
async fn noise_does_not_stop_the_server() {
    let server = serve().await;
    let socket = socket(server.local_addr()).await;
    let mut rng = StdRng::seed_from_u64(53);
    for _ in 0..2_000 {
        let mut packet = match rng.random_range(0..3) {
            0 => query(),
            1 => with_options(&[0, 8, 0, 6, 0, 1, 16, 0, 10, 0]),
            _ => vec![0; rng.random_range(0..600)],
        };
        let is_noise = packet.iter().all(|&byte| byte == 0);
        if is_noise {
            rng.fill_bytes(&mut packet);
        }
        for _ in 0..rng.random_range(0..4) {
            let place = rng.random_range(0..packet.len().max(1));
            if let Some(byte) = packet.get_mut(place) {
                *byte = rng.random();
            }
        }
        socket.send(&packet).await.expect("sent");
    }
    is_well(&server).await;
}

#[tokio::test]
async fn tcp_clients_may_stutter_but_not_bloat() {
    let server = serve().await;
    let connect = || async { TcpStream::connect(server.local_addr()).await.expect("connected") };
    // Two queries in pieces, over one connection.
    let mut stream = connect().await;
    let framed = [&[0, query().len() as u8][..], &query()].concat();
    for _ in 0..2 {
        for piece in framed.chunks(5) {
            stream.write_all(piece).await.expect("sent");
            stream.flush().await.expect("sent");
        }
        let length =
            timeout(PATIENCE, stream.read_u16()).await.expect("in time").expect("a length");
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.expect("an answer");
        assert_eq!((bytes[3] & 0x0f, bytes[7]), (0, 1));
    }
    // A length beyond the limit ends the connection.
    let mut stream = connect().await;
    stream.write_all(&[0xff, 0xff, 1, 2, 3]).await.expect("sent");
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time");
    assert!(rest.is_empty(), "{end:?}");
    is_well(&server).await;
}

#[tokio::test]
async fn idle_connections_do_not_lock_others_out_for_ever() {
    let server = serve().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_TCP_CONNECTIONS + 8 {
        idle.push(TcpStream::connect(server.local_addr()).await.expect("connected"));
    }
    // All slots are taken until the idle ones are ended; UDP is not affected meanwhile.
    is_well(&server).await;
    let mut stream = TcpStream::connect(server.local_addr()).await.expect("connected");
    let framed = [&[0, query().len() as u8][..], &query()].concat();
    stream.write_all(&framed).await.expect("sent");
    let length =
        timeout(3 * PATIENCE, stream.read_u16()).await.expect("in time").expect("a length");
    assert!(length > 12);
}
