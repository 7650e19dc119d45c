//! One region as one state machine.
//!
//! A region is three machines that talk by values: [`DataNode`] (commands, merges, commits),
//! [`Shipper`] (feeds peers from the log) and [`Control`] (who is up, who is primary). The daemon
//! runs each on a thread of its own; the simulator runs all of them in one, step by step. What
//! they say to other regions is in [`wire`]; [`recover`] and [`CheckpointRun`] tie them to
//! storage.

mod checkpoint;
mod clocks;
mod control;
mod data;
mod lag;
pub mod limits;
mod recovery;
mod repair;
mod shipper;
pub mod watermarks;
pub mod wire;

pub use checkpoint::{CheckpointRun, export, export_slot};
pub use clocks::{Alarm, Claim, Clocks};
pub use control::{Control, ControlAblations, ControlConfig, ControlEffect, ControlTurn};
pub use data::{DataConfig, DataEffect, DataNode, PeerLag, StreamPosition};
pub use recovery::{RecoverError, Recovered, recover};
pub use repair::{RepairCounts, RepairLimits, RepairProgress, Repairs};
pub use shipper::Shipper;
