//! A checkpoint as it was at one moment: links to its files, opened to be read and nothing else.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use meridian_store::{StoreError, Visit};
use rocksdb::checkpoint::Checkpoint as RocksCheckpoint;
use rocksdb::{ColumnFamilyDescriptor, DB, Options, ReadOptions};

use super::{Checkpoint, ELEMENTS, META, SYSTEM, error, tuning, walk};
use crate::file::at;
use crate::options::{DiskOptions, FROZEN_CACHE_BYTES, SCAN_READAHEAD_BYTES, SMALL_FILE_BYTES_MAX};

/// RocksDB's own name of a database, in the database's directory.
const DATABASE: &str = "IDENTITY";

/// What no reader needs: diagnostics, and what is made anew by whoever opens the files.
const NEEDLESS: [&str; 3] = ["LOG", "LOCK", DATABASE];

/// A frozen checkpoint, open for reading. Every block is compared with its checksum as it is read.
#[derive(Debug)]
pub struct FrozenCheckpoint {
    db: Arc<DB>,
}

impl Checkpoint {
    /// Links the files of the newest complete checkpoint into `path`, which must not be there, and
    /// returns its record. What they hold besides is not newer than what was durable in the log
    /// at the end of the call.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`].
    pub fn freeze(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let db = self.db()?;
        // Without a flush: what is still in memory belongs to a checkpoint that is not complete.
        let frozen = RocksCheckpoint::new(&*db).map_err(error)?;
        frozen.create_checkpoint_with_log_size(path, u64::MAX).map_err(error)?;
        let frozen = Checkpoint::open_frozen(path)?;
        frozen.meta()
    }

    /// Which database this is, whatever its directory is called.
    #[must_use]
    pub fn database(&self) -> String {
        let path = self.inner.path.join(DATABASE);
        let text = fs::metadata(&path)
            .ok()
            .filter(|found| found.len() <= SMALL_FILE_BYTES_MAX)
            .and_then(|_| fs::read_to_string(&path).ok());
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    }

    /// Opens files that were frozen before.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`] when they are not whole; names the file as far as RocksDB does.
    pub(crate) fn open_frozen(path: &Path) -> Result<FrozenCheckpoint, StoreError> {
        let options = DiskOptions { cache_bytes: FROZEN_CACHE_BYTES, ..DiskOptions::default() };
        let mut database = Options::default();
        database.set_paranoid_checks(true);
        database.set_max_open_files(i32::from(options.open_files));
        let families = [
            ColumnFamilyDescriptor::new(ELEMENTS, tuning::elements(&options)),
            ColumnFamilyDescriptor::new(SYSTEM, tuning::system()),
        ];
        let db = DB::open_cf_descriptors_read_only(&database, path, families, false);
        Ok(FrozenCheckpoint { db: Arc::new(db.map_err(error)?) })
    }

    /// Names and lengths of frozen files that a copy needs.
    pub(crate) fn frozen_files(path: &Path) -> Result<Vec<(String, u64)>, StoreError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(at("listing", path))? {
            let entry = entry.map_err(at("listing", path))?;
            let length = entry.metadata().map_err(at("looking at", path))?.len();
            let name = entry.file_name().to_string_lossy().into_owned();
            if !NEEDLESS.iter().any(|needless| name.starts_with(needless)) {
                files.push((name, length));
            }
        }
        files.sort_unstable();
        Ok(files)
    }
}

impl FrozenCheckpoint {
    /// The checkpoint's record.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`] when it cannot be read.
    pub fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let family = self.db.cf_handle(SYSTEM).expect("opened with this column family");
        self.db.get_cf(family, META).map_err(error)
    }

    /// Visits every element in key order.
    ///
    /// # Errors
    /// What reading failed with, or what `visit` returned.
    pub fn elements(&self, visit: Visit<'_>) -> Result<(), StoreError> {
        let family = self.db.cf_handle(ELEMENTS).expect("opened with this column family");
        let mut options = ReadOptions::default();
        options.set_readahead_size(SCAN_READAHEAD_BYTES);
        options.set_verify_checksums(true);
        options.fill_cache(false);
        let mut iterator = self.db.raw_iterator_cf_opt(family, options);
        iterator.seek_to_first();
        walk(iterator, visit)
    }
}
