//! The client subnet option (RFC 7871): whose address decides, and what is echoed.

use std::net::IpAddr;

use hickory_proto::op::Edns;
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use meridian_failover::Cidr;

/// A query that violates the option's rules (§7.1.2): it is answered with FORMERR.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The subnet that a resolver sent, if any.
pub(crate) fn client_subnet(edns: Option<&Edns>) -> Result<Option<ClientSubnet>, Malformed> {
    let options = edns.map(|edns| edns.options().get_all(EdnsCode::Subnet)).unwrap_or_default();
    match options.as_slice() {
        [] => Ok(None),
        [EdnsOption::Subnet(subnet)] => check(*subnet).map(Some),
        _ => Err(Malformed),
    }
}

/// Where the client is, for choosing a region: the subnet if it says anything, else the resolver.
pub(crate) fn locate(subnet: Option<&ClientSubnet>, source: IpAddr) -> IpAddr {
    match subnet {
        // A prefix of no bits asks not to be located, beyond what the packet shows anyway.
        Some(subnet) if subnet.source_prefix() > 0 => subnet.addr(),
        _ => source,
    }
}

/// The option to echo: the query's, with the prefix for which the answer holds. An answer that
/// did not use the subnet holds for all (§7.2.1).
pub(crate) fn echoed(subnet: ClientSubnet, scope: Option<u8>) -> EdnsOption {
    let scope = scope.filter(|_| subnet.source_prefix() > 0).unwrap_or(0);
    EdnsOption::Subnet(ClientSubnet::new(subnet.addr(), subnet.source_prefix(), scope))
}

fn check(subnet: ClientSubnet) -> Result<ClientSubnet, Malformed> {
    let network = Cidr::new(subnet.addr(), subnet.source_prefix()).ok_or(Malformed)?;
    let is_valid = subnet.scope_prefix() == 0 && network.address() == subnet.addr();
    if is_valid { Ok(subnet) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(address: [u8; 4], source: u8, scope: u8) -> ClientSubnet {
        ClientSubnet::new(IpAddr::from(address), source, scope)
    }

    fn query(subnets: &[ClientSubnet]) -> Edns {
        let mut edns = Edns::new();
        for &subnet in subnets {
            edns.options_mut().options.push((EdnsCode::Subnet, EdnsOption::Subnet(subnet)));
        }
        edns
    }

    #[test]
    fn the_rules_of_the_option() {
        let read = |subnets: &[ClientSubnet]| client_subnet(Some(&query(subnets)));
        let fine = subnet([10, 1, 2, 0], 24, 0);
        assert_eq!(client_subnet(None), Ok(None));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[fine]), Ok(Some(fine)));
        assert_eq!(read(&[subnet([10, 1, 2, 3], 24, 0)]), Err(Malformed), "bits beyond the prefix");
        assert_eq!(read(&[subnet([10, 1, 2, 0], 24, 8)]), Err(Malformed), "a scope in a query");
        assert_eq!(read(&[subnet([10, 1, 2, 0], 33, 0)]), Err(Malformed), "too many bits");
        assert_eq!(read(&[fine, fine]), Err(Malformed), "twice");
    }

    #[test]
    fn a_subnet_of_no_bits_hides_the_client() {
        let source = IpAddr::from([192, 0, 2, 1]);
        let hidden = subnet([0, 0, 0, 0], 0, 0);
        assert_eq!(locate(Some(&hidden), source), source);
        assert_eq!(locate(Some(&subnet([10, 0, 0, 0], 8, 0)), source), IpAddr::from([10, 0, 0, 0]));
        assert_eq!(locate(None, source), source);
        assert_eq!(echoed(hidden, Some(16)), EdnsOption::Subnet(hidden));
        let echo = echoed(subnet([10, 0, 0, 0], 8, 0), Some(16));
        assert_eq!(echo, EdnsOption::Subnet(subnet([10, 0, 0, 0], 8, 16)));
    }
}
