//! A server's side of the wire: bytes to commands, without copying and without rescanning.
//!
//! The caller keeps unread bytes in a buffer that starts at the current command and calls
//! [`RequestParser::parse`] until it returns `None`, dropping what each call has consumed. While a
//! command is incomplete its bytes stay in the buffer; the parser remembers how far it has come,
//! so the work is linear in the bytes however they are cut (a hostile client may send single bytes).

use crate::{Limits, ProtocolError, inline, number};

/// Ranges kept for the next partial command; a larger list is given back to the allocator.
const MAX_PARTIAL_KEPT: usize = 1024;

/// The arguments of one command as ranges of the bytes that it was parsed from. Reusable: one list
/// serves every connection of a thread.
#[derive(Debug, Default)]
pub struct Args {
    ranges: Vec<Range>,
    /// The words of an inline command, unescaped; unused for multibulk.
    words: Vec<u8>,
    inline: bool,
}

/// Offsets from the start of the command (multibulk) or of `Args::words` (inline).
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u32,
    len: u32,
}

impl Args {
    /// An empty list.
    pub fn new() -> Self {
        Args::default()
    }

    /// Number of arguments, the command's name included; 0 for an empty line.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is nothing to run: an empty line, `*0` or `*-1`. Redis ignores them.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Argument `index`, 0 being the command's name. `input` must be what `parse` was given (it
    /// may have grown). Out of range is an empty argument: check [`Args::len`] first.
    #[inline]
    pub fn get<'a>(&'a self, index: usize, input: &'a [u8]) -> &'a [u8] {
        let source = if self.inline { self.words.as_slice() } else { input };
        self.ranges.get(index).and_then(|range| range.of(source)).unwrap_or(&[])
    }

    /// All arguments in order.
    pub fn iter<'a>(&'a self, input: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let source = if self.inline { self.words.as_slice() } else { input };
        self.ranges.iter().map(move |range| range.of(source).unwrap_or(&[]))
    }

    fn clear(&mut self) {
        self.ranges.clear();
        self.words.clear();
        self.inline = false;
    }
}

impl Range {
    #[inline]
    fn of(self, source: &[u8]) -> Option<&[u8]> {
        source.get(self.start as usize..self.start as usize + self.len as usize)
    }
}

/// Parses the requests of one connection.
#[derive(Debug)]
pub struct RequestParser {
    limits: Limits,
    /// Fewer bytes than this cannot complete the current argument; at least 1.
    need: usize,
    /// Offset of the first argument that is not complete; 0 before the `*N` line is understood.
    pos: usize,
    /// The current line has no end before this offset.
    scanned: usize,
    /// Arguments still to come, from `pos` on.
    remaining: u32,
    /// The arguments before `pos`. Empty unless `pos` > 0.
    partial: Vec<Range>,
}

