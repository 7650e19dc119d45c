//! The running server: its sockets and its tasks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use meridian_failover::DnsTable;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tracing::info;

use crate::limits::{MAX_BIND_ATTEMPTS, UDP_LOOPS};
use crate::{DnsConfig, DnsHandle, Error, Result, ZoneHandler, tcp, udp};

/// A DNS server on UDP and TCP. Dropping it ends it.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    handle: DnsHandle,
    tasks: JoinSet<()>,
}

impl DnsServer {
    /// Listens, and answers from `table` until another one is published.
    pub async fn start(config: &DnsConfig, table: DnsTable) -> Result<Self> {
        let handle = DnsHandle::new(table);
        let handler = ZoneHandler::new(config, handle.clone())?;
        let bind_error = |source| Error::Bind { address: config.listen, source };
        let (socket, listener) = bind(config.listen).await.map_err(bind_error)?;
        let address = socket.local_addr().map_err(bind_error)?;
        let socket = Arc::new(socket);
        let mut tasks = JoinSet::new();
        for _ in 0..UDP_LOOPS {
            tasks.spawn(udp::serve(Arc::clone(&socket), handler.clone()));
        }
        tasks.spawn(tcp::serve(listener, handler));
        info!(%address, zone = config.zone, "DNS server listens");
        Ok(Self { address, handle, tasks })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// For publishing tables and reading counters.
    pub fn handle(&self) -> DnsHandle {
        self.handle.clone()
    }

    /// Returns when a socket has failed for good: the process should then end.
    pub async fn failed(&mut self) {
        self.tasks.join_next().await;
    }

    /// Ends all tasks and closes the sockets.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Both sockets on one port.
async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempt = 1;
    loop {
        let socket = UdpSocket::bind(address).await?;
        match TcpListener::bind(socket.local_addr()?).await {
            Ok(listener) => return Ok((socket, listener)),
            // The port that UDP got at random may be taken for TCP.
            Err(_) if address.port() == 0 && attempt < MAX_BIND_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
