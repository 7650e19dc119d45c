//! Every limit of a group, and the relations between them that the code relies on.

/// Largest group. Odd sizes are sensible; beyond seven every commit waits for too many regions.
pub const MAX_VOTERS: usize = 7;
/// Regions that follow without a vote: every ordinal that a cluster can hand out.
pub const MAX_LEARNERS: usize = 64;
/// Largest encoded configuration in bytes.
pub const MAX_CONF_BYTES: usize = 512;
/// Largest single proposal in bytes: control entries are small, data does not travel here.
pub const MAX_PROPOSAL_BYTES: usize = 16 * 1024;
/// Largest application state in a snapshot, in bytes.
pub const MAX_STATE_BYTES: usize = 256 * 1024;
/// Entry bytes that one append message carries (at least one entry always fits).
pub const MAX_APPEND_BYTES: usize = 64 * 1024;
/// Entries that one append message may carry.
pub const MAX_APPEND_ENTRIES: usize = 16 * 1024;
/// Largest message accepted from or sent to a peer, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 512 * 1024;
/// Largest record handed out for the control log, in bytes.
pub const MAX_RECORD_BYTES: usize = 512 * 1024;
/// Entry bytes after which a batch of entries continues in the next record.
pub const RECORD_CHUNK_BYTES: usize = 128 * 1024;
/// Bytes of proposals that wait for commitment before further ones are refused.
pub const MAX_UNCOMMITTED_BYTES: u64 = 1024 * 1024;
/// Append messages under way to one peer.
pub const MAX_INFLIGHT_APPENDS: usize = 16;
/// Committed bytes handed out in one turn.
pub const MAX_COMMITTED_BYTES_PER_READY: u64 = 256 * 1024;
/// Messages waiting for an fsync before the group takes no more input.
pub const MAX_WAITING_MESSAGES: usize = 1024;
/// Log bytes in memory from which [`crate::Group::wants_compaction`] asks for a snapshot.
pub const LOG_BYTES_BEFORE_COMPACTION: usize = 256 * 1024;
/// Largest term believed from a peer: a hostile jump must not bring terms near overflow.
pub const MAX_TERM: u64 = 1 << 48;
/// Largest log index believed from a peer.
pub const MAX_INDEX: u64 = 1 << 56;
/// Ticks made up for in one call after a pause (a frozen process does not replay its sleep).
pub const MAX_TICKS_PER_CALL: u64 = 64;

/// Largest snapshot: a state, and the configuration in front of it.
pub(crate) const MAX_SNAPSHOT_BYTES: usize = MAX_STATE_BYTES + MAX_CONF_BYTES + 3;
/// Room for the fields around the payload of a message or record.
const ENVELOPE_BYTES: usize = 4096;
/// Bincode's worst case around one entry: two varints and a length.
const ENTRY_OVERHEAD_BYTES: usize = 24;

const _: () = {
    let entries = MAX_APPEND_BYTES + MAX_PROPOSAL_BYTES + MAX_APPEND_ENTRIES * ENTRY_OVERHEAD_BYTES;
    assert!(entries + ENVELOPE_BYTES <= MAX_MESSAGE_BYTES);
    assert!(MAX_SNAPSHOT_BYTES + ENVELOPE_BYTES <= MAX_MESSAGE_BYTES);
    assert!(RECORD_CHUNK_BYTES + MAX_PROPOSAL_BYTES + ENVELOPE_BYTES <= MAX_RECORD_BYTES);
    assert!(MAX_SNAPSHOT_BYTES + ENVELOPE_BYTES <= MAX_RECORD_BYTES);
    assert!(MAX_MESSAGE_BYTES <= meridian_codec::control::MAX_CONTROL_BYTES);
    assert!(MAX_RECORD_BYTES <= meridian_codec::control::MAX_CONTROL_BYTES);
    assert!(MAX_UNCOMMITTED_BYTES >= MAX_APPEND_BYTES as u64);
};
