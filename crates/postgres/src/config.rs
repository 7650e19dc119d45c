//! What an operator chooses for the tailer.

use std::fmt;

use meridian_cdc::Tables;

use crate::PostgresError;
use crate::limits::NAME_BYTES_MAX;

/// How to follow a Postgres server.
#[derive(Clone)]
pub struct TailerConfig {
    /// A libpq connection string. It may name several hosts, of which the primary is followed.
    pub url: String,
    /// Name of the replication slot; it is created when missing.
    pub slot: String,
    /// Name of the publication; it is created when missing, and extended by wanted tables.
    pub publication: String,
    /// What is mirrored.
    pub tables: Tables,
    /// Shown in `pg_stat_activity` and `pg_stat_replication`.
    pub application_name: String,
}

impl TailerConfig {
    /// All tables with a key in schema `public`, slot and publication named `meridian`.
    pub fn new(url: impl Into<String>) -> TailerConfig {
        TailerConfig {
            url: url.into(),
            slot: "meridian".into(),
            publication: "meridian".into(),
            tables: Tables::Schema("public".into()),
            application_name: "meridian".into(),
        }
    }

    /// Checks what can be checked without a server.
    pub(crate) fn check(&self) -> Result<(), PostgresError> {
        let word = |name: &str| {
            let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(good)
        };
        for (what, name) in [("slot", &self.slot), ("publication", &self.publication)] {
            if !word(name) {
                return Err(PostgresError::Config(format!(
                    "{what} name {name:?}: use 1 to {NAME_BYTES_MAX} of a-z, 0-9 and _"
                )));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TailerConfig {
    /// Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TailerConfig")
            .field("slot", &self.slot)
            .field("publication", &self.publication)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}
