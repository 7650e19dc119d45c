//! What is printed: medians over the rounds, and ratios taken within them.

use crate::lag::Lag;
use crate::load::{Command, Sample, Workload};
use crate::options::Plan;
use crate::statistics::{median, quantile};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Collects measurements and prints them.
pub struct Report {
    plan: Plan,
    targets: Vec<String>,
    /// By pipeline depth, command and target: one sample for each round.
    samples: BTreeMap<(u32, Command, usize), Vec<Sample>>,
    /// By target and rate of writes.
    lags: BTreeMap<(usize, u64), Lag>,
    /// By target and command: bytes sent to one peer for one record.
    wire_bytes: BTreeMap<(usize, Command), f64>,
    /// By target: bytes of memory for one key.
    memory: BTreeMap<usize, f64>,
}

impl Report {
    /// An empty report on `targets`; the first is what the others are compared with.
    pub fn new(plan: &Plan, targets: Vec<String>) -> Self {
        Report {
            plan: plan.clone(),
            targets,
            samples: BTreeMap::new(),
            lags: BTreeMap::new(),
            wire_bytes: BTreeMap::new(),
            memory: BTreeMap::new(),
        }
    }

    /// Adds a measurement of a round.
    pub fn add(&mut self, target: usize, workload: &Workload, sample: Sample) {
        let key = (workload.pipeline, workload.command, target);
        self.samples.entry(key).or_default().push(sample);
    }

    /// Adds the replication lag at a rate of writes.
    pub fn add_lag(&mut self, target: usize, rate: u64, lag: &Lag) {
        self.lags.insert((target, rate), lag.clone());
    }

    /// Adds the bytes on the wire for a record, if they are known.
    pub fn add_wire_bytes(&mut self, target: usize, command: Command, bytes: Option<f64>) {
        if let Some(bytes) = bytes {
            self.wire_bytes.insert((target, command), bytes);
        }
    }

