//! What Redis commands mean: one stage from command or remote frame to record.
//!
//! [`Stage`] holds the data and knows one way to change it: an operation, stamped, encoded into
//! the frame of the current commit and applied. [`Engine`] puts clients in front of it: sessions,
//! the command table, replies that are released by the commit that covers them. Neither does any
//! I/O: bytes and time come in, log entries and replies come out.

mod ablations;
mod client;
mod commands;
mod conflicts;
mod dispatch;
mod engine;
mod export;
mod feed;
mod freeze;
mod increment;
mod key;
pub mod limits;
mod look;
mod mirror;
mod partition;
mod repair;
mod session;
mod slot;
mod stage;
mod table;
mod tables;
mod token;
mod waiting;

pub use ablations::Ablations;
pub use client::{Client, ClientId};
pub use conflicts::{ConflictEvent, Conflicts, Ending, Loss, Place, Rule};
pub use dispatch::{Awaits, Environment};
pub use engine::{Commit, Durability, Engine, EngineConfig};
pub use export::{Touched, TouchedKey, export_element};
pub use freeze::Frozen;
pub use look::{Form, View};
pub use mirror::{MIRROR_PREFIX, MirrorChange, RESERVED_PREFIX};
pub use partition::Partition;
pub use slot::{SLOTS, slot_of};
pub use stage::{FrameError, Stage, StageConfig};
pub use table::{CHECK_PREFIX, SlotSum};
pub use token::{Need, Scope, Token, TokenError};
