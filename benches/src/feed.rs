//! How much one region can write while two others get all of it.
//!
//! Several connections write to the first of three regions as fast as it takes it, for some seconds.
//! What counts is the time until both others have everything: what is only queued was not replicated.

use crate::client::Client;
use crate::cluster::{Cluster, wait_until_same};
use crate::process::cpu_seconds;
use crate::wire::{Payload, Writer};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Connections that write at the same time.
const CONNECTIONS: u64 = 4;

/// Commands that a connection sends together.
const PIPELINE: usize = 500;

/// How long the others may take to have everything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures and tells.
pub fn run(program: &Path, directory: &Path, seconds: u64) -> Result<String> {
    let cluster = Cluster::place(program, directory, "storage:\n")?;
    let servers: Vec<_> = (0..3).map(|index| cluster.start(index)).collect::<Result<_>>()?;
    cluster.wait_for_peers(&[0, 1, 2])?;
    let mut out = format!(
        "one region is written to for {seconds} s over {CONNECTIONS} connections, {PIPELINE} commands \
         at a time; two others get everything\n\
         {:<28}{:>12}{:>14}{:>10}{:>14}{:>20}\n",
        "what", "written/s", "replicated/s", "behind s", "wire B/write", "CPU s writer/peer"
    );
    for (payload, name) in [
        (Payload::Random, "SET, 128 random bytes"),
        (Payload::Json, "SET, 128 bytes of JSON"),
        (Payload::ZipfCounter, "INCR, 100 k counters, Zipf"),
    ] {
        crate::progress(name);
        let cpu = || -> Result<Vec<f64>> { servers.iter().map(|s| cpu_seconds(s.pid())).collect() };
        let (before, cpu_before) = (sent(&cluster)?, cpu()?);
        let began = Instant::now();
        let count = write(cluster.regions[0].redis, payload, Duration::from_secs(seconds))?;
        let written = began.elapsed().as_secs_f64();
        for peer in &cluster.regions[1..] {
            wait_until_same(&cluster.regions[0], peer, PATIENCE)
                .with_context(|| servers[0].last_words())?;
        }
        let replicated = began.elapsed().as_secs_f64();
        let (after, cpu_after) = (sent(&cluster)?, cpu()?);
        let used = |index: usize| cpu_after[index] - cpu_before[index];
        out += &format!(
            "{name:<28}{:>12.0}{:>14.0}{:>10.2}{:>14.2}{:>14.1} / {:.1}\n",
            count as f64 / written,
            count as f64 / replicated,
            replicated - written,
            after.saturating_sub(before) as f64 / count as f64,
            used(0),
            used(1),
        );
    }
    Ok(out)
}

/// Bytes that the first region has sent to the second, after compression.
fn sent(cluster: &Cluster<'_>) -> Result<u64> {
    let status = cluster.status(0)?;
    let sent = &status["peers"][cluster.regions[1].name]["sent"];
    sent["wire_bytes"].as_u64().context("a status without bytes sent")
}

/// Writes until the time is over; how many.
fn write(to: SocketAddr, payload: Payload, time: Duration) -> Result<u64> {
    let ends = Instant::now() + time;
    std::thread::scope(|scope| {
        let connection = |number: u64| {
            scope.spawn(move || -> Result<u64> {
                let mut writer = Writer::new(payload, number);
                let mut client = Client::connect(to)?;
                let mut written = 0;
                while Instant::now() < ends {
                    let batch: Vec<_> = (0..PIPELINE).map(|_| writer.command()).collect();
                    client.call_all(&batch)?;
                    written += PIPELINE as u64;
                }
                Ok(written)
            })
        };
        let threads: Vec<_> = (0..CONNECTIONS).map(connection).collect();
        let count = |thread: std::thread::ScopedJoinHandle<'_, Result<u64>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?
        };
        threads.into_iter().map(count).sum()
    })
}
