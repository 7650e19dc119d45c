//! One region's configuration with everything resolved.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::check::has_password;
use super::file::{AppendFsync, ClusterFile, PostgresSection, Region};
use super::{Paths, Secret};

/// What is given outside of the file: on the command line or in the environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The directory that holds a directory for each region.
    pub data_dir: Option<PathBuf>,
    /// Where this node's certificates are.
    pub certificates: Option<PathBuf>,
    /// When writes are acknowledged.
    pub appendfsync: Option<AppendFsync>,
    /// What is logged.
    pub log: Option<String>,
    /// Other addresses for some peers, by name: how `up` puts its WAN between regions.
    pub peers: Vec<(String, String)>,
    /// What Redis clients must know.
    pub password: Option<Secret>,
    /// Another Postgres to follow; it may hold a password.
    pub postgres_url: Option<Secret>,
    /// The password for Postgres.
    pub postgres_password: Option<Secret>,
}

/// Everything that a node has to know. The topology stays available as a whole.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The whole cluster.
    pub cluster: ClusterFile,
    /// This region.
    pub region: Region,
    /// The others, and under which `host:port` this node reaches them.
    pub peers: Vec<Peer>,
    /// Addresses of peers that go before what the cluster says, by name.
    pub peer_addresses: BTreeMap<String, String>,
    /// Where everything is.
    pub paths: Paths,
    /// This region's `ca.pem`, `node.pem` and `node.key`.
    pub certificates: PathBuf,
    /// What Redis clients must know, if anything.
    pub password: Option<Secret>,
    /// The Postgres to follow whenever this region is primary.
    pub postgres: Option<Postgres>,
    /// When writes are acknowledged.
    pub appendfsync: AppendFsync,
    /// What is logged.
    pub log: String,
}

/// Another region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its ordinal.
    pub ordinal: u16,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
}

/// The Postgres to follow.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// A libpq connection string with its password, if there is one.
    pub url: Secret,
    /// Everything else; its `url` is not the one in use.
    pub section: PostgresSection,
}

impl NodeConfig {
    /// What `region` has to know of a cluster.
    ///
    /// # Errors
    /// When there is no such region, or an override or a password file does not fit.
    pub fn resolve(cluster: ClusterFile, region: &str, overrides: Overrides) -> Result<NodeConfig> {
        let region = cluster.region(region)?.clone();
        for (name, _) in &overrides.peers {
            cluster.region(name).context("--peer")?;
            ensure!(*name != region.name, "--peer {name}: that is this region itself");
        }
        let others = cluster.regions.iter().filter(|other| other.name != region.name);
        let peers = others.map(|other| Peer {
            ordinal: other.ordinal,
            name: other.name.clone(),
            address: overrides
                .peers
                .iter()
                .find(|(name, _)| *name == other.name)
                .map_or_else(|| other.reached_at(), |(_, address)| address.clone()),
        });
        let peers = peers.collect();
        let paths = Paths::resolve(&cluster, overrides.data_dir);
        let certificates = overrides
            .certificates
            .or_else(|| region.certificates.clone())
            .unwrap_or_else(|| paths.certificates(&region.name));
        let password = match (overrides.password, &cluster.auth.password_file) {
            (Some(password), _) => Some(password),
            (None, Some(path)) => Some(Secret::read(path).context("auth.password_file")?),
            (None, None) => None,
        };
        let postgres = postgres(&cluster, overrides.postgres_url, overrides.postgres_password)?;
        Ok(NodeConfig {
            appendfsync: overrides.appendfsync.unwrap_or(cluster.storage.appendfsync),
            log: overrides.log.unwrap_or_else(|| cluster.log.clone()),
            cluster,
            region,
            peers,
            peer_addresses: overrides.peers.into_iter().collect(),
            paths,
            certificates,
            password,
            postgres,
        })
    }

    /// This region's log and checkpoint.
    pub fn data_dir(&self) -> PathBuf {
        self.paths.data(&self.region.name)
    }
}

fn postgres(
    cluster: &ClusterFile,
    url: Option<Secret>,
    password: Option<Secret>,
) -> Result<Option<Postgres>> {
    let section = match (&cluster.postgres, &url) {
        (Some(section), _) => section.clone(),
        (None, Some(_)) => PostgresSection::default(),
        (None, None) => return Ok(None),
    };
    let password = match (password, &section.password_file) {
        (Some(password), _) => Some(password),
        (None, Some(path)) => Some(Secret::read(path).context("postgres.password_file")?),
        (None, None) => None,
    };
    let url = url.map_or_else(|| section.url.clone(), |url| url.reveal().to_owned());
    let url = match password {
        // A connection string that brings its own password means it.
        Some(password) if !has_password(&url) => with_password(&url, password.reveal()),
        _ => url,
    };
    if let Err(error) = meridian_postgres::Endpoint::parse(&url, "meridian") {
        bail!("the connection string for Postgres: {error}");
    }
    Ok(Some(Postgres { url: Secret::new(url)?, section }))
}

/// Adds a password in whichever of libpq's two forms the connection string is written.
fn with_password(url: &str, password: &str) -> String {
    if url.contains("://") {
        let separator = if url.contains('?') { '&' } else { '?' };
        let escaped: String = password.bytes().map(percent_encoded).collect();
        format!("{url}{separator}password={escaped}")
    } else {
        let escaped = password.replace('\\', "\\\\").replace('\'', "\\'");
        format!("{url} password='{escaped}'")
    }
}

fn percent_encoded(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
}
