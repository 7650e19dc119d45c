//! The transport of production under the scheduler: quinn's protocol state machines, one endpoint a
//! region, over datagrams that get lost, doubled, overtaken and cut off.
//!
//! What runs is quinn-proto itself: handshakes, streams, flow and congestion control, loss recovery,
//! path MTU, keep-alives, idle timeouts and stateless resets. Around it stands what the mesh does with
//! it: one side of a pair dials with a growing wait, both open three lanes with a preface, a newer
//! connection of a peer replaces an older one, and queues are bounded. Only cryptography is left out
//! ([`crypto`]), because it cannot be repeated, and compression.

mod clock;
mod config;
mod crypto;
mod host;
mod lanes;
pub mod limits;

pub(crate) use clock::Clock;
pub(crate) use config::{HostConfig, Windows};
pub(crate) use crypto::Identity;
pub(crate) use host::{Happening, Host, Tally};
