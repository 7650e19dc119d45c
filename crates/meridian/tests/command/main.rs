//! The meridian command as a user runs it: real processes, signals, sockets and files.
#![allow(clippy::unwrap_used)]

mod backup;
mod certificates;
mod clocks;
mod cluster;
mod configuration;
mod conflicts;
mod damage;
mod members;
mod sessions;
mod support;
