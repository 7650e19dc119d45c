//! What other threads ask of the executor, and the end-to-end check that goes with it.

use std::{collections::BTreeMap, collections::VecDeque, time::Instant};

use meridian_clock::{Origin, Time, VersionVector};
use meridian_crdt::{Action, Element};
use meridian_failover::{CheckReport, StepOutcome};
use meridian_keyspace::{CHECK_PREFIX, Stage, TouchedKey};
use meridian_node::{StreamPosition, wire::PeerMessage};
use meridian_store::{CheckpointBatch, LogPosition};
use tokio::sync::oneshot;

use super::{members::Company, snapshot::Snapshot};

/// Keys whose elements a checkpoint wants.
pub type Portion = Vec<((u16, Vec<u8>), TouchedKey)>;

/// Sections of INFO: name, and lines of name and value.
pub type Info = BTreeMap<String, Vec<(String, String)>>;

/// A request to the executor.
pub enum ToExecutor {
    /// A session with a peer began.
    PeerUp(Origin, u64),
    /// A session is over.
    PeerDown(Origin, u64),
    /// A control message that concerns data.
    Message(Origin, u64, PeerMessage),
    /// A batch of frames.
    Batch(Origin, u64, Vec<u8>),
    /// Read these elements as they stand.
    Export(Portion, std::sync::mpsc::SyncSender<(CheckpointBatch, LogPosition)>),
    /// Read everything that a slot holds.
    ExportSlot(u16, std::sync::mpsc::SyncSender<(CheckpointBatch, LogPosition)>),
    /// Take the digests of these slots, so that they are known.
    Digest(std::ops::Range<u16>, std::sync::mpsc::SyncSender<()>),
    /// Tell a backup where the log ends and what there is.
    Mark(std::sync::mpsc::SyncSender<meridian_disk::Mark>),
    /// A tailer begins: where?
    BeginMirror(String, oneshot::Sender<StreamPosition>),
    /// A batch of the tailer.
    Mirror(String, meridian_cdc::Batch),
    /// An end-to-end check.
    Check(oneshot::Sender<CheckReport>),
    /// Tell how things are.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Sections for INFO.
    Info(Info),
    /// The members of the cluster have changed.
    Members(Company),
    /// The way to each peer and back, in milliseconds.
    RoundTrips(BTreeMap<Origin, u64>),
    /// Finish.
    Stop,
}

/// A tailer batch that waits until Postgres may be told to forget it.
pub struct Acknowledgement {
    /// The position in Postgres's log.
    pub lsn: u64,
    /// Where this region's log ended with the batch.
    pub position: LogPosition,
    /// What this region had written by then.
    pub vectors: Vec<VersionVector>,
}

/// End-to-end checks on their way: written, waiting for the disk, then read back.
#[derive(Default)]
pub struct Checks {
    waiting: VecDeque<Check>,
}

struct Check {
    key: (Vec<u8>, Vec<u8>, Instant),
    position: LogPosition,
    committed: Instant,
    reply: oneshot::Sender<CheckReport>,
}

impl Checks {
    /// Writes the check's key: the way of every write.
    pub fn write(stage: &mut Stage) -> (Vec<u8>, Vec<u8>, Instant) {
        let began = Instant::now();
        let mut key = CHECK_PREFIX.to_vec();
        key.extend_from_slice(stage.me().to_string().as_bytes());
        let value = stage.now().0.to_string().into_bytes();
        let action = Action::Assign { element: Element::String, value: &value, ttl: Time::MAX };
        stage.write(&key, action);
        stage.end_command();
        (key, value, began)
    }

    /// The check's commit is in the log.
    pub fn begin(
        &mut self,
        key: (Vec<u8>, Vec<u8>, Instant),
        position: LogPosition,
        reply: oneshot::Sender<CheckReport>,
    ) {
        self.waiting.push_back(Check { key, position, committed: Instant::now(), reply });
    }

    /// The log is durable up to here: checks that waited for it are read back and answered.
    /// True if others still wait.
    pub fn synced(&mut self, durable: LogPosition, stage: &Stage) -> bool {
        while self.waiting.front().is_some_and(|c| c.position <= durable) {
            let Some(check) = self.waiting.pop_front() else { break };
            let (key, value, began) = &check.key;
            let fsync = millis(check.committed);
            let reading = Instant::now();
            let read = stage.object(key).and_then(|o| o.string_value(stage.now()));
            // A newer check may have overwritten it: anything at or above ours will do.
            let fresh = read
                .is_some_and(|seen| (seen.len(), seen.as_ref()) >= (value.len(), value.as_slice()));
            let write = check.committed.duration_since(*began).as_millis() as u64;
            let _ = check.reply.send(CheckReport {
                write: StepOutcome::Ok { took_ms: write },
                fsync: StepOutcome::Ok { took_ms: fsync },
                read: match fresh {
                    true => StepOutcome::Ok { took_ms: millis(reading) },
                    false => StepOutcome::Failed,
                },
            });
        }
        !self.waiting.is_empty()
    }
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}
