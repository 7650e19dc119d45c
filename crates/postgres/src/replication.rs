//! The replication connection: identity, slots with an exported snapshot, COPY, and the stream.
//!
//! tokio-postgres has neither the `replication` parameter nor CopyBoth; hence this module on
//! postgres-protocol. Copies run here as well, because a row is then one frame, taken from the
//! socket when there is room for it.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use meridian_cdc::{Server, format_lsn, parse_lsn};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::message::frontend;
use tokio::time::timeout;

use crate::PostgresError;
use crate::endpoint::Endpoint;
use crate::limits::QUERY_TIMEOUT_MS;
use crate::wire::{Backend, Mode, Wire, push_row};

/// A slot that was just created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The snapshot shows exactly the commits before this place; the stream has the others.
    pub consistent_lsn: u64,
    /// Its name for `SET TRANSACTION SNAPSHOT`, valid until the next command here.
    pub snapshot: String,
}

/// One frame of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message of the output plug-in.
    Data {
        /// Where in the log it comes from.
        lsn: u64,
        /// The message.
        message: Bytes,
    },
    /// The server is there, and has sent everything that committed before `lsn`.
    Keepalive {
        /// The place in the log.
        lsn: u64,
        /// It wants an answer at once.
        reply: bool,
    },
}

/// A connection for replication commands, or for COPY under a snapshot.
pub struct Replication {
    wire: Wire,
}

impl Replication {
    /// Connects in this mode.
    pub async fn open(endpoint: &Endpoint, mode: Mode) -> Result<Replication, PostgresError> {
        Ok(Replication { wire: Wire::open(endpoint, mode).await? })
    }

    /// Runs a statement and returns its rows.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, PostgresError> {
        match timeout(Duration::from_millis(QUERY_TIMEOUT_MS), self.query_patiently(sql)).await {
            Ok(result) => result,
            Err(_) => Err(PostgresError::Timeout("a replication command")),
        }
    }

    /// `IDENTIFY_SYSTEM`, and the history of the timeline if there is one.
    pub async fn identify(&mut self) -> Result<Server, PostgresError> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let field = |index: usize| rows.first()?.get(index)?.as_deref();
        let identity = || {
            let (id, timeline, lsn) = (field(0)?, field(1)?, field(2)?);
            Some((id.parse().ok()?, timeline.parse().ok()?, parse_lsn(lsn)?))
        };
        let (system_id, timeline, flush_lsn) =
            identity().ok_or(PostgresError::Protocol("IDENTIFY_SYSTEM"))?;
        let history = if timeline > 1 { self.history(timeline).await? } else { vec![] };
        Ok(Server { system_id, timeline, flush_lsn, history, in_recovery: false })
    }

    /// Creates a slot for pgoutput and exports the snapshot at its beginning. Waits until the
    /// transactions that run now have ended, however long that takes.
    pub async fn create_slot(
        &mut self,
        name: &str,
        temporary: bool,
    ) -> Result<CreatedSlot, PostgresError> {
        let name = escape_identifier(name);
        let temporary = if temporary { "TEMPORARY " } else { "" };
        let rows = self
            .query_patiently(&format!(
                "CREATE_REPLICATION_SLOT {name} {temporary}LOGICAL pgoutput (SNAPSHOT 'export')"
            ))
            .await?;
        let field = |index: usize| rows.first()?.get(index)?.as_deref();
        let created = || {
            let consistent_lsn = parse_lsn(field(1)?)?;
            Some(CreatedSlot { consistent_lsn, snapshot: field(2)?.to_owned() })
        };
        created().ok_or(PostgresError::Protocol("CREATE_REPLICATION_SLOT"))
    }

    /// Starts the stream at `lsn`. Postgres silently starts later if the slot was acknowledged
    /// further: whoever calls has compared.
    pub async fn start(
        &mut self,
        slot: &str,
        lsn: u64,
        publication: &str,
    ) -> Result<(), PostgresError> {
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})",
            escape_identifier(slot),
            format_lsn(lsn),
            escape_literal(&escape_identifier(publication)),
        );
        frontend::query(&sql, &mut self.wire.output)?;
        self.wire.send().await?;
        loop {
            match self.message().await? {
                Backend::CopyBoth => return Ok(()),
                Backend::Other => {}
                _ => return Err(PostgresError::Protocol("no stream after START_REPLICATION")),
            }
        }
    }

    /// The next frame of the stream. Cancel-safe.
    pub async fn next(&mut self) -> Result<Frame, PostgresError> {
        loop {
            let (kind, body) = self.wire.frame_coalesced().await?;
            if let Some(frame) = self.stream_frame(kind, body)? {
                return Ok(frame);
            }
        }
    }

    /// A frame of the stream that has arrived already.
    pub fn buffered(&mut self) -> Result<Option<Frame>, PostgresError> {
        while let Some((kind, body)) = self.wire.buffered()? {
            if let Some(frame) = self.stream_frame(kind, body)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Tells the server what has arrived and what it may forget. `now_us` is microseconds since
    /// 1970.
    pub async fn status(
        &mut self,
        received: u64,
        durable: u64,
        now_us: i64,
    ) -> Result<(), PostgresError> {
        const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
        let output = &mut self.wire.output;
        output.put_u8(b'd');
        output.put_u32(4 + 34);
        output.put_u8(b'r');
        output.put_u64(received);
        output.put_u64(durable);
        output.put_u64(durable);
        output.put_i64(now_us - POSTGRES_EPOCH_US);
        output.put_u8(0);
        self.wire.send().await
    }

    /// Starts `COPY … TO STDOUT`; its lines follow with [`Replication::copy_line`].
    pub async fn copy_out(&mut self, sql: &str) -> Result<(), PostgresError> {
        frontend::query(sql, &mut self.wire.output)?;
        self.wire.send().await?;
        loop {
            match self.message().await? {
                Backend::CopyOut => return Ok(()),
                Backend::Other => {}
                _ => return Err(PostgresError::Protocol("no data after COPY")),
            }
        }
    }

    /// The next row of a copy; `None` after the last.
    pub async fn copy_line(&mut self) -> Result<Option<Bytes>, PostgresError> {
        loop {
            match self.message().await? {
                Backend::CopyData(line) => return Ok(Some(line)),
                Backend::CopyDone | Backend::Other => {}
                Backend::Ready => return Ok(None),
                _ => return Err(PostgresError::Protocol("an unexpected message in a copy")),
            }
        }
    }

    async fn history(&mut self, timeline: u32) -> Result<Vec<(u32, u64)>, PostgresError> {
        let rows = self.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let text = rows.first().and_then(|row| row.get(1)?.as_deref()).unwrap_or_default();
        // Lines of timeline, switch point and reason; comments begin with '#'.
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, parse_lsn(words.next()?)?))
        };
        Ok(text.lines().filter_map(entry).collect())
    }

    async fn query_patiently(
        &mut self,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, PostgresError> {
        frontend::query(sql, &mut self.wire.output)?;
        self.wire.send().await?;
        let (mut rows, mut failure) = (vec![], None);
        loop {
            let (kind, body) = self.wire.frame().await?;
            match Backend::parse(kind, body)? {
                Backend::Row(row) => push_row(&mut rows, row)?,
                Backend::Error(error) => failure = Some(self.server_error(error)),
                Backend::Ready => return failure.map_or(Ok(rows), Err),
                Backend::Other => {}
                _ => return Err(PostgresError::Protocol("an unexpected message in a query")),
            }
        }
    }

    fn stream_frame(&self, kind: u8, body: Bytes) -> Result<Option<Frame>, PostgresError> {
        match Backend::parse(kind, body)? {
            Backend::CopyData(data) => copy_data(data).map(Some),
            Backend::Error(error) => Err(self.server_error(error)),
            Backend::CopyDone | Backend::Ready => Err(PostgresError::Closed),
            _ => Ok(None),
        }
    }

    async fn message(&mut self) -> Result<Backend, PostgresError> {
        let (kind, body) = self.wire.frame().await?;
        match Backend::parse(kind, body)? {
            Backend::Error(error) => Err(self.server_error(error)),
            message => Ok(message),
        }
    }

    fn server_error(&self, error: crate::ServerError) -> PostgresError {
        PostgresError::Server { server: self.wire.server.clone(), error }
    }
}

