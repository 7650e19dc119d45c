//! One session per peer: subscribe, ship, receive, gate.
//!
//! Replication is driven by the receiver. For every origin a node subscribes to one upstream: the
//! origin itself or, in a large cluster, a relay ([`RelayPlan`]); when that is silent, any peer
//! that is ahead as well, so a cut link heals through a third region ([`Router`]). The sender is a cursor into its own log ([`Sender`]): a slow peer
//! costs disk, never memory. What arrives waits in the [`Inbox`] until everything that its author
//! had seen is applied.

mod admission;
mod compact;
mod hold;
mod inbox;
pub mod limits;
mod message;
mod pack;
mod relay;
pub mod repair;
mod router;
mod sender;
mod sketch;
mod version;

pub use admission::{Admission, admit};
pub use compact::{CompactionAblations, compact};
pub use hold::{Held, Holds};
pub use inbox::{Inbox, InboxEvent, Lenience};
pub use message::{Batch, Hello, Subscribe, Vectors, Watermark};
pub use relay::{RelayPlan, Trees, relay_trees};
pub use router::{PeerView, Router, Upstreams};
pub use sender::{LastPacked, LogMark, Sender};
pub use sketch::{Coder, Decoder, Difference, Symbol};
pub use version::{
    BUNDLE_SINCE, CLOCK_SINCE, MOVED_SINCE, PACKED_SINCE, PROTOCOL_NEWEST, PROTOCOL_OLDEST,
    REPAIR_SINCE, SLOT_SUMS_SINCE, Versions,
};
