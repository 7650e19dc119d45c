//! What the tests share: who they are, entries, and a second process that is this very binary.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use meridian_clock::{Origin, VersionVector};
use meridian_disk::{DataDir, DiskOptions, DiskStorage, Opened};
use meridian_store::{Entries, Identity, LogPosition, Meta, StoreError, conformance};

/// Where a child process is told which directory to use.
const DIRECTORY: &str = "MERIDIAN_TEST_DIRECTORY";

pub fn identity() -> Identity {
    let (cluster, region) = ("shop".into(), "us-east".into());
    Identity { cluster, region, origin: Origin(0), partitions: 2 }
}

/// Small segments, so that a few entries fill one.
pub fn small() -> DiskOptions {
    DiskOptions { segment_bytes: 4096, memtable_bytes: 4 << 20, ..DiskOptions::default() }
}

pub fn open(path: &Path) -> Result<Opened, StoreError> {
    DataDir::open(path, &identity(), small())
}

pub fn storage(path: &Path) -> DiskStorage {
    DiskStorage::from(open(path).expect("the directory opens"))
}

/// A checkpoint record that wants the log from `position` on.
pub fn meta(position: LogPosition) -> Vec<u8> {
    let vectors = vec![VersionVector::new(); 2];
    Meta { identity: identity(), position, vectors }.encode()
}

/// An entry with one frame that holds `number` and `padding` more bytes.
pub fn numbered(number: u64, padding: usize, durable: LogPosition) -> Vec<u8> {
    let mut frame = number.to_le_bytes().to_vec();
    frame.resize(8 + padding, number as u8);
    conformance::entry(&[&frame], durable)
}

/// The numbers of all entries from `from` on.
pub fn numbers(opened: &Opened, from: LogPosition) -> Vec<u64> {
    let bytes = opened.reader.read(from, usize::MAX).expect("the log is readable");
    let number = |frame: &[u8]| u64::from_le_bytes(frame[..8].try_into().expect("a number"));
    let entries = Entries::new(&bytes, from).collect::<Vec<_>>();
    entries.iter().flat_map(|entry| entry.frames().map(number)).collect()
}

/// Paths of the log's segments in order.
pub fn segments(directory: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(directory.join("log")).expect("the log's directory");
    let mut paths: Vec<_> = found.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

/// A copy of a closed directory.
pub fn copy(from: &Path, to: &Path) {
    try_copy(from, to).expect("nobody else uses it");
}

/// A copy of an open directory as a kill would leave it. RocksDB may be at work in it: the copy
/// counts when no file came, went or grew meanwhile.
pub fn copy_open(from: &Path, to: &Path) {
    for _ in 0..1000 {
        let before = listing(from);
        let copied = try_copy(from, to);
        if copied.is_ok() && before.is_ok() && before.ok() == listing(from).ok() {
            return;
        }
        std::fs::remove_dir_all(to).expect("remove");
    }
    panic!("RocksDB does not come to rest");
}

fn try_copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for (path, _) in listing(from)? {
        let target = to.join(path.strip_prefix(from).expect("listed below it"));
        if path.is_dir() {
            std::fs::create_dir_all(target)?;
        } else {
            std::fs::copy(path, target)?;
        }
    }
    Ok(())
}

/// All files below a directory.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = listing(directory).expect("a directory that nobody else uses");
    found.retain(|(path, _)| path.is_file());
    found.into_iter().map(|(path, _)| path).collect()
}

/// All that is below a directory with its length, parents first.
fn listing(directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        let below = if metadata.is_dir() { listing(&path)? } else { vec![] };
        found.push((path, metadata.len()));
        found.extend(below);
    }
    found.sort();
    Ok(found)
}

/// A process that runs one of this binary's ignored tests; killed when dropped.
pub struct Second {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Second {
    pub fn start(test: &str, directory: &Path) -> Second {
        Second::by(Command::new(std::env::current_exe().expect("own path")), test, directory)
    }

    /// As `start`, by a command that runs what its further arguments say.
    pub fn by(mut command: Command, test: &str, directory: &Path) -> Second {
        let arguments = [test, "--exact", "--ignored", "--nocapture", "--test-threads=1"];
        let command = command.args(arguments).env(DIRECTORY, directory);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a second process");
        let lines = BufReader::new(child.stdout.take().expect("its output"));
        Second { child, lines }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line behind `marker`, or none when the process is gone.
    pub fn next(&mut self, marker: &str) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("readable output") == 0 {
                return None;
            }
            // A line that was cut off by the kill says nothing.
            let whole = line.strip_suffix('\n');
            if let Some((_, said)) = whole.and_then(|line| line.split_once(marker)) {
                return Some(said.to_owned());
            }
        }
    }

    /// SIGKILL, at whatever point it is.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
    }

    /// Waits for its end; whether it went well.
    pub fn wait(&mut self) -> bool {
        self.child.wait().expect("wait").success()
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the second process: the directory that it was told to use.
pub fn told() -> PathBuf {
    std::env::var_os(DIRECTORY).expect("only to be started by another test").into()
}
