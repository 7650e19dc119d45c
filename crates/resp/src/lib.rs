//! Redis wire protocol: bytes to commands, replies to bytes.
//!
//! This crate stands on the hot path of every command, so it borrows instead of copying: a request
//! is parsed into ranges of the connection's own read buffer ([`Args`]), and a reply is appended to
//! the connection's own write buffer ([`Writer`]). Neither allocates once its buffers have grown.
//! It does no I/O and keeps no clock; a connection feeds it bytes and takes what comes out.
//!
//! Behaviour follows Redis 7.0, down to the texts of the protocol errors and to what it tolerates:
//! both are compared with a running `redis-server` in `tests/against_redis.rs`.
//!
//! * [`RequestParser`] — a server's side: commands as multibulk or inline text.
//! * [`Writer`] — a server's replies, in RESP2 or RESP3.
//! * [`ReplyParser`] and [`encode_command`] — the few lines that a client needs.
//! * [`number`] — integers and doubles in Redis's own text form.

mod error;
mod inline;
mod limits;
pub mod number;
mod reply;
mod request;
pub mod shared;
mod value;
mod writer;

pub use error::ProtocolError;
pub use limits::{Limits, ReplyLimits};
pub use reply::{ReplyError, ReplyParser};
pub use request::{Args, RequestParser};
pub use value::Value;
pub use writer::{Protocol, Writer, encode_command};
