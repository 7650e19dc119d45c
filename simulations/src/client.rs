//! A simulated client: sends commands, reads replies, and remembers what it was promised.

use std::collections::{BTreeMap, VecDeque};

use meridian_clock::Dot;
use meridian_keyspace::ClientId;
use meridian_resp::{ReplyLimits, ReplyParser, Value};

use crate::{workload::Command, world::Journey};

/// A command that waits for its reply.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub command: Command,
    /// The last operation that it wrote in each partition.
    pub wrote: Vec<(u16, Dot)>,
}

/// A write that a client was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    pub partition: u16,
    pub dot: Dot,
    /// The region said that it was on disk.
    pub durable: bool,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub id: ClientId,
    parser: ReplyParser,
    input: Vec<u8>,
    sent: VecDeque<Sent>,
    /// The last own write to each key that was acknowledged.
    pub own: BTreeMap<Vec<u8>, Dot>,
    /// The last write of the session in each partition, by author.
    pub wrote: Vec<(u16, Dot)>,
    /// It waits for a token, or until a region has what its token covers.
    pub travels: bool,
    /// What it brings, until the region has all of that.
    pub journey: Option<Journey>,
}

impl Client {
    pub fn new(id: ClientId) -> Client {
        Client {
            id,
            parser: ReplyParser::new(ReplyLimits::DEFAULT),
            input: Vec::new(),
            sent: VecDeque::new(),
            own: BTreeMap::new(),
            wrote: Vec::new(),
            travels: false,
            journey: None,
        }
    }

    /// A command has been executed for it.
    pub fn sent(&mut self, sent: Sent) {
        self.sent.push_back(sent);
    }

    /// Takes bytes of replies in; gives the replies that are whole, each with its command.
    pub fn received(&mut self, bytes: &[u8]) -> Result<Vec<(Sent, Value)>, String> {
        self.input.extend_from_slice(bytes);
        let mut replies = Vec::new();
        while let Some((value, used)) =
            self.parser.parse(&self.input).map_err(|e| format!("reply: {e}"))?
        {
            self.input.drain(..used);
            let sent = self.sent.pop_front().ok_or("a reply that nobody asked for")?;
            replies.push((sent, value));
        }
        Ok(replies)
    }
}

/// What was wrong with a reply to a command that is known to be well formed.
pub(crate) fn complaint(sent: &Sent, value: &Value) -> Option<String> {
    const EXPECTED: [&[u8]; 11] = [
        b"WRONGTYPE ",
        b"ERR value is not an integer",
        b"ERR value is not a valid float",
        b"ERR hash value is not",
        b"ERR increment",
        b"STALE ",
        b"CLOCKSKEW ",
        b"EXECABORT ",
        b"LOADING the region joins",
        b"READONLY the region leaves",
        b"ERR session token is from the future",
    ];
    if let Value::Array(values) = value {
        return values.iter().find_map(|value| complaint(sent, value));
    }
    let Value::Error(text) = value else { return None };
    let expected = EXPECTED.iter().any(|start| text.starts_with(start));
    (!expected)
        .then(|| format!("{} answers {}", show(&sent.command), String::from_utf8_lossy(text)))
}

/// A command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let words: Vec<_> = command.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
    words.join(" ")
}
