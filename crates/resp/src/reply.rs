//! A client's side of the wire: bytes to replies, bounded in size, depth and count.
//!
//! Two passes: the first walks over the bytes and remembers where it stopped, so that a reply that
//! arrives in many pieces is scanned once; the second builds the value when all of it is there.
//! What a server announces is never allocated before it has arrived.

use crate::{ReplyLimits, Value, number};

/// Longest line (status, error, number) that a reply may hold, in bytes.
const MAX_LINE_LEN: usize = 64 * 1024;

/// A server's reply is not the Redis protocol, or larger than the client allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The first byte of a value names no type.
    #[error("unknown reply type {0:#04x}")]
    UnknownType(u8),
    /// A length, number, boolean or line end is malformed.
    #[error("malformed reply of type '{}'", char::from(*.0))]
    Malformed(u8),
    /// The reply exceeds one of [`ReplyLimits`].
    #[error("reply exceeds the limit of {0}")]
    TooLarge(&'static str),
}

/// Parses the replies on one connection. Used like [`RequestParser`](crate::RequestParser).
#[derive(Debug)]
pub struct ReplyParser {
    limits: ReplyLimits,
    /// Fewer bytes than this cannot bring the walk further; at least 1.
    need: usize,
    /// How far the walk has come.
    pos: usize,
    /// The current line has no end before this offset.
    scanned: usize,
    /// Values still to come at each open level, innermost last; empty before the first value.
    open: Vec<u64>,
    /// Values that have been announced so far.
    announced: u64,
}

impl ReplyParser {
    /// A parser at the start of a connection.
    pub fn new(limits: ReplyLimits) -> Self {
        ReplyParser { limits, need: 1, pos: 0, scanned: 0, open: Vec::new(), announced: 0 }
    }

    /// Parses the reply at the start of `input`: the value and the bytes consumed, or `None` while
    /// bytes are missing (call again with the same bytes and more behind them). After an error the
    /// connection is of no use.
    pub fn parse(&mut self, input: &[u8]) -> Result<Option<(Value, usize)>, ReplyError> {
        if input.len() < self.need {
            return Ok(None);
        }
        match self.walk(input) {
            Ok(true) => {
                let end = self.pos;
                self.restart();
                let mut builder = Builder { rest: &input[..end] };
                Ok(Some((builder.value()?, end)))
            }
            Ok(false) => Ok(None),
            Err(error) => {
                self.restart();
                Err(error)
            }
        }
    }

    /// Whether a whole reply is there.
    fn walk(&mut self, input: &[u8]) -> Result<bool, ReplyError> {
        if self.open.is_empty() {
            self.open.push(1);
        }
        while let Some(remaining) = self.open.last_mut() {
            if *remaining == 0 {
                self.open.pop();
                continue;
            }
            let Some(item) = self.item(input)? else { return Ok(false) };
            let Some(remaining) = self.open.last_mut() else { break };
            *remaining -= 1;
            if let Item::Aggregate(values, extra) = item {
                *remaining += extra;
                if self.open.len() > self.limits.max_depth {
                    return Err(ReplyError::TooLarge("depth"));
                }
                self.announced = self.announced.saturating_add(values);
                if self.announced > self.limits.max_values {
                    return Err(ReplyError::TooLarge("values"));
                }
                self.open.push(values);
            }
        }
        Ok(true)
    }

    /// Steps over one scalar or one aggregate's header.
    fn item(&mut self, input: &[u8]) -> Result<Option<Item>, ReplyError> {
        let Some(line) = self.line(input)? else { return Ok(None) };
        let next = self.pos + line.len() + 2;
        let head = Head::read(line)?;
        let (end, item) = match head {
            Head::Scalar => (next, Item::Scalar),
            Head::Bytes(len) => (next.saturating_add(len).saturating_add(2), Item::Scalar),
            Head::Aggregate(values, extra) => (next, Item::Aggregate(values, extra)),
        };
        if end > self.limits.max_reply_len {
            return Err(ReplyError::TooLarge("bytes"));
        }
        if input.len() < end {
            self.need = end;
            return Ok(None);
        }
        if matches!(head, Head::Bytes(_)) && input.get(end - 2..end) != Some(b"\r\n") {
            return Err(ReplyError::Malformed(line[0]));
        }
        self.pos = end;
        self.scanned = end;
        Ok(Some(item))
    }

    /// The line at the walk's position, without its line end.
    fn line<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, ReplyError> {
        let from = self.scanned.clamp(self.pos, input.len());
        let end = input[from..].iter().position(|&byte| byte == b'\n').map(|at| from + at);
        let len = end.unwrap_or(input.len()) - self.pos;
        if len > MAX_LINE_LEN {
            return Err(ReplyError::TooLarge("line"));
        }
        let Some(end) = end else {
            self.scanned = input.len();
            self.need = input.len() + 1;
            return Ok(None);
        };
        // Should the bytes after the line be missing, the next call finds its end at once.
        self.scanned = end;
        match input[self.pos..end].strip_suffix(b"\r") {
            Some(line) if !line.is_empty() => Ok(Some(line)),
            _ => Err(ReplyError::UnknownType(input[self.pos])),
        }
    }

