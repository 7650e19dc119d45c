//! Backups: a directory that holds any number of them, each a checkpoint and the log after it.
//!
//! ```text
//! BACKUPS                     what this directory is
//! LOCK                        who changes it
//! backups/<id>.backup         manifests: whose data, which files, what it covers
//! objects/<2 hex>/<64 hex>    contents, named by their SHA-256; shared by backups
//! scratch/                    while one is read back
//! ```
//! A manifest is written last, and under its name only when everything that it names is on disk: a
//! backup that was interrupted is not there. What an earlier backup holds already is not copied
//! again: tables of RocksDB never change, and of the log only what is new since the last backup is
//! stored, so that consecutive backups hold all of it ([`Plan`] finds the way through).

mod manifest;
mod object;
mod plan;
mod repository;
mod restore;
mod storage;
mod take;

pub use manifest::{Digests, End, Frozen, FrozenFile, Manifest, Object, Owner, Piece};
pub use object::Pace;
pub use plan::{NoPlan, Plan};
pub(crate) use repository::remove_directory;
pub use repository::{Listed, Pruned, Repository};
pub use restore::{Restored, restore};
pub use storage::BackupStorage;
pub(crate) use take::FROZEN;
pub use take::{Mark, Progress, Source, Taken, take};
