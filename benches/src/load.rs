//! One measurement: redis-benchmark against one server, with the server's CPU time around it.

use crate::target::Target;
use anyhow::{Context, Result, bail};
use std::process;

/// Connections of redis-benchmark.
const CONNECTIONS: u32 = 50;

/// A measurement that takes longer than this many seconds has failed.
const PATIENCE_S: u32 = 120;

/// Bytes of a value.
const VALUE_LEN: u32 = 128;

/// The commands that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Command {
    /// SET of a random key.
    Set,
    /// GET of a random key.
    Get,
    /// INCR of a random key.
    Incr,
    /// HSET of a random field of one hash.
    Hset,
    /// SADD of a random member to one set.
    Sadd,
}

impl Command {
    /// All of them, in the order in which they run.
    pub const ALL: [Command; 5] =
        [Command::Set, Command::Get, Command::Incr, Command::Hset, Command::Sadd];

    /// As Redis writes it.
    pub fn name(self) -> &'static str {
        match self {
            Command::Set => "SET",
            Command::Get => "GET",
            Command::Incr => "INCR",
            Command::Hset => "HSET",
            Command::Sadd => "SADD",
        }
    }
}

/// What one measurement asks of a server.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The command.
    pub command: Command,
    /// Requests in flight on each connection.
    pub pipeline: u32,
    /// Requests in total.
    pub ops: u64,
    /// Different keys, fields or members.
    pub keys: u64,
}

/// What came out of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Operations in a second of wall-clock time.
    pub ops_per_second: f64,
    /// Operations in a second of the server's CPU time, its work behind the replies included.
    pub ops_per_cpu_second: f64,
    /// The same with the CPU time of its peers, who apply what they are sent.
    pub ops_per_total_cpu_second: f64,
    /// Latency below which half of the requests lie, in milliseconds.
    pub p50_ms: f64,
    /// Latency below which 99 in 100 requests lie, in milliseconds.
    pub p99_ms: f64,
}

/// Runs a workload and returns when the server has settled.
pub fn run(target: &Target, workload: &Workload) -> Result<Sample> {
    let before = (target.cpu_seconds()?, target.total_cpu_seconds()?);
    let line = benchmark(target, workload)?;
    target.settle()?;
    let after = (target.cpu_seconds()?, target.total_cpu_seconds()?);
    // A run shorter than a tick of the CPU clock says nothing.
    let rate = |seconds: f64| workload.ops as f64 / seconds.max(0.01);
    Ok(Sample {
        ops_per_second: line.ops_per_second,
        ops_per_cpu_second: rate(after.0 - before.0),
        ops_per_total_cpu_second: rate(after.1 - before.1),
        p50_ms: line.p50_ms,
        p99_ms: line.p99_ms,
    })
}

/// Bytes sent to one peer for each operation of a workload, if the server counts them.
pub fn wire_bytes(target: &Target, workload: &Workload) -> Result<Option<f64>> {
    let Some(before) = target.sent_bytes()? else { return Ok(None) };
    benchmark(target, workload)?;
    target.settle()?;
    let after = target.sent_bytes()?;
    Ok(after.map(|after| after.saturating_sub(before) as f64 / workload.ops as f64))
}

fn benchmark(target: &Target, workload: &Workload) -> Result<Line> {
    // A server that dies would keep it trying for ever.
    let output = process::Command::new("timeout")
        .args([&PATIENCE_S.to_string(), "redis-benchmark"])
        .args(["-h", &target.address.ip().to_string()])
        .args(["-p", &target.address.port().to_string()])
        .args(["-c", &CONNECTIONS.to_string(), "-d", &VALUE_LEN.to_string()])
        .args(["-n", &workload.ops.to_string(), "-r", &workload.keys.to_string()])
        .args(["-P", &workload.pipeline.to_string(), "-t", workload.command.name()])
        .args(["--csv", "-e"])
        .output()
        .context("redis-benchmark is needed (scripts/setup installs it)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Error replies are fast: without this check the worst server would win.
    if let Some(error) = text.lines().find(|line| line.contains("Error from server")) {
        bail!("{} refuses {}: {error}", target.name, workload.command.name());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("redis-benchmark against {}: {} {errors}", target.name, output.status);
    }
    text.lines()
        .find_map(parse_line)
        .with_context(|| format!("redis-benchmark's output is not understood: {text}{errors}"))
}

#[derive(Debug, PartialEq)]
struct Line {
    ops_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// A data line of `redis-benchmark --csv`: test, rps, average, minimum, p50, p95, p99, maximum.
fn parse_line(line: &str) -> Option<Line> {
    // A field is quoted and may hold commas; numbers never do, so count them from the right.
    let fields: Vec<&str> = line.rsplit(',').map(|field| field.trim().trim_matches('"')).collect();
    let number = |from_right: usize| fields.get(from_right)?.parse::<f64>().ok();
    Some(Line { ops_per_second: number(6)?, p50_ms: number(3)?, p99_ms: number(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_redis_benchmark() {
        let line = r#""SET","98039.22","0.257","0.088","0.255","0.319","0.423","0.703""#;
        let expected = Line { ops_per_second: 98039.22, p50_ms: 0.255, p99_ms: 0.423 };
        assert_eq!(parse_line(line), Some(expected));
        let header = r#""test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms""#;
        assert_eq!(parse_line(header), None);
        assert_eq!(parse_line("WARNING: Could not fetch server CONFIG"), None);
    }
}
