//! Bytes that cross a boundary: bounded readers, variable-length integers, control messages.
//!
//! Two codecs serve two purposes. The hot path (frames, operations, cells) is laid out by hand
//! with [`Reader`] and the `put_*` functions; handshakes and control messages go through
//! `bincode` in [`control`], the only module that names it.

pub mod control;
mod varint;

pub use varint::{Malformed, Reader, put_bytes, put_signed, put_varint};
