//! `meridian-bench`: Meridian and redis-server, side by side on one machine in one run.
//!
//! Absolute numbers of a shared machine mean little, so everything here is a comparison: the
//! servers run at the same time, the same client drives them in turn, rounds alternate, and the
//! ratios are taken inside a round. Throughput says what the machine gave at that moment; the
//! server's CPU time per operation says what the server costs, and is the steadier of the two.

mod away;
mod ceilings;
mod client;
mod cluster;
mod feed;
mod heal;
mod lag;
mod load;
mod meridian;
mod metrics;
mod options;
mod process;
mod redis;
mod report;
mod statistics;
mod target;
mod wire;

use anyhow::{Context, Result};
use clap::Parser;
use load::{Command, Sample, Workload};
use options::{Options, Plan};
use report::Report;
use std::path::{Path, PathBuf};
use std::time::Instant;
use target::Target;

/// So many different members that one is hardly ever added twice: as far as redis-benchmark counts.
const NEW_MEMBERS: u64 = 2_000_000_000;

fn main() -> Result<()> {
    let started = Instant::now();
    let options = Options::parse();
    let plan = options.plan();
    let directory = tempfile::tempdir().context("no temporary directory for the servers")?;
    if let Some(text) = one_figure(&options, &plan, directory.path())? {
        print!("{text}");
        return Ok(());
    }
    progress("starting servers");
    let targets = start_targets(&options, directory.path())?;
    if options.wire {
        print!("{}", wire::measure(&targets, plan.ops)?);
        return Ok(());
    }
    let mut report = Report::new(&plan, targets.iter().map(|target| target.name.clone()).collect());
    for (index, target) in targets.iter().enumerate() {
        let bytes = prefill(&plan, target).with_context(|| target.last_words())?;
        report.add_memory(index, bytes);
    }
    for (index, target) in targets.iter().enumerate() {
        measure_replication(&plan, target, index, &mut report)
            .with_context(|| target.last_words())?;
    }
    for round in 0..plan.rounds {
        run_round(&plan, &targets, round, started, &mut report)?;
    }
    if options.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(())
}

/// What is asked for alone, and needs no server to compare with.
fn one_figure(options: &Options, plan: &Plan, directory: &Path) -> Result<Option<String>> {
    let program = || match options.meridian.first() {
        Some(program) => std::path::absolute(program).context("--meridian"),
        None => meridian::beside_this_program(),
    };
    if let Some(differences) = &options.heal {
        let directory = directory.join("heal");
        return heal::run(&program()?, &directory, plan.keys, differences).map(Some);
    }
    if let Some(rates) = &options.lag {
        progress("starting three regions");
        let target = meridian::start("meridian", &program()?, &directory.join("lag"))?;
        let peer = target.peers.first().context("a region has peers")?;
        let probes = if options.quick { 1_000 } else { LAG_PROBES };
        let table = lag::table(target.address, *peer, rates, probes);
        return table.with_context(|| target.last_words()).map(Some);
    }
    if let Some(seconds) = options.feed {
        return feed::run(&program()?, &directory.join("feed"), seconds.max(1)).map(Some);
    }
    if let Some(rate) = options.away {
        return away::run(&program()?, &directory.join("away"), rate.max(1)).map(Some);
    }
    Ok(None)
}

/// Enough for the slowest in a thousand.
const LAG_PROBES: usize = 5_000;

fn start_targets(options: &Options, directory: &Path) -> Result<Vec<Target>> {
    let programs: Vec<PathBuf> = match options.meridian.as_slice() {
        [] => vec![meridian::beside_this_program()?],
        some => some.iter().map(std::path::absolute).collect::<std::io::Result<_>>()?,
    };
    let mut targets = vec![
        redis::start(&directory.join("redis"), 0)?,
        redis::start(&directory.join("redis-replicas"), 2)?,
    ];
    for (number, program) in (1..).zip(&programs) {
        let name = if number == 1 { "meridian".to_owned() } else { format!("meridian-{number}") };
        targets.push(meridian::start(&name, program, &directory.join(&name))?);
    }
    for attached in &options.attach {
        targets.push(attached.target()?);
    }
    Ok(targets)
}

/// Fills the keys, so that GET finds values and SET overwrites as it does in the long run. Returns
/// the bytes of memory that a key has taken.
fn prefill(plan: &Plan, target: &Target) -> Result<f64> {
    progress(&format!("filling {}", target.name));
    let (bytes, keys) = (target.resident_bytes()?, target.keys()?);
    let ops = plan.keys;
    load::run(target, &Workload { command: Command::Set, pipeline: 16, ops, keys: plan.keys })?;
    // The client draws keys at random: about two in three are there now.
    let (bytes, keys) = (target.resident_bytes()?.saturating_sub(bytes), target.keys()? - keys);
    Ok(bytes as f64 / keys as f64)
}

/// Runs every workload on every target. A round after the first ends when the time is over.
fn run_round(
    plan: &Plan,
    targets: &[Target],
    round: usize,
    started: Instant,
    report: &mut Report,
) -> Result<()> {
    for pipeline in plan.pipelines.iter().copied() {
        for command in plan.commands.iter().copied() {
            if round > 0 && started.elapsed() > plan.budget {
                return Ok(());
            }
            progress(&format!(
                "round {} of {}: {} with pipeline {pipeline}",
                round + 1,
                plan.rounds,
                command.name()
            ));
            let workload =
                Workload { command, pipeline, ops: plan.ops_at(pipeline), keys: plan.keys };
            // Who goes first alternates: the second finds warmer caches and a hotter processor.
            let order: Vec<usize> = match round % 2 {
                0 => (0..targets.len()).collect(),
                _ => (0..targets.len()).rev().collect(),
            };
            for index in order {
                let target = &targets[index];
                let sample: Sample =
                    load::run(target, &workload).with_context(|| target.last_words())?;
                report.add(index, &workload, sample);
            }
        }
    }
    Ok(())
}

fn measure_replication(
    plan: &Plan,
    target: &Target,
    index: usize,
    report: &mut Report,
) -> Result<()> {
    let Some(peer) = target.peers.first().copied() else { return Ok(()) };
    for rate in plan.lag_rates.iter().copied() {
        progress(&format!("{}: replication lag at {rate} writes/s", target.name));
        let lag = lag::measure(target.address, peer, rate, plan.lag_probes)?;
        report.add_lag(index, rate, &lag);
    }
    for command in plan.commands.iter().copied().filter(|command| *command != Command::Get) {
        progress(&format!("{}: bytes on the wire for {}", target.name, command.name()));
        // A member that is there already is not written again and costs nothing on the wire.
        let keys = if command == Command::Sadd { NEW_MEMBERS } else { plan.keys };
        let workload = Workload { command, pipeline: 16, ops: plan.ops, keys };
        report.add_wire_bytes(index, command, load::wire_bytes(target, &workload)?);
    }
    Ok(())
}

/// Progress goes to standard error: standard output holds the result alone.
fn progress(text: &str) {
    eprintln!("bench: {text}");
}
