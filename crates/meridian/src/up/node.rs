//! A region's process, as `up` runs it: started, watched, signalled.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::limits::{NODE_LOG_BYTES_MAX, TAIL_BYTES, TAIL_LINES};
use super::report::warn;

/// What happens to a node's process.
#[derive(Debug)]
pub struct Exit {
    /// Whose.
    pub region: String,
    /// How it ended.
    pub status: ExitStatus,
}

/// How to start a node, and the process while it runs.
pub struct Node {
    /// The region's name.
    pub region: String,
    /// Where its words go.
    pub log: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    running: Option<Running>,
    /// Where this run begins in the log.
    log_start: u64,
}

struct Running {
    pid: u32,
    /// Signals go through the task that waits for the process, so that a process id is never used
    /// after it was given back.
    signals: mpsc::Sender<Signal>,
    is_expected_to_end: bool,
}

impl Node {
    /// A node that is not running yet.
    pub fn new(
        region: &str,
        log: PathBuf,
        program: PathBuf,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> Node {
        Node {
            region: region.to_owned(),
            log,
            program,
            arguments,
            environment,
            running: None,
            log_start: 0,
        }
    }

    /// Starts the process; its end will be told to `exits`.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start(&mut self, exits: mpsc::Sender<Exit>) -> Result<u32> {
        if let Some(running) = &self.running {
            bail!("{} runs already, as process {}", self.region, running.pid);
        }
        let (output, start) = open_log(&self.log)?;
        self.log_start = start;
        let errors = output.try_clone().context("a second handle of the log file")?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Closes when this process ends, however it ends; the node then ends too.
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C is for this process, which ends the nodes in its own way.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let pid = child.id().context("a process that has ended at once")?;
        let (signals, waiting) = mpsc::channel(4);
        tokio::spawn(watch(self.region.clone(), child, waiting, exits));
        self.running = Some(Running { pid, signals, is_expected_to_end: false });
        Ok(pid)
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.pid)
    }

    /// Sends a signal; `ends` says that the process is expected to end by it.
    ///
    /// # Errors
    /// When the node does not run.
    pub async fn signal(&mut self, signal: Signal, ends: bool) -> Result<()> {
        let Some(running) = &mut self.running else { bail!("{} does not run", self.region) };
        running.is_expected_to_end |= ends;
        // The receiver is gone only when the process is.
        let sent = running.signals.send(signal).await;
        sent.ok().with_context(|| format!("{} has just ended", self.region))
    }

    /// Takes note that the process has ended; whether that was expected.
    pub fn ended(&mut self) -> bool {
        self.running.take().is_none_or(|running| running.is_expected_to_end)
    }

    /// The last lines that this run of the node has written.
    pub fn last_words(&self) -> String {
        tail(&self.log, self.log_start).unwrap_or_else(|error| format!("({error:#})"))
    }
}

/// Waits for the process and passes signals on.
async fn watch(
    region: String,
    mut child: Child,
    mut signals: mpsc::Receiver<Signal>,
    exits: mpsc::Sender<Exit>,
) {
    // Waiting would close it, and its closing tells the node that this process has ended.
    let _stdin = child.stdin.take();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(signal) = signals.recv() => {
                let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
                if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
                    warn(&format!("meridian: cannot signal {region}: {error}"));
                }
            }
        }
    };
    match status {
        // Nobody listens any more when `up` is ending.
        Ok(status) => drop(exits.send(Exit { region, status }).await),
        Err(error) => warn(&format!("meridian: cannot wait for {region}: {error}")),
    }
}

/// Opens a log to append to, and says where that begins. A long one is set aside.
fn open_log(path: &Path) -> Result<(File, u64)> {
    let name = || path.display().to_string();
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(name)?;
    }
    if std::fs::metadata(path).is_ok_and(|found| found.len() > NODE_LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.old")).with_context(name)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path).with_context(name)?;
    let length = file.metadata().with_context(name)?.len();
    Ok((file, length))
}

/// The last lines of a file from `start` on.
fn tail(path: &Path, start: u64) -> Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let length = file.metadata()?.len();
    let from = start.max(length.saturating_sub(TAIL_BYTES)).min(length);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn node(directory: &Path, script: &str) -> Node {
        let log = directory.join("us/node.log");
        Node::new("us", log, "sh".into(), vec!["-c".into(), script.into()], vec![])
    }

    #[tokio::test]
    async fn a_node_that_dies_leaves_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut node = node(directory.path(), "echo no such luck >&2; exit 3");
        let (exits, mut ended) = mpsc::channel(1);
        node.start(exits).unwrap();
        let exit = ended.recv().await.unwrap();
        assert_eq!((exit.region.as_str(), exit.status.code()), ("us", Some(3)));
        assert_eq!(node.last_words(), "no such luck");
        assert!(!node.ended(), "nobody had asked for it");
        assert_eq!(node.pid(), None);
    }

    #[tokio::test]
    async fn last_words_are_of_this_run_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut node = node(directory.path(), "echo again; exit 1");
        for _ in 0..2 {
            let (exits, mut ended) = mpsc::channel(1);
            node.start(exits).unwrap();
            ended.recv().await.unwrap();
            node.ended();
        }
        assert_eq!(node.last_words(), "again");
        assert_eq!(std::fs::read_to_string(&node.log).unwrap(), "again\nagain\n");
    }

    #[tokio::test]
    async fn a_node_ends_by_a_signal() {
        let directory = tempfile::tempdir().unwrap();
        let mut node = node(directory.path(), "echo up; cat; echo down");
        let (exits, mut ended) = mpsc::channel(1);
        node.start(exits.clone()).unwrap();
        while node.last_words().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(node.start(exits).is_err(), "it runs already");
        node.signal(Signal::KILL, true).await.unwrap();
        let exit = ended.recv().await.unwrap();
        assert_eq!(exit.status.signal(), Some(9), "not by the end of its standard input");
        assert!(node.ended(), "it was asked for");
        assert!(node.signal(Signal::TERM, true).await.is_err());
    }

    #[test]
    fn a_long_log_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.log");
        File::create(&path).unwrap().set_len(NODE_LOG_BYTES_MAX + 1).unwrap();
        let (_, start) = open_log(&path).unwrap();
        assert_eq!(start, 0);
        assert!(directory.path().join("node.log.old").exists());
    }
}
