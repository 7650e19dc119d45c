//! Stamps, the hybrid logical clock, region ordinals and version vectors.
//!
//! Everything that orders events between regions lives here, so that every other crate
//! compares and merges in the same way. Nothing in this crate reads a clock: physical time is
//! always an argument.

mod floor;
mod hybrid;
pub mod limits;
mod majority;
mod origin;
mod reading;
mod stamp;
mod vector;
mod watch;

pub use floor::Reservation;
pub use hybrid::{ClockError, HybridClock};
pub use limits::MAX_AHEAD_MS;
pub use majority::{Majority, majority};
pub use origin::{MAX_REGIONS, Origin};
pub use reading::{ClockNote, PeerClock};
pub use stamp::{Dot, Time};
pub use vector::VersionVector;
pub use watch::{ClockWatch, Fence, PeerOffset};
