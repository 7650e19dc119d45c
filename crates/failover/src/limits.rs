//! Every limit of the failover controller, and how they relate.

/// Regions that a control state can name.
pub const MAX_REGIONS: usize = 32;
/// Largest heartbeat: it must fit a QUIC datagram on any path.
pub const MAX_HEARTBEAT_BYTES: usize = 1150;
/// Ordinals that can ever be handed out, those of retired regions included: what a version vector
/// has room for.
pub const MAX_MEMBERS: usize = meridian_clock::MAX_REGIONS;
/// Longest `host:port` of a member, in bytes: a DNS name and a port.
pub const MAX_ADDRESS_BYTES: usize = 260;
/// Largest decision entry in bytes.
pub const MAX_DECISION_BYTES: usize = 2048;
/// Largest encoded control state in bytes.
pub const MAX_STATE_BYTES: usize = 64 << 10;
/// Regions that are given a vote in the control group. Founders beyond it keep theirs.
pub const VOTERS_MAX: usize = 5;
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

/// Bincode's worst case of a member: ordinal, name, status, epoch, flag, token, addresses.
const MEMBER_BYTES: usize = 3
    + (1 + 63)
    + 1
    + 9
    + 1
    + 9
    + (3 + MAX_ADDRESS_BYTES)
    + 3 * SOCKET_BYTES
    + (1 + MAX_ADDRESSES * ADDRESS_BYTES);
/// An optional socket address: a flag, a family, an address, a port.
const SOCKET_BYTES: usize = 1 + ADDRESS_BYTES + 3;
/// A family and an IPv6 address.
const ADDRESS_BYTES: usize = 1 + 16;

const _: () = {
    assert!(MAX_REGIONS * SIGHTING_BYTES + HEARTBEAT_FIELDS_BYTES <= MAX_HEARTBEAT_BYTES);
    assert!(MAX_REGIONS * STATUS_BYTES + 32 <= MAX_DECISION_BYTES);
    assert!(MAX_REGIONS * STATUS_BYTES + MAX_MEMBERS * MEMBER_BYTES + 64 <= MAX_STATE_BYTES);
    assert!(MEMBER_BYTES + 32 <= MAX_DECISION_BYTES);
    assert!(MAX_REGIONS <= MAX_MEMBERS);
};
