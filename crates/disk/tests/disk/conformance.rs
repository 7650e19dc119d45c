//! Files and RocksDB do what the model does.

use std::cell::RefCell;

use meridian_disk::{DiskOptions, DiskStorage};
use meridian_store::conformance;

use crate::support::{identity, small};

fn conforms(options: &DiskOptions) {
    // The path of the storage that is open, for the suite's functions run one after the other.
    let current = RefCell::new(tempfile::tempdir().expect("a directory"));
    let open =
        || DiskStorage::open(current.borrow().path(), &identity(), options.clone()).expect("opens");
    let create = || {
        current.replace(tempfile::tempdir().expect("a directory"));
        open()
    };
    let reopen = |storage| {
        drop(storage);
        open()
    };
    conformance::run(create, reopen);
}

#[test]
fn conforms_with_small_segments() {
    conforms(&small());
}

#[test]
fn conforms_as_in_production() {
    conforms(&DiskOptions::default());
}
