//! A throw-away Postgres server: made in a directory of its own, gone with its handle.
//!
//! For tests and for the demonstration. Runs the installed server (`MERIDIAN_PG_BIN`, else
//! Debian's newest, else the `PATH`) with logical replication on, on a unix socket (trust) and on a
//! loopback port (SCRAM-SHA-256). Postgres refuses to run as root; then it runs as user
//! `postgres`. A directory that holds a cluster already is started again with its data.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Password of the superuser `postgres` on the loopback port.
pub const PASSWORD: &str = "throw-away";

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Attempts to find a free port: another process may take it in between.
const PORT_ATTEMPTS: u32 = 5;
/// A socket's path holds 107 bytes; the file's name takes some.
const SOCKET_DIRECTORY_BYTES_MAX: usize = 85;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum TestingError {
    /// A file or process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program of Postgres said no.
    #[error("{what}: {output}")]
    Failed {
        /// What was tried.
        what: String,
        /// What it said.
        output: String,
    },
}

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// `logical`, unless a test wants to see the complaint.
    pub wal_level: String,
    /// Loopback port; `None` takes a free one.
    pub port: Option<u16>,
    /// Whether commits wait for the disk. Off is faster and still survives a killed server.
    pub fsync: bool,
    /// More settings.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Options {
        Options { wal_level: "logical".into(), port: None, fsync: false, settings: vec![] }
    }
}

/// A running server; stopped when dropped.
#[derive(Debug)]
pub struct TestPostgres {
    directory: PathBuf,
    programs: PathBuf,
    port: u16,
    server: Option<Child>,
}

impl TestPostgres {
    /// Makes a cluster in `directory` (created if missing) and starts it. Blocks until it accepts
    /// connections.
    pub fn start(directory: &Path) -> Result<TestPostgres, TestingError> {
        TestPostgres::start_with(directory, &Options::default())
    }

    /// As [`TestPostgres::start`], with these options.
    pub fn start_with(directory: &Path, options: &Options) -> Result<TestPostgres, TestingError> {
        let make = || format!("making {}", directory.display());
        fs::create_dir_all(directory).map_err(io(make))?;
        let directory = directory.canonicalize().map_err(io(make))?;
        let account = Account::find()?;
        account.own(&directory)?;
        let programs = programs()?;
        let data = directory.join("data");
        if !data.join("PG_VERSION").exists() {
            init(&programs, &directory, &data, account)?;
        }
        let mut attempt = 0;
        loop {
            let port = match options.port {
                Some(port) => port,
                None => free_port()?,
            };
            attempt += 1;
            match launch(&programs, &directory, account, port, options) {
                Ok(server) => {
                    return Ok(TestPostgres { directory, programs, port, server: Some(server) });
                }
                Err(_) if options.port.is_none() && attempt < PORT_ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a standby of this server in `directory` and starts it. It follows by streaming; SQL
    /// `SELECT pg_promote()` makes it a primary.
    pub fn standby(&self, directory: &Path) -> Result<TestPostgres, TestingError> {
        let account = Account::find()?;
        let make = || format!("making {}", directory.display());
        fs::create_dir_all(directory).map_err(io(make))?;
        account.own(directory)?;
        let mut copy = Command::new(self.programs.join("pg_basebackup"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-d", &self.url()]);
        copy.arg("-D").arg(directory.join("data")).current_dir(directory);
        let output = account.apply(&mut copy).output();
        check("pg_basebackup", &output.map_err(io(|| "running pg_basebackup".into()))?)?;
        TestPostgres::start(directory)
    }

    /// Connection string over the unix socket, or over TCP where the directory's path is too long.
    pub fn url(&self) -> String {
        match socket_directory(&self.directory) {
            Some(socket) => format!(
                "host={} port={} user=postgres dbname=postgres",
                socket.display(),
                self.port
            ),
            None => self.tcp_url(),
        }
    }

    /// Connection string over the loopback port, with the password.
    pub fn tcp_url(&self) -> String {
        format!("postgresql://postgres:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL with psql; gives its output, unaligned and without headers.
    pub fn psql(&self, sql: &str) -> Result<String, TestingError> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &self.url()]);
        let mut psql = psql
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io(|| "running psql".into()))?;
        if let Some(mut stdin) = psql.stdin.take() {
            stdin.write_all(sql.as_bytes()).map_err(io(|| "writing to psql".into()))?;
        }
        let output = psql.wait_with_output().map_err(io(|| "waiting for psql".into()))?;
        check("psql", &output).map(|()| String::from_utf8_lossy(&output.stdout).trim_end().into())
    }

    /// Stops the server in an orderly way: sessions are ended, everything is flushed.
    pub fn stop(mut self) -> Result<(), TestingError> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        // "Fast" is SIGINT, see pg_ctl; the standard library can only kill.
        let pid = server.id().to_string();
        let kill = Command::new("kill").args(["-INT", &pid]).status();
        if !kill.map_err(io(|| "stopping the server".into()))?.success() {
            return self.end(server);
        }
        server.wait().map_err(io(|| "waiting for the server".into()))?;
        Ok(())
    }

    /// Kills the server as a crash would: the postmaster at once, its children follow.
    pub fn kill(mut self) -> Result<(), TestingError> {
        match self.server.take() {
            Some(server) => self.end(server),
            None => Ok(()),
        }
    }

    fn end(&self, mut server: Child) -> Result<(), TestingError> {
        // SIGQUIT makes the postmaster take its children along; SIGKILL would leave them.
        let pid = server.id().to_string();
        let quit = Command::new("kill").args(["-QUIT", &pid]).status();
        if !quit.is_ok_and(|status| status.success()) {
            server.kill().map_err(io(|| "killing the server".into()))?;
        }
        server.wait().map_err(io(|| "waiting for the server".into()))?;
        Ok(())
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            // Nobody is left to tell.
            let _ = self.end(server);
        }
    }
}

/// Whom the server runs as.
#[derive(Clone, Copy)]
struct Account(Option<(u32, u32)>);

impl Account {
    /// User `postgres` if we are root, else ourselves.
    fn find() -> Result<Account, TestingError> {
        let own = fs::metadata("/proc/self").map_err(io(|| "reading /proc/self".into()))?;
        if own.uid() != 0 {
            return Ok(Account(None));
        }
        let id = |flag: &str| -> Result<u32, TestingError> {
            let output = Command::new("id").args([flag, "postgres"]).output();
            let output = output.map_err(io(|| "looking up user postgres".into()))?;
            check("looking up user postgres", &output)?;
            let text = String::from_utf8_lossy(&output.stdout);
            text.trim().parse().map_err(|_| TestingError::Failed {
                what: "looking up user postgres".into(),
                output: text.into_owned(),
            })
        };
        Ok(Account(Some((id("-u")?, id("-g")?))))
    }