    fn restart(&mut self) {
        self.need = 1;
        self.pos = 0;
        self.scanned = 0;
        self.open.clear();
        self.announced = 0;
    }
}

impl Default for ReplyParser {
    fn default() -> Self {
        ReplyParser::new(ReplyLimits::DEFAULT)
    }
}

enum Item {
    Scalar,
    /// Values inside, and values to come after it on its own level (an attribute is followed by
    /// the value that it describes and is not counted itself).
    Aggregate(u64, u64),
}

/// What a line says of the bytes behind it.
#[derive(Clone, Copy)]
enum Head {
    Scalar,
    Bytes(usize),
    Aggregate(u64, u64),
}

impl Head {
    fn read(line: &[u8]) -> Result<Head, ReplyError> {
        let (marker, text) = (line[0], &line[1..]);
        let malformed = ReplyError::Malformed(marker);
        let number = || number::parse_integer(text).ok_or(malformed);
        let length = || number().and_then(|n| u64::try_from(n).map_err(|_| malformed));
        let pairs = || length().and_then(|n| n.checked_mul(2).ok_or(malformed));
        Ok(match marker {
            b'+' | b'-' => Head::Scalar,
            b':' => number().map(|_| Head::Scalar)?,
            b'$' | b'*' if text == b"-1" => Head::Scalar,
            b'$' | b'!' => Head::Bytes(usize::try_from(length()?).map_err(|_| malformed)?),
            b'=' => match usize::try_from(length()?).map_err(|_| malformed)? {
                len if len >= 4 => Head::Bytes(len),
                _ => return Err(malformed),
            },
            b'*' | b'~' | b'>' => Head::Aggregate(length()?, 0),
            b'%' => Head::Aggregate(pairs()?, 0),
            b'|' => Head::Aggregate(pairs()?, 1),
            b'_' if text.is_empty() => Head::Scalar,
            b'#' if matches!(text, b"t" | b"f") => Head::Scalar,
            b',' if parse_double(text).is_some() => Head::Scalar,
            b'(' if is_big_number(text) => Head::Scalar,
            b'_' | b'#' | b',' | b'(' => return Err(malformed),
            other => return Err(ReplyError::UnknownType(other)),
        })
    }
}

/// Builds a value from bytes that the walk has accepted.
struct Builder<'a> {
    rest: &'a [u8],
}

impl Builder<'_> {
    fn value(&mut self) -> Result<Value, ReplyError> {
        let line = self.line()?;
        let (marker, text) = (line[0], &line[1..]);
        let malformed = ReplyError::Malformed(marker);
        Ok(match (marker, Head::read(line)?) {
            (b'+', _) => Value::Simple(text.to_vec()),
            (b'-', _) => Value::Error(text.to_vec()),
            (b':', _) => Value::Integer(number::parse_integer(text).ok_or(malformed)?),
            (b',', _) => Value::Double(parse_double(text).ok_or(malformed)?),
            (b'#', _) => Value::Boolean(text == b"t"),
            (b'(', _) => Value::BigNumber(text.to_vec()),
            (b'=', Head::Bytes(len)) => match self.bytes(len)? {
                [a, b, c, b':', text @ ..] => Value::Verbatim([*a, *b, *c], text.to_vec()),
                _ => return Err(malformed),
            },
            (b'!', Head::Bytes(len)) => Value::Error(self.bytes(len)?.to_vec()),
            (_, Head::Bytes(len)) => Value::Bulk(self.bytes(len)?.to_vec()),
            (_, Head::Scalar) => Value::Null,
            (b'%', Head::Aggregate(values, _)) => Value::Map(self.pairs(values / 2)?),
            (b'|', Head::Aggregate(values, _)) => {
                let attributes = self.pairs(values / 2)?;
                Value::Attributed(attributes, Box::new(self.value()?))
            }
            (b'~', Head::Aggregate(values, _)) => Value::Set(self.values(values)?),
            (b'>', Head::Aggregate(values, _)) => Value::Push(self.values(values)?),
            (_, Head::Aggregate(values, _)) => Value::Array(self.values(values)?),
        })
    }

    fn values(&mut self, count: u64) -> Result<Vec<Value>, ReplyError> {
        (0..count).map(|_| self.value()).collect()
    }

    fn pairs(&mut self, count: u64) -> Result<Vec<(Value, Value)>, ReplyError> {
        (0..count).map(|_| Ok((self.value()?, self.value()?))).collect()
    }

    fn line(&mut self) -> Result<&[u8], ReplyError> {
        let cut = ReplyError::TooLarge("bytes");
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or(cut)?;
        let line = self.rest[..end].strip_suffix(b"\r").filter(|line| !line.is_empty());
        self.rest = &self.rest[end + 1..];
        line.ok_or(cut)
    }

    fn bytes(&mut self, len: usize) -> Result<&[u8], ReplyError> {
        let cut = ReplyError::TooLarge("bytes");
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(cut)?;
        self.rest = rest.get(2..).ok_or(cut)?;
        Ok(bytes)
    }
}

