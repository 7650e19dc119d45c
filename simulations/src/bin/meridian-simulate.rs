//! Runs seeds of the simulation and tells what came of them.
//!
//! The shell around the pure part: it alone reads a clock (for the figures), starts threads (a
//! seed runs in one of them, from beginning to end) and prints.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a shell measures and uses all cores; what it runs is deterministic"
)]

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use meridian_simulations::{Ablation, Counts, Failure, Plan, shrink, simulate};

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// Simulates clusters of regions under faults. Every seed is a run of its own; a failing one
/// prints the command that replays it.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Run this plan alone: one line of name=value, as a failure prints it.
    #[arg(long, value_name = "PLAN", conflicts_with = "seed")]
    replay: Option<String>,
    /// What every plan gets, as a line of name=value: to look at one kind of run more closely.
    #[arg(long, value_name = "PLAN", default_value = "")]
    with: String,
    /// Print the plan of a seed instead of running it.
    #[arg(long)]
    show: bool,
    /// Do not look for a smaller plan that fails as well.
    #[arg(long)]
    no_shrink: bool,
    /// Write every failing plan, made small, into this directory: `simulations/corpus` keeps it
    /// for ever.
    #[arg(long, value_name = "DIRECTORY")]
    save: Option<std::path::PathBuf>,
    /// Run seeds for so many minutes instead of a number of them.
    #[arg(long)]
    minutes: Option<u64>,
    /// Switch off one rule, which must make seeds fail; an unknown name lists them all.
    #[arg(long)]
    ablation: Option<String>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Go on after a failure and count them.
    #[arg(long)]
    keep_going: bool,
    /// Seeds that run at the same time; all cores by default.
    #[arg(long)]
    jobs: Option<usize>,
}

/// What all threads see.
#[derive(Default)]
struct Progress {
    next: AtomicU64,
    done: AtomicU64,
    simulated_us: AtomicU64,
    stop: AtomicBool,
    counts: Mutex<Counts>,
    failures: Mutex<Vec<Failure>>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let rule = match &options.ablation {
        None => None,
        Some(name) => Some(Ablation::named(name).with_context(|| {
            let known: Vec<&str> = Ablation::ALL.iter().map(|(name, _)| *name).collect();
            format!("no rule is called {name:?}; these are: {}", known.join(", "))
        })?),
    };
    if let Some(text) = &options.replay {
        let plan: Plan = text.parse().map_err(anyhow::Error::msg)?;
        let rule = rule.or(plan.rule_off());
        return run_one(&plan.without(rule), &options);
    }
    if let Some(seed) = options.seed {
        let plan = Plan::of(seed).with(&options.with).map_err(anyhow::Error::msg)?;
        return run_one(&plan.without(rule), &options);
    }
    Plan::of(options.from).with(&options.with).map_err(anyhow::Error::msg)?;
    run_many(&options, rule)
}

fn run_one(plan: &Plan, options: &Options) -> Result<ExitCode> {
    if options.show {
        println!("{plan}");
        return Ok(ExitCode::SUCCESS);
    }
    let sink: Option<fn(&str)> = if options.trace { Some(|line| println!("{line}")) } else { None };
    match simulate(plan, sink) {
        Ok(report) => {
            let seconds = report.simulated_us as f64 / 1e6;
            println!(
                "seed {} holds after {seconds:.1} simulated seconds, trace {:016x}",
                report.seed, report.hash
            );
            print_counts(&report.counts);
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            report(*failure, options)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Tells of a failure and keeps it.
fn report(failure: Failure, options: &Options) -> Result<()> {
    println!("\n{failure}");
    let failure = if options.no_shrink || options.trace { failure } else { shrunk(failure) };
    if let Some(directory) = &options.save {
        let first = failure.what.lines().next().unwrap_or_default();
        let path = directory.join(format!("seed-{}.plan", failure.plan.source()));
        std::fs::write(&path, format!("# {first}\n{}\n", failure.plan))
            .with_context(|| format!("writing {}", path.display()))?;
        println!("kept as {}", path.display());
    }
    Ok(())
}

fn shrunk(failure: Failure) -> Failure {
    println!("\nlooking for a smaller plan ...");
    let small = shrink(failure);
    println!("{small}");
    small
}

fn run_many(options: &Options, rule: Option<Ablation>) -> Result<ExitCode> {
    let began = Instant::now();
    let progress = Progress::default();
    let until = options.minutes.map(|minutes| began + Duration::from_secs(60 * minutes));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.jobs.unwrap_or(cores))
            .map(|_| scope.spawn(|| work(options, rule, until, &progress)))
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::park_timeout(SHOW_EVERY);
            show(options, &progress, began);
        }
    });
    if std::io::stdout().is_terminal() {
        println!();
    }
    tell(options, &progress, began)
}

fn work(options: &Options, rule: Option<Ablation>, until: Option<Instant>, all: &Progress) {
    loop {
        let offset = all.next.fetch_add(1, Ordering::Relaxed);
        let is_over = match until {
            Some(until) => Instant::now() >= until,
            None => offset >= options.seeds,
        };
        if is_over || all.stop.load(Ordering::Relaxed) {
            return;
        }
        // It was tried with one seed before any thread began.
        let Ok(plan) = Plan::of(options.from + offset).with(&options.with) else { return };
        match simulate(&plan.without(rule), None) {
            Ok(report) => {
                all.simulated_us.fetch_add(report.simulated_us, Ordering::Relaxed);
                lock(&all.counts).add(&report.counts);
            }
            Err(failure) => {
                all.simulated_us.fetch_add(failure.at_us, Ordering::Relaxed);
                lock(&all.failures).push(*failure);
                all.stop.store(!options.keep_going, Ordering::Relaxed);
            }
        }
        all.done.fetch_add(1, Ordering::Relaxed);
    }
}

fn show(options: &Options, progress: &Progress, began: Instant) {
    if !std::io::stdout().is_terminal() {
        return;
    }
    const WIDTH: usize = 30;
    let done = progress.done.load(Ordering::Relaxed);
    let part = match options.minutes {
        Some(minutes) => began.elapsed().as_secs_f64() / (60 * minutes) as f64,
        None => done as f64 / options.seeds.max(1) as f64,
    };
    let filled = ((part * WIDTH as f64) as usize).min(WIDTH);
    let rate = done as f64 / began.elapsed().as_secs_f64();
    let failed = lock(&progress.failures).len();
    print!(
        "\r[{}{}] {done} seeds, {rate:.0} a second, {failed} failed ",
        "#".repeat(filled),
        ".".repeat(WIDTH - filled),
    );
    let _ = std::io::stdout().flush();
}

fn tell(options: &Options, progress: &Progress, began: Instant) -> Result<ExitCode> {
    let seconds = began.elapsed().as_secs_f64();
    let done = progress.done.load(Ordering::Relaxed);
    let simulated = progress.simulated_us.load(Ordering::Relaxed) as f64 / 1e6;
    print_counts(&lock(&progress.counts));
    println!(
        "{done} seeds in {seconds:.1} s: {:.1} seeds and {:.0} simulated seconds a second",
        done as f64 / seconds,
        simulated / seconds,
    );
    let mut failures = std::mem::take(&mut *lock(&progress.failures));
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    failures.sort_by_key(|failure| failure.plan.source());
    let count = failures.len();
    failures.into_iter().try_for_each(|failure| report(failure, options))?;
    println!("\n{count} of {done} seeds failed");
    Ok(ExitCode::FAILURE)
}

fn print_counts(counts: &Counts) {
    for (name, count) in counts.fields() {
        println!("{count:>12} {name}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
