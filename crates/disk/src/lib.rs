//! The segment log in files and the checkpoint in RocksDB.
