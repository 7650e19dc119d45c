//! Everything that the admin port tells, as plain data of one moment: what it makes of it is a
//! function of this and nothing else, and can be tested without a node.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use meridian_disk::CheckpointStats;
use meridian_dns::DnsCounts;
use meridian_mesh::MeshStats;
use meridian_postgres::Status;
use meridian_store::LogPosition;
use tokio::sync::{Mutex, oneshot};

use super::{Admin, process::Process};
use crate::runtime::{
    backups::State as Backups, disk_check::DiskState, executor::unix_us, inbound::ToExecutor,
    network::ExecutorHandle, plane::View, snapshot::Snapshot,
};

/// A node at one moment.
#[derive(Debug)]
pub struct Facts {
    /// The cluster's name.
    pub cluster: String,
    /// This region.
    pub region: String,
    /// Its ordinal.
    pub origin: u16,
    /// Every live region's name by its ordinal.
    pub names: BTreeMap<u16, String>,
    /// Time since the node was started.
    pub uptime: Duration,
    /// The wall clock, microseconds since 1970.
    pub now_us: u64,
    /// The executor's numbers; `None` if it does not answer.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The control plane's view; `None` before its first.
    pub view: Option<View>,
    /// Sessions with other regions.
    pub mesh: MeshStats,
    /// Bytes of log that each connected peer has not been sent.
    pub backlog: BTreeMap<u16, u64>,
    /// Queries so far.
    pub dns: DnsCounts,
    /// The tailer, while this region follows Postgres.
    pub tailer: Option<Status>,
    /// The log.
    pub log: Log,
    /// RocksDB.
    pub checkpoint: CheckpointStats,
    /// Counted by the node's threads.
    pub counters: Counters,
    /// Turns of the executor.
    pub turns: Durations,
    /// Syncs of the log.
    pub syncs: Durations,
    /// Backups.
    pub backups: Backups,
    /// What has rotted.
    pub disk: DiskState,
    /// The process, as the system sees it.
    pub process: Process,
}

/// The segment log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Its oldest byte.
    pub start: LogPosition,
    /// After its newest byte.
    pub end: LogPosition,
    /// How far it is on disk.
    pub durable: LogPosition,
    /// How far the checkpoint covers it.
    pub checkpoint: LogPosition,
    /// Its files.
    pub segments: usize,
    /// What it may take up when nothing holds it, in bytes.
    pub expected_bytes: u64,
}

impl Log {
    /// What it takes up, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }
}

/// Counted by the node's threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages of the executor that found no room.
    pub outgoing_dropped: u64,
    /// Batches of peers that the executor did not take in time.
    pub inbound_dropped: u64,
    /// Checkpoints written since the start.
    pub checkpoints: u64,
    /// Commit time of the last mirrored transaction, microseconds since 1970; zero for none.
    pub last_mirrored_commit_us: i64,
}

/// Durations as a histogram.
#[derive(Clone, Debug, Default)]
pub struct Durations {
    /// Upper bounds in seconds and counts, not cumulative.
    pub buckets: Vec<(f64, u64)>,
    /// The sum in seconds.
    pub sum_s: f64,
}

impl Facts {
    /// Gathers what is known now.
    pub async fn gather(admin: &Admin, desk: &Desk) -> Facts {
        let snapshot = desk.snapshot(&admin.executor).await;
        let view = admin.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tailer = admin.tailer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let backlog = admin.backlog.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (start, end) = admin.reader.bounds();
        let storage = &admin.cluster.storage;
        let shared = &admin.shared;
        let durations = |(buckets, sum_s)| Durations { buckets, sum_s };
        Facts {
            cluster: admin.cluster.cluster.clone(),
            region: admin.region.name.clone(),
            origin: admin.region.ordinal,
            names: names(admin, view.as_ref()),
            uptime: admin.started.elapsed(),
            now_us: unix_us(),
            snapshot,
            view,
            mesh: admin.mesh.stats(),
            backlog,
            dns: admin.dns.counts(),
            tailer,
            log: Log {
                start,
                end,
                durable: admin.reader.durable(),
                checkpoint: LogPosition(shared.checkpoint.load(Ordering::Acquire)),
                segments: admin.reader.segments(),
                expected_bytes: [
                    storage.log_limit,
                    storage.checkpoint_trigger,
                    storage.log_segment,
                ]
                .into_iter()
                .fold(0, |sum, size| size.0.saturating_add(sum)),
            },
            checkpoint: admin.checkpoint.stats(),
            counters: Counters {
                outgoing_dropped: shared.outgoing_dropped.load(Ordering::Relaxed),
                inbound_dropped: shared.inbound_dropped.load(Ordering::Relaxed),
                checkpoints: shared.checkpoints.load(Ordering::Relaxed),
                last_mirrored_commit_us: shared.last_mirrored_commit_us.load(Ordering::Relaxed),
            },
            turns: durations(shared.turn_seconds.read()),
            syncs: durations(shared.sync_seconds.read()),
            backups: admin.backups.board.read(),
            disk: admin.disk.read(),
            process: Process::read(),
        }
    }

