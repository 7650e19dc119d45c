//! Postgres logical replication: pgoutput to rows to commands, and positions.
