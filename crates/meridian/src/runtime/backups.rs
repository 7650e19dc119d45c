//! The thread that takes backups: on the operator's order, and by the topology's schedule.
//!
//! A backup that fails does not end the node: it is logged, counted, and told by `/healthz`. Reading
//! a backup back takes as much memory as the node itself, so it is done by a process of its own.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use meridian_disk::{
    Checkpoint, Digests, LogReader, Mark, Pace, Progress, Repository, Source, Taken, take,
};
use meridian_keyspace::{SLOTS, Stage};
use meridian_store::{Identity, LogPosition, StoreError};

use super::executor::unix_us;
use super::inbound::ToExecutor;
use super::limits::{
    BACKUP_ANSWERS, BACKUP_LOOK, BACKUP_RETRY, BACKUP_WARM_SLOTS, MARK_OBJECTS, MARK_PATIENCE,
};
use super::network::ExecutorHandle;
use super::shared::Shared;
use crate::backup;

/// When backups are taken without being asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Where they go: this region's own directory.
    pub directory: PathBuf,
    /// How often one is taken.
    pub every: Duration,
    /// How many are kept.
    pub keep: usize,
    /// How often the newest one is read back.
    pub verify_every: Option<Duration>,
    /// How fast files are read and written, in bytes a second; zero for no limit.
    pub rate: u64,
}

/// The thread's part.
pub struct Backups {
    /// The node's directory.
    pub directory: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    /// Its checkpoint.
    pub checkpoint: Checkpoint,
    /// Its log.
    pub reader: LogReader,
    /// Asked for a mark.
    pub executor: ExecutorHandle,
    /// How far the log is on disk.
    pub shared: Arc<Shared>,
    /// When to take them by itself.
    pub schedule: Option<Schedule>,
    /// Orders of the admin port.
    pub orders: Receiver<Order>,
    /// Where others read how it is going.
    pub board: Arc<Board>,
}

/// A backup that is wanted now.
#[derive(Debug)]
pub struct Order {
    number: u64,
    directory: PathBuf,
}

/// How backups are going, as everybody may know.
#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<State>,
}

/// What is on the board.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Whether there is a schedule, and how often it takes one.
    pub every: Option<Duration>,
    /// How often it reads one back.
    pub verify_every: Option<Duration>,
    /// What is being done.
    pub running: Option<Running>,
    /// What was done, the newest last.
    pub finished: VecDeque<Finished>,
    /// Milliseconds since 1970 of the last backup that went well; zero for none.
    pub good_ms: u64,
    /// The same for the last one that was read back and was sound.
    pub verified_ms: u64,
    /// Backups and checks that went well, and that did not, since the start.
    pub counts: Counts,
    /// Bytes that the last backup copied.
    pub copied: u64,
    /// Why the last backup failed, unless one went well since.
    pub backup_error: Option<String>,
    /// Why the last check failed, unless one went well since.
    pub verify_error: Option<String>,
    /// The last number that was given to an order.
    pub number: u64,
}

/// Counts of outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Backups that were taken.
    pub taken: u64,
    /// Backups that failed.
    pub failed: u64,
    /// Backups that were read back and were sound.
    pub sound: u64,
    /// Backups that were read back and were not.
    pub unsound: u64,
}

/// A backup that is being taken.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its order's number; zero for the schedule's.
    pub number: u64,
    /// Where it goes.
    pub directory: PathBuf,
    /// How far it is.
    pub progress: Arc<Progress>,
}

/// A backup that was taken, or not.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its order's number.
    pub number: u64,
    /// A sentence about it, or why it failed.
    pub outcome: Result<String, String>,
}

/// How the admin port gives orders.
#[derive(Clone, Debug)]
pub struct BackupDesk {
    orders: SyncSender<Order>,
    /// Where others read how it is going.
    pub board: Arc<Board>,
    configured: Option<PathBuf>,
}

/// The desk and what it fills.
#[must_use]
pub fn desk(schedule: Option<&Schedule>) -> (BackupDesk, Receiver<Order>, Arc<Board>) {
    let board = Arc::new(Board::default());
    {
        let mut state = board.state();
        state.every = schedule.map(|s| s.every);
        state.verify_every = schedule.and_then(|s| s.verify_every);
    }
    let (orders, taken) = sync_channel(1);
    let configured = schedule.map(|schedule| schedule.directory.clone());
    (BackupDesk { orders, board: Arc::clone(&board), configured }, taken, board)
}

