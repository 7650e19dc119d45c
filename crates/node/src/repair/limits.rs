//! How much of a repair is done in one go. The daemon takes what stands in `limits.rs`; a test in
//! which a partition holds few elements makes it small, so that every path is taken.

use meridian_replication::limits::{
    MAX_FETCH_ITEMS, MAX_SYMBOLS, REPAIR_PIECE_BYTES, REPAIR_WINDOW_BYTES,
};

use crate::limits::{
    REPAIR_PATIENCE_MS, REPAIR_SAMPLE, REPAIR_SCAN_ELEMENTS, REPAIR_SPARE_SYMBOLS,
    REPAIR_WHOLE_SHARE,
};

/// The limits of repairs. None may be zero unless it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairLimits {
    /// About how many elements are looked at in one go.
    pub scan_elements: usize,
    /// Of so many elements one is looked at closely, to guess how many differ.
    pub sample: usize,
    /// When one in so many elements is news to the other side, all are sent; 0: only to a region
    /// that has nothing.
    pub whole_share: u64,
    /// So many symbols are sent beyond the guess.
    pub spare_symbols: u64,
    /// The most symbols that one message asks for or carries, up to [`MAX_SYMBOLS`].
    pub symbols: u64,
    /// The most items that one message asks for, up to [`MAX_FETCH_ITEMS`].
    pub items: usize,
    /// A piece of the stream of elements, in bytes.
    pub piece_bytes: usize,
    /// How much of that stream may be under way, in bytes: the same on both sides.
    pub window_bytes: u64,
    /// A repair whose other side says nothing for so long is given up, in milliseconds. Longer than
    /// the way there and back with a sync in between.
    pub patience_ms: u64,
}

impl Default for RepairLimits {
    fn default() -> Self {
        RepairLimits {
            scan_elements: REPAIR_SCAN_ELEMENTS,
            sample: REPAIR_SAMPLE,
            whole_share: REPAIR_WHOLE_SHARE,
            spare_symbols: REPAIR_SPARE_SYMBOLS,
            symbols: MAX_SYMBOLS,
            items: MAX_FETCH_ITEMS,
            piece_bytes: REPAIR_PIECE_BYTES,
            window_bytes: REPAIR_WINDOW_BYTES,
            patience_ms: REPAIR_PATIENCE_MS,
        }
    }
}
