//! What can go wrong outside of a single query.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// A server that cannot start, or a probe without an answer.
#[derive(Debug, Error)]
pub enum Error {
    /// The configuration is not usable; fix the topology file.
    #[error("DNS configuration: {0}")]
    Config(String),
    /// The address cannot be listened on.
    #[error("cannot listen for DNS on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The asked server did not answer properly.
    #[error("asking {server} for {name}: {reason}")]
    Probe {
        /// Who was asked.
        server: SocketAddr,
        /// For what.
        name: String,
        /// What happened instead.
        reason: String,
    },
}
