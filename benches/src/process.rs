//! Server processes: started for a run, watched through `/proc`, ended with it.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ticks of `/proc/<pid>/stat` in a second: fixed at 100 by Linux's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long a server may take to do what is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at something that another process does.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Ports that are tried until one is free for TCP and UDP alike.
const PORT_TRIES: usize = 100;

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
pub fn poll_until<T>(what: &str, done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    poll_until_within(PATIENCE, what, done)
}

/// Looks until `done` returns a value, at most for `patience`.
pub fn poll_until_within<T>(
    patience: Duration,
    what: &str,
    mut done: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {patience:?} in vain for {what}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// CPU seconds that a process, its ended children included, has used: user and system.
///
/// The kernel rounds these to ticks, and counts the threads that run at present to the nanosecond
/// elsewhere; the larger of the two is nearer to the truth.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let (own, children) =
        parse_cpu_seconds(&stat).with_context(|| format!("{path} is not understood: {stat}"))?;
    Ok(own.max(threads_cpu_seconds(pid)) + children)
}

/// The process's own CPU seconds, and those of its ended children.
fn parse_cpu_seconds(stat: &str) -> Option<(f64, f64)> {
    // The second field is the program's name in parentheses and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    // What follows starts with field 3; user, system, children's user, children's system are
    // fields 14 to 17 (proc_pid_stat(5)).
    let ticks = fields.split_ascii_whitespace().skip(14 - 3).take(4).map(|f| f.parse::<u64>().ok());
    let ticks: Vec<u64> = ticks.collect::<Option<_>>()?;
    let [user, system, child_user, child_system] = ticks.try_into().ok()?;
    let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND;
    Some((seconds(user + system), seconds(child_user + child_system)))
}

/// CPU seconds of the threads that a process has at present; zero where the kernel does not tell.
fn threads_cpu_seconds(pid: u32) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let nanoseconds = threads.flatten().filter_map(|thread| {
        // The first number is the time on a processor (the kernel's sched-stats document).
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
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

/// Sockets that keep ports from being given out twice.
pub type Held = Vec<(TcpListener, UdpSocket)>;

/// An address at `ip` whose port is free now for TCP and UDP alike. It stays reserved until `held`
/// is dropped, so that the next one differs.
pub fn free_address(ip: IpAddr, held: &mut Held) -> Result<SocketAddr> {
    for _ in 0..PORT_TRIES {
        let listener =
            TcpListener::bind((ip, 0)).with_context(|| format!("no free port at {ip}"))?;
        let address = listener.local_addr().context("the address of a listener")?;
        if let Ok(socket) = UdpSocket::bind(address) {
            held.push((listener, socket));
            return Ok(address);
        }
    }
    bail!("no port at {ip} is free for both TCP and UDP")
}

/// A free address at 127.0.0.1.
pub fn free_local_address() -> Result<SocketAddr> {
    free_address(IpAddr::V4(Ipv4Addr::LOCALHOST), &mut Held::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 0 0 250 50 3 1 20 0 4 0 99 0 0";
        assert_eq!(parse_cpu_seconds(stat), Some((3.0, 0.04)));
        assert_eq!(parse_cpu_seconds("7 (a) S 1 7 7 0 -1 4194560 1 2 0 0 250"), None);
        assert_eq!(parse_cpu_seconds("nonsense"), None);
    }

    #[test]
    fn this_process_is_there() {
        let pid = std::process::id();
        let before = cpu_seconds(pid).unwrap();
        let mut sum = 0u64;
        while cpu_seconds(pid).unwrap() <= before {
            sum = (0..100_000u64).fold(sum, |sum, n| sum.wrapping_mul(31) ^ n);
        }
        assert!(std::hint::black_box(sum) != 1);
        assert!(resident_bytes(pid).unwrap() > 100_000);
    }

    #[test]
    fn free_addresses_differ() {
        let (ip, mut held) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Held::new());
        let addresses = [(); 3].map(|()| free_address(ip, &mut held).unwrap());
        assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2]);
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