    fn own(self, path: &Path) -> Result<(), TestingError> {
        let Some((user, group)) = self.0 else { return Ok(()) };
        chown(path, Some(user), Some(group))
            .map_err(io(|| format!("giving {} to user postgres", path.display())))
    }

    fn apply(self, command: &mut Command) -> &mut Command {
        match self.0 {
            Some((user, group)) => command.uid(user).gid(group),
            None => command,
        }
    }
}

fn programs() -> Result<PathBuf, TestingError> {
    if let Some(chosen) = std::env::var_os("MERIDIAN_PG_BIN") {
        return Ok(chosen.into());
    }
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = debian
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/postgres").exists())
        .max_by_key(|path| version(path));
    let in_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|directory| directory.join("postgres").exists())
    };
    newest.map(|path| path.join("bin")).or_else(in_path).ok_or_else(|| TestingError::Failed {
        what: "looking for the postgres server".into(),
        output: "not installed; on Debian: apt-get install postgresql".into(),
    })
}

fn init(
    programs: &Path,
    directory: &Path,
    data: &Path,
    account: Account,
) -> Result<(), TestingError> {
    let secret = directory.join("password");
    fs::write(&secret, PASSWORD).map_err(io(|| "writing the password".into()))?;
    account.own(&secret)?;
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.arg("-D").arg(data).arg("--pwfile").arg(&secret).current_dir(directory);
    initdb.args(["--no-sync", "--no-instructions", "-U", "postgres", "-E", "UTF8"]);
    initdb.args(["--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256"]);
    let output = account.apply(&mut initdb).output().map_err(io(|| "running initdb".into()))?;
    check("initdb", &output)
}

fn launch(
    programs: &Path,
    directory: &Path,
    account: Account,
    port: u16,
    options: &Options,
) -> Result<Child, TestingError> {
    let on = |flag: bool| if flag { "on" } else { "off" };
    let socket = socket_directory(directory);
    let socket = socket.map_or(String::new(), |path| path.display().to_string());
    let own = [
        ("port", port.to_string()),
        ("listen_addresses", "127.0.0.1".into()),
        ("unix_socket_directories", socket),
        ("wal_level", options.wal_level.clone()),
        ("fsync", on(options.fsync).into()),
        ("max_wal_senders", "10".into()),
        ("max_replication_slots", "10".into()),
        ("shared_buffers", "32MB".into()),
        // Readiness is read from the log.
        ("lc_messages", "C".into()),
        ("log_destination", "stderr".into()),
        ("logging_collector", "off".into()),
    ];
    let mut command = Command::new(programs.join("postgres"));
    command.arg("-D").arg(directory.join("data")).current_dir(directory);
    let more = options.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    for (name, value) in own.into_iter().chain(more) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut server = account
        .apply(&mut command)
        .spawn()
        .map_err(io(|| "starting the postgres server".into()))?;
    match ready(&mut server, &directory.join("postgres.log")) {
        Ok(()) => Ok(server),
        Err(error) => {
            // It has said why; whether it is gone already does not matter.
            let _ = server.kill();
            let _ = server.wait();
            Err(error)
        }
    }
}

/// Copies the server's log into a file and waits for the line that says it is ready.
fn ready(server: &mut Child, log: &Path) -> Result<(), TestingError> {
    let failed = |output: String| TestingError::Failed {
        what: "starting the postgres server".into(),
        output,
    };
    let stderr = server.stderr.take().ok_or_else(|| failed("no log".into()))?;
    let mut file = File::create(log).map_err(io(|| format!("creating {}", log.display())))?;
    let (sender, lines) = mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // A full disk loses the log, not the server.
            let _ = writeln!(file, "{line}");
            // Nobody listens once the server is ready.
            let _ = sender.send(line);
        }
    });
    let mut said = vec![];
    loop {
        match lines.recv_timeout(START_TIMEOUT) {
            // A standby says "read-only connections".
            Ok(line) if line.contains("database system is ready to accept") => return Ok(()),
            Ok(line) => said.push(line),
            Err(_) => return Err(failed(said.join("\n"))),
        }
    }
}

fn socket_directory(directory: &Path) -> Option<&Path> {
    (directory.as_os_str().len() <= SOCKET_DIRECTORY_BYTES_MAX).then_some(directory)
}

fn free_port() -> Result<u16, TestingError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(io(|| "looking for a free port".into()))
}

fn check(what: &str, output: &std::process::Output) -> Result<(), TestingError> {
    if output.status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(TestingError::Failed { what: what.to_owned(), output })
}

fn io(what: impl FnOnce() -> String) -> impl FnOnce(std::io::Error) -> TestingError {
    |source| TestingError::Io { what: what(), source }
}
