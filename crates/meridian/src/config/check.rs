//! What the fields of a topology file have to do with each other. Every complaint names the field
//! and says what would be right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use meridian_cdc::TableName;
use meridian_failover::{Cidr, MAX_REGIONS};

use super::ClusterFile;
use super::file::{Region, RoundTrip};

/// Regions that a topology may name; [`ClusterFile::failover_config`] says which of them vote.
const REGIONS_MAX: usize = MAX_REGIONS;
/// Hash slots, which partitions share equally.
const SLOTS: u16 = 16_384;
/// The longest round trip that makes sense: to the other side of the earth by satellite.
const ROUND_TRIP_MS_MAX: u64 = 10_000;
/// Fewer clients than this is a slip.
const CLIENTS_MIN: u32 = 1;

/// Closer than this no clock is kept over a network that has a bad day.
const SKEW_MS_MIN: u64 = 20;
/// Clocks that are further apart than this hold each other's writes.
const SKEW_MS_MAX: u64 = meridian_clock::MAX_AHEAD_MS / 2;

impl ClusterFile {
    /// Checks what the types alone do not.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<()> {
        check_label("cluster", &self.cluster)?;
        ensure!(
            self.partitions.is_power_of_two() && self.partitions <= SLOTS,
            "partitions: {} is not a power of two from 1 to {SLOTS}",
            self.partitions
        );
        self.check_regions()?;
        self.check_dns()?;
        self.check_distances()?;
        self.replication.check()?;
        let bounded: Vec<String> = self.replication.bandwidth_to.keys().cloned().collect();
        self.check_names("replication.bandwidth_to", &bounded)?;
        self.backup.as_ref().map_or(Ok(()), super::backup::BackupSection::check)?;
        self.check_storage()?;
        ensure!(self.limits.max_clients >= CLIENTS_MIN, "limits.max_clients: at least one");
        ensure!(
            (SKEW_MS_MIN..=SKEW_MS_MAX).contains(&self.limits.clock_skew_ms),
            "limits.clock_skew_ms: from {SKEW_MS_MIN} to {SKEW_MS_MAX}"
        );
        self.check_names("failover.priority", &self.failover.priority)?;
        self.check_postgres()?;
        tracing_subscriber::EnvFilter::try_new(&self.log).with_context(|| {
            format!(
                "log: {:?} is no level (info) and no filter (info,meridian_mesh=debug)",
                self.log
            )
        })?;
        // The controller knows its own rules best; any region stands for all.
        let ordinal = self.regions[0].ordinal;
        let failover = self.failover_config(ordinal);
        let initial = meridian_failover::ControlState::initial(&failover)
            .and_then(|state| meridian_failover::Failover::new(failover, state, 0, 1));
        initial.context("failover")?;
        self.check_leases()?;
        self.dns_topology().context("dns")?.validate().context("dns")
    }

    /// The region with that name.
    ///
    /// # Errors
    /// When there is none; says which there are.
    pub fn region(&self, name: &str) -> Result<&Region> {
        self.regions.iter().find(|region| region.name == name).with_context(|| {
            format!("there is no region {name:?}; the topology has {}", self.names().join(", "))
        })
    }

    /// The regions' names in the order of the file.
    pub fn names(&self) -> Vec<&str> {
        self.regions.iter().map(|region| region.name.as_str()).collect()
    }

    fn check_regions(&self) -> Result<()> {
        let count = self.regions.len();
        ensure!((1..=REGIONS_MAX).contains(&count), "regions: 1 to {REGIONS_MAX}, not {count}");
        let mut names = BTreeSet::new();
        let mut ordinals = BTreeMap::new();
        for region in &self.regions {
            check_label("regions.name", &region.name)?;
            let name = &region.name;
            ensure!(names.insert(name), "regions: two are called {name}");
            if let Some(other) = ordinals.insert(region.ordinal, name) {
                bail!("regions.ordinal: {other} and {name} are both {}", region.ordinal);
            }
            ensure!(
                usize::from(region.ordinal) < meridian_clock::MAX_REGIONS,
                "regions.{name}.ordinal: {} is not below {}",
                region.ordinal,
                meridian_clock::MAX_REGIONS
            );
            check_reachable(region)?;
        }
        self.check_ports()
    }

    /// Two listeners in one place. Regions usually live on different machines, where the same
    /// private address may well exist twice; only loopback is surely one machine.
    fn check_ports(&self) -> Result<()> {
        let mut taken: Vec<(&str, SocketAddr, String)> = Vec::new();
        for region in &self.regions {
            let own_machine = region.redis.ip().is_loopback();
            let listeners = [
                ("TCP", region.redis, "redis"),
                ("UDP", region.mesh, "mesh"),
                ("TCP", region.admin, "admin"),
                ("TCP", region.dns, "dns"),
                ("UDP", region.dns, "dns"),
            ];
            for (protocol, address, field) in listeners {
                let name = format!("regions.{}.{field}", region.name);
                ensure!(address.port() != 0, "{name}: port 0 cannot be told to others");
                let own = format!("regions.{}.", region.name);
                let clash = taken.iter().find(|(other_protocol, other, other_name)| {
                    *other_protocol == protocol
                        && overlap(*other, address)
                        && (other_name.starts_with(&own) || own_machine && other.ip().is_loopback())
                });
                if let Some((_, other, other_name)) = clash {
                    bail!("{name}: {protocol} {address} is taken by {other_name} ({other})");
                }
                taken.push((protocol, address, name));
            }
        }
        let mut reached = BTreeMap::new();
        for region in &self.regions {
            if let Some(other) = reached.insert(region.reached_at(), &region.name) {
                let (name, address) = (&region.name, region.reached_at());
                bail!("regions.{name}.mesh_address: {other} is reached at {address} already");
            }
        }
        Ok(())
    }

    fn check_dns(&self) -> Result<()> {
        self.check_names("dns.default_order", &self.dns.default_order)?;
        for network in &self.dns.networks {
            let field = format!("dns.networks.{}", network.cidr);
            network.cidr.parse::<Cidr>().with_context(|| format!("{field}.cidr"))?;
            ensure!(!network.order.is_empty(), "{field}.order: name at least one region");
            self.check_names(&format!("{field}.order"), &network.order)?;
        }
        for name in &self.dns.names {
            check_label("dns.names", name)?;
            ensure!(!self.names().contains(&name.as_str()), "dns.names: {name} is a region's name");
        }
        ensure!(!self.dns.names.is_empty(), "dns.names: at least one, such as redis");
        for label in self.dns.zone.trim_end_matches('.').split('.') {
            check_label("dns.zone", label)?;
        }
        let ttl_s_max = meridian_dns::MAX_TTL_S;
        ensure!(self.dns.ttl_s <= ttl_s_max, "dns.ttl_s: {} is over {ttl_s_max}", self.dns.ttl_s);
        Ok(())
    }

    fn check_distances(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        for RoundTrip { between: [one, other], ms } in &self.wan.round_trips {
            let field = format!("wan.round_trips ({one}, {other})");
            self.check_names(&field, &[one.clone(), other.clone()])?;
            ensure!(*ms <= ROUND_TRIP_MS_MAX, "{field}: {ms} ms is over {ROUND_TRIP_MS_MAX} ms");
            let pair = if one < other { (one, other) } else { (other, one) };
            ensure!(seen.insert(pair), "{field}: given twice");
        }
        Ok(())
    }

    /// A region stays primary only while a majority's echoes reach it within its lease: an echo
    /// takes the round trip, and up to a heartbeat's interval at each end.
    fn check_leases(&self) -> Result<()> {
        let timing = &self.failover.timing;
        for region in &self.regions {
            let config = self.failover_config(region.ordinal);
            if !config.priority.contains(&region.ordinal) {
                continue;
            }
            let voters = self.regions.iter().filter(|r| config.voters.contains(&r.ordinal));
            let others = voters.filter(|other| other.ordinal != region.ordinal);
            // What the file does not tell may be short.
            let told = |other: &Region| self.round_trip_ms(&region.name, &other.name).unwrap_or(0);
            let mut round_trips: Vec<u64> = others.map(told).collect();
            round_trips.sort_unstable();
            // It votes for itself.
            let missing = (config.voters.len() / 2).checked_sub(1);
            let Some(farthest_ms) = missing.and_then(|at| round_trips.get(at)) else { continue };
            let least_ms = farthest_ms + 2 * timing.heartbeat_ms;
            ensure!(
                timing.lease_ms > least_ms,
                "failover.timing.lease_ms: {} ms; {} would not stay primary, since the echoes of a \
                 majority take {farthest_ms} ms and two heartbeats: more than {least_ms}",
                timing.lease_ms,
                region.name,
            );
        }
        Ok(())
    }

    fn check_storage(&self) -> Result<()> {
        let storage = &self.storage;
        let segment_min = meridian_disk::SEGMENT_BYTES_MIN;
        let segment = storage.log_segment;
        ensure!(segment.0 >= segment_min, "storage.log_segment: {segment} is below {segment_min}");
        for (field, size) in [
            ("log_retention", storage.log_retention),
            ("checkpoint_trigger", storage.checkpoint_trigger),
        ] {
            ensure!(
                size >= segment,
                "storage.{field}: {size} is less than one segment ({segment})"
            );
        }
        let (limit, retention) = (storage.log_limit, storage.log_retention);
        ensure!(
            limit >= retention,
            "storage.log_limit: {limit} is less than storage.log_retention ({retention})"
        );
        Ok(())
    }

    fn check_postgres(&self) -> Result<()> {
        let Some(postgres) = &self.postgres else { return Ok(()) };
        ensure!(
            !has_password(&postgres.url),
            "postgres.url: holds a password, and this file is for sharing; use \
             MERIDIAN_POSTGRES_PASSWORD or postgres.password_file"
        );
        meridian_postgres::Endpoint::parse(&postgres.url, "meridian").context("postgres.url")?;
        for table in &postgres.tables {
            TableName::parse(table).with_context(|| {
                format!("postgres.tables: {table:?} is not a table, as in orders or sales.orders")
            })?;
        }
        Ok(())
    }

    /// Each is a region, and none comes twice.
    fn check_names(&self, field: &str, names: &[String]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for name in names {
            self.region(name).with_context(|| field.to_owned())?;
            ensure!(seen.insert(name), "{field}: {name} comes twice");
        }
        Ok(())
    }
}

