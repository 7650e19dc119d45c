//! Replication: sessions with the other regions, lag, and bytes.

use std::fmt;

use meridian_mesh::{PeerStats, Traffic};
use prometheus_client::registry::Unit;

use super::super::facts::Facts;
use super::{Labels, Out, flag, known, labels, whole};

pub(super) fn export(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    sessions(facts, out)?;
    lag(facts, out)?;
    let sent = |peer: &PeerStats| peer.sent;
    let received = |peer: &PeerStats| peer.received;
    traffic(facts, out, "sent", "to the peer", sent)?;
    traffic(facts, out, "received", "from the peer", received)?;
    refusals(facts, out)?;
    let dropped = [
        ("outgoing", facts.counters.outgoing_dropped),
        ("inbound", facts.counters.inbound_dropped),
    ];
    out.counter(
        "meridian_queue_dropped",
        None,
        "Messages between threads that found no room and will be sent again: of the executor to \
         the network (outgoing), batches of peers to the executor (inbound)",
        dropped.map(|(queue, count)| (labels([("queue", queue)]), count)),
    )
}

fn sessions(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let peers = &facts.mesh.peers;
    out.gauge(
        "meridian_peer_connected",
        None,
        "1 while there is a session with the peer",
        peers.iter().map(|peer| (of(peer), flag(peer.is_connected()))),
    )?;
    out.counter(
        "meridian_peer_reconnects",
        None,
        "Sessions with the peer after the first one",
        peers.iter().map(|peer| (of(peer), peer.reconnects())),
    )?;
    out.gauge(
        "meridian_peer_round_trip",
        Some(Unit::Seconds),
        "Smoothed round trip to the peer, while connected",
        peers.iter().filter_map(|peer| Some((of(peer), peer.rtt?.as_secs_f64()))),
    )?;
    let upstreams = facts.snapshot.iter().flat_map(|s| &s.upstreams).flat_map(|(peer, origins)| {
        origins.iter().map(|origin| {
            let (peer, region) = (facts.name(*peer), facts.name(*origin));
            (labels([("peer", &peer), ("region", &region)]), 1)
        })
    });
    out.gauge(
        "meridian_replication_upstream",
        None,
        "1 if the region's frames are asked for at the peer",
        upstreams,
    )?;
    out.counter(
        "meridian_replication_detours",
        None,
        "Times that a region's frames were asked for at a second peer because the first was silent \
         or brought nothing",
        known(facts.snapshot.as_deref().map(|s| s.detours)),
    )
}

fn lag(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let lags = || facts.snapshot.iter().flat_map(|s| &s.lags);
    let series = |milliseconds: fn(&meridian_node::PeerLag) -> i64| {
        lags().map(move |(peer, lag)| {
            (labels([("peer", &facts.name(*peer))]), milliseconds(lag) as f64 / 1e3)
        })
    };
    out.gauge(
        "meridian_replication_lag",
        Some(Unit::Seconds),
        "How old the oldest of the peer's writes may be that is not here",
        series(|lag| whole(lag.behind_ms)),
    )?;
    out.gauge(
        "meridian_replication_unacknowledged",
        Some(Unit::Seconds),
        "How old the oldest of this region's writes may be that the peer has not acknowledged",
        series(|lag| whole(lag.unacknowledged_ms)),
    )?;
    let backlog = facts.backlog.iter();
    out.gauge(
        "meridian_replication_backlog",
        Some(Unit::Bytes),
        "Log that the peer has not been sent, while connected",
        backlog.map(|(peer, bytes)| (labels([("peer", &facts.name(*peer))]), whole(*bytes))),
    )?;
    let queued = |peer: &PeerStats| whole(peer.queued_bytes.iter().sum::<usize>() as u64);
    out.gauge(
        "meridian_replication_queued",
        Some(Unit::Bytes),
        "Bytes that wait in the lanes to the peer",
        facts.mesh.peers.iter().map(|peer| (of(peer), queued(peer))),
    )
}

fn traffic(
    facts: &Facts,
    out: &mut Out<'_>,
    way: &str,
    whither: &str,
    traffic: fn(&PeerStats) -> Traffic,
) -> fmt::Result {
    let series = |count: fn(Traffic) -> u64| {
        facts.mesh.peers.iter().map(move |peer| (of(peer), count(traffic(peer))))
    };
    let bytes = Some(Unit::Bytes);
    out.counter(
        &format!("meridian_replication_{way}"),
        bytes.clone(),
        &format!("Bytes of messages {whither} after compression, what QUIC adds not included"),
        series(|traffic| traffic.wire_bytes),
    )?;
    out.counter(
        &format!("meridian_replication_{way}_raw"),
        bytes.clone(),
        &format!("Bytes of messages {whither} before compression"),
        series(|traffic| traffic.raw_bytes),
    )?;
    out.counter(
        &format!("meridian_replication_{way}_udp"),
        bytes,
        &format!("Bytes of UDP payload {whither}, with everything that QUIC adds and repeats"),
        series(|traffic| traffic.udp_bytes),
    )?;
    out.counter(
        &format!("meridian_replication_{way}_messages"),
        None,
        &format!("Messages {whither}"),
        series(|traffic| traffic.messages),
    )?;
    out.counter(
        &format!("meridian_replication_{way}_datagrams"),
        None,
        &format!("Datagrams {whither}, which carry heartbeats"),
        series(|traffic| traffic.datagrams),
    )
}

fn refusals(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let unknown = facts.mesh.refused.iter().map(|refused| ("unknown", refused));
    let certain = facts
        .mesh
        .peers
        .iter()
        .flat_map(|peer| peer.refused.iter().map(|refused| (peer.name.as_str(), refused)));
    out.counter(
        "meridian_mesh_refusals",
        None,
        "Connections refused, by reason; the peer is `unknown` until a certificate has shown who \
         calls",
        unknown.chain(certain).map(|(peer, (reason, count))| {
            (labels([("peer", peer), ("reason", reason.as_str())]), *count)
        }),
    )
}

fn of(peer: &PeerStats) -> Labels {
    labels([("peer", &peer.name)])
}
