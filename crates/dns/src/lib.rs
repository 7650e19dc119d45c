//! Authoritative DNS that answers with the nearest healthy region.
//!
//! Every region serves the zone on its own port. What to answer was decided elsewhere and arrives
//! as a whole, as a [`meridian_failover::DnsTable`]; this crate looks it up per query (by EDNS
//! client subnet where the resolver sends one, else by the resolver's address) and speaks the
//! protocol. A new table takes effect with the next query.
//!
//! hickory-server parses and encodes; its `Catalog` is not used, because it cannot echo the client
//! subnet, nor is its socket loop, which spawns without bound and logs two lines per query. The
//! loops here handle a query to its end before they read the next one, with a fixed number of
//! them, so that load beyond what is handled waits in the kernel's buffers and is dropped there.
//!
//! [`probe`] asks a server from outside, as a resolver would.

mod config;
mod error;
mod handle;
mod handler;
mod limits;
mod probe;
mod server;
mod subnet;
mod tcp;
mod udp;
mod zone;

pub use config::DnsConfig;
pub use error::Error;
pub use handle::{DnsCounts, DnsHandle};
pub use handler::ZoneHandler;
pub use limits::{MAX_SERVICE_NAMES, MAX_TCP_CONNECTIONS, MAX_TTL_S};
pub use probe::{ClientNetwork, ProbeAnswer, probe};
pub use server::DnsServer;

/// Result of this crate's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
