//! What can be wrong with what Postgres sent. All of these end the session: the stream cannot be
//! trusted any further, and the next session starts again at the stored position.

/// A message of the stream that does not follow the pgoutput format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ended inside a field.
    #[error("pgoutput message {tag:?} is cut short")]
    Short {
        /// The message's kind, as its letter; a space for an empty message.
        tag: char,
    },
    /// Bytes were left after the last field.
    #[error("pgoutput message {tag:?} has {bytes} bytes too many")]
    Trailing {
        /// The message's kind.
        tag: char,
        /// How many bytes are left over.
        bytes: usize,
    },
    /// A kind of message or part that this decoder does not know.
    #[error("pgoutput message {tag:?} has an unknown {what} {byte:#04x}")]
    Unknown {
        /// The message's kind.
        tag: char,
        /// Which part is unknown.
        what: &'static str,
        /// The byte in question.
        byte: u8,
    },
    /// A name that is not UTF-8 (the session asks for UTF-8).
    #[error("pgoutput message {tag:?} has a name that is not UTF-8")]
    Utf8 {
        /// The message's kind.
        tag: char,
    },
    /// More than a named limit allows.
    #[error("pgoutput message {tag:?} exceeds the limit for {what}")]
    Limit {
        /// The message's kind.
        tag: char,
        /// What there is too much of.
        what: &'static str,
    },
}

/// Well-formed messages in an order or with content that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A message that belongs into a transaction came outside of one, or the reverse.
    #[error("{what} {place} a transaction")]
    Order {
        /// The message.
        what: &'static str,
        /// "outside" or "inside".
        place: &'static str,
    },
    /// A change of a table that was not described before.
    #[error("a change of table {oid} came before its description")]
    UnknownRelation {
        /// The table's object id.
        oid: u32,
    },
    /// A row with another number of columns than its table.
    #[error("a row of table {table} has {got} columns, the table has {want}")]
    Columns {
        /// The table.
        table: String,
        /// Columns in the row.
        got: usize,
        /// Columns in the table.
        want: usize,
    },
    /// A commit that lies before the one that came last.
    #[error("commit {lsn} lies before {last}")]
    Backwards {
        /// The commit, as Postgres prints it.
        lsn: String,
        /// The last position.
        last: String,
    },
    /// More tables than [`crate::limits::RELATIONS_MAX`].
    #[error("more tables than this session may remember")]
    Relations,
    /// A kind of message that was not asked for.
    #[error("{0} was not asked for")]
    Unsupported(&'static str),
}

/// A row of a table copy that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// Not the number of columns that were selected.
    #[error("a copied row of {table} has {got} columns, {want} were selected")]
    Columns {
        /// The table.
        table: String,
        /// Columns in the row.
        got: usize,
        /// Columns that were selected.
        want: usize,
    },
    /// An escape sequence that COPY does not write.
    #[error("a copied row of {table} has a broken escape sequence")]
    Escape {
        /// The table.
        table: String,
    },
    /// A key that cannot be mirrored.
    #[error("a copied row of {table} cannot be mirrored: {source}")]
    Key {
        /// The table.
        table: String,
        /// Why.
        source: KeyError,
    },
    /// A scan that must be sorted is not, or leaves the table.
    #[error("the key scan of {table} is out of order")]
    Order {
        /// The table.
        table: String,
    },
}

/// A row whose key cannot become a mirror key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key column without a value.
    #[error("key column {0} has no value")]
    Missing(String),
    /// Longer than [`crate::limits::KEY_BYTES_MAX`].
    #[error("the key has {0} bytes, more than a mirror key may have")]
    Long(usize),
}
