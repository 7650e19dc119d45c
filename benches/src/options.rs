//! What to measure, and how much of it.

use crate::load::Command;
use crate::target::Attached;
use std::path::PathBuf;
use std::time::Duration;

/// After this nothing further is begun once a round is complete.
const BUDGET: Duration = Duration::from_secs(280);

/// The same for a short look.
const QUICK_BUDGET: Duration = Duration::from_secs(80);

/// At pipeline depth 1 an operation takes several times as long, and its cost shows as clearly.
const UNPIPELINED_SHARE: u64 = 4;

/// Compares Meridian with redis-server on this machine, in one run.
///
/// Starts a redis-server (append-only file, fsync every second), a second one with two replicas
/// attached, and three regions of Meridian as processes on loopback addresses (the same fsync); drives
/// them and every server given by --attach in turn with redis-benchmark (50 connections, 128-byte
/// values); prints medians and ratios of throughput and of server CPU time per operation, bytes on
/// the wire per record, and replication lag. Takes at most five minutes, with --quick a minute and a
/// half.
///
/// With one of --wire, --lag, --feed, --away and --heal only that is measured, in one to three
/// minutes.
#[derive(Debug, clap::Parser)]
#[command(name = "meridian-bench", version)]
pub struct Options {
    /// A short look: one round, fewer operations, no ground for conclusions.
    #[arg(long)]
    pub quick: bool,
    /// Operations per measurement at pipeline depth 16; a quarter of them at depth 1.
    #[arg(long, value_name = "N")]
    pub ops: Option<u64>,
    /// Rounds; the servers take turns in each.
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Different keys.
    #[arg(long, value_name = "N")]
    pub keys: Option<u64>,
    /// The program to measure [default: the one beside this program]. Give it more than once to
    /// compare builds with one another.
    #[arg(long, value_name = "PATH")]
    pub meridian: Vec<PathBuf>,
    /// Measure these commands only.
    #[arg(long, value_name = "COMMAND", value_delimiter = ',')]
    pub commands: Vec<Command>,
    /// Also measure a server that is already running: `name=x,address=127.0.0.1:6379,pid=123`,
    /// optionally `,peer=127.0.0.1:6380` (where its writes appear) and
    /// `,metrics=127.0.0.1:9100` (its Prometheus endpoint).
    #[arg(long, value_name = "SERVER")]
    pub attach: Vec<Attached>,
    /// Measure only what it takes to bring a region back by state repair: a new one (beside what the
    /// disk and the loopback give), and one that was apart while so many of --keys changed.
    #[arg(long, value_name = "KEYS", value_delimiter = ',', num_args = 0..,
          default_missing_values = ["10000", "100000"])]
    pub heal: Option<Vec<u64>>,
    /// Measure only the bytes on the wire for a record, with payloads like those of real clients.
    #[arg(long)]
    pub wire: bool,
    /// Measure only the replication lag, while so many writes a second are made: p50, p99, p99.9.
    #[arg(long, value_name = "RATES", value_delimiter = ',', num_args = 0..,
          default_missing_values = ["1000", "10000", "50000"])]
    pub lag: Option<Vec<u64>>,
    /// Measure only how much one region can write while two others get all of it: so many seconds of
    /// each kind of write.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10")]
    pub feed: Option<u64>,
    /// Measure only what a region that is away for an hour costs: memory, log, and the way back.
    /// So many writes a second are made meanwhile (as fast as it goes: it takes less than an hour).
    #[arg(long, value_name = "RATE", num_args = 0..=1, default_missing_value = "1000")]
    pub away: Option<u64>,
    /// Print JSON, every single measurement included.
    #[arg(long)]
    pub json: bool,
}

/// The amounts, once the options are resolved.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Operations per measurement when they are pipelined.
    pub ops: u64,
    /// Rounds of all measurements.
    pub rounds: usize,
    /// Different keys.
    pub keys: u64,
    /// The commands that are compared.
    pub commands: Vec<Command>,
    /// When to stop although not all rounds are done.
    pub budget: Duration,
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
            if self.quick { (200_000, 1, 100_000, 300) } else { (400_000, 3, 1_000_000, 1_000) };
        Plan {
            ops: self.ops.unwrap_or(ops).max(1),
            rounds: self.rounds.unwrap_or(rounds).max(1),
            keys: self.keys.unwrap_or(keys).max(1),
            commands: match self.commands.as_slice() {
                [] => Command::ALL.to_vec(),
                some => some.to_vec(),
            },
            budget: if self.quick { QUICK_BUDGET } else { BUDGET },
            pipelines: vec![1, 16],
            lag_rates: if self.quick { vec![0, 1_000] } else { vec![0, 1_000, 10_000] },
            lag_probes,
        }
    }
}

impl Plan {
    /// Operations of a measurement at a pipeline depth.
    pub fn ops_at(&self, pipeline: u32) -> u64 {
        if pipeline > 1 { self.ops } else { (self.ops / UNPIPELINED_SHARE).max(1) }
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
        assert_eq!((plan.ops_at(16), plan.ops_at(1)), (7, 1));
        assert_eq!(plan.commands, Command::ALL);
        assert!(options.attach.is_empty() && options.meridian.is_empty());
        let options = Options::parse_from(["meridian-bench", "--commands", "get,sadd"]);
        assert_eq!(options.plan().commands, [Command::Get, Command::Sadd]);
    }
}
