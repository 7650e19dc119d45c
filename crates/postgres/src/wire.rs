//! A socket that speaks in Postgres frames: one byte of kind, four of length, the body. Lengths are
//! checked before memory is reserved.

mod backend;
mod coalesce;
mod handshake;

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use crate::PostgresError;
use crate::endpoint::{Address, Endpoint};
use crate::limits::{CONNECT_TIMEOUT_MS, FRAME_BYTES_MAX, READ_BYTES, STARTUP_BYTES_MAX};
pub(crate) use backend::{Backend, push_row};
use coalesce::Coalescer;

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A frame's header: kind and length.
const HEADER_BYTES: usize = 5;

/// Whether a session is for replication commands or for plain SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `replication=database`.
    Replication,
    /// Simple queries and COPY.
    Plain,
}

/// An authenticated connection.
pub struct Wire {
    socket: Box<dyn Socket>,
    input: BytesMut,
    pub(crate) output: BytesMut,
    frame_bytes_max: usize,
    coalescer: Coalescer,
    opened: Instant,
    /// The server, for messages.
    pub(crate) server: String,
}

impl Wire {
    /// Connects and authenticates (trust or SCRAM-SHA-256; no TLS yet).
    pub async fn open(endpoint: &Endpoint, mode: Mode) -> Result<Wire, PostgresError> {
        let limit = Duration::from_millis(CONNECT_TIMEOUT_MS);
        match timeout(limit, Wire::open_slowly(endpoint, mode)).await {
            Ok(result) => result,
            Err(_) => Err(PostgresError::Timeout("opening a connection")),
        }
    }

    async fn open_slowly(endpoint: &Endpoint, mode: Mode) -> Result<Wire, PostgresError> {
        let unreachable = |source| PostgresError::Unreachable { server: endpoint.name(), source };
        let socket: Box<dyn Socket> = match &endpoint.address {
            Address::Tcp(host, port) => {
                let socket = TcpStream::connect((host.as_str(), *port)).await;
                let socket = socket.map_err(unreachable)?;
                socket.set_nodelay(true)?;
                Box::new(socket)
            }
            Address::Unix(directory, port) => {
                let path = directory.join(format!(".s.PGSQL.{port}"));
                Box::new(UnixStream::connect(path).await.map_err(unreachable)?)
            }
        };
        let mut wire = Wire {
            socket,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            frame_bytes_max: STARTUP_BYTES_MAX,
            coalescer: Coalescer::default(),
            opened: Instant::now(),
            server: endpoint.name(),
        };
        handshake::run(&mut wire, endpoint, mode).await?;
        wire.frame_bytes_max = FRAME_BYTES_MAX;
        Ok(wire)
    }

    /// Sends what was put into `output`.
    pub(crate) async fn send(&mut self) -> Result<(), PostgresError> {
        self.socket.write_all_buf(&mut self.output).await?;
        Ok(self.socket.flush().await?)
    }

    /// The next frame. Cancel-safe: what was read stays in the buffer.
    pub(crate) async fn frame(&mut self) -> Result<(u8, Bytes), PostgresError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// As [`Wire::frame`], for a stream of many small frames: when busy, sleeps for a moment before
    /// it reads, so that one read brings many.
    pub(crate) async fn frame_coalesced(&mut self) -> Result<(u8, Bytes), PostgresError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            if let Some(pause) = self.coalescer.pause(self.opened.elapsed()) {
                tokio::time::sleep(pause).await;
            }
            self.fill().await?;
        }
    }

    /// A frame that has arrived already.
    pub(crate) fn buffered(&mut self) -> Result<Option<(u8, Bytes)>, PostgresError> {
        let Some(header) = self.input.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [kind, length @ ..] = *header;
        // The length counts itself but not the kind.
        let total = 1 + u32::from_be_bytes(length) as usize;
        if total < HEADER_BYTES {
            return Err(PostgresError::Protocol("a frame shorter than its header"));
        }
        if total > self.frame_bytes_max {
            return Err(PostgresError::TooLarge { bytes: total, max: self.frame_bytes_max });
        }
        if self.input.len() < total {
            self.input.reserve(total - self.input.len());
            return Ok(None);
        }
        let mut frame = self.input.split_to(total).freeze();
        frame.advance(HEADER_BYTES);
        self.coalescer.count(self.opened.elapsed());
        Ok(Some((kind, frame)))
    }

    async fn fill(&mut self) -> Result<(), PostgresError> {
        self.input.reserve(READ_BYTES / 4);
        match self.socket.read_buf(&mut self.input).await? {
            0 => Err(PostgresError::Closed),
            _ => Ok(()),
        }
    }
}
