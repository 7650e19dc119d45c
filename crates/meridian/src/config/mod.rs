//! Configuration: one topology file for the whole cluster, and what this process is in it.
//!
//! [`ClusterFile`] is the file as it is written; [`NodeConfig`] is a region's view of it with
//! everything resolved: paths, secrets, and the settings of each crate underneath. What is given
//! on the command line goes before the environment (`MERIDIAN_*`), that before the file, and the
//! file before the defaults.

mod backup;
mod check;
mod file;
mod node;
mod parts;
mod paths;
mod period;
mod replication;
mod secret;
mod size;

pub use file::{AppendFsync, ClusterFile, EXAMPLE, Region, RoundTrip};
pub use node::{NodeConfig, Overrides};
pub use paths::Paths;
pub use replication::ReplicationSection;
pub use secret::Secret;
pub use size::Size;

#[cfg(test)]
mod tests;
