//! A cluster that `meridian up` runs for us: started in a directory, steered over its control
//! socket, ended with its value.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::limits::{ANSWER_BYTES_MAX, START_WITHIN, STOP_WITHIN, TAIL_LINES};
use crate::patience;

/// Lines of its output that are kept.
const OUTPUT_LINES: usize = 100;

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// The meridian program.
    pub program: PathBuf,
    /// The topology; without one the program's own example.
    pub topology: Option<PathBuf>,
    /// Where everything is kept.
    pub directory: PathBuf,
    /// More arguments of `meridian up`.
    pub arguments: Vec<String>,
    /// More environment, such as secrets.
    pub environment: Vec<(String, String)>,
}

/// A running `meridian up`. It ends, with its regions, when this value is dropped.
pub struct Cluster {
    process: Child,
    socket: PathBuf,
    output: Arc<Mutex<VecDeque<String>>>,
    /// Its regions in the order of the topology.
    pub regions: Vec<Region>,
    /// Round trips that were given to the links, in milliseconds.
    round_trips: Vec<(String, String, f64)>,
    /// The zone that they serve.
    pub zone: String,
    /// The name in the zone that stands for the nearest region.
    pub name: String,
}

/// A region, as it is reached from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Where Redis clients connect.
    pub redis: SocketAddr,
    /// Health, metrics, status.
    pub admin: SocketAddr,
    /// DNS.
    pub dns: SocketAddr,
    /// What DNS answers for it.
    pub client_address: IpAddr,
    /// What its node has said.
    pub log: PathBuf,
}