    /// A region's name, or its number if the topology does not know it.
    #[must_use]
    pub fn name(&self, ordinal: u16) -> String {
        self.names.get(&ordinal).cloned().unwrap_or_else(|| format!("region-{ordinal}"))
    }
}

/// The live members' names; before the control plane has reported, the topology's.
fn names(admin: &Admin, view: Option<&View>) -> BTreeMap<u16, String> {
    match view.map(|view| &view.state.members) {
        Some(members) if !members.is_empty() => {
            members.live().map(|(ordinal, member)| (ordinal, member.name.clone())).collect()
        }
        _ => admin.cluster.names_by_ordinal(),
    }
}

/// Where requests share one answer of the executor.
pub struct Desk {
    shared_for: Duration,
    patience: Duration,
    state: Mutex<DeskState>,
}

#[derive(Default)]
struct DeskState {
    /// The last answer, or that there was none in time.
    last: Option<(Instant, Option<Arc<Snapshot>>)>,
    /// Asked and not yet answered: an executor that hangs is asked once, not by every request.
    asked: Option<oneshot::Receiver<Snapshot>>,
}

impl Desk {
    /// An answer serves every request within `shared_for`, and is waited for as long as `patience`.
    pub fn new(shared_for: Duration, patience: Duration) -> Desk {
        Desk { shared_for, patience, state: Mutex::default() }
    }

    /// The executor's numbers; `None` if it does not answer in time.
    pub async fn snapshot(&self, executor: &ExecutorHandle) -> Option<Arc<Snapshot>> {
        // Held while waiting: who comes meanwhile takes the same answer.
        let mut state = self.state.lock().await;
        if let Some((when, answer)) = &state.last
            && when.elapsed() < self.shared_for
        {
            return answer.clone();
        }
        let asking = async {
            if state.asked.is_none() {
                let (reply, answer) = oneshot::channel();
                executor.send(ToExecutor::Snapshot(reply)).await.ok()?;
                state.asked = Some(answer);
            }
            state.asked.as_mut()?.await.ok().map(Arc::new)
        };
        let answer = match tokio::time::timeout(self.patience, asking).await {
            Ok(answer) => {
                state.asked = None;
                answer
            }
            Err(_) => None,
        };
        state.last = Some((Instant::now(), answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    const LONG: Duration = Duration::from_secs(3600);

    /// A handle, and what an executor would get.
    fn executor() -> (ExecutorHandle, mpsc::Receiver<ToExecutor>, mio::Poll) {
        let (sender, inbox) = mpsc::channel(8);
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        (ExecutorHandle::new(sender, waker), inbox, poll)
    }

    fn answer(message: Option<ToExecutor>, keys: u64) {
        let Some(ToExecutor::Snapshot(reply)) = message else { panic!("not asked") };
        let _ = reply.send(Snapshot { keys, ..Snapshot::default() });
    }

    #[tokio::test]
    async fn requests_at_a_time_share_one_answer() {
        let (handle, mut inbox, _poll) = executor();
        let desk = Desk::new(LONG, LONG);
        let answering = async { answer(inbox.recv().await, 7) };
        let (one, other, ()) =
            tokio::join!(desk.snapshot(&handle), desk.snapshot(&handle), answering);
        assert_eq!((one.unwrap().keys, other.unwrap().keys), (7, 7));
        assert!(inbox.try_recv().is_err(), "asked once");
    }

    #[tokio::test]
    async fn an_executor_that_hangs_is_asked_once_and_heard_when_it_wakes() {
        let (handle, mut inbox, _poll) = executor();
        let hasty = Desk::new(Duration::ZERO, Duration::from_millis(1));
        assert!(hasty.snapshot(&handle).await.is_none());
        assert!(hasty.snapshot(&handle).await.is_none());
        let question = inbox.recv().await;
        assert!(inbox.try_recv().is_err(), "asked once");
        answer(question, 8);
        assert_eq!(hasty.snapshot(&handle).await.unwrap().keys, 8);
    }

    #[tokio::test]
    async fn an_executor_that_has_ended_is_not_waited_for() {
        let (handle, inbox, _poll) = executor();
        drop(inbox);
        assert!(Desk::new(Duration::ZERO, LONG).snapshot(&handle).await.is_none());
    }
}