/// Whether a libpq connection string holds a password.
pub(super) fn has_password(url: &str) -> bool {
    let in_authority = url.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    });
    let lower = url.to_ascii_lowercase();
    in_authority || lower.split(['?', '&', ' ']).any(|part| part.trim().starts_with("password"))
}

/// A DNS label in lower case, so that there is one way to write it in certificates.
fn check_label(field: &str, name: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = (1..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-');
    ensure!(good, "{field}: {name:?} is not 1 to 63 of a-z, 0-9 and '-', not first or last '-'");
    Ok(())
}

/// Who listens everywhere has to say where it is found.
fn check_reachable(region: &Region) -> Result<()> {
    let name = &region.name;
    ensure!(
        !region.redis.ip().is_unspecified() || !region.client_addresses.is_empty(),
        "regions.{name}.client_addresses: needed, since redis listens on {}",
        region.redis.ip()
    );
    ensure!(
        !region.mesh.ip().is_unspecified() || region.mesh_address.is_some(),
        "regions.{name}.mesh_address: needed, since mesh listens on {}",
        region.mesh.ip()
    );
    if let Some(address) = &region.mesh_address {
        let port = address.rsplit_once(':').and_then(|(host, port)| {
            (!host.is_empty()).then(|| port.parse::<u16>().ok()).flatten()
        });
        ensure!(
            port.is_some_and(|port| port != 0),
            "regions.{name}.mesh_address: {address:?} is not host:port"
        );
    }
    Ok(())
}

/// Whether two listeners of one machine and protocol would get in each other's way.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_place =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && same_place
}
