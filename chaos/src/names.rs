//! The zone's servers, as a resolver asks them for a client.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use meridian_dns::{ClientNetwork, probe};
use tokio::runtime::Runtime;

/// Asks DNS servers on behalf of clients.
pub struct Names {
    runtime: Runtime,
}

impl Names {
    /// Ready to ask.
    ///
    /// # Errors
    /// When the runtime cannot be started.
    pub fn new() -> Result<Names> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting a runtime for DNS queries")?;
        Ok(Names { runtime })
    }

    /// What `server` answers for `name` to a client of this network (`10.1.0.0/16`): the addresses
    /// and how long they may be kept, in seconds.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(
        &self,
        server: SocketAddr,
        name: &str,
        client: (IpAddr, u8),
    ) -> Result<(Vec<IpAddr>, Option<u32>)> {
        let network = ClientNetwork { address: client.0, prefix: client.1 };
        let answer = self.runtime.block_on(probe(server, name, Some(network)))?;
        Ok((answer.addresses, answer.ttl_s))
    }

    /// What `server` answers for `name` to whoever asks without telling the client's network, by
    /// way of hickory-resolver.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn resolve(&self, server: SocketAddr, name: &str) -> Result<Vec<IpAddr>> {
        Ok(self.runtime.block_on(probe(server, name, None))?.addresses)
    }
}