fn copy_data(mut data: Bytes) -> Result<Frame, PostgresError> {
    let short = |_| PostgresError::Protocol("a frame of the stream is cut short");
    match data.try_get_u8().map_err(short)? {
        b'w' => {
            let lsn = data.try_get_u64().map_err(short)?;
            data.try_get_u64().map_err(short)?; // End of the server's log.
            data.try_get_i64().map_err(short)?; // The server's clock.
            Ok(Frame::Data { lsn, message: data })
        }
        b'k' => {
            let lsn = data.try_get_u64().map_err(short)?;
            data.try_get_i64().map_err(short)?;
            Ok(Frame::Keepalive { lsn, reply: data.try_get_u8().map_err(short)? != 0 })
        }
        _ => Err(PostgresError::Protocol("an unknown frame in the stream")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_of_the_stream() {
        let mut data = vec![b'w'];
        data.extend([0, 0, 0, 0, 0, 0, 0, 7]);
        data.extend([0; 16]);
        data.extend(b"B...");
        let data = Bytes::from(data);
        let message = Bytes::from_static(b"B...");
        assert_eq!(copy_data(data.clone()).unwrap(), Frame::Data { lsn: 7, message });
        for length in 0..25 {
            assert!(copy_data(data.slice(..length)).is_err(), "cut to {length}");
        }
        let mut keepalive = vec![b'k'];
        keepalive.extend([0, 0, 0, 0, 0, 0, 0, 9]);
        keepalive.extend([0; 8]);
        assert!(copy_data(keepalive.clone().into()).is_err());
        keepalive.push(1);
        assert_eq!(copy_data(keepalive.into()).unwrap(), Frame::Keepalive { lsn: 9, reply: true });
        assert!(copy_data(Bytes::from_static(b"?")).is_err());
    }
}
