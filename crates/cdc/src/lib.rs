//! Change data capture without I/O: what a Postgres replication stream *means* for the mirror.
//!
//! A row of table `products` with key 42 is the hash `pg:products:42`. This crate turns the bytes
//! of a logical replication stream (plug-in `pgoutput`) and of a table copy into [`Batch`]es of
//! [`Change`]s, each with the [`Position`] that must be stored in the same commit as its rows, and
//! decides from what a server says about itself whether a stored position may be resumed
//! ([`decide`]). Sockets, clocks and SQL live in the adapter.
//!
//! The way through: bytes → [`Decoder`] → [`Message`] → [`Assembler`] → [`Assembled`] → the store.
//! [`Mirror`] is the reference for what applying a batch does; a real store must end up equal.
//!
//! Three rules keep restarts exact:
//! 1. A position is the end of a commit (or an idle point between commits), never the middle of one.
//! 2. Rows and position are stored in one commit; only then may Postgres be told to forget.
//! 3. Every change is idempotent, and a transaction sent again from its beginning ends in the same
//!    rows: that is why a huge transaction may arrive in parts that move no position.

mod assemble;
mod change;
mod copy;
mod error;
mod ledger;
pub mod limits;
mod lsn;
mod mirror;
mod pgoutput;
mod session;
mod shape;
mod table;

pub use assemble::{Assembled, Assembler, Counters, Refetch};
pub use change::{Batch, Change, Retain, Upsert};
pub use copy::{KeyScan, TableCopy, uncaptured};
pub use error::{AssembleError, CopyError, DecodeError, KeyError};
pub use ledger::Ledger;
pub use lsn::{Position, format_lsn, parse_lsn};
pub use mirror::Mirror;
pub use pgoutput::{
    Column, Decoder, Message, Old, Relation, RelationColumn, ReplicaIdentity, Tuple,
};
pub use session::{Decision, Server, Slot, WalStatus, decide};
pub use shape::Shape;
pub use table::{MIRROR_PREFIX, TableName, Tables, prefix_end};
