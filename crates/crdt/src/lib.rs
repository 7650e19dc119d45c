//! What merges, and by which law: cells, counters, expiry, objects.
//!
//! An [`Object`] is all that is held under one key. It changes in one way only: an [`Op`] is
//! applied with its [`Context`], at the region that wrote it and at every other region alike.
//! Given causal delivery (each origin's operations in order, and none before what its author had
//! seen), objects that have seen the same operations are equal, whatever the order of arrival.
//!
//! There are no tombstones: an operation removes what its context covers, and a covered dot can
//! never arrive late.

mod amount;
mod cell;
mod join;
mod name;
mod object;
mod op;
mod stored;
mod wire;

pub use amount::{Amount, AmountError};
pub use cell::{Cell, OwnTtl, Reg, Row};
pub use join::{Join, Stored};
pub use name::Name;
pub use object::{Effect, Elements, Kind, Object, Visible};
pub use op::{Action, Context, Cut, Element, Op};
pub use stored::{
    ElementKey, decode_cell, decode_deadlines, decode_stored, encode_cell, encode_deadlines,
    encode_name, encode_state, encode_stored,
};
pub use wire::{MAX_CUTS, OpReader, encode_op};
