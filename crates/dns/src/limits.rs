//! Every limit of the DNS server.

use std::time::Duration;

/// Names that share the geographic answer, such as `redis`.
pub const MAX_SERVICE_NAMES: usize = 64;
/// Longest time to live of an answer, in seconds: longer ones defeat the purpose.
pub const MAX_TTL_S: u32 = 3_600;
/// Largest query over UDP in bytes; a longer one is malformed.
pub const MAX_UDP_QUERY_BYTES: usize = 4_096;
/// Largest answer over UDP in bytes: what passes any path unfragmented (RFC 9715).
pub const MAX_UDP_ANSWER_BYTES: u16 = 1_232;
/// Largest answer to a client without EDNS in bytes (RFC 1035 §4.2.1).
pub const PLAIN_UDP_ANSWER_BYTES: u16 = 512;
/// Largest query over TCP in bytes; a longer one ends the connection.
pub const MAX_TCP_QUERY_BYTES: usize = 4_096;
/// Loops that read the UDP socket; each handles one query at a time. A second one wakes up for
/// every packet as well, and costs more than it brings while a query takes microseconds.
pub const UDP_LOOPS: usize = 1;
/// TCP connections at once; further ones wait in the listener's backlog.
pub const MAX_TCP_CONNECTIONS: usize = 128;
/// Queries on one TCP connection, after which it is closed.
pub const MAX_QUERIES_PER_CONNECTION: usize = 1_000;
/// A TCP connection on which nothing moves for this long is closed.
pub const TCP_IDLE: Duration = Duration::from_secs(5);
/// Socket errors in a row after which a loop gives up; the process should then end.
pub const MAX_SOCKET_ERRORS: u32 = 1_000;
/// Attempts to find a port that is free for both UDP and TCP, when any will do.
pub const MAX_BIND_ATTEMPTS: u32 = 16;
