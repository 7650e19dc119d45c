//! Asking a server from outside, to see what is really published.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsHandle as _, FirstAnswer};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};

use crate::{Error, Result};

/// How long a probe waits for an answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A client network to ask on behalf of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientNetwork {
    /// An address of the client's; bits beyond the prefix must be zero.
    pub address: IpAddr,
    /// How many bits of it are told to the server.
    pub prefix: u8,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// IPv4 and IPv6 addresses in the order of the answer; empty if there are none.
    pub addresses: Vec<IpAddr>,
    /// Smallest time to live of them, in seconds.
    pub ttl_s: Option<u32>,
    /// The prefix for which the answer holds, where a client network was given and echoed.
    pub scope: Option<u8>,
}

/// Asks `server` for the addresses of `name`.
///
/// Without a client network the question goes the way of applications, through hickory-resolver
/// (UDP, then TCP if the answer is truncated), and the server sees this machine's address. With
/// one it is asked directly over UDP, since resolvers do not let applications set it. Caches
/// nothing.
pub async fn probe(
    server: SocketAddr,
    name: &str,
    client: Option<ClientNetwork>,
) -> Result<ProbeAnswer> {
    let fail = |reason: String| Error::Probe { server, name: name.to_owned(), reason };
    let mut fqdn = Name::from_ascii(name).map_err(|error| fail(error.to_string()))?;
    fqdn.set_fqdn(true);
    match client {
        None => resolve(server, fqdn).await.map_err(fail),
        Some(client) => ask(server, fqdn, client).await.map_err(fail),
    }
}

async fn resolve(server: SocketAddr, name: Name) -> Result<ProbeAnswer, String> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().timeout = PROBE_TIMEOUT;
    builder.options_mut().cache_size = 0;
    let resolver = builder.build().map_err(|error| error.to_string())?;
    let mut records = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        match resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => records.extend_from_slice(lookup.answers()),
            Err(error) if error.is_no_records_found() && !error.is_nx_domain() => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(summary(&records, None))
}

async fn ask(server: SocketAddr, name: Name, client: ClientNetwork) -> Result<ProbeAnswer, String> {
    let provider = TokioRuntimeProvider::default();
    let exchange =
        UdpClientStream::builder(server, provider).with_timeout(Some(PROBE_TIMEOUT)).exchange();
    let mut records = Vec::new();
    let mut scope = None;
    for kind in [RecordType::A, RecordType::AAAA] {
        let mut message = Message::query();
        message.add_query(Query::query(name.clone(), kind));
        let mut edns = Edns::new();
        let subnet = ClientSubnet::new(client.address, client.prefix, 0);
        edns.options_mut().insert(EdnsOption::Subnet(subnet));
        message.set_edns(edns);
        let request = DnsRequest::new(message, DnsRequestOptions::default());
        let answer = exchange.send(request).first_answer().await.map_err(|e| e.to_string())?;
        if answer.metadata.response_code != ResponseCode::NoError {
            return Err(answer.metadata.response_code.to_string());
        }
        let option = answer.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet));
        if let Some(EdnsOption::Subnet(echo)) = option {
            scope = Some(echo.scope_prefix());
        }
        records.extend_from_slice(&answer.answers);
    }
    Ok(summary(&records, scope))
}

fn summary(records: &[Record], scope: Option<u8>) -> ProbeAnswer {
    let address = |record: &Record| match &record.data {
        RData::A(a) => Some((IpAddr::V4(a.0), record.ttl)),
        RData::AAAA(aaaa) => Some((IpAddr::V6(aaaa.0), record.ttl)),
        _ => None,
    };
    let found: Vec<(IpAddr, u32)> = records.iter().filter_map(address).collect();
    ProbeAnswer {
        addresses: found.iter().map(|(address, _)| *address).collect(),
        ttl_s: found.iter().map(|(_, ttl)| *ttl).min(),
        scope,
    }
}
