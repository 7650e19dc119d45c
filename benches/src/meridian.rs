//! Meridian as it is run: three regions, each a process of its own, that replicate to one another.
//!
//! The regions have a loopback address each, and nothing delays what passes between them. Clients
//! go to the first; its CPU time is what is compared, and what all three use together is told too.

use crate::client::answers;
use crate::metrics::{self, Http};
use crate::process::{Server, free_address, poll_until};
use crate::target::{Target, Wire};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The regions; the first is measured.
const REGIONS: [&str; 3] = ["us-east", "eu-central", "ap-southeast"];

/// Name of the topology file within the directory.
pub const TOPOLOGY: &str = "regions.yaml";

/// Where one region listens.
pub struct Region {
    /// Its name.
    pub name: &'static str,
    /// Redis clients.
    pub redis: SocketAddr,
    /// Other regions.
    pub mesh: SocketAddr,
    /// Its admin port.
    pub admin: SocketAddr,
    dns: SocketAddr,
}

/// The program beside this one, which is where a build puts it.
pub fn beside_this_program() -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find this program")?;
    let program = this.with_file_name("meridian");
    ensure!(
        program.exists(),
        "{} is not there: build everything (make build), or say --meridian PATH",
        program.display()
    );
    Ok(program)
}

/// Starts three regions of `program` in `directory` and waits until each is healthy and connected
/// to the others. Fsync every second, as in Redis.
pub fn start(name: &str, program: &Path, directory: &Path) -> Result<Target> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let regions = place_regions()?;
    let topology = directory.join(TOPOLOGY);
    fs::write(&topology, describe(&regions)).with_context(|| topology.display().to_string())?;
    for action in ["init", "issue"] {
        issue_certificates(program, directory, action)?;
    }
    let mut servers = Vec::new();
    for region in &regions {
        let mut command = Command::new(program);
        command.args(["node", "--region", region.name]).arg("--config").arg(&topology);
        command.arg("--data-dir").arg(directory);
        servers.push(Server::start(&directory.join(region.name), command)?);
    }
    for (region, server) in regions.iter().zip(&mut servers) {
        server.wait_until("ready", || is_ready(region).unwrap_or(false))?;
    }
    let peers: Vec<SocketAddr> = regions[1..].iter().map(|region| region.redis).collect();
    let measured = servers.first().context("a region was started")?.pid();
    let target = Target {
        name: name.to_owned(),
        address: regions[0].redis,
        pid: measured,
        others: servers[1..].iter().map(Server::pid).collect(),
        peers,
        wire: Wire::Metrics(regions[0].admin),
        servers,
    };
    replicates(&target).with_context(|| target.last_words())?;
    Ok(target)
}

/// Gives every region addresses of its own.
pub fn place_regions() -> Result<Vec<Region>> {
    let mut held = Vec::new();
    let mut place = |number: u8| -> Result<SocketAddr> {
        free_address(IpAddr::V4(Ipv4Addr::new(127, 0, 0, number)), &mut held)
    };
    (1..)
        .zip(REGIONS)
        .map(|(number, name)| {
            Ok(Region {
                name,
                redis: place(number)?,
                mesh: place(number)?,
                admin: place(number)?,
                dns: place(number)?,
            })
        })
        .collect()
}

/// The topology file. Everything that is not said has its default.
pub fn describe(regions: &[Region]) -> String {
    let mut text = "cluster: bench\nregions:\n".to_owned();
    for (ordinal, Region { name, redis, mesh, admin, dns }) in regions.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  - name: {name}\n    ordinal: {ordinal}");
        let _ = writeln!(text, "    redis: {redis}\n    mesh: {mesh}");
        let _ = writeln!(text, "    admin: {admin}\n    dns: {dns}");
    }
    text.push_str("dns:\n  zone: bench.test\nstorage:\n  appendfsync: everysec\nlog: info\n");
    text
}

/// Runs `meridian cert`.
pub fn issue_certificates(program: &Path, directory: &Path, action: &str) -> Result<()> {
    let output = Command::new(program)
        .args(["cert", action])
        .arg("--config")
        .arg(directory.join(TOPOLOGY))
        .arg("--data-dir")
        .arg(directory)
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "meridian cert {action}: {errors}");
    Ok(())
}

/// Whether a region says that it is well and sees both others.
fn is_ready(region: &Region) -> Result<bool> {
    if !answers(region.redis) || metrics::get(region.admin, "/healthz")?.code != 200 {
        return Ok(false);
    }
    let Http { body, .. } = metrics::get(region.admin, "/status")?;
    let status: Value = serde_json::from_str(&body).context("/status is no JSON")?;
    let peers = status["peers"].as_object().into_iter().flatten();
    let connected = peers.filter(|(_, peer)| peer["connected"] == Value::Bool(true)).count();
    Ok(connected == REGIONS.len() - 1)
}

/// Being connected is one thing: waits until a write has really reached every peer.
fn replicates(target: &Target) -> Result<()> {
    use crate::client::Client;
    const KEY: &str = "bench:first";
    Client::connect(target.address)?.call(&["SET", KEY, "here"])?;
    for peer in &target.peers {
        let mut client = Client::connect(*peer)?;
        poll_until("the first write to arrive", || {
            let there = client.call(&["GET", KEY])?.as_bytes() == Some(b"here");
            Ok(there.then_some(()))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_addresses_and_ports_of_their_own() {
        let regions = place_regions().unwrap();
        let mut all: Vec<SocketAddr> =
            regions.iter().flat_map(|r| [r.redis, r.mesh, r.admin, r.dns]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4 * REGIONS.len());
        assert_eq!(regions[2].redis.ip().to_string(), "127.0.0.3");
        let text = describe(&regions);
        for region in &regions {
            assert!(text.contains(&format!("name: {}\n", region.name)));
            assert!(text.contains(&format!("redis: {}\n", region.redis)));
        }
    }
}
