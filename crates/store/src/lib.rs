//! Ports for the log and the checkpoint, their formats, and an in-memory implementation that
//! models crashes.
//!
//! The log is the truth: every commit appends one [`entry`], which holds the frames of that
//! commit. The checkpoint is a cache of it, so that the log can be cut short: cells as they
//! stand, and a [`Meta`] record that says from which position the log must be replayed. Cells
//! may be newer than that position but never older (replay is idempotent), and never newer than
//! what is durable in the log.

mod bundle;
pub mod conformance;
mod cut;
mod entry;
mod frame;
mod layout;
mod memory;
mod meta;
mod port;
mod repair;

pub use bundle::{BundleWriter, Group, Groups};
pub use cut::{Cut, CutError, stamp};
pub use entry::{
    ENTRY_HEADER_BYTES, Entries, Entry, MAX_ENTRY_BYTES, ScanEnd, encode_entry, next_entry,
    scan_entries,
};
pub use frame::{Frame, FrameHeader, MAX_FRAME_BYTES};
pub use layout::{element_key, key_prefix, partition_of_key, split_element_key};
pub use memory::{CrashModel, MemoryStorage};
pub use meta::{Identity, Meta};
pub use port::{CheckpointBatch, LogPosition, Storage, StoreError, Visit};
pub use repair::{RepairElement, RepairHeader, RepairPart};
