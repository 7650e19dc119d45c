//! The checkpoint: elements of cells in RocksDB, and the record of what they cover.
//!
//! There is no write-ahead log here, since the segment log is one. A batch that completes a
//! checkpoint carries its record, and all memtables are then flushed at once (atomic flush), so
//! that after a crash the cells are at least as new as the record says (rule R8). Batches before
//! it may already be in files when the crash comes: replaying the log over newer cells is
//! idempotent.
//!
//! Damage is noticed by RocksDB: every block carries its checksum (XXH3), which is verified by
//! every read and every compaction. A second one around each value would find nothing more.

mod frozen;
mod tuning;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meridian_store::{CheckpointBatch, StoreError, Visit};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBPinnableSlice, DBRawIterator, FlushOptions,
    ReadOptions, WriteBatch, WriteOptions, properties,
};

pub use frozen::FrozenCheckpoint;

use crate::lock::DirectoryLock;
use crate::options::{DiskOptions, SCAN_READAHEAD_BYTES};

/// Elements, by `meridian_store::element_key`.
const ELEMENTS: &str = "elem";
/// The checkpoint's record.
const SYSTEM: &str = "sys";
const META: &[u8] = b"meta";

/// A directory's checkpoint. Clones share it; any number may read while one writes.
#[derive(Clone)]
pub struct Checkpoint {
    inner: Arc<Inner>,
}

/// Sizes for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    /// About how many elements there are.
    pub keys: u64,
    /// Bytes of the files that are in use.
    pub disk_bytes: u64,
    /// Bytes of blocks, indexes and filters in memory.
    pub cache_bytes: u64,
    /// Bytes of writes that are not yet in a file.
    pub memtable_bytes: u64,
    /// Bytes that compaction has yet to rewrite.
    pub compaction_debt_bytes: u64,
    /// Whether writers wait for compaction.
    pub stalled: bool,
}

struct Inner {
    db: DB,
    /// Set by the first write that failed; never unset.
    failed: AtomicBool,
    _lock: Arc<DirectoryLock>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("path", &self.inner.db.path()).finish()
    }
}

impl Checkpoint {
    pub(crate) fn open(
        path: &Path,
        options: &DiskOptions,
        lock: Arc<DirectoryLock>,
    ) -> Result<Checkpoint, StoreError> {
        let families = [
            ColumnFamilyDescriptor::new(ELEMENTS, tuning::elements(options)),
            ColumnFamilyDescriptor::new(SYSTEM, tuning::system()),
        ];
        let db = DB::open_cf_descriptors(&tuning::database(options), path, families);
        let inner = Inner { db: db.map_err(error)?, failed: AtomicBool::new(false), _lock: lock };
        Ok(Checkpoint { inner: Arc::new(inner) })
    }

    /// Writes a part of a checkpoint; with a record, returns when that and everything written
    /// before survive the machine. One thread at a time: the order of batches matters.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`]; every later call fails too.
    pub fn write(&self, batch: CheckpointBatch) -> Result<(), StoreError> {
        if self.inner.failed.load(Ordering::Acquire) {
            return Err(StoreError::Checkpoint("an earlier write failed".to_owned()));
        }
        self.try_write(batch).inspect_err(|_| self.inner.failed.store(true, Ordering::Release))
    }

    /// The newest complete checkpoint's record, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`] when it cannot be read.
    pub fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.db.get_cf(self.system(), META).map_err(error)
    }

    /// Visits every element in key order, as of the call. Reads ahead and leaves the cache alone.
    ///
    /// # Errors
    /// What reading failed with, or what `visit` returned.
    pub fn elements(&self, visit: Visit<'_>) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(SCAN_READAHEAD_BYTES);
        options.fill_cache(false);
        let mut iterator = self.inner.db.raw_iterator_cf_opt(self.family(ELEMENTS), options);
        iterator.seek_to_first();
        walk(iterator, visit)
    }

    /// One element.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`] when it cannot be read.
    pub fn get(&self, element_key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, StoreError> {
        self.inner.db.get_pinned_cf(self.family(ELEMENTS), element_key).map_err(error)
    }

    /// Visits the elements of one key (`meridian_store::key_prefix`) in order, as of the call.
    ///
    /// # Errors
    /// What reading failed with, or what `visit` returned.
    pub fn for_key(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(after_prefix(prefix)?);
        let mut iterator = self.inner.db.raw_iterator_cf_opt(self.family(ELEMENTS), options);
        iterator.seek(prefix);
        walk(iterator, visit)
    }

    /// Sizes for the metrics; cheap.
    #[must_use]
    pub fn stats(&self) -> CheckpointStats {
        let (db, elements) = (&self.inner.db, self.family(ELEMENTS));
        // A number that RocksDB cannot give is not worth failing for.
        let number = |name| db.property_int_value_cf(elements, name).ok().flatten().unwrap_or(0);
        CheckpointStats {
            keys: number(properties::ESTIMATE_NUM_KEYS),
            disk_bytes: number(properties::TOTAL_SST_FILES_SIZE),
            cache_bytes: number(properties::BLOCK_CACHE_USAGE),
            memtable_bytes: number(properties::CUR_SIZE_ALL_MEM_TABLES),
            compaction_debt_bytes: number(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            stalled: number(properties::IS_WRITE_STOPPED) > 0
                || number(properties::ACTUAL_DELAYED_WRITE_RATE) > 0,
        }
    }

    fn try_write(&self, batch: CheckpointBatch) -> Result<(), StoreError> {
        let (elements, system) = (self.family(ELEMENTS), self.system());
        let mut writes = WriteBatch::default();
        // Within a batch the later write wins: clearing must come first.
        for prefix in &batch.cleared {
            writes.delete_range_cf(elements, prefix.clone(), after_prefix(prefix)?);
        }
        for (key, value) in &batch.puts {
            match value {
                Some(value) => writes.put_cf(elements, key, value),
                None => writes.delete_cf(elements, key),
            }
        }
        if let Some(meta) = &batch.meta {
            writes.put_cf(system, META, meta);
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.inner.db.write_opt(writes, &options).map_err(error)?;
        if batch.meta.is_some() {
            let flush = FlushOptions::default();
            self.inner.db.flush_cfs_opt(&[&elements, &system], &flush).map_err(error)?;
        }
        Ok(())
    }

    fn db(&self) -> &DB {
        &self.inner.db
    }

    fn system(&self) -> &ColumnFamily {
        self.family(SYSTEM)
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.inner.db.cf_handle(name).expect("opened with this column family")
    }
}

fn walk(mut iterator: DBRawIterator<'_>, visit: Visit<'_>) -> Result<(), StoreError> {
    while let Some((key, value)) = iterator.item() {
        visit(key, value)?;
        iterator.next();
    }
    iterator.status().map_err(error)
}

/// The first key that is larger than every key with this prefix.
fn after_prefix(prefix: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Ok(end);
        }
    }
    Err(StoreError::Checkpoint(format!("no key comes after the prefix {prefix:02x?}")))
}

fn error(error: rocksdb::Error) -> StoreError {
    StoreError::Checkpoint(error.into_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(after_prefix(b"ab").unwrap(), b"ac");
        assert_eq!(after_prefix(b"a\xff\xff").unwrap(), b"b");
        assert!(after_prefix(b"\xff").is_err(), "partition numbers never get there");
        assert!(after_prefix(b"").is_err());
    }
}
