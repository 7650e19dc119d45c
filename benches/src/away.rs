//! What a region that is away costs the others: memory and log here, bytes and time when it is back.
//!
//! An hour's worth of writes is written as fast as it goes, so that it does not take an hour.

use crate::client::Client;
use crate::cluster::{Cluster, wait_until_same};
use crate::process::{poll_until, resident_bytes};
use crate::wire::{Payload, Writer};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long it was away, in seconds.
const AWAY_S: u64 = 3600;

/// Different keys, so that what is held does not grow.
const KEYS: u64 = 100_000;

/// Commands that are sent together.
const PIPELINE: u64 = 500;

/// How long it may take until everything is the same again.
const PATIENCE: Duration = Duration::from_secs(280);

/// All of the log is kept.
const STORAGE: &str = "storage:\n  log_limit: 64GiB\n";

/// Measures and tells.
pub fn run(program: &Path, directory: &Path, rate: u64) -> Result<String> {
    let cluster = Cluster::place(program, directory, STORAGE)?;
    let writer = cluster.start(0)?;
    let _other = cluster.start(1)?;
    let away = cluster.start(2)?;
    cluster.wait_for_peers(&[0, 1, 2])?;
    crate::progress("filling");
    let mut payload = Writer::new(Payload::Random, 0).with_keys(KEYS);
    write(&cluster, &mut payload, 3 * KEYS)?;
    for peer in [1, 2] {
        wait_until_same(&cluster.regions[0], &cluster.regions[peer], PATIENCE)?;
    }
    let (before, log_before) = (resident_bytes(writer.pid())?, log_end(&cluster)?);
    crate::progress("the third region goes away");
    drop(away);
    let writes = rate * AWAY_S;
    crate::progress(&format!("{writes} writes: an hour at {rate} a second"));
    let began = Instant::now();
    write(&cluster, &mut payload, writes)?;
    let took = began.elapsed().as_secs_f64();
    wait_until_same(&cluster.regions[0], &cluster.regions[1], PATIENCE)?;
    let (during, backlog) = (resident_bytes(writer.pid())?, log_end(&cluster)? - log_before);
    crate::progress("it comes back");
    let back = cluster.start(2)?;
    let began = Instant::now();
    let mut peak = during;
    let (from, to) = (&cluster.regions[0], &cluster.regions[2]);
    std::thread::scope(|scope| -> Result<()> {
        let waits = scope.spawn(|| wait_until_same(from, to, PATIENCE));
        poll_until("the region that was away", || {
            peak = peak.max(resident_bytes(writer.pid())?);
            Ok(waits.is_finished().then_some(()))
        })?;
        waits.join().map_err(|_| anyhow::anyhow!("who waited panicked"))?
    })
    .with_context(|| back.last_words())?;
    let seconds = began.elapsed().as_secs_f64();
    let status = cluster.status(2)?;
    let received: u64 = [0, 1]
        .iter()
        .filter_map(|peer| {
            status["peers"][cluster.regions[*peer].name]["received"]["udp_bytes"].as_u64()
        })
        .sum();
    let mb = |bytes: u64| bytes as f64 / 1e6;
    Ok(format!(
        "a region is away for an hour at {rate} writes/s: {writes} writes of 128 random bytes to \
         {KEYS} keys, made in {took:.0} s\n\
         memory of the writing region before        {:>9.1} MB\n\
         memory with the other an hour behind       {:>9.1} MB\n\
         memory at most while it catches up         {:>9.1} MB\n\
         log that waits for it (on disk)            {:>9.1} MB\n\
         received by it when it is back             {:>9.1} MB\n\
         from its first answer until it has all     {seconds:>9.2} s\n",
        mb(before),
        mb(during),
        mb(peak),
        mb(backlog),
        mb(received),
    ))
}

fn write(cluster: &Cluster<'_>, payload: &mut Writer, count: u64) -> Result<()> {
    let mut client = Client::connect(cluster.regions[0].redis)?;
    for _ in 0..count.div_ceil(PIPELINE) {
        let batch: Vec<_> = (0..PIPELINE).map(|_| payload.command()).collect();
        client.call_all(&batch)?;
    }
    Ok(())
}

fn log_end(cluster: &Cluster<'_>) -> Result<u64> {
    cluster.status(0)?["log"]["end"].as_u64().context("a status without its log")
}
