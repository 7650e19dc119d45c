//! The replies that most commands end with, ready to be appended by
//! [`Writer::raw`](crate::Writer::raw). All but the nulls read the same in both protocols.

/// `OK`.
pub const OK: &[u8] = b"+OK\r\n";
/// `PONG`.
pub const PONG: &[u8] = b"+PONG\r\n";
/// A command of a transaction was accepted.
pub const QUEUED: &[u8] = b"+QUEUED\r\n";
/// Integer 0.
pub const ZERO: &[u8] = b":0\r\n";
/// Integer 1.
pub const ONE: &[u8] = b":1\r\n";
/// Integer -1.
pub const MINUS_ONE: &[u8] = b":-1\r\n";
/// Integer -2.
pub const MINUS_TWO: &[u8] = b":-2\r\n";
/// Null string, RESP2 only.
pub const NULL_BULK: &[u8] = b"$-1\r\n";
/// Null array, RESP2 only.
pub const NULL_ARRAY: &[u8] = b"*-1\r\n";
/// Null, RESP3 only.
pub const NULL: &[u8] = b"_\r\n";
/// Empty string.
pub const EMPTY_BULK: &[u8] = b"$0\r\n\r\n";
/// Empty array.
pub const EMPTY_ARRAY: &[u8] = b"*0\r\n";
/// The value has another type than the command needs.
pub const WRONG_TYPE: &[u8] =
    b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";
/// The options of a command make no sense together.
pub const SYNTAX_ERROR: &[u8] = b"-ERR syntax error\r\n";
/// An argument or a value is not a 64-bit integer.
pub const NOT_AN_INTEGER: &[u8] = b"-ERR value is not an integer or out of range\r\n";
