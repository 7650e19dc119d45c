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

mod fresh;
mod frozen;
mod tuning;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use meridian_store::{CheckpointBatch, StoreError, Visit};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBRawIterator, FlushOptions, ReadOptions, WriteBatch,
    WriteOptions, properties,
};

pub use fresh::FreshCheckpoint;
pub(crate) use fresh::settle;
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
    /// Nothing only while one is put into the place of another, or when that has failed.
    db: RwLock<Option<DB>>,
    path: PathBuf,
    options: DiskOptions,
    /// Set by the first write that failed; never unset.
    failed: AtomicBool,
    _lock: Arc<DirectoryLock>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("path", &self.inner.path).finish()
    }
}

impl Checkpoint {
    pub(crate) fn open(
        path: &Path,
        options: &DiskOptions,
        lock: Arc<DirectoryLock>,
    ) -> Result<Checkpoint, StoreError> {
        let db = RwLock::new(Some(open_database(path, options)?));
        let (path, options) = (path.to_owned(), options.clone());
        let inner = Inner { db, path, options, failed: AtomicBool::new(false), _lock: lock };
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
        let written = self.db().and_then(|db| write_batch(&db, batch));
        written.inspect_err(|_| self.inner.failed.store(true, Ordering::Release))
    }

    /// The newest complete checkpoint's record, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`] when it cannot be read.
    pub fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let db = self.db()?;
        db.get_cf(family(&db, SYSTEM), META).map_err(error)
    }

    /// Visits every element in key order, as of the call. Reads ahead and leaves the cache alone.
    ///
    /// # Errors
    /// What reading failed with, or what `visit` returned.
    pub fn elements(&self, visit: Visit<'_>) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(SCAN_READAHEAD_BYTES);
        options.fill_cache(false);
        let db = self.db()?;
        let mut iterator = db.raw_iterator_cf_opt(family(&db, ELEMENTS), options);
        iterator.seek_to_first();
        walk(iterator, visit)
    }

    /// One element.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`] when it cannot be read.
    pub fn get(&self, element_key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let db = self.db()?;
        db.get_cf(family(&db, ELEMENTS), element_key).map_err(error)
    }

    /// Visits the elements of one key (`meridian_store::key_prefix`) in order, as of the call.
    ///
    /// # Errors
    /// What reading failed with, or what `visit` returned.
    pub fn for_key(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(after_prefix(prefix)?);
        let db = self.db()?;
        let mut iterator = db.raw_iterator_cf_opt(family(&db, ELEMENTS), options);
        iterator.seek(prefix);
        walk(iterator, visit)
    }

    /// Sizes for the metrics; cheap.
    #[must_use]
    pub fn stats(&self) -> CheckpointStats {
        let Ok(db) = self.db() else { return CheckpointStats::default() };
        let elements = family(&db, ELEMENTS);
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

    /// Where it is.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.inner.path
    }

    fn db(&self) -> Result<Open<'_>, StoreError> {
        let open = self.inner.db.read().unwrap_or_else(PoisonError::into_inner);
        match open.is_some() {
            true => Ok(Open(open)),
            false => Err(StoreError::Checkpoint("it could not be opened again".to_owned())),
        }
    }
}

impl Inner {
    fn db_mut(&self) -> RwLockWriteGuard<'_, Option<DB>> {
        self.db.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What had failed is not there any more.
    fn mend(&self) {
        self.failed.store(false, Ordering::Release);
    }
}

/// The database, held so that nothing is put into its place.
struct Open<'a>(RwLockReadGuard<'a, Option<DB>>);

impl Deref for Open<'_> {
    type Target = DB;

    fn deref(&self) -> &DB {
        self.0.as_ref().expect("looked at before")
    }
}

fn open_database(path: &Path, options: &DiskOptions) -> Result<DB, StoreError> {
    let families = [
        ColumnFamilyDescriptor::new(ELEMENTS, tuning::elements(options)),
        ColumnFamilyDescriptor::new(SYSTEM, tuning::system()),
    ];
    DB::open_cf_descriptors(&tuning::database(options), path, families)
        .map_err(|e| StoreError::Checkpoint(format!("{}: {}", path.display(), e.into_string())))
}

fn write_batch(db: &DB, batch: CheckpointBatch) -> Result<(), StoreError> {
    let (elements, system) = (family(db, ELEMENTS), family(db, SYSTEM));
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
    db.write_opt(writes, &options).map_err(error)?;
    if batch.meta.is_some() {
        let flush = FlushOptions::default();
        db.flush_cfs_opt(&[elements, system], &flush).map_err(error)?;
    }
    Ok(())
}

fn family<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("opened with this column family")
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
