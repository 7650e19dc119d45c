//! The answers of the DNS server: for each client network the nearest region that serves.
//!
//! Computed once per change of the control state, looked up per query.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::state::{ControlState, RegionState};
use crate::topology::{RegionAddresses, Topology};

/// What a client of some network is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'a> {
    /// The listed network that decided; `None` if the default order did.
    pub network: Option<Cidr>,
    /// Prefix length for which the answer holds, for the family of the client's address: no
    /// client with the same so many bits gets another answer (RFC 7871's scope).
    pub scope: u8,
    /// Regions to answer with, nearest first; never empty.
    pub regions: &'a [u16],
}

/// An immutable table of answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsTable {
    epoch: u64,
    regions: BTreeMap<u16, RegionAddresses>,
    by_name: BTreeMap<String, u16>,
    v4: Prefixes,
    v6: Prefixes,
    default: Vec<u16>,
}

/// Networks of one address family by (prefix length, first address), each with its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Prefixes {
    networks: BTreeMap<(u8, IpAddr), Vec<u16>>,
    /// Prefix lengths that occur, longest first.
    lengths: Vec<u8>,
}

impl DnsTable {
    /// The table for an agreed state.
    ///
    /// `suspects` are left out as if they were down: a majority does not hear them, and changing
    /// an answer needs no agreement. Among the rest, the nearest regions that are up answer; if
    /// none is, the nearest degraded ones, then recovering ones. If nobody is left, everybody
    /// answers: a client that tries a region which is wrongly believed dead may succeed, a client
    /// with no address cannot.
    ///
    /// Only active members answer and have a name: who joins is not ready, who leaves is on its
    /// way out. `topology` is what the members say ([`Topology::of_members`]).
    pub fn compute(state: &ControlState, topology: &Topology, suspects: &BTreeSet<u16>) -> Self {
        let serving = Serving { state, topology, suspects };
        let mut v4 = Prefixes::default();
        let mut v6 = Prefixes::default();
        for network in &topology.networks {
            let family = if network.cidr.address().is_ipv4() { &mut v4 } else { &mut v6 };
            family.insert(network.cidr, serving.nearest(&network.order));
        }
        let by_name = topology.regions.iter();
        Self {
            epoch: state.epoch,
            by_name: by_name.map(|(&id, r)| (r.name.to_ascii_lowercase(), id)).collect(),
            regions: topology.regions.clone(),
            v4,
            v6,
            default: serving.nearest(&[]),
        }
    }

    /// The control epoch that the table was computed from.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What a client at `address` is told.
    pub fn route(&self, address: IpAddr) -> Route<'_> {
        let address = address.to_canonical();
        let family = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        match family.find(address) {
            Some((cidr, regions)) => {
                let scope = family.scope(address, cidr.prefix());
                Route { network: Some(cidr), scope, regions }
            }
            None => {
                Route { network: None, scope: family.scope(address, 0), regions: &self.default }
            }
        }
    }

    /// The addresses of a region.
    pub fn addresses(&self, region: u16) -> &[IpAddr] {
        self.regions.get(&region).map_or(&[], |region| &region.addresses)
    }

    /// The region with this name, in any case.
    pub fn region_named(&self, name: &str) -> Option<u16> {
        self.by_name.get(&name.to_ascii_lowercase()).copied()
    }

    /// Every region with its name.
    pub fn names(&self) -> impl Iterator<Item = (u16, &str)> {
        self.regions.iter().map(|(&id, region)| (id, region.name.as_str()))
    }
}

impl Prefixes {
    fn insert(&mut self, cidr: Cidr, regions: Vec<u16>) {
        self.networks.insert((cidr.prefix(), cidr.address()), regions);
        if let Err(place) = self.lengths.binary_search_by(|length| cidr.prefix().cmp(length)) {
            self.lengths.insert(place, cidr.prefix());
        }
    }

    /// The longest network around `address`.
    fn find(&self, address: IpAddr) -> Option<(Cidr, &[u16])> {
        self.lengths.iter().find_map(|&length| {
            let cidr = Cidr::new(address, length)?;
            let regions = self.networks.get(&(length, cidr.address()))?;
            Some((cidr, regions.as_slice()))
        })
    }

    /// The shortest prefix of `address`, no shorter than `matched`, inside which no longer listed
    /// network lies: a cache may use the answer for all of it.
    fn scope(&self, address: IpAddr, matched: u8) -> u8 {
        let longest = self.lengths.first().copied().unwrap_or(0);
        (matched..longest)
            .find(|&scope| Cidr::new(address, scope).is_some_and(|cidr| !self.has_inside(&cidr)))
            .unwrap_or(longest.max(matched))
    }

    /// Whether a network longer than `cidr` lies inside it.
    fn has_inside(&self, cidr: &Cidr) -> bool {
        let longer = self.lengths.iter().filter(|&&length| length > cidr.prefix());
        longer.copied().any(|length| {
            let from = (length, cidr.address());
            let next = self.networks.range(from..).next();
            next.is_some_and(|((l, address), _)| *l == length && cidr.contains(*address))
        })
    }
}

struct Serving<'a> {
    state: &'a ControlState,
    topology: &'a Topology,
    suspects: &'a BTreeSet<u16>,
}

