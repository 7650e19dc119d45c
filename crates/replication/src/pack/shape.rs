//! The shape of an operation: its kind, and what of it stands in the other columns.

pub(super) const ASSIGN: u64 = 0;
pub(super) const REMOVE: u64 = 1;
pub(super) const CLEAR: u64 = 2;
pub(super) const INCR: u64 = 3;
pub(super) const EXPIRE: u64 = 4;
pub(super) const ACTION_MASK: u64 = 0b111;
pub(super) const KIND_SHIFT: u64 = 3;
pub(super) const KIND_MASK: u64 = 0b11;
/// The key is that of the operation before in the batch.
pub(super) const SAME_KEY: u64 = 1 << 5;
pub(super) const FRESH: u64 = 1 << 6;
/// A time to live or a deadline follows.
pub(super) const TTL: u64 = 1 << 7;
pub(super) const FRACTION: u64 = 1 << 8;
/// The increment opens its row.
pub(super) const OPENS: u64 = 1 << 9;
pub(super) const KNOWN_SHAPES: u64 = (1 << 10) - 1;
