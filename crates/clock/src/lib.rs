//! Stamps, the hybrid logical clock, region ordinals and version vectors.
//!
//! Everything that orders events between regions lives here, so that every other crate
//! compares and merges in the same way. Nothing in this crate reads a clock: physical time is
//! always an argument.

mod hybrid;
mod origin;
mod stamp;
mod vector;

pub use hybrid::{ClockError, HybridClock, MAX_AHEAD_MS};
pub use origin::{MAX_REGIONS, Origin};
pub use stamp::{Dot, Time};
pub use vector::VersionVector;
