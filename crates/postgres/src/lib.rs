//! The tailer's connections to Postgres.
