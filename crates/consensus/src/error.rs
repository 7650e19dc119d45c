//! What can go wrong in a group, by what the caller must do about it.

use thiserror::Error;

/// A refused input or an unusable log. Nothing was changed unless the variant says so.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Error {
    /// The configuration contradicts itself; fix the topology file.
    #[error("control group configuration: {0}")]
    Config(String),
    /// The control log belongs to another region.
    #[error("control log was written by region {log_id}, not by {id}")]
    IdentityChanged {
        /// Region that wrote the log.
        log_id: u16,
        /// Region configured now.
        id: u16,
    },
    /// The control log does not decode or contradicts itself.
    #[error("control log record {record}: {reason}")]
    CorruptLog {
        /// Position of the record, from zero.
        record: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The leader counts on entries that this region no longer has: its control log was lost or
    /// replaced by an older one. The region must not vote again under this identity.
    #[error(
        "leader committed up to {committed} what this region acknowledged, but its log ends at {last}"
    )]
    LostLog {
        /// Commit index claimed by the leader.
        committed: u64,
        /// Our last index.
        last: u64,
    },
    /// The sender is not a voter of this group.
    #[error("region {0} is not a peer of this group")]
    UnknownPeer(u16),
    /// A message from a peer that no correct peer sends.
    #[error("invalid message from region {from}: {reason}")]
    Invalid {
        /// The sender.
        from: u16,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A proposal that looks like a change of the configuration.
    #[error("a proposal must not begin with the mark of a configuration change")]
    ReservedProposal,
    /// The change is within no limits, or has been made already.
    #[error("the change {0:?} does not follow on the present configuration")]
    BadChange(crate::ConfChange),
    /// A proposal without content: the protocol uses empty entries itself.
    #[error("a proposal must not be empty")]
    EmptyProposal,
    /// Larger than the named limit.
    #[error("{what} of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// No leader is known, or it takes no proposals now; try again later.
    #[error("no leader takes proposals now")]
    NoLeader,
    /// Earlier output still waits to be persisted; try again after that.
    #[error("earlier output is not persisted yet")]
    Busy,
    /// The confirmed output is not the one that is outstanding.
    #[error("persisted output {0} is not the outstanding one")]
    NotOutstanding(u64),
    /// A compaction outside of what was applied.
    #[error("cannot compact at {index}: snapshot at {snapshot}, applied up to {applied}")]
    BadCompaction {
        /// Requested index.
        index: u64,
        /// Index of the present snapshot.
        snapshot: u64,
        /// Last applied index.
        applied: u64,
    },
    /// The protocol library refused; the text is its own.
    #[error("raft: {0}")]
    Raft(String),
}
