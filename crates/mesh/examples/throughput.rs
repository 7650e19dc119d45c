//! What the mesh alone carries over loopback: bytes and messages a second on each lane, and the
//! round trip of one message. `cargo run --release -p meridian-mesh --example throughput`

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use meridian_mesh::{
    ClusterCa, Lane, Mesh, MeshConfig, MeshEvent, MeshHandle, PeerConfig, SendError, SessionId,
};
use tokio::sync::mpsc;

type Failure = Box<dyn std::error::Error>;

const NAMES: [&str; 2] = ["west", "east"];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let ca = ClusterCa::create()?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (east, mut at_east) = start(&ca, 1, any)?;
    let (west, mut at_west) = start(&ca, 0, east.local_addr())?;
    let to_east = session(&mut at_west).await?;
    let to_west = session(&mut at_east).await?;

    for (lane, size, count) in [
        (Lane::Control, 100, 300_000u64),
        (Lane::Live, 100, 300_000),
        (Lane::Control, 64 << 10, 10_000),
        (Lane::Live, 64 << 10, 5_000),
        (Lane::Bulk, 1 << 20, 300),
    ] {
        let before = west.peer_stats(1).ok_or("peer")?.sent;
        let began = Instant::now();
        let sender = west.clone();
        let sending = tokio::spawn(async move {
            for i in 0..count {
                send(&sender, &mut at_west, to_east, lane, message(i, size)).await?;
            }
            Ok::<_, String>(at_west)
        });
        for _ in 0..count {
            next_message(&mut at_east).await?;
        }
        let seconds = began.elapsed().as_secs_f64();
        at_west = sending.await??;
        let after = west.peer_stats(1).ok_or("peer")?.sent;
        println!(
            "{:>7} {size:>8} B: {:>9.0} messages/s {:>7.1} MB/s, on the line {:>4.0} % of raw",
            lane.as_str(),
            count as f64 / seconds,
            count as f64 * size as f64 / seconds / 1e6,
            100.0 * (after.wire_bytes - before.wire_bytes) as f64
                / (after.raw_bytes - before.raw_bytes) as f64,
        );
    }

    let mut round_trips = Vec::new();
    for i in 0..2000 {
        let began = Instant::now();
        send(&west, &mut at_west, to_east, Lane::Live, message(i, 100)).await?;
        let echo = next_message(&mut at_east).await?;
        east.try_send(0, to_west, Lane::Live, echo)?;
        next_message(&mut at_west).await?;
        round_trips.push(began.elapsed());
    }
    round_trips.sort();
    println!(
        "   live      100 B: round trip p50 {:?} p99 {:?}",
        round_trips[1000], round_trips[1980]
    );
    Ok(())
}

fn start(
    ca: &ClusterCa,
    ordinal: u16,
    peer: SocketAddr,
) -> Result<(MeshHandle, mpsc::Receiver<MeshEvent>), Failure> {
    let (sender, events) = mpsc::channel(256);
    let config = MeshConfig {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        cluster: "bench".into(),
        ordinal,
        name: NAMES[ordinal as usize].into(),
        peers: vec![PeerConfig {
            ordinal: 1 - ordinal,
            name: NAMES[1 - ordinal as usize].into(),
            address: peer.to_string(),
        }],
        certificate: ca.issue(NAMES[ordinal as usize], "bench")?,
    };
    Ok((Mesh::start(config, sender)?, events))
}

async fn session(events: &mut mpsc::Receiver<MeshEvent>) -> Result<SessionId, Failure> {
    match events.recv().await {
        Some(MeshEvent::PeerUp { session, .. }) => Ok(session),
        other => Err(format!("{other:?} instead of a session").into()),
    }
}

async fn send(
    mesh: &MeshHandle,
    events: &mut mpsc::Receiver<MeshEvent>,
    session: SessionId,
    lane: Lane,
    bytes: Bytes,
) -> Result<(), String> {
    loop {
        match mesh.try_send(1, session, lane, bytes.clone()) {
            Ok(()) => return Ok(()),
            Err(SendError::Full) => match events.recv().await {
                Some(MeshEvent::Writable { .. }) => {}
                other => return Err(format!("{other:?} instead of room")),
            },
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn next_message(events: &mut mpsc::Receiver<MeshEvent>) -> Result<Bytes, Failure> {
    match events.recv().await {
        Some(MeshEvent::Message { bytes, .. }) => Ok(bytes),
        other => Err(format!("{other:?} instead of a message").into()),
    }
}

/// Half noise, half repetition, as records are.
fn message(seed: u64, size: usize) -> Bytes {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        bytes.extend_from_slice(&(state >> 32).to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}
