//! Running the command, and topologies on ports that are free.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command with nothing of this environment that could steer it.
pub fn meridian() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MERIDIAN_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the command to its end.
pub fn run(arguments: &[&str]) -> Output {
    meridian().args(arguments).output().expect("the command starts")
}

/// Runs it and expects success; what it said.
#[track_caller]
pub fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    let (said, errors) = texts(&output);
    assert!(output.status.success(), "{arguments:?} failed: {errors}{said}");
    said
}

/// Runs it and expects failure with this code; what it complained of.
#[track_caller]
pub fn fails(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let (said, errors) = texts(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}{said}");
    errors
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Waits until `look` gives something.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// Ports below those that systems give to whoever connects: between the look and the use nobody
/// else takes them by chance.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// An address on this machine that is free for TCP and UDP, and given to no other test of this
/// program.
pub fn free_address() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    until("a free port", || {
        // Programs that run at the same time begin at different places.
        let number =
            std::process::id().wrapping_mul(97).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (number % count) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let is_free = TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
        is_free.then_some(address)
    })
}

/// Three regions on free ports of this machine.
pub struct Topology {
    /// The file.
    pub file: PathBuf,
    /// Redis ports in the order of the file.
    pub redis: [SocketAddr; 3],
    /// Admin ports in the order of the file.
    pub admin: [SocketAddr; 3],
}

/// Writes a topology into a directory. Round trips are short; timings are the defaults.
pub fn topology(directory: &Path) -> Topology {
    let three = || [(); 3].map(|()| free_address());
    let (redis, admin, dns, mesh) = (three(), three(), three(), three());
    let mut text = "cluster: test\nregions:\n".to_owned();
    for (index, name) in ["one", "two", "three"].into_iter().enumerate() {
        text.push_str(&format!(
            "  - {{name: {name}, ordinal: {index}, redis: '{}', mesh: '{}', admin: '{}', dns: '{}'}}\n",
            redis[index], mesh[index], admin[index], dns[index]
        ));
    }
    text.push_str("dns: {zone: meridian.test}\nwan:\n  round_trips:\n");
    for (one, other) in [("one", "two"), ("two", "three"), ("one", "three")] {
        text.push_str(&format!("    - {{between: [{one}, {other}], ms: 20}}\n"));
    }
    let file = directory.join("regions.yaml");
    std::fs::write(&file, text).expect("the topology is written");
    Topology { file, redis, admin }
}

/// Waits until none of the nodes runs whose data is below a directory: they end a moment after the
/// `up` that started them, and hold their ports and directories until then.
pub fn until_ended(directory: &Path) {
    for name in ["one", "two", "three"] {
        let data = directory.join("data").join(name).join("data");
        until("the nodes to end", || meridian_disk::DataDir::lock(&data).ok().map(drop));
    }
}

/// A running `meridian up`; killed when dropped, and its nodes end with it: see [`until_ended`].
pub struct Up {
    /// The process.
    pub process: Child,
    output: PathBuf,
}

impl Up {
    /// Starts it and waits until it says how to stop it.
    pub fn start(directory: &Path, topology: &Topology) -> Up {
        Up::start_with(directory, topology, &[])
    }

    /// As [`Up::start`], with these variables.
    pub fn start_with(directory: &Path, topology: &Topology, variables: &[(&str, &str)]) -> Up {
        let output = directory.join("up.out");
        let file = std::fs::File::create(&output).expect("a file for the output");
        let process = meridian()
            .args(["up", "--log", "debug", "--config"])
            .arg(&topology.file)
            .arg("--data-dir")
            .arg(directory.join("data"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("up starts");
        let mut up = Up { process, output };
        until("the cluster to be ready", || {
            let ended = up.process.try_wait().expect("a process");
            assert!(ended.is_none(), "up has ended:\n{}", up.said());
            up.said().contains("Ctrl-C").then_some(())
        });
        up
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One inline command on a connection of its own; none if nobody answers.
pub fn redis(address: SocketAddr, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let reply = reply.strip_suffix("+OK\r\n")?;
    Some(reply.trim_end().to_owned())
}

/// GET from an admin port, as JSON.
pub fn ask(admin: SocketAddr, path: &str) -> Option<serde_json::Value> {
    let (_, body) = exchange(admin, &format!("GET {path} HTTP/1.0\r\n\r\n"))?;
    serde_json::from_str(&body).ok()
}

/// A request by hand; head and body of the answer.
pub fn exchange(admin: SocketAddr, request: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}
