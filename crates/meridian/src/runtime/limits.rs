//! Every limit of the running node, in one place.

use std::time::Duration;

/// Sockets that one look at the readiness returns at most.
pub const EVENTS_PER_POLL: usize = 1024;

/// Without anything to do the executor wakes this often, for what is due by time.
pub const IDLE_WAKE: Duration = Duration::from_millis(50);

/// Messages of other threads that are handled in one turn, so that clients are not kept waiting.
pub const MESSAGES_PER_TURN: usize = 64;

/// A commit that has grown to this is appended before more is executed, in bytes.
pub const COMMIT_BYTES: usize = 8 << 20;

/// What is read from a socket at a time, in bytes.
pub const READ_BYTES: usize = 64 << 10;

/// A client whose unsent replies exceed this is not read from until they have gone, in bytes.
pub const BACKLOG_PAUSE_BYTES: usize = 1 << 20;

/// The longest command of a client, in bytes: all of it may go to one partition, whose frame is
/// applied whole or not at all.
pub const MAX_COMMAND_BYTES: u32 = 64 << 20;

const _: () = assert!((MAX_COMMAND_BYTES as usize) < meridian_keyspace::limits::MAX_COMMAND_BYTES);

/// Messages of other threads that may wait for the executor.
pub const INBOUND_MESSAGES: usize = 1024;

/// Messages of the executor that may wait for the network.
pub const OUTGOING_MESSAGES: usize = 4096;

/// Reservations of time that may wait for the disk.
pub const CLOCK_FLOORS: usize = 16;

/// Events of the mesh that may wait.
pub const MESH_EVENTS: usize = 256;

/// While data is written, the log is synced this often at most unless clients wait for it.
pub const SYNC_EVERY: Duration = Duration::from_millis(2);

/// A batch that the executor does not take within this is dropped and asked for again, so that
/// heartbeats are never kept waiting behind data.
pub const INBOUND_PATIENCE: Duration = Duration::from_millis(50);

/// The control plane's clock.
pub const CONTROL_TICK: Duration = Duration::from_millis(10);

/// The end-to-end check runs this often.
pub const CHECK_EVERY: Duration = Duration::from_millis(500);

/// A check that takes longer has failed.
pub const CHECK_TIMEOUT: Duration = Duration::from_millis(1500);

/// Looks at the log's length for a checkpoint this often.
pub const CHECKPOINT_LOOK: Duration = Duration::from_millis(500);

/// Batches of the tailer that may wait for the executor.
pub const MIRROR_BATCHES: usize = 16;

/// An answer of the executor to the admin port is given up after this.
pub const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(2);

/// A request to change the members is given up after this, in milliseconds.
pub const MEMBER_PATIENCE_MS: u64 = 20_000;

/// A request to change the members is proposed again this often, in milliseconds.
pub const MEMBER_RETRY_MS: u64 = 1_000;

/// Requests to change the members that may wait at once.
pub const MEMBER_REQUESTS: usize = 16;

/// How long a region that has left goes on, so that the others learn of it from this one too.
pub const FAREWELL_MS: u64 = 1_000;

/// INFO's section on the regions is renewed this often.
pub const INFO_EVERY: Duration = Duration::from_secs(1);

/// Backups look this often whether one is due.
pub const BACKUP_LOOK: Duration = Duration::from_secs(1);

/// After a backup or a check of one that failed, the schedule waits at least this long.
pub const BACKUP_RETRY: Duration = Duration::from_secs(60);

/// Answers about backups that are kept for whoever ordered them.
pub const BACKUP_ANSWERS: usize = 16;

/// Slots whose digests are taken in one go before a backup, so that commands wait only briefly.
pub const BACKUP_WARM_SLOTS: usize = 64;

/// A backup's mark takes digests of slots that changed since of up to so many keys; the others are
/// not compared when the backup is read back.
pub const MARK_OBJECTS: usize = 20_000;

/// A backup that waits for longer than this for the log to be synced is given up.
pub const MARK_PATIENCE: Duration = Duration::from_secs(30);
