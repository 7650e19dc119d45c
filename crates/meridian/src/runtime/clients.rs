//! The clients' sockets: accepting, reading, writing, and not being overrun.
//!
//! Readiness is edge-triggered, but a read that does not fill its buffer has emptied the socket,
//! so that a request costs one read and one write, as in Redis.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::SocketAddr,
};

use meridian_keyspace::{Engine, limits::MAX_VALUE_BYTES};
use meridian_resp::{Args, Limits, RequestParser};
use mio::{
    Interest, Registry, Token,
    event::Event,
    net::{TcpListener, TcpStream},
};

use super::limits::{BACKLOG_PAUSE_BYTES, MAX_COMMAND_BYTES, READ_BYTES};

/// Tokens below this are not connections.
const FIRST_TOKEN: usize = 2;

/// Arguments that need no allocation.
const FEW_ARGS: usize = 8;

struct Connection {
    stream: TcpStream,
    id: u64,
    parser: RequestParser,
    /// The beginning of a request whose end has not arrived.
    partial: Vec<u8>,
    /// There may be more to read.
    unread: bool,
    /// Not read from until its replies have gone, or until it no longer waits.
    paused: bool,
    /// It waits in MERIDIAN.AWAIT.
    waits: bool,
    /// The peer will send nothing more; what it has sent may still be unread.
    hung_up: bool,
    /// The socket takes no more at present.
    blocked: bool,
    /// The peer will send nothing more, or the socket is broken.
    finished: bool,
}

/// All client connections.
pub struct Clients {
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    unread: VecDeque<usize>,
    /// Places whose sockets take more again.
    writable: Vec<usize>,
    /// Client IDs to places.
    places: std::collections::BTreeMap<u64, usize>,
    next_id: u64,
    max_clients: usize,
    /// A client whose unsent replies exceed this is disconnected, in bytes.
    max_output: usize,
    buffer: Box<[u8]>,
    args: Args,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Bytes read from clients.
    pub bytes_read: u64,
    /// Bytes written to clients.
    pub bytes_written: u64,
}

impl Clients {
    /// Clients of a listening socket that has been registered.
    #[must_use]
    pub fn new(listener: TcpListener, max_clients: usize, max_output: usize) -> Clients {
        Clients {
            listener,
            connections: Vec::new(),
            free: Vec::new(),
            unread: VecDeque::new(),
            writable: Vec::new(),
            places: std::collections::BTreeMap::new(),
            next_id: 1,
            max_clients,
            max_output,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            args: Args::new(),
            refused: 0,
            bytes_read: 0,
            bytes_written: 0,
        }
    }

