//! Following a Postgres primary: the shell around `meridian-cdc`.
//!
//! [`Tailer::spawn`] starts a task that copies the wanted tables once, follows every commit from
//! there on, reconnects as often as it takes, and hands on [`meridian_cdc::Batch`]es in commit
//! order. Whoever takes them stores each batch's rows and position in one commit, and publishes
//! the position's LSN through the `durable` watch when that commit is on disk; only then is
//! Postgres told that it may forget.
//!
//! Two connections: [`Replication`] speaks the replication protocol, which tokio-postgres does not
//! know; everything that is plain SQL runs over tokio-postgres. TLS is not there yet: unix
//! sockets, private networks or tunnels only, and `sslmode=require` is refused.

mod backoff;
mod capture;
mod config;
mod control;
mod copy;
mod endpoint;
mod error;
pub mod limits;
mod replication;
mod session;
mod status;
mod stream;
mod tailer;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;

pub use config::TailerConfig;
pub use endpoint::Endpoint;
pub use error::{PostgresError, ServerError};
pub use replication::{CreatedSlot, Frame, Replication};
pub use status::{State, Status, Totals};
pub use tailer::{Tailer, TailerHandle};
pub use wire::Mode;
