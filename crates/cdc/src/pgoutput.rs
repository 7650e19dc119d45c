//! The `pgoutput` message decoder, protocol version 1, tolerant of the streaming messages of
//! version 2. Layouts: PostgreSQL documentation, "Logical Replication Message Formats".
//!
//! Every length is checked before it is used and nothing is copied: values are slices of the
//! message's buffer.

use bytes::{Buf, Bytes};

use crate::DecodeError;
use crate::limits::{COLUMNS_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX};

/// Microseconds from 1970 (Unix) to 2000 (Postgres).
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// One column of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// SQL NULL.
    Null,
    /// A large value that the change did not touch and that was therefore not sent.
    Unchanged,
    /// The value in the type's text form.
    Text(Bytes),
    /// The value in the type's binary form (only when asked for).
    Binary(Bytes),
}

/// The columns of a row in the order of its [`Relation`].
pub type Tuple = Vec<Column>;

/// What is logged of a row before an update or delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// All columns.
    Full,
    /// The columns of a chosen unique index.
    Index,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Part of the replica identity (every column is, when that is [`ReplicaIdentity::Full`]).
    pub key: bool,
    /// The column's name.
    pub name: String,
    /// Object id of the type.
    pub type_oid: u32,
    /// The type's modifier, -1 for none.
    pub type_modifier: i32,
}

/// A table as it is from here on in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Object id, by which changes refer to the table.
    pub oid: u32,
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// What is logged of old rows.
    pub identity: ReplicaIdentity,
    /// In the table's order.
    pub columns: Vec<RelationColumn>,
}

/// The row before an update or delete, as far as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Old {
    /// Not sent: the key did not change.
    None,
    /// Only the replica identity's columns; the others are [`Column::Null`] placeholders.
    Key(Tuple),
    /// The whole row.
    Full(Tuple),
}

/// One message of the stream. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins. It is sent whole, when it has committed.
    Begin {
        /// Where its commit record starts.
        commit_lsn: u64,
        /// When it committed.
        commit_time_us: i64,
        /// Transaction id.
        xid: u32,
    },
    /// The transaction is complete.
    Commit {
        /// Where the commit record starts.
        commit_lsn: u64,
        /// Where the commit record ends: from here on nothing of it is needed.
        end_lsn: u64,
        /// When it committed.
        commit_time_us: i64,
    },
    /// The transaction came from another server.
    Origin,
    /// A table's description, before its first change and after each alteration.
    Relation(Relation),
    /// A type's name.
    Type,
    /// A new row.
    Insert {
        /// The table.
        oid: u32,
        /// The row.
        new: Tuple,
    },
    /// A changed row.
    Update {
        /// The table.
        oid: u32,
        /// The row before.
        old: Old,
        /// The row now.
        new: Tuple,
    },
    /// A removed row.
    Delete {
        /// The table.
        oid: u32,
        /// The row before; never [`Old::None`].
        old: Old,
    },
    /// Emptied tables.
    Truncate {
        /// The tables.
        oids: Vec<u32>,
    },
    /// A message written with `pg_logical_emit_message`.
    Logical {
        /// Delivered with its transaction, at its commit.
        transactional: bool,
        /// Where it is in the log.
        lsn: u64,
        /// Whose message it is.
        prefix: Bytes,
        /// Its content.
        content: Bytes,
    },
    /// A message of a transaction streamed before its end (version 2), which is not asked for.
    Stream {
        /// The message's letter.
        tag: u8,
    },
}

/// Decodes messages one by one. Remembers only whether a streamed block is open, because inside
/// one every message carries a transaction id more.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    in_stream: bool,
}

impl Decoder {
    /// Decodes one message, that is the payload of one XLogData frame.
    pub fn decode(&mut self, bytes: Bytes) -> Result<Message, DecodeError> {
        let tag = bytes.first().copied().ok_or(DecodeError::Short { tag: ' ' })?;
        let mut input = Input { bytes, tag: char::from(tag) };
        if input.bytes.len() > MESSAGE_BYTES_MAX {
            return Err(input.limit("bytes"));
        }
        input.bytes.advance(1);
        if self.in_stream && matches!(tag, b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M') {
            input.u32()?;
        }
        let message = match tag {
            b'B' => begin(&mut input)?,
            b'C' => commit(&mut input)?,
            b'O' => {
                input.u64()?;
                input.name()?;
                Message::Origin
            }
            b'R' => Message::Relation(relation(&mut input)?),
            b'Y' => {
                input.u32()?;
                input.name()?;
                input.name()?;
                Message::Type
            }
            b'I' => insert(&mut input)?,
            b'U' => update(&mut input)?,
            b'D' => delete(&mut input)?,
            b'T' => truncate(&mut input)?,
            b'M' => logical(&mut input)?,
            b'S' | b'E' | b'c' | b'A' => {
                self.in_stream = tag == b'S';
                // Their content is of no use to who did not ask for them.
                input.bytes.clear();
                Message::Stream { tag }
            }
            byte => return Err(input.unknown("kind", byte)),
        };
        match input.bytes.len() {
            0 => Ok(message),
            bytes => Err(DecodeError::Trailing { tag: input.tag, bytes }),
        }
    }
}

fn begin(input: &mut Input) -> Result<Message, DecodeError> {
    Ok(Message::Begin {
        commit_lsn: input.u64()?,
        commit_time_us: input.time_us()?,
        xid: input.u32()?,
    })
}

