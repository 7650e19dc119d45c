//! The cluster that `up` runs: its nodes and links, and what can be asked of them.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use meridian_wan::Shape;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::limits::STOP_WITHIN;
use super::links::Links;
use super::node::{Exit, Node};
use super::protocol::{Cluster, RegionDo, Reply, Request, RunningRegion};
use super::report::warn;
use crate::config::{ClusterFile, Paths};

/// Nodes and links of a cluster on this machine.
pub struct Running {
    /// What the topology says.
    pub cluster: ClusterFile,
    nodes: Vec<Node>,
    links: Option<Links>,
    exits: mpsc::Sender<Exit>,
    ended: mpsc::Receiver<Exit>,
}

/// How nodes are started.
pub struct Launch<'a> {
    /// The topology file that they read.
    pub topology: &'a Path,
    /// Where everything is kept.
    pub paths: &'a Paths,
    /// More arguments for each of them.
    pub arguments: Vec<String>,
    /// Their environment beside ours.
    pub environment: Vec<(String, String)>,
}

impl Running {
    /// Prepares the nodes; none is started yet.
    ///
    /// # Errors
    /// When this program cannot find itself.
    pub fn new(cluster: ClusterFile, links: Option<Links>, launch: &Launch<'_>) -> Result<Running> {
        let program = std::env::current_exe().context("finding this program")?;
        let (exits, ended) = mpsc::channel(super::limits::NODE_EVENTS_MAX);
        let text = |path: &Path| path.display().to_string();
        let mut nodes = Vec::new();
        for region in &cluster.regions {
            let mut arguments: Vec<String> = ["node", "--until-stdin-closes", "--config"]
                .map(str::to_owned)
                .into_iter()
                .chain([text(launch.topology)])
                .chain(["--region".to_owned(), region.name.clone()])
                .chain(["--data-dir".to_owned(), text(&launch.paths.base)])
                .collect();
            if let Some(links) = &links {
                for (peer, address) in links.peers_of(&region.name)? {
                    arguments.extend(["--peer".to_owned(), format!("{peer}={address}")]);
                }
            }
            arguments.extend(launch.arguments.iter().cloned());
            let log = launch.paths.node_log(&region.name);
            let environment = launch.environment.clone();
            nodes.push(Node::new(&region.name, log, program.clone(), arguments, environment));
        }
        Ok(Running { cluster, nodes, links, exits, ended })
    }