impl Cluster {
    /// Starts `meridian up` and waits until it says that every region is ready; what it says
    /// while they start is passed to `progress`.
    ///
    /// # Errors
    /// When it ends instead, with what it has said.
    pub fn start(options: &Options, progress: impl Fn(&str) + Send + 'static) -> Result<Cluster> {
        let mut command = Command::new(&options.program);
        command.arg("up").arg("--until-stdin-closes").arg("--data-dir").arg(&options.directory);
        if let Some(topology) = &options.topology {
            command.arg("--config").arg(topology);
        }
        command
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            // Its end of this pipe closes when we end, however we end.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for us first.
            .process_group(0);
        let program = options.program.display();
        let mut process = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let output = Arc::new(Mutex::new(VecDeque::new()));
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            process.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
            process.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        ];
        let progress = Arc::new(Mutex::new(Some(Box::new(progress) as Progress)));
        for stream in streams.into_iter().flatten() {
            let (output, progress) = (Arc::clone(&output), Arc::clone(&progress));
            std::thread::spawn(move || collect(stream, &output, &progress));
        }
        let mut cluster = Cluster {
            process,
            socket: options.directory.join("up.sock"),
            output,
            regions: Vec::new(),
            round_trips: Vec::new(),
            zone: String::new(),
            name: String::new(),
        };
        let described = cluster.wait_until_described();
        *progress.lock().unwrap_or_else(PoisonError::into_inner) = None;
        cluster.learn(&described?)?;
        Ok(cluster)
    }

    /// The region with that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn region(&self, name: &str) -> Result<&Region> {
        let found = self.regions.iter().find(|region| region.name == name);
        found.with_context(|| format!("the cluster has no region {name}"))
    }

    /// The delay that packets from one region to another were given, in milliseconds.
    pub fn one_way_ms(&self, from: &str, to: &str) -> f64 {
        let between = |a: &str, b: &str| (a == from && b == to) || (a == to && b == from);
        let found = self.round_trips.iter().find(|(a, b, _)| between(a, b));
        found.map_or(0.0, |(_, _, round_trip_ms)| round_trip_ms / 2.0)
    }

    /// Cuts the link between two regions.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn cut(&self, from: &str, to: &str) -> Result<()> {
        self.tell(&json!({"do": "cut", "from": from, "to": to}))
    }

    /// Cuts all links of a region.
    ///
    /// # Errors
    /// When there is no such region.
    pub fn isolate(&self, region: &str) -> Result<()> {
        self.tell(&json!({"do": "cut", "from": region}))
    }

    /// Heals every link.
    ///
    /// # Errors
    /// When there are none.
    pub fn heal(&self) -> Result<()> {
        self.tell(&json!({"do": "heal"}))
    }

    /// Does one of `kill`, `stop`, `start`, `freeze` and `thaw` to a region's process.
    ///
    /// # Errors
    /// When the process is in no state for it.
    pub fn act(&self, region: &str, action: &str) -> Result<()> {
        self.tell(&json!({"do": "region", "name": region, "action": action}))
    }

    /// The ends of all logs, to explain a failure.
    pub fn last_words(&self) -> String {
        let mut text = format!("-- meridian up:\n{}\n", self.output_so_far());
        for region in &self.regions {
            text.push_str(&format!("-- {} ({}):\n", region.name, region.log.display()));
            text.push_str(&tail(&region.log));
            text.push('\n');
        }
        text
    }

    fn tell(&self, request: &Value) -> Result<()> {
        let reply = call(&self.socket, request)?;
        match reply.get("done") {
            Some(_) => Ok(()),
            None => bail!("{request}: {}", reply["failed"].as_str().unwrap_or("no answer")),
        }
    }

    fn wait_until_described(&mut self) -> Result<Value> {
        let (socket, request) = (self.socket.clone(), json!({"do": "describe"}));
        let process = &mut self.process;
        let described = patience::until("the cluster to start", START_WITHIN, || {
            if let Some(status) = process.try_wait().context("watching meridian up")? {
                bail!("meridian up has ended ({status})");
            }
            // It listens from the beginning and answers when everything is ready.
            Ok(call(&socket, &request).ok())
        });
        described.with_context(|| format!("its output:\n{}", self.output_so_far()))
    }

    fn learn(&mut self, described: &Value) -> Result<()> {
        let cluster = described.get("cluster").context("a cluster that describes itself")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.zone = text(&cluster["zone"]);
        self.name = text(&cluster["names"][0]);
        for region in cluster["regions"].as_array().into_iter().flatten() {
            let address = |field: &str| -> Result<SocketAddr> {
                text(&region[field]).parse().with_context(|| format!("{field} in {region}"))
            };
            let client_address = text(&region["client_addresses"][0]);
            self.regions.push(Region {
                name: text(&region["name"]),
                redis: address("redis")?,
                admin: address("admin")?,
                dns: address("dns")?,
                client_address: client_address.parse().context("a client address")?,
                log: text(&region["log"]).into(),
            });
        }
        for link in cluster["links"].as_array().into_iter().flatten() {
            let round_trip_ms = link["rtt_ms"].as_f64().unwrap_or_default();
            self.round_trips.push((text(&link["from"]), text(&link["to"]), round_trip_ms));
        }
        Ok(())
    }

    fn output_so_far(&self) -> String {
        let lines = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let last = lines.iter().skip(lines.len().saturating_sub(2 * TAIL_LINES));
        last.map(|line| format!("  | {line}\n")).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Closing its standard input tells it to end. It ends its regions first; should it not, it
        // is killed, and its regions end with it.
        drop(self.process.stdin.take());
        let started = Instant::now();
        while started.elapsed() < STOP_WITHIN {
            match self.process.try_wait() {
                Ok(Some(_)) => return,
                Ok(None) => std::thread::sleep(crate::limits::LOOK_EVERY),
                Err(_) => break,
            }
        }
        // Nobody is left to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

type Progress = Box<dyn Fn(&str) + Send>;

fn collect(
    stream: impl Read,
    output: &Mutex<VecDeque<String>>,
    progress: &Mutex<Option<Progress>>,
) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let mut listener = progress.lock().unwrap_or_else(PoisonError::into_inner);
        // An empty line ends what it says about the start.
        listener.take_if(|_| line.is_empty());
        if let Some(progress) = &*listener {
            progress(&line);
        }
        drop(listener);
        let mut lines = output.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == OUTPUT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// One request to the control socket of a running `meridian up`.
fn call(socket: &Path, request: &Value) -> Result<Value> {
    let name = || socket.display().to_string();
    let mut stream = UnixStream::connect(socket).with_context(name)?;
    stream.set_read_timeout(Some(START_WITHIN)).with_context(name)?;
    stream.write_all(format!("{request}\n").as_bytes()).with_context(name)?;
    let mut reply = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut reply).with_context(name)?;
    serde_json::from_str(&reply).with_context(name)
}

fn tail(path: &Path) -> String {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("  | ({error})"),
    };
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    last.iter().map(|line| format!("  | {line}\n")).collect()
}
