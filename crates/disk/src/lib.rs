//! The ports of `meridian-store` on a real disk: the segment log in files, the checkpoint in
//! RocksDB, and the directory that holds both.
//!
//! ```text
//! LOCK                      who uses the directory (an flock, and the process id as a hint)
//! CLOCK                     up to where its hybrid clock may have gone
//! FORMAT                    whose data it holds and in which format
//! DURABLE                   how far the log is on disk, to tell rot from a torn write
//! log/<16 hex digits>.seg   the log; a segment is named by the position of its first byte
//! rocks/                    the checkpoint
//! ```
//! Every thread that touches the directory gets a handle of its own: the executor appends through
//! the [`LogWriter`], a sync thread makes that durable through the [`LogSyncer`], peers are fed
//! through [`LogReader`]s, and the flusher writes to the [`Checkpoint`]. The directory stays
//! locked until the last of them is dropped. [`DiskStorage`] holds all of them for a single
//! thread and implements `meridian_store::Storage`.

mod backup;
mod checkpoint;
mod clock_floor;
mod directory;
mod durable;
mod file;
mod format;
mod lock;
mod log;
mod options;
mod salvage;
mod scrub;
mod storage;

pub use backup::{
    BackupStorage, Digests, End, Frozen, FrozenFile, Listed, Manifest, Mark, NoPlan, Object, Owner,
    Pace, Piece, Plan, Progress, Pruned, Repository, Restored, Source, Taken, restore, take,
};
pub use checkpoint::{Checkpoint, CheckpointStats, FreshCheckpoint, FrozenCheckpoint};
pub use clock_floor::ClockFloor;
pub use directory::{DataDir, Opened};
pub use durable::DurableMark;
pub use log::{LogHold, LogReader, LogSyncer, LogWriter, Recovered, TornTail};
pub use options::{DiskOptions, SEGMENT_BYTES_MIN};
pub use salvage::{Gap, salvage_log};
pub use scrub::{Pause, Scrub};
pub use storage::DiskStorage;