    /// Starts every node.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start(self.exits.clone())?;
        }
        Ok(())
    }

    /// Waits for the next node that ends.
    pub async fn next_exit(&mut self) -> Exit {
        match self.ended.recv().await {
            Some(exit) => exit,
            // This side holds a sender, so there is always one.
            None => std::future::pending().await,
        }
    }

    /// Takes note of an end. If nobody asked for it: what there is to say about it.
    pub fn note_exit(&mut self, exit: &Exit) -> Option<String> {
        let node = self.nodes.iter_mut().find(|node| node.region == exit.region)?;
        if node.ended() {
            return None;
        }
        Some(format!(
            "{} has ended by itself: {}. Its last words, in {}:\n{}",
            node.region,
            describe_exit(exit.status),
            node.log.display(),
            indent(&node.last_words())
        ))
    }

    /// Carries out a request; `Down` is the caller's to carry out.
    pub async fn handle(&mut self, request: Request) -> Reply {
        let result = match request {
            Request::Describe {} => return self.describe().map_or_else(failed, Reply::Cluster),
            Request::Down {} => Ok("stopping".to_owned()),
            Request::Cut { from, to, one_way } => {
                self.links().and_then(|links| links.cut(&from, to.as_deref(), one_way))
            }
            Request::Heal { from, to } => {
                self.links().and_then(|links| links.heal(from.as_deref(), to.as_deref()))
            }
            Request::Set { from, to, rtt_ms, loss, jitter_ms } => {
                let shape = Shape {
                    loss,
                    jitter: Duration::from_millis(jitter_ms),
                    ..Shape::delay(Duration::from_millis(rtt_ms) / 2)
                };
                self.links().and_then(|links| links.set(&from, &to, shape))
            }
            Request::Region { name, action } => self.act(&name, action).await,
        };
        result.map_or_else(failed, Reply::Done)
    }

    /// Ends every node: in an orderly way, and after a while by force.
    pub async fn stop_all(&mut self) {
        let mut left = Vec::new();
        for node in self.nodes.iter_mut().filter(|node| node.pid().is_some()) {
            // A frozen process would not see the other signal. One that has just ended needs none.
            let _ = node.signal(Signal::CONT, true).await;
            let _ = node.signal(Signal::TERM, true).await;
            left.push(node.region.clone());
        }
        let patience = tokio::time::Instant::now() + STOP_WITHIN;
        while !left.is_empty() {
            match tokio::time::timeout_at(patience, self.ended.recv()).await {
                Ok(Some(exit)) => {
                    self.note_exit(&exit);
                    left.retain(|region| *region != exit.region);
                }
                _ => break,
            }
        }
        for region in left {
            warn(&format!("meridian: {region} does not end; killing it"));
            if let Some(node) = self.nodes.iter_mut().find(|node| node.region == region) {
                let _ = node.signal(Signal::KILL, true).await;
            }
            // The kernel does it sooner or later; nothing depends on when.
            let _ = timeout(STOP_WITHIN, self.ended.recv()).await;
        }
    }

    async fn act(&mut self, name: &str, action: RegionDo) -> Result<String> {
        let exits = self.exits.clone();
        self.cluster.region(name)?;
        let node = self.nodes.iter_mut().find(|node| node.region == name);
        let node = node.with_context(|| format!("no node of {name}"))?;
        let (signal, ends, words) = match action {
            RegionDo::Start => {
                let pid = node.start(exits)?;
                return Ok(format!("{name} started as process {pid}"));
            }
            RegionDo::Kill => (Signal::KILL, true, "killed"),
            RegionDo::Stop => (Signal::TERM, true, "told to end"),
            RegionDo::Freeze => (Signal::STOP, false, "frozen"),
            RegionDo::Thaw => (Signal::CONT, false, "goes on"),
        };
        node.signal(signal, ends).await?;
        if ends && action == RegionDo::Kill {
            self.wait_for_end(name).await?;
        }
        Ok(format!("{name} {words}"))
    }

    /// After a kill: until the process is gone, so that it can be started again at once.
    async fn wait_for_end(&mut self, name: &str) -> Result<()> {
        loop {
            let Ok(Some(exit)) = timeout(STOP_WITHIN, self.ended.recv()).await else {
                bail!("{name} is still there");
            };
            if let Some(words) = self.note_exit(&exit) {
                warn(&format!("meridian: {words}"));
            }
            if exit.region == name {
                return Ok(());
            }
        }
    }

    fn links(&mut self) -> Result<&mut Links> {
        self.links.as_mut().context("there are no links: the cluster was started with --no-wan")
    }

    fn describe(&self) -> Result<Cluster> {
        let regions = self.cluster.regions.iter().zip(&self.nodes).map(|(region, node)| {
            let addresses = region.client_addresses();
            RunningRegion {
                name: region.name.clone(),
                ordinal: region.ordinal,
                pid: node.pid(),
                redis: region.operator_address(region.redis).to_string(),
                admin: region.operator_address(region.admin).to_string(),
                dns: region.operator_address(region.dns).to_string(),
                client_addresses: addresses.iter().map(ToString::to_string).collect(),
                log: node.log.display().to_string(),
            }
        });
        Ok(Cluster {
            cluster: self.cluster.cluster.clone(),
            zone: self.cluster.dns.zone.trim_end_matches('.').to_owned(),
            names: self.cluster.dns.names.clone(),
            pid: std::process::id(),
            regions: regions.collect(),
            links: self.links.as_ref().map_or_else(|| Ok(Vec::new()), Links::describe)?,
        })
    }
}

fn failed(error: anyhow::Error) -> Reply {
    Reply::Failed(format!("{error:#}"))
}

fn describe_exit(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}
