//! What to measure, and how much of it.

use crate::target::Attached;

/// Compares Meridian with redis-server on this machine, in one run.
///
/// Starts a redis-server (append-only file, fsync every second), a second one with two replicas
/// attached; drives them and every server given by --attach in turn with redis-benchmark (50
/// connections, 128-byte values); prints medians and ratios of throughput and of server CPU time per
/// operation, bytes on the wire per record, and replication lag.
#[derive(Debug, clap::Parser)]
#[command(name = "meridian-bench", version)]
pub struct Options {
    /// A short look: one round, fewer operations, no ground for conclusions.
    #[arg(long)]
    pub quick: bool,
    /// Operations per measurement.
    #[arg(long, value_name = "N")]
    pub ops: Option<u64>,
    /// Rounds; the servers take turns in each.
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Different keys.
    #[arg(long, value_name = "N")]
    pub keys: Option<u64>,
    /// Also measure a server that is already running: `name=x,address=127.0.0.1:6379,pid=123`,
    /// optionally `,peer=127.0.0.1:6380` (where its writes appear) and
    /// `,metrics=127.0.0.1:9100` (its Prometheus endpoint).
    #[arg(long, value_name = "SERVER")]
    pub attach: Vec<Attached>,
    /// Print JSON, every single measurement included.
    #[arg(long)]
    pub json: bool,
}

/// The amounts, once the options are resolved.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Operations per measurement.
    pub ops: u64,
    /// Rounds of all measurements.
    pub rounds: usize,
    /// Different keys.
    pub keys: u64,
    /// Pipeline depths.
    pub pipelines: Vec<u32>,
    /// Writes per second beside the probes of the replication lag.
    pub lag_rates: Vec<u64>,
    /// Probes of the replication lag at each rate.
    pub lag_probes: usize,
}

impl Options {
    /// Resolves the defaults.
    pub fn plan(&self) -> Plan {
        let (ops, rounds, keys, lag_probes) =
            if self.quick { (50_000, 1, 100_000, 300) } else { (400_000, 3, 1_000_000, 2_000) };
        Plan {
            ops: self.ops.unwrap_or(ops).max(1),
            rounds: self.rounds.unwrap_or(rounds).max(1),
            keys: self.keys.unwrap_or(keys).max(1),
            pipelines: vec![1, 16],
            lag_rates: if self.quick { vec![0, 1_000] } else { vec![0, 1_000, 10_000] },
            lag_probes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[test]
    fn options_are_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn explicit_amounts_win_over_quick() {
        let options = Options::parse_from(["meridian-bench", "--quick", "--ops", "7"]);
        let plan = options.plan();
        assert_eq!((plan.ops, plan.rounds), (7, 1));
        assert!(options.attach.is_empty());
    }
}