    /// Adds the bytes of memory that one key of 16 bytes with its value has taken.
    pub fn add_memory(&mut self, target: usize, bytes_per_key: f64) {
        self.memory.insert(target, bytes_per_key);
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let plan = &self.plan;
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{} operations a measurement ({} at P 1), {} keys, {} round(s); medians.\n",
            plan.ops,
            plan.ops_at(1),
            plan.keys,
            self.rounds()
        );
        self.table(&mut out, "thousand operations / s of server CPU", |s| s.ops_per_cpu_second);
        let title = "thousand operations / s of CPU of the server and its peers together";
        self.table(&mut out, title, |s| s.ops_per_total_cpu_second);
        self.table(&mut out, "thousand operations / s", |s| s.ops_per_second);
        self.latencies(&mut out);
        self.replication(&mut out);
        let _ = writeln!(out, "bytes of memory for one key");
        for (target, bytes) in &self.memory {
            let _ = writeln!(out, "  {:<16} {bytes:>7.0}", self.targets[*target]);
        }
        out
    }

    /// For programs: every single measurement.
    pub fn json(&self) -> Value {
        let samples: Vec<Value> = self
            .samples
            .iter()
            .map(|((pipeline, command, target), samples)| {
                let all = |of: fn(&Sample) -> f64| samples.iter().map(of).collect::<Vec<f64>>();
                json!({
                    "target": self.targets[*target],
                    "command": command.name(),
                    "pipeline": pipeline,
                    "ops_per_second": all(|s| s.ops_per_second),
                    "ops_per_cpu_second": all(|s| s.ops_per_cpu_second),
                    "ops_per_total_cpu_second": all(|s| s.ops_per_total_cpu_second),
                    "p50_ms": all(|s| s.p50_ms),
                    "p99_ms": all(|s| s.p99_ms),
                    "throughput_ratio": self.ratio((*pipeline, *command), *target, |s| s.ops_per_second),
                    "cpu_ratio": self.ratio((*pipeline, *command), *target, |s| s.ops_per_cpu_second),
                })
            })
            .collect();
        let lags = self.lags.iter().map(|((target, rate), lag)| {
            json!({
                "target": self.targets[*target],
                "writes_per_second": rate,
                "writes_per_second_reached": lag.rate_reached,
                "p50_ms": quantile(&lag.samples_ms, 0.5),
                "p99_ms": quantile(&lag.samples_ms, 0.99),
            })
        });
        let wire = self.wire_bytes.iter().map(|((target, command), bytes)| {
            json!({
                "target": self.targets[*target],
                "command": command.name(),
                "bytes_per_record": bytes,
            })
        });
        let memory = self.memory.iter().map(
            |(target, bytes)| json!({ "target": self.targets[*target], "bytes_per_key": bytes }),
        );
        json!({
            "ops": self.plan.ops,
            "keys": self.plan.keys,
            "rounds": self.rounds(),
            "load": samples,
            "lag": lags.collect::<Vec<Value>>(),
            "wire": wire.collect::<Vec<Value>>(),
            "memory": memory.collect::<Vec<Value>>(),
        })
    }

    /// One line a workload: each target's median, and its ratio to the first.
    fn table(&self, out: &mut String, title: &str, of: fn(&Sample) -> f64) {
        let _ = writeln!(out, "{title}; in brackets the ratio to {}", self.targets[0]);
        self.heading(out);
        for workload in self.workloads() {
            let _ = write!(out, "  {:<5} {:>3}", workload.1.name(), workload.0);
            for target in 0..self.targets.len() {
                let value = self.median_of(workload, target, of).unwrap_or(f64::NAN) / 1e3;
                let ratio = match self.ratio(workload, target, of) {
                    Some(ratio) if target > 0 => format!("[{ratio:.2}]"),
                    _ => String::new(),
                };
                let _ = write!(out, "  {value:>8.1} {ratio:<7}");
            }
            out.push('\n');
        }
        out.push('\n');
    }

    fn latencies(&self, out: &mut String) {
        let _ = writeln!(out, "latency in ms at full load, p50 / p99");
        self.heading(out);
        for workload in self.workloads() {
            let _ = write!(out, "  {:<5} {:>3}", workload.1.name(), workload.0);
            for target in 0..self.targets.len() {
                let p50 = self.median_of(workload, target, |s| s.p50_ms).unwrap_or(f64::NAN);
                let p99 = self.median_of(workload, target, |s| s.p99_ms).unwrap_or(f64::NAN);
                let _ = write!(out, "  {:>16}", format!("{p50:.2} / {p99:.2}"));
            }
            out.push('\n');
        }
        out.push('\n');
    }

    fn heading(&self, out: &mut String) {
        let _ = write!(out, "  {:<5} {:>3}", "", "P");
        for target in &self.targets {
            let _ = write!(out, "  {target:>16}");
        }
        out.push('\n');
    }

    fn replication(&self, out: &mut String) {
        if !self.lags.is_empty() {
            let _ = writeln!(
                out,
                "replication lag in ms, acknowledged to readable at a peer (one-way delay 0)"
            );
            for ((target, rate), lag) in &self.lags {
                let of = |share| quantile(&lag.samples_ms, share).unwrap_or(f64::NAN);
                let _ = writeln!(
                    out,
                    "  {:<16} at {:>6} writes/s (reached {:>6.0}): p50 {:.2}, p99 {:.2}",
                    self.targets[*target],
                    rate,
                    lag.rate_reached,
                    of(0.5),
                    of(0.99)
                );
            }
            out.push('\n');
        }
        if !self.wire_bytes.is_empty() {
            let _ = writeln!(out, "bytes on the wire to one peer for one record");
            for ((target, command), bytes) in &self.wire_bytes {
                let name = &self.targets[*target];
                let _ = writeln!(out, "  {name:<16} {:<5} {bytes:>7.1}", command.name());
            }
            out.push('\n');
        }
    }

    /// Rounds that were done, which the time may have limited.
    fn rounds(&self) -> usize {
        self.samples.values().map(Vec::len).max().unwrap_or(0)
    }

    fn workloads(&self) -> Vec<(u32, Command)> {
        let mut workloads: Vec<(u32, Command)> =
            self.samples.keys().map(|(pipeline, command, _)| (*pipeline, *command)).collect();
        workloads.dedup();
        workloads
    }

    fn values(&self, workload: (u32, Command), target: usize, of: fn(&Sample) -> f64) -> Vec<f64> {
        let samples = self.samples.get(&(workload.0, workload.1, target));
        samples.map(|samples| samples.iter().map(of).collect()).unwrap_or_default()
    }

    fn median_of(
        &self,
        workload: (u32, Command),
        target: usize,
        of: fn(&Sample) -> f64,
    ) -> Option<f64> {
        median(&self.values(workload, target, of))
    }

    /// The median of the ratios to the first target, each taken within one round.
    fn ratio(
        &self,
        workload: (u32, Command),
        target: usize,
        of: fn(&Sample) -> f64,
    ) -> Option<f64> {
        let first = self.values(workload, 0, of);
        let ratios = self.values(workload, target, of);
        let ratios: Vec<f64> = ratios.iter().zip(&first).map(|(a, b)| a / b).collect();
        median(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(throughput: f64) -> Sample {
        Sample {
            ops_per_second: throughput,
            ops_per_cpu_second: throughput * 2.0,
            ops_per_total_cpu_second: throughput,
            p50_ms: 0.1,
            p99_ms: 0.2,
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let plan = Plan {
            ops: 1,
            rounds: 3,
            keys: 1,
            commands: vec![Command::Set],
            budget: std::time::Duration::ZERO,
            pipelines: vec![1],
            lag_rates: vec![],
            lag_probes: 1,
        };
        let workload = Workload { command: Command::Set, pipeline: 1, ops: 1, keys: 1 };
        let mut report = Report::new(&plan, vec!["a".to_owned(), "b".to_owned()]);
        // The machine slows down from round to round; b is always half of a.
        for throughput in [100_000.0, 50_000.0, 10_000.0] {
            report.add(0, &workload, sample(throughput));
            report.add(1, &workload, sample(throughput / 2.0));
        }
        assert_eq!(report.ratio((1, Command::Set), 1, |s| s.ops_per_second), Some(0.5));
        let lag = Lag { samples_ms: vec![0.5, 1.5], rate_reached: 9.0 };
        report.add_lag(1, 10, &lag);
        report.add_wire_bytes(1, Command::Set, Some(140.0));
        report.add_wire_bytes(1, Command::Incr, None);
        let text = report.text();
        for expected in ["25.0 [0.50]", "p50 0.50, p99 1.50", "SET     140.0"] {
            assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
        }
        let json = report.json();
        assert_eq!(json["load"][1]["cpu_ratio"], 0.5);
        assert_eq!(json["wire"].as_array().map(Vec::len), Some(1));
    }
}