fn commit(input: &mut Input) -> Result<Message, DecodeError> {
    input.u8()?; // Flags, none defined.
    Ok(Message::Commit {
        commit_lsn: input.u64()?,
        end_lsn: input.u64()?,
        commit_time_us: input.time_us()?,
    })
}

fn relation(input: &mut Input) -> Result<Relation, DecodeError> {
    let oid = input.u32()?;
    let schema = input.name()?;
    let table = input.name()?;
    let identity = match input.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        byte => return Err(input.unknown("replica identity", byte)),
    };
    let count = input.columns()?;
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        columns.push(RelationColumn {
            key: input.u8()? & 1 == 1,
            name: input.name()?,
            type_oid: input.u32()?,
            type_modifier: input.u32()? as i32,
        });
    }
    Ok(Relation { oid, schema, table, identity, columns })
}

fn insert(input: &mut Input) -> Result<Message, DecodeError> {
    let oid = input.u32()?;
    input.expect_new()?;
    Ok(Message::Insert { oid, new: input.tuple()? })
}

fn update(input: &mut Input) -> Result<Message, DecodeError> {
    let oid = input.u32()?;
    let old = match input.peek() {
        Some(b'K' | b'O') => old(input)?,
        _ => Old::None,
    };
    input.expect_new()?;
    Ok(Message::Update { oid, old, new: input.tuple()? })
}

fn delete(input: &mut Input) -> Result<Message, DecodeError> {
    Ok(Message::Delete { oid: input.u32()?, old: old(input)? })
}

fn old(input: &mut Input) -> Result<Old, DecodeError> {
    match input.u8()? {
        b'K' => Ok(Old::Key(input.tuple()?)),
        b'O' => Ok(Old::Full(input.tuple()?)),
        byte => Err(input.unknown("old row", byte)),
    }
}

fn truncate(input: &mut Input) -> Result<Message, DecodeError> {
    let count = input.u32()? as usize;
    input.u8()?; // CASCADE and RESTART IDENTITY: Postgres names the cascaded tables itself.
    if input.bytes.len() / 4 < count {
        return Err(input.short());
    }
    let oids = (0..count).map(|_| input.u32()).collect::<Result<_, _>>()?;
    Ok(Message::Truncate { oids })
}

fn logical(input: &mut Input) -> Result<Message, DecodeError> {
    let transactional = input.u8()? & 1 == 1;
    let lsn = input.u64()?;
    let prefix = input.string()?;
    let length = input.u32()? as usize;
    Ok(Message::Logical { transactional, lsn, prefix, content: input.take(length)? })
}

/// The rest of a message; every read checks that there is enough.
struct Input {
    bytes: Bytes,
    tag: char,
}

impl Input {
    fn short(&self) -> DecodeError {
        DecodeError::Short { tag: self.tag }
    }

    fn limit(&self, what: &'static str) -> DecodeError {
        DecodeError::Limit { tag: self.tag, what }
    }

    fn unknown(&self, what: &'static str, byte: u8) -> DecodeError {
        DecodeError::Unknown { tag: self.tag, what, byte }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if self.bytes.len() < length {
            return Err(self.short());
        }
        Ok(self.bytes.split_to(length))
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.bytes.try_get_u8().map_err(|_| self.short())
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.bytes.try_get_u16().map_err(|_| self.short())
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.bytes.try_get_u32().map_err(|_| self.short())
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.bytes.try_get_u64().map_err(|_| self.short())
    }

    fn time_us(&mut self) -> Result<i64, DecodeError> {
        let time = self.bytes.try_get_i64().map_err(|_| self.short())?;
        // Saturating: the value comes from the server and `infinity` is its largest number.
        Ok(time.saturating_add(POSTGRES_EPOCH_US))
    }

    /// Bytes up to a zero byte, which is consumed.
    fn string(&mut self) -> Result<Bytes, DecodeError> {
        let end = self.bytes.iter().position(|&b| b == 0).ok_or_else(|| self.short())?;
        let text = self.bytes.split_to(end);
        self.bytes.advance(1);
        if text.len() > NAME_BYTES_MAX {
            return Err(self.limit("a name's length"));
        }
        Ok(text)
    }

    fn name(&mut self) -> Result<String, DecodeError> {
        let text = self.string()?;
        let text = std::str::from_utf8(&text).map_err(|_| DecodeError::Utf8 { tag: self.tag })?;
        Ok(text.to_owned())
    }

    fn columns(&mut self) -> Result<usize, DecodeError> {
        let count = usize::from(self.u16()?);
        if count > COLUMNS_MAX {
            return Err(self.limit("columns"));
        }
        Ok(count)
    }

    fn expect_new(&mut self) -> Result<(), DecodeError> {
        match self.u8()? {
            b'N' => Ok(()),
            byte => Err(self.unknown("new row", byte)),
        }
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let count = self.columns()?;
        let mut columns = Vec::with_capacity(count);
        for _ in 0..count {
            columns.push(match self.u8()? {
                b'n' => Column::Null,
                b'u' => Column::Unchanged,
                b't' => Column::Text(self.value()?),
                b'b' => Column::Binary(self.value()?),
                byte => return Err(self.unknown("column", byte)),
            });
        }
        Ok(columns)
    }

    fn value(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        self.take(length)
    }
}
