//! The part of the topology file that directs clients: where regions are, and which is near whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::limits::{MAX_ADDRESSES, MAX_NETWORKS, MAX_REGIONS};
use crate::state::ControlState;
use crate::{Error, Result};

/// A region's name and the addresses that its clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionAddresses {
    /// A DNS label, such as `us-east`.
    pub name: String,
    /// IPv4 and IPv6 addresses.
    pub addresses: Vec<IpAddr>,
}

/// A network of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its addresses; the longest matching network decides.
    pub cidr: Cidr,
    /// Regions from near to far. Regions that are left out come last, in the default order.
    pub order: Vec<u16>,
}

/// Where clients should go when everything is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Every region.
    pub regions: BTreeMap<u16, RegionAddresses>,
    /// Known client networks.
    pub networks: Vec<Network>,
    /// The order for everybody else.
    pub default_order: Vec<u16>,
    /// Up to how many regions an answer names, nearest first. One is usual.
    pub regions_per_answer: usize,
}

impl Topology {
    /// Checks names, orders and limits.
    pub fn validate(&self) -> Result<()> {
        let fail = |reason: String| Err(Error::Topology(reason));
        if self.regions.is_empty() || self.regions.len() > MAX_REGIONS {
            return fail(format!("1 to {MAX_REGIONS} regions, not {}", self.regions.len()));
        }
        if self.networks.len() > MAX_NETWORKS || self.regions_per_answer == 0 {
            return fail(format!("at most {MAX_NETWORKS} networks, at least one region an answer"));
        }
        let mut names = BTreeSet::new();
        for region in self.regions.values() {
            if !is_label(&region.name) {
                return fail(format!("{:?} is not a DNS label", region.name));
            }
            if !names.insert(region.name.to_ascii_lowercase()) {
                return fail(format!("two regions are called {}", region.name));
            }
            if region.addresses.is_empty() || region.addresses.len() > MAX_ADDRESSES {
                return fail(format!("{}: 1 to {MAX_ADDRESSES} addresses", region.name));
            }
        }
        let mut cidrs = BTreeSet::new();
        for network in &self.networks {
            self.check_order(&network.order, &network.cidr.to_string())?;
            if !cidrs.insert(network.cidr) {
                return fail(format!("{} is listed twice", network.cidr));
            }
        }
        self.check_order(&self.default_order, "the default order")
    }

    /// The same networks and orders with the regions that are active members of `state`, where
    /// the state says that they are; founders whose addresses it does not tell keep the file's.
    #[must_use]
    pub fn of_members(&self, state: &ControlState) -> Topology {
        if state.members.is_empty() {
            return self.clone();
        }
        let mut regions = BTreeMap::new();
        for (region, member) in state.members.live() {
            let (name, clients) = (&member.name, &member.addresses.clients);
            let entry = match (clients.is_empty(), self.regions.get(&region)) {
                (true, Some(known)) => known.clone(),
                _ => RegionAddresses { name: name.clone(), addresses: clients.clone() },
            };
            if state.members.is_active(region) {
                regions.insert(region, entry);
            }
        }
        let kept = |order: &[u16]| -> Vec<u16> {
            order.iter().copied().filter(|region| regions.contains_key(region)).collect()
        };
        let networks = self
            .networks
            .iter()
            .map(|network| Network { cidr: network.cidr, order: kept(&network.order) });
        Topology {
            networks: networks.collect(),
            default_order: kept(&self.default_order),
            regions_per_answer: self.regions_per_answer,
            regions,
        }
    }

    fn check_order(&self, order: &[u16], what: &str) -> Result<()> {
        let set: BTreeSet<u16> = order.iter().copied().collect();
        if set.len() != order.len() || !set.iter().all(|region| self.regions.contains_key(region)) {
            return Err(Error::Topology(format!("{what}: {order:?} repeats or invents a region")));
        }
        Ok(())
    }

    /// All regions for a network that prefers `order`.
    pub(crate) fn full_order(&self, order: &[u16]) -> Vec<u16> {
        let rest = self.default_order.iter().chain(self.regions.keys());
        let mut full: Vec<u16> = Vec::with_capacity(self.regions.len());
        for &region in order.iter().chain(rest) {
            if !full.contains(&region) {
                full.push(region);
            }
        }
        full
    }
}

/// Letters, digits and inner hyphens, at most 63 (RFC 1035 §2.3.1, with RFC 1123's first digits).
pub(crate) fn is_label(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        let region = |name: &str, last: u8| RegionAddresses {
            name: name.to_owned(),
            addresses: vec![IpAddr::from([127, 0, 0, last])],
        };
        Topology {
            regions: BTreeMap::from([(0, region("us-east", 1)), (1, region("eu-central", 2))]),
            networks: vec![Network { cidr: "10.1.0.0/16".parse().unwrap(), order: vec![1] }],
            default_order: vec![0, 1],
            regions_per_answer: 1,
        }
    }

    #[test]
    fn an_order_is_completed_by_the_default() {
        assert_eq!(topology().validate(), Ok(()));
        assert_eq!(topology().full_order(&[1]), [1, 0]);
        assert_eq!(topology().full_order(&[]), [0, 1]);
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |change: fn(&mut Topology)| {
            let mut topology = topology();
            change(&mut topology);
            topology.validate().is_err()
        };
        assert!(refused(|t| t.regions.clear()));
        assert!(refused(|t| t.default_order = vec![0, 9]));
        assert!(refused(|t| t.networks[0].order = vec![0, 0]));
        assert!(refused(|t| t.networks.push(t.networks[0].clone())));
        assert!(refused(|t| t.regions_per_answer = 0));
        for name in ["", "-us", "us east", "us.east", &"a".repeat(64)] {
            let mut topology = topology();
            topology.regions.get_mut(&0).unwrap().name = name.to_owned();
            assert!(topology.validate().is_err(), "{name}");
        }
        assert!(refused(|t| t.regions.get_mut(&0).unwrap().name = "EU-central".to_owned()));
    }
}
