//! Observations to decisions: which regions are up, which one holds the primary role, and where
//! clients of a network should go.
//!
//! Every region runs one [`Failover`]. It sends heartbeats that carry what it sees of everybody
//! (and an echo of what it last heard, from which the others' leases are made), judges its own
//! health by end-to-end checks, and, while it leads the control group, proposes [`Decision`]s.
//! The group's committed entries are the only thing that changes [`ControlState`], in the same
//! way in every region; each names the epoch it was decided at, and a stale one changes nothing.
//!
//! The turn of a shell: [`Failover::receive`], [`Failover::observe_check`] and
//! [`Failover::apply`] with what has arrived; [`Failover::tick`] every few milliseconds; carry out
//! the [`Action`]s; do what a primary does only while [`Failover::is_primary`] says so, and stop
//! it before the next heartbeat is sent when it no longer does.
//!
//! Why two regions never act as primary at once: see `lease.rs`.

mod action;
mod cidr;
mod config;
mod controller;
mod decide;
mod dns_table;
mod error;
mod health;
mod heartbeat;
mod lease;
mod limits;
mod members;
mod peers;
mod state;
mod topology;
mod voters;

pub use action::Action;
pub use cidr::Cidr;
pub use config::{FailoverConfig, Timing};
pub use controller::{Failover, RegionView};
pub use dns_table::{DnsTable, Route};
pub use error::Error;
pub use health::{CheckReport, Health, Level, Reason, StepOutcome};
pub use limits::{
    MAX_ADDRESSES, MAX_DECISION_BYTES, MAX_HEARTBEAT_BYTES, MAX_MEMBERS, MAX_NETWORKS, MAX_REGIONS,
    MAX_STATE_BYTES, VOTERS_MAX,
};
pub use members::{Member, MemberAddresses, MemberChange, MemberError, MemberStatus, Members};
pub use state::{
    Applied, Cause, Change, ControlState, Decision, MemberEntry, RegionState, RegionStatus,
};
pub use topology::{Network, RegionAddresses, Topology};
pub use voters::{VoterStep, next_voter_step};

/// Result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