impl Board {
    /// What is on it.
    #[must_use]
    pub fn read(&self) -> State {
        self.state().clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BackupDesk {
    /// Orders a backup into a directory of this host; the number by which it is found on the board.
    ///
    /// # Errors
    /// When another one is under way, or the directory is not one that may be written to.
    pub fn order(&self, directory: &Path) -> Result<u64> {
        check_directory(directory, self.configured.as_deref())?;
        let mut state = self.board.state();
        ensure!(state.running.is_none(), "a backup is being taken");
        let number = state.number + 1;
        let order = Order { number, directory: directory.to_owned() };
        ensure!(self.orders.try_send(order).is_ok(), "a backup is being taken");
        state.number = number;
        let (directory, progress) = (directory.to_owned(), Arc::default());
        state.running = Some(Running { number, directory, progress });
        Ok(number)
    }
}

/// Whoever reaches the admin port from this host may not be whoever the node is: it writes only
/// where backups are configured, and to directories that were made for that with the node's own
/// rights.
fn check_directory(directory: &Path, configured: Option<&Path>) -> Result<()> {
    if configured == Some(directory) {
        return Ok(());
    }
    let place = directory.display();
    ensure!(directory.is_absolute(), "{place} is not an absolute path");
    let found = std::fs::symlink_metadata(directory).with_context(|| {
        format!("{place} (make an empty directory first, owned by the node's user)")
    })?;
    ensure!(found.is_dir(), "{place} is not a directory");
    let me = rustix::process::geteuid().as_raw();
    ensure!(found.uid() == me, "{place} does not belong to the node's user ({me})");
    let mut entries = std::fs::read_dir(directory).with_context(|| place.to_string())?;
    let is_empty = entries.next().is_none();
    ensure!(is_empty || Repository::is_one(directory), "{place} holds something else than backups");
    Ok(())
}

impl Backups {
    /// Runs until the node ends.
    ///
    /// # Errors
    /// When the executor has ended.
    pub fn run(self) -> Result<()> {
        let mut tried: Option<Instant> = None;
        let mut verified: Option<Instant> = None;
        self.remember();
        loop {
            match self.orders.recv_timeout(BACKUP_LOOK) {
                Ok(order) => self.back_up(order.number, &order.directory, None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the admin port has ended"),
            }
            let Some(schedule) = &self.schedule else { continue };
            let rests =
                |since: Option<Instant>| since.is_some_and(|at| at.elapsed() < BACKUP_RETRY);
            if !rests(tried) && is_due(self.board.read().good_ms, schedule.every) {
                self.back_up(0, &schedule.directory, Some(schedule.keep));
                tried = self.board.read().backup_error.map(|_| Instant::now());
            }
            let state = self.board.read();
            if let Some(every) = schedule.verify_every
                && !rests(verified)
                && state.good_ms > 0
                && is_due(state.verified_ms, every)
            {
                self.verify(&schedule.directory);
                verified = self.board.read().verify_error.map(|_| Instant::now());
            }
        }
    }

    /// What earlier runs of the node left counts as taken.
    fn remember(&self) {
        let Some(schedule) = &self.schedule else { return };
        let listed = Repository::list(&schedule.directory).unwrap_or_default();
        let newest = listed.iter().rev().find_map(|listed| listed.manifest.as_ref().ok());
        self.board.state().good_ms = newest.map_or(0, |manifest| manifest.created_ms);
    }

    fn back_up(&self, number: u64, directory: &Path, keep: Option<usize>) {
        let progress = Arc::new(Progress::default());
        {
            let mut state = self.board.state();
            let (directory, progress) = (directory.to_owned(), Arc::clone(&progress));
            state.running = Some(Running { number, directory, progress });
        }
        let began = Instant::now();
        let outcome = self.take(directory, &progress, keep);
        let mut state = self.board.state();
        state.running = None;
        let outcome = match outcome {
            Ok(taken) => {
                let text = backup::told(&taken);
                tracing::info!(took = ?began.elapsed(), "{text}");
                state.counts.taken += 1;
                state.copied = taken.copied;
                state.good_ms = taken.manifest.created_ms;
                state.backup_error = None;
                Ok(text)
            }
            Err(error) => {
                let text = format!("{error:#}");
                tracing::error!(directory = %directory.display(), error = text, "no backup");
                state.counts.failed += 1;
                state.backup_error = Some(text.clone());
                Err(text)
            }
        };
        if number > 0 {
            state.finished.push_back(Finished { number, outcome });
            while state.finished.len() > BACKUP_ANSWERS {
                state.finished.pop_front();
            }
        }
    }

    fn take(&self, directory: &Path, progress: &Progress, keep: Option<usize>) -> Result<Taken> {
        if directory.starts_with(&self.directory) {
            bail!("{} lies in the node's own directory", directory.display());
        }
        let repository = Repository::open_or_create(directory)?;
        let source = Source {
            directory: &self.directory,
            identity: &self.identity,
            checkpoint: &self.checkpoint,
            reader: &self.reader,
        };
        self.warm()?;
        let pace = Pace::bytes_per_s(self.schedule.as_ref().map_or(0, |s| s.rate));
        let named = backup::name(&repository)?;
        let taken = take(&repository, source, || self.mark(), named.as_named(), pace, progress)?;
        if let Some(keep) = keep {
            let pruned = repository.prune(keep).context("removing old backups")?;
            for id in &pruned.backups {
                tracing::info!(backup = id, "old backup removed");
            }
        }
        Ok(taken)
    }

    /// Lets the executor take most digests in small portions, so that the mark is quick.
    fn warm(&self) -> Result<()> {
        for first in (0..SLOTS).step_by(BACKUP_WARM_SLOTS) {
            let (reply, answer) = sync_channel(1);
            let last = first.saturating_add(BACKUP_WARM_SLOTS as u16).min(SLOTS);
            self.executor.send_blocking(ToExecutor::Digest(first..last, reply))?;
            answer.recv().context("the executor has ended")?;
        }
        Ok(())
    }

    fn mark(&self) -> Result<Mark, StoreError> {
        let ended = || StoreError::Refused("the executor has ended".to_owned());
        let (reply, answer) = sync_channel(1);
        self.executor.send_blocking(ToExecutor::Mark(reply)).map_err(|_| ended())?;
        let mark = answer.recv().map_err(|_| ended())?;
        match self.shared.wait_until_durable(mark.position, MARK_PATIENCE) {
            true => Ok(mark),
            false => Err(StoreError::Refused("the log is not synced in time".to_owned())),
        }
    }

    fn verify(&self, directory: &Path) {
        let began = Instant::now();
        let outcome = verify(directory);
        let mut state = self.board.state();
        match outcome {
            Ok(text) => {
                tracing::info!(took = ?began.elapsed(), "{text}");
                state.counts.sound += 1;
                state.verified_ms = unix_us() / 1000;
                state.verify_error = None;
            }
            Err(error) => {
                let text = format!("{error:#}");
                tracing::error!(directory = %directory.display(), error = text, "backup unsound");
                state.counts.unsound += 1;
                state.verify_error = Some(text);
            }
        }
    }
}

/// By the wall clock, so that restarts of the node do not count. A clock that went back makes it
/// due.
fn is_due(last_ms: u64, every: Duration) -> bool {
    let now_ms = unix_us() / 1000;
    let due_ms = last_ms.saturating_add(u64::try_from(every.as_millis()).unwrap_or(u64::MAX));
    now_ms >= due_ms || last_ms > now_ms.saturating_add(1000)
}

/// Reads the newest backup back in a process of its own.
fn verify(directory: &Path) -> Result<String> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = Command::new(program)
        .args(["backup", "verify"])
        .arg(directory)
        .stdin(Stdio::null())
        .output()
        .context("starting a process that reads the backup back")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let errors = text(&output.stderr);
    let last = errors.lines().last().unwrap_or("it said nothing");
    bail!("{}", last.strip_prefix("meridian: ").unwrap_or(last));
}

/// The executor's answer to a backup: all that is in the log before `position`. Digests that would
/// take long are left out.
pub fn mark_of(stage: &mut Stage, position: LogPosition) -> Mark {
    let mut objects = 0;
    let mut digest = |slot| {
        if !stage.table(slot).is_digest_known() {
            objects += stage.table(slot).len();
            if objects > MARK_OBJECTS {
                return (slot, None);
            }
        }
        (slot, Some(stage.slot_digest(slot)))
    };
    let digests = Digests::new((0..SLOTS).map(&mut digest));
    Mark { position, vectors: stage.vectors(), digests }
}

/// How far a backup is, for people.
#[must_use]
pub fn told(progress: &Progress) -> String {
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let done = read(&progress.copied) + read(&progress.reused);
    let total = read(&progress.total).max(done);
    let percent = (done * 100).checked_div(total).unwrap_or(0);
    format!("{percent} % of {} MiB", total >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_given_once_at_a_time_and_only_where_backups_may_go() {
        let root = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (empty, strange) = (place("empty"), place("strange"));
        std::fs::write(strange.join("thesis.txt"), "years of work").unwrap();
        let (desk, orders, board) = desk(None);
        let refusal = |path: &Path| format!("{:#}", desk.order(path).unwrap_err());
        assert!(refusal(&strange).contains("something else"));
        assert!(refusal(Path::new("relative")).contains("absolute"));
        assert!(refusal(&root.path().join("missing")).contains("empty directory first"));
        assert!(refusal(&strange.join("thesis.txt")).contains("not a directory"));
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&strange, &link).unwrap();
        assert!(refusal(&link).contains("not a directory"));
        if !rustix::process::geteuid().is_root() {
            assert!(refusal(Path::new("/")).contains("belong"));
        }
        assert!(board.read().running.is_none());
        assert_eq!(desk.order(&empty).unwrap(), 1);
        assert!(refusal(&empty).contains("being taken"));
        assert_eq!(orders.recv().unwrap().directory, empty);
        drop(Repository::open_or_create(&strange));
        assert!(!Repository::is_one(&strange));
    }

    #[test]
    fn a_configured_directory_need_not_be_there_yet() {
        let path = PathBuf::from("/backups/of/this/region");
        let schedule = Schedule {
            directory: path.clone(),
            every: Duration::from_secs(60),
            keep: 3,
            verify_every: None,
            rate: 0,
        };
        let (desk, _orders, _) = desk(Some(&schedule));
        assert_eq!(desk.order(&path).unwrap(), 1);
    }

    #[test]
    fn what_is_due_is_told_by_the_wall_clock() {
        let now_ms = unix_us() / 1000;
        let hour = Duration::from_secs(3600);
        assert!(is_due(0, hour) && is_due(now_ms - 3_600_000, hour));
        assert!(!is_due(now_ms - 3_000_000, hour));
        assert!(is_due(now_ms + 600_000, hour), "the clock went back");
    }
}