fn parse_double(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok())
}

fn is_big_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: &[u8], limits: ReplyLimits) -> Result<Option<(Value, usize)>, ReplyError> {
        let mut whole = ReplyParser::new(limits);
        let expected = whole.parse(input);
        let mut pieces = ReplyParser::new(limits);
        let first = (1..=input.len())
            .map(|end| pieces.parse(&input[..end]))
            .find(|parsed| !matches!(parsed, Ok(None)));
        assert_eq!(first.unwrap_or(Ok(None)), expected, "{}", input.escape_ascii());
        expected
    }

    fn check(input: &str, expected: Value) {
        let parsed = parse(input.as_bytes(), ReplyLimits::DEFAULT);
        assert_eq!(parsed, Ok(Some((expected, input.len()))), "{input:?}");
    }

    fn check_error(input: &str, expected: ReplyError) {
        assert_eq!(parse(input.as_bytes(), ReplyLimits::DEFAULT), Err(expected), "{input:?}");
    }

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.as_bytes().to_vec())
    }

    #[test]
    fn every_type() {
        check("+OK\r\n", Value::Simple(b"OK".to_vec()));
        check("-ERR x\r\n", Value::Error(b"ERR x".to_vec()));
        check("!7\r\nERR x\ny\r\n", Value::Error(b"ERR x\ny".to_vec()));
        check(":-7\r\n", Value::Integer(-7));
        check("$5\r\na\r\nbc\r\n", bulk("a\r\nbc"));
        check("$0\r\n\r\n", bulk(""));
        for null in ["$-1\r\n", "*-1\r\n", "_\r\n"] {
            check(null, Value::Null);
        }
        check("*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", {
            Value::Array(vec![Value::Integer(1), Value::Array(vec![bulk("x")])])
        });
        check("*0\r\n", Value::Array(vec![]));
        check("%1\r\n+k\r\n:1\r\n", {
            Value::Map(vec![(Value::Simple(b"k".to_vec()), Value::Integer(1))])
        });
        check("~1\r\n:1\r\n", Value::Set(vec![Value::Integer(1)]));
        check(">1\r\n:1\r\n", Value::Push(vec![Value::Integer(1)]));
        check("#t\r\n", Value::Boolean(true));
        check(",-2.5\r\n", Value::Double(-2.5));
        check(",inf\r\n", Value::Double(f64::INFINITY));
        check("(-123456789012345678901234567890\r\n", {
            Value::BigNumber(b"-123456789012345678901234567890".to_vec())
        });
        check("=6\r\ntxt:hi\r\n", Value::Verbatim(*b"txt", b"hi".to_vec()));
        check("*2\r\n|1\r\n+a\r\n:1\r\n:2\r\n:3\r\n", {
            let attributes = vec![(Value::Simple(b"a".to_vec()), Value::Integer(1))];
            let first = Value::Attributed(attributes, Box::new(Value::Integer(2)));
            Value::Array(vec![first, Value::Integer(3)])
        });
    }

    #[test]
    fn what_is_not_the_protocol() {
        check_error("HTTP/1.1 200 OK\r\n", ReplyError::UnknownType(b'H'));
        check_error("\r\n", ReplyError::UnknownType(b'\r'));
        check_error("\n", ReplyError::UnknownType(b'\n'));
        check_error("+OK\n", ReplyError::UnknownType(b'+'));
        for text in
            ["$-2\r\n", "*-2\r\n", "$?\r\n", ":x\r\n", "#y\r\n", "_x\r\n", ",x\r\n", "(\r\n"]
        {
            check_error(text, ReplyError::Malformed(text.as_bytes()[0]));
        }
        check_error("$1\r\nabc", ReplyError::Malformed(b'$'));
        check_error("=3\r\nabc\r\n", ReplyError::Malformed(b'='));
        check_error("=4\r\nabcd\r\n", ReplyError::Malformed(b'='));
    }

    #[test]
    fn what_is_too_large() {
        let limits = ReplyLimits { max_reply_len: 32, max_depth: 2, max_values: 4 };
        let check = |input: &str, expected| {
            assert_eq!(parse(input.as_bytes(), limits), Err(ReplyError::TooLarge(expected)));
        };
        check("$30\r\n", "bytes");
        check("*1\r\n*1\r\n*1\r\n", "depth");
        check("*5\r\n", "values");
        check("*3\r\n*2\r\n", "values");
        check("*9223372036854775807\r\n", "values");
        let long = "x".repeat(MAX_LINE_LEN + 1);
        let mut parser = ReplyParser::default();
        assert_eq!(parser.parse(format!("+{long}").as_bytes()), Err(ReplyError::TooLarge("line")));
        assert_eq!(parse(b"*1\r\n*1\r\n:1\r\n", limits).map(|p| p.is_some()), Ok(true));
    }
}
