//! Every bound of the network, in one place.

use std::time::Duration;

/// The longest delay and jitter that a link may have.
pub const DELAY_MAX: Duration = Duration::from_secs(60);

/// How many bytes may be in flight over all links together.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

/// What the smallest packet counts against that: about what its bookkeeping takes.
pub const PACKET_COST_MIN: usize = 128;

/// How many client addresses a link serves at a time.
pub const FLOWS_PER_LINK_MAX: usize = 64;

/// A client address that was silent for this long may be forgotten.
pub const FLOW_IDLE: Duration = Duration::from_secs(30);

/// How often silent client addresses are looked for.
pub const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// The largest datagram, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 65_535;

/// How many packets are handled in one go.
pub const BATCH: usize = 64;
