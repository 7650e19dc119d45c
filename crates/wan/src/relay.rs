//! The receiving side of a link: reads datagrams and hands them to the courier. Every client
//! address gets an upstream socket of its own, so that what comes back finds its way, as through a
//! network address translator.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::courier::{Courier, Line, Packet};
use crate::limits::{BATCH, DATAGRAM_BYTES_MAX, FLOW_IDLE, FLOWS_PER_LINK_MAX, SWEEP_EVERY};

/// A link's two directions and its place in the world.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) to: SocketAddr,
    pub(crate) forward: Arc<Line>,
    pub(crate) backward: Arc<Line>,
    pub(crate) flows: AtomicUsize,
    pub(crate) courier: Arc<Courier>,
}

/// A socket twice: for reading under the runtime, for writing from the courier's thread.
pub(crate) struct TwinSocket {
    read: UdpSocket,
    write: Arc<std::net::UdpSocket>,
}

impl TwinSocket {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<TwinSocket> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let write = Arc::new(socket.try_clone()?);
        Ok(TwinSocket { read: UdpSocket::from_std(socket)?, write })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.read.local_addr()
    }
}

/// Carries datagrams from clients to the far end until the task is aborted.
pub(crate) async fn run(relay: Arc<Relay>, listening: TwinSocket) {
    let started = Instant::now();
    let mut flows: BTreeMap<SocketAddr, Flow> = BTreeMap::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut packets = Vec::with_capacity(BATCH);
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            ready = listening.read.readable() => {
                if ready.is_err() {
                    return;
                }
            }
            _ = sweep.tick() => {
                forget_idle(&mut flows, elapsed_ms(started), FLOW_IDLE);
                relay.flows.store(flows.len(), Relaxed);
                continue;
            }
        }
        while packets.len() < BATCH {
            let (size, client) = match listening.read.try_recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An earlier reply met a closed port: not this datagram's fault.
                Err(_) => continue,
            };
            let now = elapsed_ms(started);
            match find_or_open(&mut flows, &relay, &listening, client, started, now) {
                Some(flow) => packets.push(Packet {
                    line: relay.forward.clone(),
                    socket: flow.upstream.clone(),
                    to: None,
                    bytes: buffer[..size].into(),
                }),
                None => drop(relay.forward.overflowed.fetch_add(1, Relaxed)),
            }
        }
        relay.flows.store(flows.len(), Relaxed);
        relay.courier.send(&mut packets);
    }
}

/// What belongs to one client address.
struct Flow {
    upstream: Arc<std::net::UdpSocket>,
    /// Milliseconds since the link's start at which something was last carried either way.
    last_used: Arc<AtomicU64>,
    replies: JoinHandle<()>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.replies.abort();
    }
}

fn find_or_open<'a>(
    flows: &'a mut BTreeMap<SocketAddr, Flow>,
    relay: &Arc<Relay>,
    listening: &TwinSocket,
    client: SocketAddr,
    started: Instant,
    now: u64,
) -> Option<&'a Flow> {
    if !flows.contains_key(&client) {
        if flows.len() >= FLOWS_PER_LINK_MAX {
            forget_idle(flows, now, FLOW_IDLE);
        }
        if flows.len() >= FLOWS_PER_LINK_MAX {
            tracing::debug!(%client, "link serves as many clients as it may");
            return None;
        }
        let last_used = Arc::new(AtomicU64::new(now));
        let upstream = match open_upstream(relay.to) {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::warn!(%client, to = %relay.to, %error, "no upstream socket");
                return None;
            }
        };
        let write = upstream.write.clone();
        let replies = tokio::spawn(carry_replies(
            relay.clone(),
            upstream,
            listening.write.clone(),
            client,
            last_used.clone(),
            started,
        ));
        flows.insert(client, Flow { upstream: write, last_used, replies });
    }
    let flow = flows.get(&client)?;
    flow.last_used.store(now, Relaxed);
    Some(flow)
}

fn open_upstream(to: SocketAddr) -> io::Result<TwinSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let upstream = TwinSocket::bind(any)?;
    upstream.write.connect(to)?;
    Ok(upstream)
}

async fn carry_replies(
    relay: Arc<Relay>,
    upstream: TwinSocket,
    listening: Arc<std::net::UdpSocket>,
    client: SocketAddr,
    last_used: Arc<AtomicU64>,
    started: Instant,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut packets = Vec::with_capacity(BATCH);
    while upstream.read.readable().await.is_ok() {
        while packets.len() < BATCH {
            match upstream.read.try_recv(&mut buffer) {
                Ok(size) => packets.push(Packet {
                    line: relay.backward.clone(),
                    socket: listening.clone(),
                    to: Some(client),
                    bytes: buffer[..size].into(),
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The far end's port is closed: it may open again.
                Err(_) => continue,
            }
        }
        last_used.store(elapsed_ms(started), Relaxed);
        relay.courier.send(&mut packets);
    }
}

fn forget_idle(flows: &mut BTreeMap<SocketAddr, Flow>, now: u64, idle: Duration) {
    let idle = idle.as_millis() as u64;
    flows.retain(|_, flow| now.saturating_sub(flow.last_used.load(Relaxed)) < idle);
}

fn elapsed_ms(started: Instant) -> u64 {
    started.elapsed().as_millis() as u64
}
