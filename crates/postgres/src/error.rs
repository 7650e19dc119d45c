//! What can go wrong with Postgres, in words that an operator can act on.

use std::fmt;

use meridian_cdc::{AssembleError, CopyError, DecodeError};

/// An error that the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// SQLSTATE, five characters.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// Detail and hint, if any.
    pub detail: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        write!(f, " [SQLSTATE {}]", self.code)
    }
}

/// Why a session with Postgres could not begin or has ended.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The configuration cannot be used.
    #[error("postgres configuration: {0}")]
    Config(String),
    /// No connection to the server.
    #[error("postgres at {server} cannot be reached: {source}")]
    Unreachable {
        /// Host and port or socket.
        server: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server said no.
    #[error("postgres at {server}: {error}")]
    Server {
        /// Host and port or socket.
        server: String,
        /// What it said.
        error: ServerError,
    },
    /// The server, its settings or its objects are not fit for logical replication.
    #[error("postgres is not ready for replication: {0}")]
    Setup(String),
    /// It must not be gone on; an operator has to look.
    #[error("refused: {0}")]
    Refused(String),
    /// It will be possible soon.
    #[error("waiting: {0}")]
    Waiting(String),
    /// The captured tables are not what they were: a new session copies what is new.
    #[error("the tables have changed")]
    TablesChanged,
    /// An answer took too long.
    #[error("postgres did not answer in time: {0}")]
    Timeout(&'static str),
    /// The connection ended.
    #[error("postgres closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection to postgres failed: {0}")]
    Io(#[from] std::io::Error),
    /// The server does not follow the protocol.
    #[error("postgres broke the protocol: {0}")]
    Protocol(&'static str),
    /// A frame above the limit.
    #[error("a message of {bytes} bytes is larger than the limit of {max}")]
    TooLarge {
        /// Announced length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A broken message in the stream.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Messages that cannot be.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// A broken or impossible row in a copy.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Whoever takes the batches is gone.
    #[error("nobody takes the batches any more")]
    ReceiverGone,
}

impl PostgresError {
    /// SQLSTATE, if the server sent an error.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            PostgresError::Server { error, .. } => Some(&error.code),
            _ => None,
        }
    }

    /// Converts an error of the SQL client.
    pub(crate) fn sql(server: &str, error: tokio_postgres::Error) -> PostgresError {
        if let Some(db) = error.as_db_error() {
            let extra = [db.detail(), db.hint()];
            return PostgresError::Server {
                server: server.to_owned(),
                error: ServerError {
                    code: db.code().code().to_owned(),
                    message: db.message().to_owned(),
                    detail: extra.into_iter().flatten().collect::<Vec<_>>().join("; "),
                },
            };
        }
        if error.is_closed() {
            return PostgresError::Closed;
        }
        // Its own text leaves out the cause.
        let text = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        PostgresError::Unreachable {
            server: server.to_owned(),
            source: std::io::Error::other(text),
        }
    }
}
