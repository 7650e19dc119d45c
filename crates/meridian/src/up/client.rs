//! Commands that talk to a running `up`: `down`, `wan`, `region`.

use std::io::Write;

use anyhow::{Context, Result, bail};
use tokio::time::timeout;

use super::control;
use super::limits::REPLY_WITHIN;
use super::protocol::{Cluster, RegionDo, Reply, Request};
use crate::cli::{ClusterArgs, RegionAction, RegionArgs, RunningArgs, WanAction, WanArgs};
use crate::config::{ClusterFile, Paths};

/// Stops the cluster.
///
/// # Errors
/// When none is running.
pub fn down(args: &RunningArgs) -> Result<()> {
    tell(&args.cluster, Request::Down {})
}

/// Cuts, heals and reshapes links.
///
/// # Errors
/// When no cluster is running, or there is no such link.
pub fn wan(args: &WanArgs) -> Result<()> {
    let request = match args.action.clone() {
        WanAction::Show => return show_links(&args.cluster),
        WanAction::Cut { from, to, one_way } => Request::Cut { from, to, one_way },
        WanAction::Heal { from, to } => Request::Heal { from, to },
        WanAction::Set { from, to, rtt_ms, loss, jitter_ms } => {
            Request::Set { from, to, rtt_ms, loss, jitter_ms }
        }
    };
    tell(&args.cluster, request)
}

/// Signals and starts regions.
///
/// # Errors
/// When no cluster is running, or the region is in no state for it.
pub fn region(args: &RegionArgs) -> Result<()> {
    let (name, action) = match args.action.clone() {
        RegionAction::Kill { name } => (name, RegionDo::Kill),
        RegionAction::Stop { name } => (name, RegionDo::Stop),
        RegionAction::Start { name } => (name, RegionDo::Start),
        RegionAction::Freeze { name } => (name, RegionDo::Freeze),
        RegionAction::Thaw { name } => (name, RegionDo::Thaw),
        RegionAction::Leave { .. } | RegionAction::Dead { .. } => {
            bail!("that is asked of the cluster's nodes, not of the process that runs them")
        }
    };
    tell(&args.cluster, Request::Region { name, action })
}

fn tell(cluster: &ClusterArgs, request: Request) -> Result<()> {
    match ask(cluster, request)? {
        Reply::Done(words) => Ok(writeln!(std::io::stdout(), "{words}")?),
        Reply::Failed(words) => bail!("{words}"),
        Reply::Cluster(_) => bail!("the running cluster gave another answer than was asked for"),
    }
}

fn show_links(cluster: &ClusterArgs) -> Result<()> {
    let Reply::Cluster(Cluster { links, .. }) = ask(cluster, Request::Describe {})? else {
        bail!("the running cluster gave another answer than was asked for");
    };
    let mut out = std::io::stdout().lock();
    if links.is_empty() {
        writeln!(out, "no links: the cluster was started with --no-wan")?;
    }
    for link in links {
        let state = match (link.is_cut_forward, link.is_cut_backward) {
            (false, false) => "open".to_owned(),
            (true, true) => "cut".to_owned(),
            (true, false) => format!("cut from {}", link.from),
            (false, true) => format!("cut from {}", link.to),
        };
        let names = format!("{} – {}", link.from, link.to);
        let megabytes = link.bytes as f64 / 1e6;
        writeln!(
            out,
            "{names:<32} {state:<22} {:>6.0} ms  loss {:<5} {:>9} packets {megabytes:>8.1} MB  {} lost",
            link.rtt_ms, link.loss, link.packets, link.lost
        )?;
    }
    Ok(())
}

fn ask(args: &ClusterArgs, request: Request) -> Result<Reply> {
    let (cluster, _) = ClusterFile::open(args.config.as_deref())?;
    let socket = Paths::resolve(&cluster, args.data_dir.clone()).control_socket();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the I/O runtime")?;
    runtime.block_on(async {
        match timeout(REPLY_WITHIN, control::call(&socket, &request)).await {
            Ok(reply) => reply,
            Err(_) => bail!("the running cluster does not answer"),
        }
    })
}
