//! What an operator may tune, and every limit of this crate.

/// The smallest segment that makes sense: smaller ones are for tests.
pub const SEGMENT_BYTES_MIN: u64 = 4 << 10;

/// The smallest read from a segment; less costs a call for nothing.
pub(crate) const READ_BYTES_MIN: usize = 64 << 10;

/// Format of the directory that this build writes. Older ones are read, newer ones refused.
///
/// 1. Frames in the log.
/// 2. State repairs and bundles too.
/// 3. A head in the control group's log.
pub(crate) const FORMAT: u32 = 3;

/// The longest cluster or region name that is accepted.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// The largest `FORMAT` or `LOCK` file that is read: both are a few lines.
pub(crate) const SMALL_FILE_BYTES_MAX: u64 = 4 << 10;

/// Read ahead of a full scan of the checkpoint.
pub(crate) const SCAN_READAHEAD_BYTES: usize = 4 << 20;

/// RocksDB's own diagnostic files: how many, and how large each.
pub(crate) const ROCKS_LOG_FILES: usize = 4;
/// See [`ROCKS_LOG_FILES`].
pub(crate) const ROCKS_LOG_BYTES: usize = 1 << 20;

/// The list of RocksDB's files is written anew when it is longer than this.
pub(crate) const ROCKS_MANIFEST_BYTES: usize = 16 << 20;

/// Backups and checks read about this much at a time.
pub(crate) const COPY_BYTES: usize = 1 << 20;

/// A backup stores the log in pieces of about this length: one is in memory when it is read back.
pub(crate) const LOG_PIECE_BYTES: u64 = 32 << 20;

/// The longest manifest of a backup that is read.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// The most bytes of digests that are read: ten for each of Redis's hash slots.
pub(crate) const DIGESTS_BYTES_MAX: usize = 10 * 16_384;

/// Memory for blocks of a frozen checkpoint that is read through.
pub(crate) const FROZEN_CACHE_BYTES: usize = 8 << 20;

/// The clock's floor is written in turn to two places so far apart: a sector that is torn in one
/// leaves the other.
pub(crate) const CLOCK_SLOT_BYTES: u64 = 512;

/// Memory and disk that a directory may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// Length of a log segment in bytes; disk is reserved in units of it.
    pub segment_bytes: u64,
    /// Memory for checkpoint writes that are not yet in a file, in bytes.
    pub memtable_bytes: usize,
    /// Memory for blocks, indexes and filters of the checkpoint, in bytes.
    pub cache_bytes: usize,
    /// Threads that flush and compact the checkpoint.
    pub background_jobs: u8,
    /// Files of the checkpoint that are kept open.
    pub open_files: u16,
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions {
            segment_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            cache_bytes: 64 << 20,
            background_jobs: 2,
            open_files: 512,
        }
    }
}
