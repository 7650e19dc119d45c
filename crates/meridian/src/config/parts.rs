//! The settings of the crates underneath, as the topology implies them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use meridian_cdc::{TableName, Tables};
use meridian_clock::Origin;
use meridian_disk::DiskOptions;
use meridian_dns::DnsConfig;
use meridian_failover::{
    FailoverConfig, Member, MemberAddresses, Network, RegionAddresses, Timing, Topology,
};
use meridian_keyspace::Durability;
use meridian_mesh::{MeshConfig, NodeCertificate, PeerConfig};
use meridian_postgres::TailerConfig;
use meridian_store::Identity;

use super::file::{
    AppendFsync, ClusterFile, PostgresSection, Region, Storage, TimingSection,
    default_postgres_name, default_schema,
};
use super::node::NodeConfig;

/// Assumed between regions whose distance the file does not tell, in milliseconds: most of a way
/// round the earth.
pub(super) const UNKNOWN_ROUND_TRIP_MS: u64 = 200;

impl Region {
    /// Under which `host:port` the others reach this region's mesh.
    pub fn reached_at(&self) -> String {
        self.mesh_address.clone().unwrap_or_else(|| self.mesh.to_string())
    }

    /// What DNS answers for this region.
    pub fn client_addresses(&self) -> Vec<IpAddr> {
        match self.client_addresses.as_slice() {
            [] => vec![self.redis.ip()],
            given => given.to_vec(),
        }
    }

    /// Where others find it.
    pub fn addresses(&self) -> MemberAddresses {
        MemberAddresses {
            mesh: self.reached_at(),
            redis: Some(self.operator_address(self.redis)),
            admin: Some(self.operator_address(self.admin)),
            dns: Some(self.operator_address(self.dns)),
            clients: self.client_addresses(),
        }
    }

    /// Where an operator finds one of this region's listeners: a client address stands for a
    /// listener on all addresses.
    pub fn operator_address(&self, listener: SocketAddr) -> SocketAddr {
        match (listener.ip().is_unspecified(), self.client_addresses.first()) {
            (true, Some(address)) => SocketAddr::new(*address, listener.port()),
            _ => listener,
        }
    }
}

impl ClusterFile {
    /// The round trip between two regions in milliseconds, if the file tells it.
    pub fn round_trip_ms(&self, one: &str, other: &str) -> Option<u64> {
        let found = self.wan.round_trips.iter().find(|trip| {
            let [a, b] = &trip.between;
            (a == one && b == other) || (a == other && b == one)
        });
        found.map(|trip| trip.ms)
    }

    /// The largest round trip between any two regions, by which elections are timed.
    pub fn largest_round_trip_ms(&self) -> u64 {
        let names = self.names();
        let pairs = names.iter().enumerate().flat_map(|(index, one)| {
            names[index + 1..]
                .iter()
                .map(move |other| self.round_trip_ms(one, other).unwrap_or(UNKNOWN_ROUND_TRIP_MS))
        });
        pairs.max().unwrap_or(0)
    }

    /// Who takes part in control, as region `id` sees it.
    pub fn failover_config(&self, id: u16) -> FailoverConfig {
        let all: Vec<u16> = self.regions.iter().map(|region| region.ordinal).collect();
        let chosen = self.ordinals(&self.failover.priority);
        let priority = if chosen.is_empty() { all.clone() } else { chosen };
        // Who may not be primary is the first to lead the control group, then the last in line.
        let others = all.iter().filter(|ordinal| !priority.contains(ordinal)).copied();
        let mut voters: Vec<u16> = others.chain(priority.iter().rev().copied()).collect();
        if voters.len() > meridian_consensus::MAX_VOTERS {
            // The last in line for the role first; the others follow without a vote.
            voters.truncate(meridian_failover::VOTERS_MAX);
        }
        FailoverConfig {
            id,
            voters,
            regions: all,
            priority,
            timing: self.failover.timing.clone().into(),
        }
    }

    /// The members that a cluster begins with. From then on the control group's list counts.
    pub fn founders(&self) -> BTreeMap<u16, Member> {
        let founder = |region: &Region| {
            (region.ordinal, Member::founder(region.name.clone(), region.addresses()))
        };
        self.regions.iter().map(founder).collect()
    }

    /// Which clients go where.
    ///
    /// # Errors
    /// When a network cannot be read, which [`ClusterFile::check`] has ruled out.
    pub fn dns_topology(&self) -> Result<Topology> {
        let addresses = |region: &Region| RegionAddresses {
            name: region.name.clone(),
            addresses: region.client_addresses(),
        };
        let networks = self.dns.networks.iter().map(|network| {
            let cidr = network.cidr.parse().with_context(|| network.cidr.clone())?;
            Ok(Network { cidr, order: self.ordinals(&network.order) })
        });
        let order = match self.dns.default_order.as_slice() {
            [] => self.regions.iter().map(|region| region.ordinal).collect(),
            given => self.ordinals(given),
        };
        Ok(Topology {
            regions: self.regions.iter().map(|r| (r.ordinal, addresses(r))).collect(),
            networks: networks.collect::<Result<_>>()?,
            default_order: order,
            regions_per_answer: self.dns.regions_per_answer,
        })
    }

