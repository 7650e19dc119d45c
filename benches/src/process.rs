//! Server processes: started for a run, watched through `/proc`, ended with it.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ticks of `/proc/<pid>/stat` in a second: fixed at 100 by Linux's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a server may take to do what is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at something that another process does.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A server process of ours. It ends with this value.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` in `directory`, with its output in `directory/output.log`.
    pub fn start(directory: &Path, mut command: Command) -> Result<Server> {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let log = directory.join("output.log");
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let errors = output.try_clone().context("a second handle of the log file")?;
        let program = command.get_program().to_owned();
        let child = command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Server { child, log })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` holds; an error with the end of the log if the process ends instead.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            if let Some(status) = self.child.try_wait().context("cannot watch the server")? {
                bail!("the server ended ({status}) before it was {what}:\n{}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("the server is not {what} after {PATIENCE:?}:\n{}", self.last_words());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// The end of what it has written to its log.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its data is thrown away with the directory, so there is nothing to save; if it is gone
        // already, there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks until `done` returns a value, at most for [`PATIENCE`].
pub fn poll_until<T>(what: &str, mut done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain for {what}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// CPU seconds that a process, its ended children included, has used: user and system.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_cpu_seconds(&stat).with_context(|| format!("{path} is not understood: {stat}"))
}

fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    // What follows starts with field 3; user, system, children's user, children's system are
    // fields 14 to 17 (proc_pid_stat(5)).
    let ticks = fields.split_ascii_whitespace().skip(14 - 3).take(4).map(|f| f.parse::<u64>().ok());
    let ticks: Vec<u64> = ticks.collect::<Option<_>>()?;
    (ticks.len() == 4).then(|| ticks.iter().sum::<u64>() as f64 / TICKS_PER_SECOND)
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes =
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("no VmRSS in {path}"))? * 1024)
}

/// Loopback addresses with ports that are free now, all different.
pub fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut listeners = Vec::with_capacity(N);
    for _ in 0..N {
        listeners.push(TcpListener::bind("127.0.0.1:0").context("no free port")?);
    }
    let addresses = listeners.iter().map(TcpListener::local_addr);
    let addresses: Vec<SocketAddr> = addresses.collect::<std::io::Result<_>>()?;
    addresses.try_into().map_err(|_| anyhow::anyhow!("a port went missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 0 0 250 50 3 1 20 0 4 0 99 0 0";
        assert_eq!(parse_cpu_seconds(stat), Some(3.04));
        assert_eq!(parse_cpu_seconds("7 (a) S 1 7 7 0 -1 4194560 1 2 0 0 250"), None);
        assert_eq!(parse_cpu_seconds("nonsense"), None);
    }

    #[test]
    fn this_process_is_there() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(resident_bytes(pid).unwrap() > 100_000);
    }

    #[test]
    fn free_addresses_differ() {
        let [a, b, c] = free_addresses().unwrap();
        assert!(a != b && b != c && a != c);
    }

    #[test]
    fn a_server_that_ends_early_is_an_error_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck; exit 3"]);
        let mut server = Server::start(directory.path(), command).unwrap();
        let error = server.wait_until("ready", || false).unwrap_err().to_string();
        assert!(error.contains("no such luck") && error.contains("ready"), "{error}");
    }
}
