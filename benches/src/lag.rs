//! Replication lag: from the acknowledgement of a write here to its being readable there.
//!
//! A probe is written to the target; when the reply is back the clock starts, and the peer is asked
//! for it until it answers with the new value. The clock is this process's own, so nothing has to
//! be synchronised; one question takes one round trip on loopback, which is the resolution.

use crate::client::Client;
use crate::process::PATIENCE;
use crate::statistics::quantile;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Key of the probes.
const PROBE_KEY: &str = "bench:lag:probe";

/// Different keys of the writes beside the probes.
const LOAD_KEYS: u64 = 10_000;

/// Lags of all probes, in milliseconds.
#[derive(Clone, Debug)]
pub struct Lag {
    /// One for each probe, in order.
    pub samples_ms: Vec<f64>,
    /// Writes per second that were really made beside the probes.
    pub rate_reached: f64,
}

/// Probes the lag from `from` to `to` while `rate` other writes a second go to `from`.
pub fn measure(from: SocketAddr, to: SocketAddr, rate: u64, probes: usize) -> Result<Lag> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| write_load(from, rate, &stop));
        let samples = probe(from, to, probes);
        stop.store(true, Ordering::Relaxed);
        let rate_reached =
            load.join().map_err(|_| anyhow::anyhow!("the writer of the load panicked"))??;
        Ok(Lag { samples_ms: samples?, rate_reached })
    })
}

fn probe(from: SocketAddr, to: SocketAddr, probes: usize) -> Result<Vec<f64>> {
    let mut writer = Client::connect(from)?;
    let mut reader = Client::connect(to)?;
    // Values must differ from those of an earlier measurement on the same servers.
    let epoch = Instant::now();
    let run = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("a clock before 1970")?
        .as_nanos();
    let mut samples = Vec::with_capacity(probes);
    for number in 0..probes {
        let value = format!("{run}-{number}");
        writer.call(&["SET", PROBE_KEY, &value])?;
        let acknowledged = Instant::now();
        while reader.call(&["GET", PROBE_KEY])?.as_bytes() != Some(value.as_bytes()) {
            if acknowledged.elapsed() > PATIENCE {
                bail!("probe {number} has not arrived after {PATIENCE:?}");
            }
        }
        samples.push(acknowledged.elapsed().as_secs_f64() * 1e3);
        // Fixed pauses would fall in step with a server's own timers.
        let pause = Duration::from_micros(200 + (epoch.elapsed().subsec_nanos() % 1800) as u64);
        std::thread::sleep(pause);
    }
    Ok(samples)
}

/// Writes at a steady rate until told to stop; returns the rate that was reached. What has become due
/// goes out together.
fn write_load(to: SocketAddr, rate: u64, stop: &AtomicBool) -> Result<f64> {
    if rate == 0 {
        return Ok(0.0);
    }
    let mut client = Client::connect(to)?;
    let value = [b'x'; 128];
    let started = Instant::now();
    let mut written: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        let some = due.saturating_sub(written).min(BURST_MAX);
        if some == 0 {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        let set = |n: u64| {
            let key = format!("bench:lag:{}", n % LOAD_KEYS);
            vec![b"SET".to_vec(), key.into_bytes(), value.to_vec()]
        };
        let commands: Vec<_> = (written..written + some).map(set).collect();
        client.call_all(&commands)?;
        written += some;
    }
    Ok(written as f64 / started.elapsed().as_secs_f64())
}

/// The most writes of the load that go out together.
const BURST_MAX: u64 = 500;

/// Lags at several rates, as a table: between regions on this machine, where the way takes nothing.
pub fn table(from: SocketAddr, to: SocketAddr, rates: &[u64], probes: usize) -> Result<String> {
    let mut out = format!(
        "from a write's acknowledgement to its being readable in the next region; {probes} probes at \
         each rate; the way between the regions takes nothing, one look takes 0.05 ms\n\
         {:>12}{:>12}{:>10}{:>10}{:>10}{:>10}\n",
        "writes/s", "reached", "p50 ms", "p99 ms", "p99.9 ms", "max ms"
    );
    for rate in rates {
        crate::progress(&format!("lag at {rate} writes/s"));
        let lag = measure(from, to, *rate, probes)?;
        let at = |share| quantile(&lag.samples_ms, share).unwrap_or(f64::NAN);
        let [p50, p99, p999, most] = [0.5, 0.99, 0.999, 1.0].map(at);
        let reached = lag.rate_reached;
        out +=
            &format!("{rate:>12}{reached:>12.0}{p50:>10.2}{p99:>10.2}{p999:>10.2}{most:>10.2}\n");
    }
    Ok(out)
}
