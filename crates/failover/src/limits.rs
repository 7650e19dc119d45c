//! Every limit of the failover controller, and how they relate.

/// Regions that a control state can name.
pub const MAX_REGIONS: usize = 32;
/// Largest heartbeat: it must fit a QUIC datagram on any path.
pub const MAX_HEARTBEAT_BYTES: usize = 1150;
/// Largest decision entry in bytes.
pub const MAX_DECISION_BYTES: usize = 1024;
/// Largest encoded control state in bytes.
pub const MAX_STATE_BYTES: usize = 4096;
/// Client networks that a topology may list.
pub const MAX_NETWORKS: usize = 10_000;
/// Addresses that a region may publish.
pub const MAX_ADDRESSES: usize = 16;
/// Waits of the lease are longer by this much than the lease itself, in milliseconds: room for
/// clocks that run at different rates (50 ms over half a second is far beyond any real drift).
pub const LEASE_MARGIN_MS: u64 = 50;
/// Flaps in a row after which the wait for a return no longer doubles.
pub const MAX_FLAPS: u8 = 16;
/// A decision that did not come out is proposed again after this many milliseconds.
pub const PROPOSAL_RETRY_MS: u64 = 1_000;
/// Leadership is handed away from the primary's region no more often than this, in milliseconds.
pub const TRANSFER_RETRY_MS: u64 = 5_000;

/// Bincode's worst case of one sighting: region, silence and an echo of two 64-bit numbers.
const SIGHTING_BYTES: usize = 3 + 6 + 1 + 9 + 9;
/// Bincode's worst case of a heartbeat's other fields, with the version.
const HEARTBEAT_FIELDS_BYTES: usize = 1 + 9 + 9 + 9 + 3 + 1 + 1 + 1 + 9;
/// Bincode's worst case of a region's status, or of a change.
const STATUS_BYTES: usize = 3 + 1 + 1 + 1 + 9;

const _: () = {
    assert!(MAX_REGIONS * SIGHTING_BYTES + HEARTBEAT_FIELDS_BYTES <= MAX_HEARTBEAT_BYTES);
    assert!(MAX_REGIONS * STATUS_BYTES + 32 <= MAX_DECISION_BYTES);
    assert!(MAX_REGIONS * STATUS_BYTES + 64 <= MAX_STATE_BYTES);
};
