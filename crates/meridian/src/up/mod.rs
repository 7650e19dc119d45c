//! `meridian up`: every region of a topology on this machine, each a process of its own, with the
//! WAN between them. Made for trying and for tests; the nodes are the same as anywhere.

pub mod client;
mod cluster;
mod control;
pub mod leash;
mod limits;
mod links;
mod node;
mod ports;
mod protocol;
mod ready;
mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cert;
use crate::cli::UpArgs;
use crate::config::{ClusterFile, NodeConfig, Overrides, Paths, Secret};
use cluster::{Launch, Running};
use control::{Call, ControlSocket};
use limits::{POLL_EVERY, READY_WITHIN, REMIND_EVERY, REQUESTS_MAX};
use links::Links;
use protocol::{Reply, Request};
use ready::Readiness;
use report::{say, warn};

/// Starts the cluster and runs it until it is told to stop.
///
/// # Errors
/// When something cannot be started, or a region does not become ready.
pub fn run(args: UpArgs) -> Result<()> {
    if args.until_stdin_closes {
        leash::end_with_stdin().context("watching the standard input")?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the I/O runtime")?;
    runtime.block_on(up(args))
}

async fn up(args: UpArgs) -> Result<()> {
    // Before anything is started, so that a signal cannot leave something behind.
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("watching for SIGHUP")?;
    let (calls, mut requests) = mpsc::channel::<Call>(REQUESTS_MAX);
    let (mut running, _socket) = prepare(&args, calls).await?;
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    tokio::pin!(stop);
    let outcome = tokio::select! {
        outcome = start(&mut running) => outcome.map(|()| true),
        () = &mut stop => Ok(false),
    };
    let outcome = match outcome {
        Ok(true) => {
            report::show(&running.cluster, &args)?;
            let options = report::options(&args);
            tokio::select! {
                outcome = serve(&mut running, &mut requests, &options) => outcome,
                () = &mut stop => Ok(()),
            }
        }
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    warn("stopping…");
    running.stop_all().await;
    warn("stopped");
    outcome
}

/// Everything before the first node is started.
async fn prepare(args: &UpArgs, calls: mpsc::Sender<Call>) -> Result<(Running, ControlSocket)> {
    let (cluster, text) = ClusterFile::open(args.cluster.config.as_deref())?;
    let paths = Paths::resolve(&cluster, args.cluster.data_dir.clone());
    let base = paths.base.display();
    std::fs::create_dir_all(&paths.base).with_context(|| format!("creating {base}"))?;
    let paths = Paths { base: paths.base.canonicalize().with_context(|| base.to_string())? };
    let socket = ControlSocket::listen(paths.control_socket(), calls).await?;
    say(&format!("cluster {} in {}", cluster.cluster, paths.base.display()));
    let launch = Launch {
        topology: &topology_file(args.cluster.config.as_deref(), &text, &paths)?,
        paths: &paths,
        arguments: arguments(args),
        environment: environment(args)?,
    };
    check_settings(&cluster, args)?;
    ports::check_free(&cluster)?;
    let issued = cert::ensure_all(&cluster, &paths).context("certificates")?;
    if !issued.is_empty() {
        say(&format!("certificates made for {}", issued.join(", ")));
    }
    let links = match args.no_wan {
        true => None,
        false => Some(Links::start(&cluster, !args.no_delay)?),
    };
    Ok((Running::new(cluster, links, &launch)?, socket))
}

/// Starts the nodes and waits until all of them are ready.
async fn start(running: &mut Running) -> Result<()> {
    let started = Instant::now();
    running.start_all()?;
    let mut waiting: Vec<_> = running
        .cluster
        .regions
        .iter()
        .map(|region| (region.name.clone(), region.operator_address(region.admin)))
        .collect();
    say(&format!("starting {} regions", waiting.len()));
    let mut reminded = Instant::now();
    while !waiting.is_empty() {
        let mut left = Vec::new();
        let mut reasons = Vec::new();
        for (name, admin) in waiting {
            match ready::ask(admin).await {
                Readiness::Ready => {
                    say(&format!(
                        "  {name} is ready after {:.1} s",
                        started.elapsed().as_secs_f64()
                    ));
                }
                Readiness::NotYet(reason) => {
                    reasons.push(format!("{name}: {reason}"));
                    left.push((name, admin));
                }
            }
        }
        waiting = left;
        if started.elapsed() > READY_WITHIN && !waiting.is_empty() {
            let seconds = READY_WITHIN.as_secs();
            bail!("not ready after {seconds} s: {}", reasons.join("; "));
        }
        if reminded.elapsed() > REMIND_EVERY && !waiting.is_empty() {
            reminded = Instant::now();
            say(&format!("  waiting for {}", reasons.join("; ")));
        }
        tokio::select! {
            exit = running.next_exit() => {
                let words = running.note_exit(&exit);
                bail!("{}", words.unwrap_or_else(|| format!("{} has ended", exit.region)));
            }
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
    }
    Ok(())
}

/// Carries out requests and tells of nodes that end, until it is told to stop.
async fn serve(
    running: &mut Running,
    requests: &mut mpsc::Receiver<Call>,
    options: &str,
) -> Result<()> {
    loop {
        tokio::select! {
            exit = running.next_exit() => {
                if let Some(words) = running.note_exit(&exit) {
                    warn(&format!("meridian: {words}"));
                    let region = exit.region;
                    warn(&format!("start it again with: meridian region{options} start {region}"));
                }
            }
            Some((request, answer)) = requests.recv() => {
                let is_down = request == Request::Down {};
                let reply = running.handle(request).await;
                if let Reply::Done(words) = &reply {
                    say(&format!("on request: {words}"));
                }
                // Whoever asked may have gone away.
                let _ = answer.send(reply);
                if is_down {
                    return Ok(());
                }
            }
        }
    }
}

/// The file that the nodes read: the one that was given, or the example written out.
fn topology_file(given: Option<&Path>, text: &str, paths: &Paths) -> Result<PathBuf> {
    if let Some(path) = given {
        return path.canonicalize().with_context(|| path.display().to_string());
    }
    let path = paths.base.join("topology.yaml");
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn arguments(args: &UpArgs) -> Vec<String> {
    let mut arguments = Vec::new();
    if let Some(policy) = args.appendfsync {
        let value = clap::ValueEnum::to_possible_value(&policy);
        let name = value.map(|value| value.get_name().to_owned());
        arguments.extend(["--appendfsync".to_owned(), name.unwrap_or_default()]);
    }
    if let Some(log) = &args.log {
        arguments.extend(["--log".to_owned(), log.clone()]);
    }
    arguments
}

/// Secrets go to the nodes by their environment, which other users cannot see.
fn environment(args: &UpArgs) -> Result<Vec<(String, String)>> {
    let mut environment = Vec::new();
    if let Some(url) = &args.with_postgres {
        let url = Secret::new(url.as_str()).context("--with-postgres")?;
        environment.push(("MERIDIAN_POSTGRES_URL".to_owned(), url.reveal().to_owned()));
    }
    Ok(environment)
}

/// What the nodes would refuse is refused here, where somebody sees it.
fn check_settings(cluster: &ClusterFile, args: &UpArgs) -> Result<()> {
    let given = args.with_postgres.as_deref().map(Secret::new).transpose()?;
    let postgres_url = match given {
        Some(url) => Some(url),
        None => Secret::from_environment("MERIDIAN_POSTGRES_URL")?,
    };
    let overrides = Overrides {
        log: args.log.clone(),
        password: Secret::from_environment("MERIDIAN_PASSWORD")?,
        postgres_url,
        postgres_password: Secret::from_environment("MERIDIAN_POSTGRES_PASSWORD")?,
        ..Overrides::default()
    };
    if let Some(filter) = &args.log {
        let read = tracing_subscriber::EnvFilter::try_new(filter);
        read.with_context(|| format!("--log: {filter:?} is no level and no filter"))?;
    }
    for region in cluster.names() {
        NodeConfig::resolve(cluster.clone(), region, overrides.clone())?;
    }
    Ok(())
}
