//! The storage on a real file system, with real processes that are killed. One binary, since each
//! links RocksDB.
#![allow(clippy::unwrap_used)]

mod backup;
mod checkpoint;
mod conformance;
mod damage;
mod differential;
mod directory;
mod full;
mod killed;
mod region;
mod rot;
mod support;
mod threads;
