//! Three regions whose processes come and go: for what happens while one is away.

use crate::client::{Client, answers};
use crate::meridian::{Region, TOPOLOGY, describe, issue_certificates, place_regions};
use crate::metrics;
use crate::process::{Server, poll_until, poll_until_within};
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long one question for what a region lacks waits, in milliseconds, as the command takes it.
const AWAIT_MS: &str = "1000";

/// Regions with their addresses, to be started one by one.
pub struct Cluster<'a> {
    program: &'a Path,
    directory: &'a Path,
    /// The regions, in order of their ordinals.
    pub regions: Vec<Region>,
}

impl<'a> Cluster<'a> {
    /// Writes the topology, with `storage` in its section on storage, and issues certificates.
    pub fn place(program: &'a Path, directory: &'a Path, storage: &str) -> Result<Cluster<'a>> {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let regions = place_regions()?;
        let text = describe(&regions).replace("storage:\n", storage);
        let path = directory.join(TOPOLOGY);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        for action in ["init", "issue"] {
            issue_certificates(program, directory, action)?;
        }
        Ok(Cluster { program, directory, regions })
    }

    /// Starts a region and waits until it answers. It ends with the value.
    pub fn start(&self, index: usize) -> Result<Server> {
        let region = &self.regions[index];
        let mut command = Command::new(self.program);
        command.args(["node", "--region", region.name]);
        command.arg("--config").arg(self.directory.join(TOPOLOGY));
        command.arg("--data-dir").arg(self.directory);
        let mut server = Server::start(&self.directory.join(region.name), command)?;
        server.wait_until("ready", || answers(region.redis))?;
        Ok(server)
    }

    /// What a region says of itself.
    pub fn status(&self, index: usize) -> Result<Value> {
        let body = metrics::get(self.regions[index].admin, "/status")?.body;
        serde_json::from_str(&body).context("/status is no JSON")
    }

    /// Waits until the regions that run are connected with each other.
    pub fn wait_for_peers(&self, running: &[usize]) -> Result<()> {
        for index in running {
            poll_until("the regions to be connected", || {
                let Ok(status) = self.status(*index) else { return Ok(None) };
                let is_connected = |other: &usize| {
                    let peer = &status["peers"][self.regions[*other].name];
                    other == index || peer["connected"].as_bool() == Some(true)
                };
                Ok(running.iter().all(is_connected).then_some(()))
            })?;
        }
        Ok(())
    }
}

/// Waits until `to` has everything that `from` has now.
pub fn wait_until_same(from: &Region, to: &Region, patience: Duration) -> Result<()> {
    let mut client = Client::connect(from.redis)?;
    // A token that is asked for after anything was looked at covers all that is there.
    client.call(&["GET", "bench:anything"])?;
    let token = client.call(&["MERIDIAN", "TOKEN"])?;
    let token = token.as_bytes().context("a token is a string")?.to_vec();
    let mut client = Client::connect(to.redis)?;
    poll_until_within(patience, "a region to have everything", || {
        let asked: [&[u8]; 4] = [b"MERIDIAN", b"AWAIT", &token, AWAIT_MS.as_bytes()];
        // It is stale as long as it lacks something, which is an error.
        Ok(client.call(&asked).is_ok().then_some(()))
    })
}