impl RequestParser {
    /// A parser at the start of a connection.
    pub fn new(limits: Limits) -> Self {
        RequestParser { limits, need: 1, pos: 0, scanned: 0, remaining: 0, partial: Vec::new() }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Changes the limits, for example once the client has authenticated. Holds from the next
    /// length that is read.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// How many bytes `input` must have before another call of `parse` can complete the command
    /// (a lower bound, at least 1): what a reader may reserve for a large argument.
    pub fn bytes_needed(&self) -> usize {
        self.need
    }

    /// Parses the command at the start of `input` into `args`.
    ///
    /// `Some(consumed)` once it is complete: the next one starts there. `None` while bytes are
    /// missing: call again with the same bytes and more behind them. After an error the connection
    /// is to be closed.
    pub fn parse(&mut self, input: &[u8], args: &mut Args) -> Result<Option<usize>, ProtocolError> {
        args.clear();
        if input.len() < self.need {
            return Ok(None);
        }
        let parsed = if self.pos == 0 && input.first() != Some(&b'*') {
            self.parse_inline(input, args)
        } else {
            self.parse_multibulk(input, args)
        };
        if !matches!(parsed, Ok(None)) {
            self.restart();
        }
        parsed
    }

    fn parse_multibulk(
        &mut self,
        input: &[u8],
        args: &mut Args,
    ) -> Result<Option<usize>, ProtocolError> {
        let mut pos = self.pos;
        let mut remaining = self.remaining;
        if pos == 0 {
            let Some((count, next)) = self.length_line(input, 0, Line::Multibulk)? else {
                return Ok(None);
            };
            remaining = self.checked_count(count)?;
            pos = next;
        } else {
            std::mem::swap(&mut args.ranges, &mut self.partial);
        }
        while remaining > 0 {
            let Some((len, start)) = self.length_line(input, pos, Line::Bulk)? else {
                self.suspend(pos, remaining, args);
                return Ok(None);
            };
            let len = self.checked_len(len)?;
            let end = start + len as usize + 2;
            if end > self.limits.max_command_len as usize {
                return Err(ProtocolError::TooBigCommand);
            }
            // Like Redis, take the argument's line end on trust: only its length counts.
            if input.len() < end {
                self.need = end;
                self.suspend(pos, remaining, args);
                return Ok(None);
            }
            args.ranges.push(Range { start: start as u32, len });
            pos = end;
            remaining -= 1;
        }
        Ok(Some(pos))
    }

    fn parse_inline(
        &mut self,
        input: &[u8],
        args: &mut Args,
    ) -> Result<Option<usize>, ProtocolError> {
        let Some(end) = self.line_end(input, 0, b'\n').map_err(|_| ProtocolError::TooBigInline)?
        else {
            self.need = input.len() + 1;
            return Ok(None);
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        args.inline = true;
        let Args { ranges, words, .. } = args;
        inline::split(line, words, |start, len| {
            // The line is within `max_line_len`, a u32, and unescaping only shortens.
            ranges.push(Range { start: start as u32, len: len as u32 });
        })?;
        Ok(Some(end + 1))
    }

    /// Reads `*N\r\n` or `$len\r\n` at `pos`: the number and the offset after the line.
    #[inline]
    fn length_line(
        &mut self,
        input: &[u8],
        pos: usize,
        line: Line,
    ) -> Result<Option<(i64, usize)>, ProtocolError> {
        match short_length_line(input, pos, line.marker()) {
            Some((value, next)) => Ok(Some((i64::from(value), next))),
            None => self.any_length_line(input, pos, line),
        }
    }

    /// The same for what is rare: incomplete, signed, long or broken lines.
    #[cold]
    fn any_length_line(
        &mut self,
        input: &[u8],
        pos: usize,
        line: Line,
    ) -> Result<Option<(i64, usize)>, ProtocolError> {
        let end = self.line_end(input, pos, b'\r').map_err(|_| line.too_big())?;
        // Redis judges a line only once it is whole: its `\r` and one byte after it.
        let Some(end) = end.filter(|end| end + 1 < input.len()) else {
            self.need = input.len() + 1;
            return Ok(None);
        };
        let first = input[pos];
        if first != line.marker() {
            return Err(ProtocolError::ExpectedDollar(first));
        }
        self.scanned = 0;
        let digits = input.get(pos + 1..end).unwrap_or(&[]);
        let value = number::parse_integer(digits).ok_or(line.invalid())?;
        Ok(Some((value, end + 2)))
    }

    /// Where the line that starts at `pos` ends, never looking twice at a byte.
    fn line_end(
        &mut self,
        input: &[u8],
        pos: usize,
        terminator: u8,
    ) -> Result<Option<usize>, LineTooLong> {
        let from = self.scanned.clamp(pos, input.len());
        let longest = pos + self.limits.max_line_len as usize;
        let found = input[from..].iter().position(|&byte| byte == terminator).map(|at| from + at);
        match found {
            Some(end) if end <= longest => {
                self.scanned = end;
                Ok(Some(end))
            }
            None if input.len() <= longest => {
                self.scanned = input.len();
                Ok(None)
            }
            _ => Err(LineTooLong),
        }
    }

    fn checked_count(&self, count: i64) -> Result<u32, ProtocolError> {
        if count > i64::from(self.limits.max_args) {
            return Err(ProtocolError::InvalidMultibulkLength);
        }
        if self.limits.unauthenticated && count > i64::from(self.limits.max_args_unauthenticated) {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        Ok(u32::try_from(count).unwrap_or(0))
    }

    fn checked_len(&self, len: i64) -> Result<u32, ProtocolError> {
        match u32::try_from(len) {
            Ok(len) if len > self.limits.max_bulk_len => Err(ProtocolError::InvalidBulkLength),
            Ok(len)
                if self.limits.unauthenticated
                    && len > self.limits.max_bulk_len_unauthenticated =>
            {
                Err(ProtocolError::UnauthenticatedBulkLength)
            }
            Ok(len) => Ok(len),
            Err(_) => Err(ProtocolError::InvalidBulkLength),
        }
    }

    /// Puts the arguments so far aside, so that `args` is free for other connections.
    fn suspend(&mut self, pos: usize, remaining: u32, args: &mut Args) {
        self.pos = pos;
        self.remaining = remaining;
        std::mem::swap(&mut args.ranges, &mut self.partial);
        args.clear();
    }

    fn restart(&mut self) {
        self.need = 1;
        self.pos = 0;
        self.scanned = 0;
        self.partial.clear();
        if self.partial.capacity() > MAX_PARTIAL_KEPT {
            self.partial = Vec::new();
        }
    }
}

impl Default for RequestParser {
    fn default() -> Self {
        RequestParser::new(Limits::DEFAULT)
    }
}

struct LineTooLong;

#[derive(Clone, Copy)]
enum Line {
    Multibulk,
    Bulk,
}

impl Line {
    #[inline]
    fn marker(self) -> u8 {
        match self {
            Line::Multibulk => b'*',
            Line::Bulk => b'$',
        }
    }

    fn invalid(self) -> ProtocolError {
        match self {
            Line::Multibulk => ProtocolError::InvalidMultibulkLength,
            Line::Bulk => ProtocolError::InvalidBulkLength,
        }
    }

    fn too_big(self) -> ProtocolError {
        match self {
            Line::Multibulk => ProtocolError::TooBigMultibulkCount,
            Line::Bulk => ProtocolError::TooBigBulkCount,
        }
    }
}

/// Most digits that the short form reads: below 10^9, so that a u32 cannot overflow.
const SHORT_DIGITS: usize = 9;

/// The common line: the marker, one to nine digits without a leading zero, `\r` and one byte more,
/// all of it there. Anything else is `None` and left to the careful path.
#[inline]
fn short_length_line(input: &[u8], pos: usize, marker: u8) -> Option<(u32, usize)> {
    let line = input.get(pos..)?;
    let line = &line[..line.len().min(SHORT_DIGITS + 3)];
    let [first, rest @ ..] = line else { return None };
    if *first != marker {
        return None;
    }
    let mut value: u32 = 0;
    for (digits, &byte) in rest.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let canonical = digits == 1 || (digits > 1 && rest[0] != b'0');
            let complete = rest.len() > digits + 1;
            let next = pos + digits + 3;
            return (byte == b'\r' && canonical && complete).then_some((value, next));
        }
        if digits == SHORT_DIGITS {
            return None;
        }
        value = value.wrapping_mul(10).wrapping_add(u32::from(digit));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parsed = Result<Vec<Vec<Vec<u8>>>, ProtocolError>;

    /// Parses everything in `input`, delivered in pieces that end at `cuts`.
    fn parse_in_pieces(input: &[u8], cuts: &[usize], limits: Limits) -> Parsed {
        let mut parser = RequestParser::new(limits);
        let mut args = Args::new();
        let mut commands = Vec::new();
        let mut start = 0;
        for &cut in cuts.iter().chain([&input.len()]) {
            while let Some(used) = parser.parse(&input[start..cut], &mut args)? {
                let command = &input[start..cut];
                commands.push(args.iter(command).map(<[u8]>::to_vec).collect());
                start += used;
            }
        }
        Ok(commands)
    }

    fn check(input: &[u8], expected: Result<&[&[&str]], ProtocolError>) {
        check_with(Limits::DEFAULT, input, expected);
    }

    fn check_with(limits: Limits, input: &[u8], expected: Result<&[&[&str]], ProtocolError>) {
        let expected: Parsed = expected.map(|commands| {
            let bytes = |command: &&[&str]| command.iter().map(|a| a.as_bytes().to_vec()).collect();
            commands.iter().map(bytes).collect()
        });
        let shown = input.escape_ascii().to_string();
        assert_eq!(parse_in_pieces(input, &[], limits), expected, "whole: {shown}");
        for cut in 0..input.len() {
            assert_eq!(parse_in_pieces(input, &[cut], limits), expected, "cut {cut}: {shown}");
        }
        let all: Vec<usize> = (0..input.len()).collect();
        assert_eq!(parse_in_pieces(input, &all, limits), expected, "bytes: {shown}");
    }

    #[test]
    fn commands_one_after_the_other() {
        check(b"*1\r\n$4\r\nPING\r\n", Ok(&[&["PING"]]));
        check(
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n",
            Ok(&[&["SET", "k", ""], &["GET", "k"], &["PING"]]),
        );
        check(b"*1\r\n$12\r\nhello\r\nworld\r\n", Ok(&[&["hello\r\nworld"]]));
    }

    #[test]
    fn nothing_to_run() {
        check(b"\r\n\n*0\r\n*-1\r\n*-7\r\n", Ok(&[&[], &[], &[], &[], &[]]));
    }

    #[test]
    fn incomplete_is_not_an_error() {
        check(b"*2\r\n$3\r\nGET\r\n$10\r\nabc", Ok(&[]));
        check(b"*2\r", Ok(&[]));
        check(b"PIN", Ok(&[]));
        check(b"x\r", Ok(&[]));
    }

    #[test]
    fn inline_commands() {
        check(b"set k \"a b\"\r\nget k\n", Ok(&[&["set", "k", "a b"], &["get", "k"]]));
        check(b"set \"k\"v\r\n", Err(ProtocolError::UnbalancedQuotes));
    }

    #[test]
    fn broken_lengths() {
        use ProtocolError::*;
        for text in ["*x\r\n", "*\r\n", "*01\r\n", "*+1\r\n", "*1048577\r\n", "*-0\r\n"] {
            check(text.as_bytes(), Err(InvalidMultibulkLength));
        }
        check(b"*99999999999999999999\r\n", Err(InvalidMultibulkLength));
        for text in ["x", "", "-1", "01", "536870913", "99999999999999999999", "4294967297"] {
            check(format!("*1\r\n${text}\r\n").as_bytes(), Err(InvalidBulkLength));
        }
        check(b"*1\r\nPING\r\n", Err(ExpectedDollar(b'P')));
        check(b"*1\r\n\r\n", Err(ExpectedDollar(b'\r')));
    }

    #[test]
    fn lines_are_bounded() {
        let limits = Limits { max_line_len: 16, ..Limits::DEFAULT };
        let long = |prefix: &str, len: usize, end: &str| format!("{prefix}{:1>len$}{end}", "");
        let line = long("", 16, "\n");
        check_with(limits, line.as_bytes(), Ok(&[&["1111111111111111"]]));
        check_with(limits, long("", 17, "\n").as_bytes(), Err(ProtocolError::TooBigInline));
        check_with(limits, long("*", 16, "").as_bytes(), Err(ProtocolError::TooBigMultibulkCount));
        check_with(limits, long("*1\r\n$", 16, "").as_bytes(), Err(ProtocolError::TooBigBulkCount));
        check_with(limits, long("*1\r\n$", 15, "").as_bytes(), Ok(&[]));
    }

    #[test]
    fn commands_are_bounded() {
        let limits = Limits { max_command_len: 30, ..Limits::DEFAULT };
        check_with(
            limits,
            b"*1\r\n$20\r\n01234567890123456789\r\n",
            Err(ProtocolError::TooBigCommand),
        );
        check_with(limits, b"*1\r\n$4\r\nPING\r\n", Ok(&[&["PING"]]));
    }

    #[test]
    fn strangers_have_smaller_limits() {
        use ProtocolError::*;
        let limits = Limits::UNAUTHENTICATED;
        check_with(limits, b"*11\r\n", Err(UnauthenticatedMultibulkLength));
        check_with(limits, b"*1\r\n$16385\r\n", Err(UnauthenticatedBulkLength));
        check_with(limits, b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n", Ok(&[&["AUTH", "x"]]));
        let mut parser = RequestParser::new(limits);
        parser.set_limits(Limits::DEFAULT);
        assert_eq!(parser.parse(b"*11\r\n", &mut Args::new()), Ok(None));
    }

    #[test]
    fn a_large_argument_is_not_rescanned() {
        let mut parser = RequestParser::default();
        let mut args = Args::new();
        let mut input = b"*2\r\n$3\r\nSET\r\n$1000000\r\n".to_vec();
        assert_eq!(parser.parse(&input, &mut args), Ok(None));
        assert_eq!(parser.bytes_needed(), input.len() + 1_000_002);
        let start = input.len();
        input.resize(start + 1_000_002, b'v');
        assert_eq!(parser.parse(&input, &mut args), Ok(Some(input.len())));
        assert_eq!(args.get(0, &input), b"SET");
        assert_eq!(args.get(1, &input).len(), 1_000_000);
        assert_eq!(parser.bytes_needed(), 1);
    }

    #[test]
    fn one_list_serves_interleaved_connections() {
        let mut first = RequestParser::default();
        let mut second = RequestParser::default();
        let mut args = Args::new();
        let whole = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
        assert_eq!(first.parse(&whole[..15], &mut args), Ok(None));
        assert_eq!(second.parse(b"PING\r\n", &mut args), Ok(Some(6)));
        assert_eq!(args.get(0, b"PING\r\n"), b"PING");
        assert_eq!(first.parse(whole, &mut args), Ok(Some(whole.len())));
        assert_eq!(args.iter(whole).collect::<Vec<_>>(), [b"GET".as_slice(), b"k"]);
        assert_eq!(args.get(2, whole), b"");
    }
}
