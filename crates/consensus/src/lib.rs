//! A deterministic Raft group over the regions.
//!
//! The control plane (and later every strong keyspace) needs an agreement that survives the loss
//! of a minority of regions. The protocol is tikv's `raft`; this crate makes it ours: time is an
//! argument, elections are ranked instead of random, messages have a codec that cannot express
//! most invalid messages, and nothing can leave before it is durable.
//!
//! One turn of the shell that drives a [`Group`]:
//! 1. [`Group::step`], [`Group::tick`] and [`Group::propose`] with what has arrived;
//! 2. [`Group::ready`]: append its records to the control log and fsync them;
//! 3. [`Group::persisted`] with the same [`Ready`]: send the messages, apply the committed entries.
//!
//! After a crash, [`Recovered::from_records`] rebuilds the group from the control log.
//! [`Group::compact`] replaces the log by a snapshot of the caller's state.
//!
//! The group begins with the voters of its identity; [`Group::propose_change`] adds, promotes and
//! removes one region at a time. A region that joins begins with no voters at all and follows
//! whoever leads. Once applied, the log's configuration counts, not the one given at the start.
//!
//! Absent on purpose: joint consensus (several regions in one step) and linearizable reads.

mod codec;
mod conf;
mod config;
mod error;
mod group;
#[cfg(test)]
mod hostile;
mod limits;
mod recovered;
mod store;
mod translate;
mod validate;

pub use conf::{Conf, ConfChange};
pub use config::{GroupConfig, Timing};
pub use error::Error;
pub use group::{Group, Output, Ready, Role, Snapshot, Status};
pub use limits::{
    LOG_BYTES_BEFORE_COMPACTION, MAX_LEARNERS, MAX_MESSAGE_BYTES, MAX_PROPOSAL_BYTES,
    MAX_RECORD_BYTES, MAX_STATE_BYTES, MAX_VOTERS,
};
pub use recovered::Recovered;

/// Result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
