//! What the server remembers of one connection.

use std::collections::BTreeMap;

use meridian_clock::Time;
use meridian_resp::Protocol;
use meridian_store::LogPosition;

use crate::token::Token;

/// Names a connection for as long as the process lives; never reused.
pub type ClientId = u64;

/// One connection: protocol, transaction, watched keys, and replies on their way out.
#[derive(Debug)]
pub struct Client {
    /// Its ID, as CLIENT ID replies.
    pub id: ClientId,
    /// Where it comes from, as CLIENT LIST shows.
    pub address: String,
    /// The name given by CLIENT SETNAME or HELLO.
    pub name: Vec<u8>,
    /// The library's name and version given by CLIENT SETINFO.
    pub library: (Vec<u8>, Vec<u8>),
    /// RESP2 until HELLO says otherwise.
    pub protocol: Protocol,
    /// Whether the password has been given, or none is needed.
    pub authenticated: bool,
    /// When it connected, in milliseconds since 1970.
    pub since_ms: u64,
    /// The name of its last command.
    pub last_command: &'static str,
    /// When its last command began, in hybrid time.
    pub active: Time,
    /// The connection is to be closed once its replies are out.
    pub closing: bool,
    /// Commands queued since MULTI, if one is open.
    pub transaction: Option<Transaction>,
    /// Watched keys, and whether each was visible when the watch began.
    pub watched: BTreeMap<Box<[u8]>, bool>,
    /// A watched key has been written.
    pub watch_broken: bool,
    /// What it has written and read, once it has asked for a token.
    pub session: Option<Box<Token>>,
    /// It has run a command on data, session or not.
    pub(crate) touched_data: bool,
    /// Replies to its writes carry a token.
    pub(crate) token_attribute: bool,
    /// It waits in MERIDIAN.AWAIT.
    pub(crate) waits: bool,
    /// It follows conflicts.
    pub(crate) follows: bool,
    pub(crate) out: Vec<u8>,
    /// Bytes of output that have left and are no longer in `out`.
    base: u64,
    /// How much of `out` may leave.
    pub(crate) released: usize,
    /// How much of `out` has left.
    pub(crate) sent: usize,
    /// Replies were written since the last commit.
    pub(crate) replied: bool,
    /// The client is in the engine's list of those with something to send.
    pub(crate) ready: bool,
}

/// A MULTI that is being filled.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// The commands, each with its arguments.
    pub commands: Vec<Vec<Vec<u8>>>,
    /// Their size.
    pub bytes: usize,
    /// A command was refused: EXEC must discard.
    pub broken: bool,
}

/// Replies of one client that wait for the log to be durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    pub position: LogPosition,
    pub client: ClientId,
    /// Up to which byte of the client's output, counted from the connection's start.
    pub upto: u64,
}

impl Client {
    pub(crate) fn new(id: ClientId, address: String, authenticated: bool, since_ms: u64) -> Client {
        Client {
            id,
            address,
            name: Vec::new(),
            library: (Vec::new(), Vec::new()),
            protocol: Protocol::Resp2,
            authenticated,
            since_ms,
            last_command: "NULL",
            active: Time::ZERO,
            closing: false,
            transaction: None,
            watched: BTreeMap::new(),
            watch_broken: false,
            session: None,
            touched_data: false,
            token_attribute: false,
            waits: false,
            follows: false,
            out: Vec::new(),
            base: 0,
            released: 0,
            sent: 0,
            replied: false,
            ready: false,
        }
    }

    /// Counts all output so far, from the connection's start.
    pub(crate) fn written(&self) -> u64 {
        self.base + self.out.len() as u64
    }

    /// Lets the output leave up to a count taken with [`Client::written`].
    pub(crate) fn release(&mut self, upto: u64) {
        let released = upto.saturating_sub(self.base) as usize;
        self.released = self.released.max(released.min(self.out.len()));
    }

    /// Whether it waits in MERIDIAN.AWAIT: what it sends meanwhile is put off, and had better not
    /// be read.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Bytes of replies that have not left.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.out.len() - self.sent
    }

    /// What may leave now.
    #[must_use]
    pub fn releasable(&self) -> &[u8] {
        &self.out[self.sent..self.released]
    }

    /// Notes that `count` bytes of [`Client::releasable`] have left.
    pub fn consume(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.out.len() {
            self.base += self.out.len() as u64;
            self.out.clear();
            self.out.shrink_to(KEEP_BYTES);
            (self.sent, self.released) = (0, 0);
        }
    }
}

/// Capacity that an idle client's reply buffer keeps.
const KEEP_BYTES: usize = 16 << 10;
