//! The meridian command: reads the command line and does what it says.

mod backup;
mod cert;
mod cli;
mod config;
mod disk;
mod http;
mod logging;
mod membership;
mod restore;
mod runtime;
mod salvage;
mod status;
mod up;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use cli::{Cli, Command, ConfigAction, NodeArgs, RegionAction};
use config::{ClusterFile, EXAMPLE, NodeConfig, Overrides, Secret};

/// The exit code for a data directory that is damaged: starting again does not help.
const DAMAGED: u8 = 3;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meridian: {error:#}");
            if error.is::<runtime::Damaged>() {
                return ExitCode::from(DAMAGED);
            }
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Node(args) => node(args),
        Command::Up(args) => up::run(args),
        Command::Down(args) => up::client::down(&args),
        Command::Status(args) => status::run(&args),
        Command::Wan(args) => up::client::wan(&args),
        Command::Region(args) => match &args.action {
            RegionAction::Leave { name, via } => membership::leave(&args.cluster, name, via),
            RegionAction::Dead { name, yes, via } => {
                membership::dead(&args.cluster, name, *yes, via)
            }
            _ => up::client::region(&args),
        },
        Command::Join(args) => membership::join(&args),
        Command::Salvage(args) => salvage::run(&args),
        Command::Backup(args) => backup::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Disk(args) => disk::run(args),
        Command::Cert(args) => cert::run(&args),
        Command::Config(args) => configuration(args.action),
    }
}

fn node(args: NodeArgs) -> Result<()> {
    let cluster = ClusterFile::read(&args.config)?;
    let overrides = Overrides {
        data_dir: args.run.data_dir,
        certificates: args.run.certificates,
        appendfsync: args.run.appendfsync,
        log: args.log,
        peers: args.peer,
        password: Secret::from_environment("MERIDIAN_PASSWORD")?,
        postgres_url: Secret::from_environment("MERIDIAN_POSTGRES_URL")?,
        postgres_password: Secret::from_environment("MERIDIAN_POSTGRES_PASSWORD")?,
    };
    let config = NodeConfig::resolve(cluster, &args.region, overrides)?;
    logging::start(&config.log)?;
    if args.run.until_stdin_closes {
        up::leash::end_with_stdin().context("watching the standard input")?;
    }
    runtime::run(config)
}

fn configuration(action: ConfigAction) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match action {
        ConfigAction::Example => out.write_all(EXAMPLE.as_bytes())?,
        ConfigAction::Check { file, full } => {
            let cluster = ClusterFile::read(&file)?;
            if full {
                let text = serde_yaml_ng::to_string(&cluster).context("writing the topology")?;
                out.write_all(text.as_bytes())?;
            } else {
                describe(&cluster, &file, &mut out)?;
            }
        }
    }
    Ok(out.flush()?)
}

/// What a topology says, in a few lines.
fn describe(cluster: &ClusterFile, file: &Path, out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "{}: cluster {} with {} regions and {} partitions",
        file.display(),
        cluster.cluster,
        cluster.regions.len(),
        cluster.partitions
    )?;
    for region in &cluster.regions {
        let (name, ordinal, redis) = (&region.name, region.ordinal, region.redis);
        writeln!(
            out,
            "  {name:<16} ordinal {ordinal:<3} redis {redis:<22} {}",
            region.reached_at()
        )?;
    }
    let zone = cluster.dns.zone.trim_end_matches('.');
    let names: Vec<String> = cluster.dns.names.iter().map(|n| format!("{n}.{zone}")).collect();
    let networks = cluster.dns.networks.len();
    let ttl_s = cluster.dns.ttl_s;
    writeln!(out, "  dns {} for {networks} known networks, kept {ttl_s} s", names.join(", "))?;
    let round_trip_ms = cluster.largest_round_trip_ms();
    writeln!(out, "  largest round trip {round_trip_ms} ms")?;
    match &cluster.postgres {
        Some(postgres) => writeln!(out, "  postgres slot {}", postgres.slot)?,
        None => writeln!(out, "  no postgres")?,
    }
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.into_iter().any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