    /// Every region's name by its ordinal.
    pub fn names_by_ordinal(&self) -> BTreeMap<u16, String> {
        self.regions.iter().map(|region| (region.ordinal, region.name.clone())).collect()
    }

    fn ordinals(&self, names: &[String]) -> Vec<u16> {
        let known = names.iter().filter_map(|name| self.region(name).ok());
        known.map(|region| region.ordinal).collect()
    }
}

impl NodeConfig {
    /// Whose data this region's directory holds.
    pub fn identity(&self) -> Identity {
        Identity {
            cluster: self.cluster.cluster.clone(),
            region: self.region.name.clone(),
            origin: Origin(self.region.ordinal),
            partitions: self.cluster.partitions,
        }
    }

    /// Proves who this node is.
    ///
    /// # Errors
    /// When it is missing or damaged; says how it is made.
    pub fn certificate(&self) -> Result<NodeCertificate> {
        NodeCertificate::load(&self.certificates).with_context(|| {
            let name = &self.region.name;
            format!(
                "the certificates of {name} (make them with: meridian cert init; meridian cert \
                 issue {name})"
            )
        })
    }

    /// For the mesh; reads the certificates.
    ///
    /// # Errors
    /// When they are missing or damaged; says how they are made.
    pub fn mesh_config(&self) -> Result<MeshConfig> {
        let certificate = self.certificate()?;
        let peers = self.peers.iter().map(|peer| PeerConfig {
            ordinal: peer.ordinal,
            name: peer.name.clone(),
            address: peer.address.clone(),
        });
        Ok(MeshConfig {
            listen: self.region.mesh,
            cluster: self.cluster.cluster.clone(),
            ordinal: self.region.ordinal,
            name: self.region.name.clone(),
            peers: peers.collect(),
            certificate,
        })
    }

    /// For the DNS server.
    pub fn dns_config(&self) -> DnsConfig {
        let dns = &self.cluster.dns;
        DnsConfig {
            listen: self.region.dns,
            zone: dns.zone.clone(),
            names: dns.names.clone(),
            ttl_s: dns.ttl_s,
        }
    }

    /// For the failover controller.
    pub fn failover_config(&self) -> FailoverConfig {
        self.cluster.failover_config(self.region.ordinal)
    }

    /// For the log and the checkpoint.
    pub fn disk_options(&self) -> DiskOptions {
        self.cluster.storage.disk_options()
    }

    /// When writes are acknowledged.
    pub fn durability(&self) -> Durability {
        match self.appendfsync {
            AppendFsync::Always => Durability::Always,
            AppendFsync::Everysec => Durability::Everysec,
        }
    }

    /// For the tailer, if there is a Postgres to follow.
    pub fn tailer_config(&self) -> Option<TailerConfig> {
        let postgres = self.postgres.as_ref()?;
        let section = &postgres.section;
        let listed = section.tables.iter().filter_map(|table| TableName::parse(table));
        let tables = match section.tables.is_empty() {
            true => Tables::Schema(section.schema.clone()),
            false => Tables::Listed(listed.collect()),
        };
        Some(TailerConfig {
            url: postgres.url.reveal().to_owned(),
            slot: section.slot.clone(),
            publication: section.publication.clone(),
            tables,
            application_name: format!("meridian {}", self.region.name),
        })
    }
}

impl Storage {
    fn disk_options(&self) -> DiskOptions {
        let bytes = |size: super::Size| usize::try_from(size.0).unwrap_or(usize::MAX);
        DiskOptions {
            segment_bytes: self.log_segment.0,
            memtable_bytes: bytes(self.checkpoint_memtable),
            cache_bytes: bytes(self.checkpoint_cache),
            ..DiskOptions::default()
        }
    }
}

impl Default for PostgresSection {
    fn default() -> Self {
        PostgresSection {
            url: String::new(),
            password_file: None,
            publication: default_postgres_name(),
            slot: default_postgres_name(),
            schema: default_schema(),
            tables: Vec::new(),
        }
    }
}

impl From<TimingSection> for Timing {
    fn from(section: TimingSection) -> Timing {
        Timing {
            heartbeat_ms: section.heartbeat_ms,
            down_after_ms: section.down_after_ms,
            up_after_ms: section.up_after_ms,
            lease_ms: section.lease_ms,
            degrade_after_ms: section.degrade_after_ms,
            flap_window_ms: section.flap_window_ms,
            hold_max_ms: section.hold_max_ms,
            startup_grace_ms: section.startup_grace_ms,
            return_after_ms: section.return_after_ms,
            slow_ms: section.slow_ms,
            check_stale_ms: section.check_stale_ms,
            check_dead_ms: section.check_dead_ms,
        }
    }
}
