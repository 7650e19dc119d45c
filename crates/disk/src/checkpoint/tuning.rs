//! RocksDB's settings: within the given memory, for large sorted batches and full scans.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, LogLevel, Options};

use crate::options::{DiskOptions, ROCKS_LOG_BYTES, ROCKS_LOG_FILES, ROCKS_MANIFEST_BYTES};

/// Bloom filter of 10 bits a key: one in a hundred reads of a missing key goes to disk.
const FILTER_BITS_PER_KEY: f64 = 10.0;
/// Larger blocks compress better and scan faster; 8 KiB keeps a single read cheap.
const BLOCK_BYTES: usize = 8 << 10;
/// The table format that RocksDB has written since 8.6.
const TABLE_FORMAT: i32 = 6;
/// Writers go on into a second memtable while the first is flushed.
const MEMTABLES: i32 = 3;
/// Enough for a record of a few kilobytes.
const SYSTEM_MEMTABLE_BYTES: usize = 256 << 10;
/// Dirty pages are written back as files grow, not all at their end.
const WRITE_BACK_BYTES: u64 = 1 << 20;
/// The least effort: the machine's cores are for commands.
const ZSTD_LEVEL: i32 = 1;
/// Only zlib looks at it.
const ZSTD_WINDOW_BITS: i32 = -14;

pub(super) fn database(options: &DiskOptions) -> Options {
    let mut database = Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    // A record must never be durable without the cells that were written before it.
    database.set_atomic_flush(true);
    database.set_paranoid_checks(true);
    database.set_db_write_buffer_size(options.memtable_bytes);
    database.set_max_background_jobs(i32::from(options.background_jobs.max(2)));
    database.set_max_open_files(i32::from(options.open_files));
    database.set_bytes_per_sync(WRITE_BACK_BYTES);
    database.set_skip_stats_update_on_db_open(true);
    database.set_max_manifest_file_size(ROCKS_MANIFEST_BYTES);
    database.set_keep_log_file_num(ROCKS_LOG_FILES);
    database.set_max_log_file_size(ROCKS_LOG_BYTES);
    database.set_log_level(LogLevel::Warn);
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    database
}

pub(super) fn elements(options: &DiskOptions) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_size(BLOCK_BYTES);
    table.set_format_version(TABLE_FORMAT);
    table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
    table.set_optimize_filters_for_memory(true);
    table.set_block_cache(&Cache::new_lru_cache(options.cache_bytes));
    // Otherwise indexes and filters are kept beside the cache, and the limit is none.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut family = Options::default();
    family.set_block_based_table_factory(&table);
    family.set_write_buffer_size(options.memtable_bytes);
    family.set_max_write_buffer_number(MEMTABLES);
    family.set_level_compaction_dynamic_level_bytes(true);
    // Young files are rewritten soon; only what has settled is worth compressing.
    let (none, zstd) = (DBCompressionType::None, DBCompressionType::Zstd);
    family.set_compression_per_level(&[none, none, zstd, zstd, zstd, zstd, zstd]);
    family.set_bottommost_compression_type(zstd);
    family.set_compression_options(ZSTD_WINDOW_BITS, ZSTD_LEVEL, 0, 0);
    family.set_bottommost_compression_options(ZSTD_WINDOW_BITS, ZSTD_LEVEL, 0, 0, true);
    family
}

pub(super) fn system() -> Options {
    let mut family = Options::default();
    family.set_write_buffer_size(SYSTEM_MEMTABLE_BYTES);
    family.set_compression_type(DBCompressionType::None);
    family
}
