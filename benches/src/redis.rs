//! redis-server as the measure of things, alone or with replicas attached.

use crate::client::{Client, answers, info_field};
use crate::process::{Server, free_local_address, poll_until};
use crate::target::{Target, Wire};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// Starts a server that appends every write to a file and syncs it each second, without snapshots,
/// and `replicas` servers alike that follow it.
pub fn start(directory: &Path, replicas: usize) -> Result<Target> {
    let mut servers = Vec::new();
    let address = start_one(&directory.join("primary"), None, &mut servers)?;
    let pid = servers.last().context("the primary was started")?.pid();
    let mut peers = Vec::new();
    for index in 0..replicas {
        let directory = directory.join(format!("replica-{index}"));
        peers.push(start_one(&directory, Some(address), &mut servers)?);
    }
    for peer in &peers {
        poll_until("a replica to be in step", || {
            let info = Client::connect(*peer)?.info("replication")?;
            Ok((info_field(&info, "master_link_status") == Some("up")).then_some(()))
        })?;
    }
    let name = match replicas {
        0 => "redis".to_owned(),
        replicas => format!("redis+{replicas}"),
    };
    let wire = if replicas == 0 { Wire::Unknown } else { Wire::RedisOffset };
    let others = servers[1..].iter().map(Server::pid).collect();
    Ok(Target { name, address, pid, others, peers, wire, servers })
}

fn start_one(
    directory: &Path,
    primary: Option<SocketAddr>,
    servers: &mut Vec<Server>,
) -> Result<SocketAddr> {
    let address = free_local_address()?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]);
    command.args(["--daemonize", "no"]);
    if let Some(primary) = primary {
        command.args(["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    }
    let mut server = Server::start(directory, command)
        .context("redis-server is needed to compare with (scripts/setup installs it)")?;
    server.wait_until("answering", || answers(address))?;
    servers.push(server);
    Ok(address)
}
