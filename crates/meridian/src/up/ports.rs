//! Whether what `up` is about to use is free: a clear word before anything is started is worth more
//! than a node that ends.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use anyhow::{Result, bail};

use crate::config::ClusterFile;

/// Checks that every listener of every region could be bound now.
///
/// # Errors
/// Names the first that could not, and what it is for.
pub fn check_free(cluster: &ClusterFile) -> Result<()> {
    for region in &cluster.regions {
        let name = &region.name;
        check(try_tcp(region.redis), region.redis, &format!("Redis clients of {name}"))?;
        check(try_udp(region.mesh), region.mesh, &format!("the mesh of {name}"))?;
        check(try_tcp(region.admin), region.admin, &format!("the admin port of {name}"))?;
        check(try_tcp(region.dns), region.dns, &format!("DNS of {name}"))?;
        check(try_udp(region.dns), region.dns, &format!("DNS of {name}"))?;
    }
    Ok(())
}

fn try_tcp(address: SocketAddr) -> std::io::Result<()> {
    // The standard library sets SO_REUSEADDR, so connections that are closing do not count.
    TcpListener::bind(address).map(drop)
}

fn try_udp(address: SocketAddr) -> std::io::Result<()> {
    UdpSocket::bind(address).map(drop)
}

fn check(result: std::io::Result<()>, address: SocketAddr, what: &str) -> Result<()> {
    let Err(error) = result else { return Ok(()) };
    match error.kind() {
        ErrorKind::AddrInUse => {
            bail!("{address} (for {what}) is in use; is another cluster running?")
        }
        ErrorKind::AddrNotAvailable => bail!(
            "{address} (for {what}) is no address of this machine; `up` runs every region here"
        ),
        _ => bail!("{address} (for {what}): {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = check(try_tcp(address), address, "this test").unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("this test"), "{error}");
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert!(check(try_udp(address), address, "this test").is_err());
        let elsewhere: SocketAddr = "203.0.113.1:9".parse().unwrap();
        let error = check(try_tcp(elsewhere), elsewhere, "this test").unwrap_err().to_string();
        assert!(error.contains("no address of this machine"), "{error}");
    }
}