    /// Connections at present.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Somebody has sent what has not been read.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Takes everybody who waits at the door.
    pub fn accept(&mut self, engine: &mut Engine, registry: &Registry) {
        loop {
            match self.listener.accept() {
                Ok((stream, address)) => self.welcome(stream, address, engine, registry),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a client");
                    return;
                }
            }
        }
    }

    /// A socket is ready.
    pub fn ready(&mut self, token: Token, event: &Event) {
        let place = token.0 - FIRST_TOKEN;
        let Some(connection) = self.connections.get_mut(place).and_then(Option::as_mut) else {
            return;
        };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            if !connection.unread && !connection.paused {
                self.unread.push_back(place);
            }
            connection.unread = true;
        }
        connection.hung_up |= event.is_read_closed();
        if connection.waits && connection.hung_up {
            // As in Redis: who waits for a reply and hangs up does not want it any more.
            connection.finished = true;
            self.unread.push_back(place);
        }
        if event.is_writable() && connection.blocked {
            connection.blocked = false;
            self.writable.push(place);
        }
    }

    /// The next connection to read from, each once until it is ready again.
    pub fn next_unread(&mut self) -> Option<usize> {
        self.unread.pop_front()
    }

    /// Reads from a connection and runs what is complete.
    pub fn read(&mut self, place: usize, engine: &mut Engine) {
        let Some(connection) = self.connections.get_mut(place).and_then(Option::as_mut) else {
            return;
        };
        if connection.finished {
            return self.close(place, engine);
        }
        connection.unread = false;
        let count = match connection.stream.read(&mut self.buffer) {
            Ok(0) => {
                connection.finished = true;
                0
            }
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                connection.unread = true;
                0
            }
            Err(_) => {
                connection.finished = true;
                0
            }
        };
        self.bytes_read += count as u64;
        connection.unread |= count == self.buffer.len();
        let input = &self.buffer[..count];
        if connection.partial.is_empty() {
            let used = run(connection, input, &mut self.args, engine);
            connection.partial.extend_from_slice(&input[used..]);
        } else {
            let mut partial = std::mem::take(&mut connection.partial);
            partial.extend_from_slice(input);
            if partial.len() >= connection.parser.bytes_needed() {
                let used = run(connection, &partial, &mut self.args, engine);
                partial.drain(..used);
            }
            connection.partial = partial;
            if connection.partial.is_empty() {
                connection.partial.shrink_to(READ_BYTES);
            }
        }
        let client = engine.clients().get(&connection.id);
        let backlog = client.map_or(0, |c| c.backlog());
        if connection.parser.limits().unauthenticated && client.is_some_and(|c| c.authenticated) {
            connection.parser.set_limits(limits(engine, connection.id));
        }
        connection.waits = client.is_some_and(|c| c.waits());
        connection.finished |= connection.waits && connection.hung_up;
        connection.paused = backlog > BACKLOG_PAUSE_BYTES || connection.waits;
        if connection.unread && !connection.paused {
            self.unread.push_back(place);
        }
        if connection.finished {
            self.close(place, engine);
        }
    }

    /// Writes what the last commits have released, and what had no room before.
    pub fn flush(&mut self, engine: &mut Engine) {
        for id in engine.take_ready() {
            if let Some(place) = self.places.get(&id).copied() {
                self.write(place, engine);
            }
        }
        for place in std::mem::take(&mut self.writable) {
            self.write(place, engine);
        }
    }

    fn write(&mut self, place: usize, engine: &mut Engine) {
        let Some(connection) = self.connections.get_mut(place).and_then(Option::as_mut) else {
            return;
        };
        let Some(client) = engine.output(connection.id) else {
            return self.close(place, engine);
        };
        while !connection.blocked && !connection.finished && !client.releasable().is_empty() {
            match connection.stream.write(client.releasable()) {
                Ok(0) => connection.finished = true,
                Ok(count) => {
                    client.consume(count);
                    self.bytes_written += count as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => connection.blocked = true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => connection.finished = true,
            }
        }
        let backlog = client.backlog();
        connection.waits = client.waits();
        if connection.paused && !connection.waits && backlog <= BACKLOG_PAUSE_BYTES / 2 {
            connection.paused = false;
            connection.unread = true;
            self.unread.push_back(place);
        }
        let overrun = backlog > self.max_output;
        if overrun {
            tracing::warn!(client = connection.id, backlog, "client does not read its replies");
        }
        if connection.finished || overrun || (client.closing && backlog == 0) {
            self.close(place, engine);
        }
    }

    fn close(&mut self, place: usize, engine: &mut Engine) {
        // Dropping the socket takes it out of the poll, too.
        if let Some(connection) = self.connections.get_mut(place).and_then(Option::take) {
            engine.disconnect(connection.id);
            self.places.remove(&connection.id);
            self.free.push(place);
        }
    }

    fn welcome(
        &mut self,
        mut stream: TcpStream,
        address: SocketAddr,
        engine: &mut Engine,
        registry: &Registry,
    ) {
        if self.places.len() >= self.max_clients {
            self.refused += 1;
            let _ = stream.write(b"-ERR max number of clients reached\r\n");
            return;
        }
        let place = self.free.pop().unwrap_or(self.connections.len());
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Token(FIRST_TOKEN + place);
        let prepared = stream.set_nodelay(true);
        if prepared.and_then(|()| registry.register(&mut stream, token, both)).is_err() {
            self.free.push(place);
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        engine.connect(id, address.to_string());
        let connection = Connection {
            stream,
            id,
            parser: RequestParser::new(limits(engine, id)),
            partial: Vec::new(),
            unread: false,
            paused: false,
            waits: false,
            hung_up: false,
            blocked: false,
            finished: false,
        };
        if place == self.connections.len() {
            self.connections.push(None);
        }
        self.connections[place] = Some(connection);
        self.places.insert(id, place);
    }
}

/// What a client's requests may take. A value must fit a frame, so bulks are shorter than Redis's.
fn limits(engine: &Engine, id: u64) -> Limits {
    Limits {
        max_bulk_len: MAX_VALUE_BYTES as u32,
        max_command_len: MAX_COMMAND_BYTES,
        unauthenticated: engine.clients().get(&id).is_some_and(|c| !c.authenticated),
        ..Limits::DEFAULT
    }
}

/// Runs the complete requests at the beginning of `input` and returns how many bytes they took.
fn run(connection: &mut Connection, input: &[u8], args: &mut Args, engine: &mut Engine) -> usize {
    let mut at = 0;
    while at < input.len() {
        let rest = &input[at..];
        match connection.parser.parse(rest, args) {
            Ok(Some(used)) => {
                at += used;
                if !args.is_empty() {
                    execute(connection.id, rest, args, engine);
                }
            }
            Ok(None) => break,
            Err(error) => {
                engine.protocol_error(connection.id, &error);
                return input.len();
            }
        }
    }
    at
}

fn execute(id: u64, input: &[u8], args: &Args, engine: &mut Engine) {
    let count = args.len();
    let mut few: [&[u8]; FEW_ARGS] = [&[]; FEW_ARGS];
    if count <= FEW_ARGS {
        for (place, arg) in few.iter_mut().zip(args.iter(input)) {
            *place = arg;
        }
        engine.execute(id, &few[..count]);
    } else {
        let many: Vec<&[u8]> = args.iter(input).collect();
        engine.execute(id, &many);
    }
}
