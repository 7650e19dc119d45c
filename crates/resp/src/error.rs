//! What a client can do wrong on the wire, in Redis's own words.

/// A request broke the protocol. The reply is `-ERR ` and this text (see
/// [`Writer::protocol_error`](crate::Writer::protocol_error)); then the connection is closed,
/// because nothing after the broken byte can be trusted to be a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// `*N` is not a number or is more than the most arguments.
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// `*N` is more than an unauthenticated client may send.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// `$len` is not a number, negative or more than the longest argument.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// `$len` is more than an unauthenticated client may send.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// An argument did not begin with `$`; holds the byte that stood there.
    #[error("Protocol error: expected '$', got '{}'", char::from(printable(*.0)))]
    ExpectedDollar(u8),
    /// An inline command's quotes do not close, or close inside a word.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// An inline command is longer than the longest line.
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    /// The line of `*N` is longer than the longest line.
    #[error("Protocol error: too big mbulk count string")]
    TooBigMultibulkCount,
    /// The line of `$len` is longer than the longest line.
    #[error("Protocol error: too big bulk count string")]
    TooBigBulkCount,
    /// The command as a whole is longer than the longest command. Redis closes such a connection
    /// without a word; a word costs nothing.
    #[error("Protocol error: too big command")]
    TooBigCommand,
}

/// Redis replaces line ends inside an error by spaces: an error reply is one line.
pub(crate) fn printable(byte: u8) -> u8 {
    if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }
}