impl Serving<'_> {
    fn nearest(&self, order: &[u16]) -> Vec<u16> {
        let order = self.topology.full_order(order);
        let standing = |region: u16| match self.suspects.contains(&region) {
            true => RegionState::Down,
            false => self.state.state_of(region).unwrap_or(RegionState::Down),
        };
        for tier in [RegionState::Up, RegionState::Degraded, RegionState::Recovering] {
            let of_tier = order.iter().copied().filter(|&region| standing(region) == tier);
            let chosen: Vec<u16> = of_tier.take(self.topology.regions_per_answer).collect();
            if !chosen.is_empty() {
                return chosen;
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Cause, RegionStatus};
    use crate::topology::Network;

    const US: u16 = 0;
    const EU: u16 = 1;
    const AP: u16 = 2;

    fn table(states: [RegionState; 3], suspects: &[u16]) -> DnsTable {
        let status = |state| RegionStatus { state, cause: Cause::Initial, since: 0, flaps: 0 };
        let state = ControlState {
            epoch: 4,
            regions: (0..).zip(states.map(status)).collect(),
            primary: US,
            primary_since: 0,
            members: Default::default(),
        };
        let region = |name: &str, last: u8| RegionAddresses {
            name: name.to_owned(),
            addresses: vec![IpAddr::from([127, 0, 0, last])],
        };
        let network = |cidr: &str, order: &[u16]| Network {
            cidr: cidr.parse().unwrap(),
            order: order.to_vec(),
        };
        let topology = Topology {
            regions: BTreeMap::from([
                (US, region("us-east", 1)),
                (EU, region("eu-central", 2)),
                (AP, region("ap-southeast", 3)),
            ]),
            networks: vec![
                network("10.0.0.0/8", &[US, EU, AP]),
                network("10.2.0.0/16", &[EU, US, AP]),
                network("10.2.3.0/24", &[AP]),
                network("2001:db8::/32", &[AP, EU]),
            ],
            default_order: vec![EU, US, AP],
            regions_per_answer: 1,
        };
        assert_eq!(topology.validate(), Ok(()));
        DnsTable::compute(&state, &topology, &suspects.iter().copied().collect())
    }

    fn answer(table: &DnsTable, address: &str) -> Vec<u16> {
        table.route(address.parse().unwrap()).regions.to_vec()
    }

    use RegionState::{Degraded, Down, Recovering, Up};

    #[test]
    fn the_longest_network_decides() {
        let table = table([Up, Up, Up], &[]);
        for (client, region) in [
            ("10.9.9.9", US),
            ("10.2.9.9", EU),
            ("10.2.3.9", AP),
            ("192.0.2.1", EU),
            ("2001:db8::7", AP),
            ("2001:db9::7", EU),
            ("::ffff:10.9.9.9", US),
        ] {
            assert_eq!(answer(&table, client), [region], "{client}");
        }
    }

    #[test]
    fn the_nearest_region_in_the_best_state_answers() {
        let client = "10.9.9.9";
        for (states, suspects, expected) in [
            ([Up, Up, Up], &[][..], &[US][..]),
            ([Down, Up, Up], &[], &[EU]),
            ([Up, Up, Up], &[US], &[EU]),
            ([Up, Up, Up], &[US, EU], &[AP]),
            ([Degraded, Down, Up], &[], &[AP]),
            ([Degraded, Recovering, Down], &[], &[US]),
            ([Down, Recovering, Down], &[], &[EU]),
            ([Down, Down, Down], &[], &[US, EU, AP]),
            ([Up, Up, Up], &[US, EU, AP], &[US, EU, AP]),
        ] {
            assert_eq!(
                answer(&table(states, suspects), client),
                expected,
                "{states:?} {suspects:?}"
            );
        }
    }

    #[test]
    fn a_scope_holds_for_every_client_inside_it() {
        let table = table([Up, Up, Up], &[]);
        let mut clients: Vec<IpAddr> = Vec::new();
        for a in [0, 9, 10, 11, 192] {
            for b in [0, 1, 2, 3, 255] {
                for c in [0, 2, 3, 4, 255] {
                    clients.push(IpAddr::from([a, b, c, 7]));
                }
            }
        }
        for &one in &clients {
            let route = table.route(one);
            let scope = Cidr::new(one, route.scope).unwrap();
            for other in clients.iter().filter(|&&other| scope.contains(other)) {
                assert_eq!(table.route(*other).regions, route.regions, "{one} {other} {scope}");
            }
        }
        assert_eq!(table.route("10.2.3.1".parse().unwrap()).scope, 24);
        assert_eq!(table.route("10.3.0.1".parse().unwrap()).scope, 16);
        assert_eq!(table.route("192.0.2.1".parse().unwrap()).scope, 1);
        assert_eq!(table.route("2001:db8::1".parse().unwrap()).scope, 32);
    }

    #[test]
    fn names_are_found_in_any_case() {
        let table = table([Up, Down, Up], &[]);
        assert_eq!(table.region_named("US-East"), Some(US));
        assert_eq!(table.region_named("redis"), None);
        assert_eq!(table.addresses(EU), [IpAddr::from([127, 0, 0, 2])]);
        assert_eq!(table.names().count(), 3);
        assert_eq!(table.epoch(), 4);
    }
}
