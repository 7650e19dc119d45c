//! A served zone over three regions, and raw ways to ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use meridian_dns::{DnsConfig, DnsServer};
use meridian_failover::{
    Cause, ControlState, DnsTable, Network, RegionAddresses, RegionState, RegionStatus, Topology,
};

pub const US: u16 = 0;
pub const EU: u16 = 1;
pub const AP: u16 = 2;

/// The addresses that the regions publish.
pub const US_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
pub const EU_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
pub const AP_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 3));

/// The table of three regions of which `down` are down. Clients in 10.0/16 are nearest to us, in
/// 10.1/16 to eu, in 10.2/16 to ap; everybody else to ap, so that loopback is told apart.
pub fn table(epoch: u64, down: &[u16]) -> DnsTable {
    let status = |region: u16| RegionStatus {
        state: if down.contains(&region) { RegionState::Down } else { RegionState::Up },
        cause: Cause::Initial,
        since: 0,
        flaps: 0,
    };
    let state = ControlState {
        epoch,
        regions: [US, EU, AP].map(|region| (region, status(region))).into(),
        primary: US,
        primary_since: 0,
        members: Default::default(),
    };
    DnsTable::compute(&state, &topology(), &BTreeSet::new())
}

fn topology() -> Topology {
    let region = |name: &str, addresses: &[IpAddr]| RegionAddresses {
        name: name.to_owned(),
        addresses: addresses.to_vec(),
    };
    let network = |cidr: &str, order: &[u16]| Network {
        cidr: cidr.parse().expect("a network"),
        order: order.to_vec(),
    };
    let us6 = "2001:db8::1".parse().expect("an address");
    let topology = Topology {
        regions: BTreeMap::from([
            (US, region("us-east", &[US_ADDRESS, us6])),
            (EU, region("eu-central", &[EU_ADDRESS])),
            (AP, region("ap-southeast", &[AP_ADDRESS])),
        ]),
        networks: vec![
            network("10.0.0.0/16", &[US, EU, AP]),
            network("10.1.0.0/16", &[EU, US, AP]),
            network("10.2.0.0/16", &[AP, EU, US]),
            network("2001:db8:1::/48", &[EU, US, AP]),
        ],
        default_order: vec![AP, EU, US],
        regions_per_answer: 1,
    };
    topology.validate().expect("consistent");
    topology
}

/// A running server with everybody up.
pub async fn serve() -> DnsServer {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = DnsConfig::new(listen, "meridian.test", "redis");
    DnsServer::start(&config, table(1, &[])).await.expect("a free port")
}

/// Runs `dig` against the server; its whole output. `None` where dig is not installed.
pub async fn dig(server: SocketAddr, arguments: &str) -> Option<String> {
    let mut command = Command::new("dig");
    command.args([format!("@{}", server.ip()), "-p".to_owned(), server.port().to_string()]);
    command.args(["+time=2", "+tries=1"]).args(arguments.split_whitespace());
    let run = tokio::task::spawn_blocking(move || command.output());
    match run.await.expect("runs to its end") {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => {
            println!("dig is not installed ({error}): this part is skipped");
            None
        }
    }
}
