//! A server's replies: appended to the connection's write buffer, in the client's protocol.
//!
//! An aggregate is announced by its length and followed by that many values, as on the wire; the
//! writer keeps no state between calls, so a reply costs its bytes and nothing else.

use crate::error::{ProtocolError, printable};
use crate::number::{self, NumberText};
use crate::shared;

/// The protocol that a client has chosen by HELLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2: what every connection starts with.
    #[default]
    Resp2,
    /// RESP3.
    Resp3,
}

/// Appends replies to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    /// Where the replies go.
    pub out: &'a mut Vec<u8>,
    /// How they are written.
    pub proto: Protocol,
}

impl<'a> Writer<'a> {
    /// A writer in `proto` that appends to `out`.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>, proto: Protocol) -> Self {
        Writer { out, proto }
    }

    /// A reply that is already encoded, such as one of [`shared`].
    #[inline]
    pub fn raw(&mut self, reply: &[u8]) {
        self.out.extend_from_slice(reply);
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.raw(shared::OK);
    }

    /// A status line. Line ends inside it become spaces, so that it stays one reply.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error: its code, a space, its text (`ERR syntax error`). Line ends become spaces, as in
    /// Redis: the text may quote what a client has sent.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text.as_bytes());
    }

    /// An error whose text is not necessarily UTF-8, because it quotes a client's bytes.
    pub fn error_bytes(&mut self, text: &[u8]) {
        self.line(b'-', text);
    }

    /// The last reply of a connection that broke the protocol.
    pub fn protocol_error(&mut self, error: &ProtocolError) {
        if let ProtocolError::ExpectedDollar(byte) = error {
            // The byte itself, not its encoding as a character.
            self.raw(b"-ERR Protocol error: expected '$', got '");
            self.raw(&[printable(*byte)]);
            self.raw(b"'\r\n");
        } else {
            self.error(&format!("ERR {error}"));
        }
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        match value {
            0 => self.raw(shared::ZERO),
            1 => self.raw(shared::ONE),
            value => self.header(b':', number::integer_text(value)),
        }
    }

    /// A binary-safe string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        // A header is at most `$`, ten digits or more and a line end: one growth for all parts.
        self.out.reserve(bytes.len() + number::MAX_INTEGER_LEN + 5);
        self.length(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer as a string: what GET answers for a counter.
    #[inline]
    pub fn bulk_integer(&mut self, value: i64) {
        self.bulk(number::integer_text(value).as_bytes());
    }

    /// No value where a string is expected.
    #[inline]
    pub fn null(&mut self) {
        self.raw(match self.proto {
            Protocol::Resp2 => shared::NULL_BULK,
            Protocol::Resp3 => shared::NULL,
        });
    }

    /// No value where an array is expected (an EXEC whose WATCH failed).
    pub fn null_array(&mut self) {
        self.raw(match self.proto {
            Protocol::Resp2 => shared::NULL_ARRAY,
            Protocol::Resp3 => shared::NULL,
        });
    }

    /// An array; `len` values follow.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.length(b'*', len);
    }

    /// A map; `pairs` keys and values follow, in turn. RESP2: a flat array.
    pub fn map(&mut self, pairs: usize) {
        match self.proto {
            Protocol::Resp2 => self.length(b'*', pairs.saturating_mul(2)),
            Protocol::Resp3 => self.length(b'%', pairs),
        }
    }

    /// A set; `len` members follow. RESP2: an array.
    pub fn set(&mut self, len: usize) {
        self.aggregate(b'~', len);
    }

    /// A message that answers no command; `len` values follow. RESP2: an array.
    pub fn push(&mut self, len: usize) {
        self.aggregate(b'>', len);
    }

    /// Remarks on the value after them; `pairs` keys and values follow. RESP2 has no place for
    /// them: then this is `false`, nothing was written, and nothing of them may be written.
    #[must_use]
    pub fn attribute(&mut self, pairs: usize) -> bool {
        let possible = self.proto == Protocol::Resp3;
        if possible {
            self.length(b'|', pairs);
        }
        possible
    }

    /// A double in the text of [`number::double_text`]. RESP2: a string.
    pub fn double(&mut self, value: f64) {
        let text = number::double_text(value);
        match self.proto {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => self.header(b',', text),
        }
    }

    /// True or false. RESP2: 1 or 0.
    pub fn boolean(&mut self, value: bool) {
        self.raw(match (self.proto, value) {
            (Protocol::Resp2, false) => shared::ZERO,
            (Protocol::Resp2, true) => shared::ONE,
            (Protocol::Resp3, false) => b"#f\r\n",
            (Protocol::Resp3, true) => b"#t\r\n",
        });
    }

    /// An integer of any size, as decimal digits. RESP2: a string.
    pub fn big_number(&mut self, digits: &str) {
        match self.proto {
            Protocol::Resp2 => self.bulk(digits.as_bytes()),
            Protocol::Resp3 => self.line(b'(', digits.as_bytes()),
        }
    }

    /// Text to be shown as it is; `format` is `txt` or `mkd`. RESP2: a string.
    pub fn verbatim(&mut self, format: [u8; 3], text: &[u8]) {
        match self.proto {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                self.length(b'=', text.len() + format.len() + 1);
                self.raw(&format);
                self.raw(b":");
                self.raw(text);
                self.raw(b"\r\n");
            }
        }
    }

    fn aggregate(&mut self, marker: u8, len: usize) {
        match self.proto {
            Protocol::Resp2 => self.length(b'*', len),
            Protocol::Resp3 => self.length(marker, len),
        }
    }

    #[inline]
    fn length(&mut self, marker: u8, len: usize) {
        if len < 10 {
            self.out.extend_from_slice(&[marker, b'0' + len as u8, b'\r', b'\n']);
        } else {
            self.header(marker, number::unsigned_text(len as u64));
        }
    }

    #[inline]
    fn header(&mut self, marker: u8, text: NumberText) {
        self.out.push(marker);
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, marker: u8, text: &[u8]) {
        self.out.push(marker);
        self.out.extend(text.iter().map(|&byte| printable(byte)));
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends one command as a client sends it: an array of strings.
pub fn encode_command<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    let mut writer = Writer::new(out, Protocol::Resp2);
    writer.array(args.len());
    for arg in args {
        writer.bulk(arg.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(write: impl Fn(&mut Writer<'_>), resp2: &str, resp3: &str) {
        for (proto, expected) in [(Protocol::Resp2, resp2), (Protocol::Resp3, resp3)] {
            let mut out = Vec::new();
            write(&mut Writer::new(&mut out, proto));
            assert_eq!(
                out.escape_ascii().to_string(),
                expected.as_bytes().escape_ascii().to_string()
            );
        }
    }

    fn check_same(write: impl Fn(&mut Writer<'_>), expected: &str) {
        check(write, expected, expected);
    }

    #[test]
    fn values_that_read_the_same() {
        check_same(|w| w.ok(), "+OK\r\n");
        check_same(|w| w.simple("a\r\nb"), "+a  b\r\n");
        check_same(|w| w.error("ERR unknown 'x\n'"), "-ERR unknown 'x '\r\n");
        check_same(|w| w.error_bytes(b"ERR \n"), "-ERR  \r\n");
        for value in [0, 1, 2, -1, 10, 12345, i64::MIN, i64::MAX] {
            check_same(|w| w.integer(value), &format!(":{value}\r\n"));
        }
        check_same(|w| w.bulk(b""), "$0\r\n\r\n");
        check_same(|w| w.bulk(b"0123456789"), "$10\r\n0123456789\r\n");
        check_same(|w| w.bulk_integer(-42), "$3\r\n-42\r\n");
        check_same(|w| w.array(12), "*12\r\n");
    }

    #[test]
    fn values_that_differ() {
        check(|w| w.null(), "$-1\r\n", "_\r\n");
        check(|w| w.null_array(), "*-1\r\n", "_\r\n");
        check(|w| w.map(7), "*14\r\n", "%7\r\n");
        check(|w| w.set(3), "*3\r\n", "~3\r\n");
        check(|w| w.push(3), "*3\r\n", ">3\r\n");
        check(|w| w.double(0.1), "$19\r\n0.10000000000000001\r\n", ",0.10000000000000001\r\n");
        check(|w| w.double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n");
        check(|w| w.boolean(true), ":1\r\n", "#t\r\n");
        check(|w| w.boolean(false), ":0\r\n", "#f\r\n");
        check(|w| w.big_number("123"), "$3\r\n123\r\n", "(123\r\n");
        check(|w| w.verbatim(*b"txt", b"hi"), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n");
        check(|w| assert_eq!(w.attribute(1), w.proto == Protocol::Resp3), "", "|1\r\n");
    }

    #[test]
    fn protocol_errors_quote_the_byte() {
        check_same(
            |w| w.protocol_error(&ProtocolError::ExpectedDollar(b'\r')),
            "-ERR Protocol error: expected '$', got ' '\r\n",
        );
        check_same(
            |w| w.protocol_error(&ProtocolError::InvalidBulkLength),
            "-ERR Protocol error: invalid bulk length\r\n",
        );
        let mut out = Vec::new();
        Writer::new(&mut out, Protocol::Resp2).protocol_error(&ProtocolError::ExpectedDollar(0xff));
        assert_eq!(out, b"-ERR Protocol error: expected '$', got '\xff'\r\n");
    }

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        encode_command(&mut out, &["GET", "k"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
