//! One session per peer: subscribe, ship, receive, gate.
//!
//! Replication is driven by the receiver. For every origin a node subscribes to one upstream: the
//! origin itself when it can be reached, else any peer that is ahead, so a cut link heals through
//! a third region ([`route`]). The sender is a cursor into its own log ([`Sender`]): a slow peer
//! costs disk, never memory. What arrives waits in the [`Inbox`] until everything that its author
//! had seen is applied.

mod admission;
mod inbox;
pub mod limits;
mod message;
mod router;
mod sender;

pub use admission::{Admission, admit};
pub use inbox::{Inbox, InboxEvent, Lenience};
pub use message::{Batch, Hello, PROTOCOL_VERSION, Subscribe, Vectors, Watermark};
pub use router::{Upstreams, route};
pub use sender::{LogMark, Sender};
