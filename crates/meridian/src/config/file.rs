//! The topology file: its fields, their defaults, and reading it. What the fields have to do with
//! each other is checked in `check.rs`.
//!
//! Passwords do not belong here: the file is meant to be shared and versioned.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::backup::BackupSection;
use super::period::Period;
use super::replication::ReplicationSection;
use super::size::Size;

/// The topology that is used where none is given: three regions on this machine.
pub const EXAMPLE: &str = include_str!("../../../../regions/three-region.yaml");

/// The largest topology file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// A whole cluster, as its topology file describes it. The same file serves every region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// The cluster's name: a DNS label, part of every certificate.
    pub cluster: String,
    /// Number of partitions of the keyspace; fixed when the cluster is created.
    #[serde(default = "default_partitions")]
    pub partitions: u16,
    /// Every region.
    pub regions: Vec<Region>,
    /// What DNS says to whom.
    pub dns: Dns,
    /// Distances between regions.
    #[serde(default)]
    pub wan: WanSection,
    /// Who may be primary, and how patient everybody is.
    #[serde(default)]
    pub failover: FailoverSection,
    /// How regions feed each other.
    #[serde(default)]
    pub replication: ReplicationSection,
    /// Durability and disk.
    #[serde(default)]
    pub storage: Storage,
    /// When regions back themselves up; never by themselves if not given.
    #[serde(default)]
    pub backup: Option<BackupSection>,
    /// Bounds of a node.
    #[serde(default)]
    pub limits: Limits,
    /// What Redis clients are asked for.
    #[serde(default)]
    pub auth: Auth,
    /// The primary whose rows are mirrored, if any.
    #[serde(default)]
    pub postgres: Option<PostgresSection>,
    /// Where everything is kept; each region has a directory of its own below it.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// What is logged: a level, or a filter such as `info,meridian_mesh=debug`.
    #[serde(default = "default_log")]
    pub log: String,
}

/// One region: a name, a number, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// A DNS label, such as `us-east`.
    pub name: String,
    /// Its number, given once and never to another region.
    pub ordinal: u16,
    /// Where Redis clients connect (TCP).
    pub redis: SocketAddr,
    /// Where the other regions connect (UDP).
    pub mesh: SocketAddr,
    /// Health, metrics and status (HTTP).
    pub admin: SocketAddr,
    /// The zone's authoritative server (UDP and TCP).
    pub dns: SocketAddr,
    /// Under which `host:port` the others reach `mesh`; that address itself if not given.
    #[serde(default)]
    pub mesh_address: Option<String>,
    /// What DNS answers for this region; the address of `redis` if not given.
    #[serde(default)]
    pub client_addresses: Vec<IpAddr>,
    /// `ca.pem`, `node.pem` and `node.key`; below the region's directory if not given.
    #[serde(default)]
    pub certificates: Option<PathBuf>,
}

/// The zone that every region serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// The zone, such as `meridian.test`.
    pub zone: String,
    /// Names in the zone that stand for the nearest healthy region.
    #[serde(default = "default_names")]
    pub names: Vec<String>,
    /// How long a resolver may keep an answer, in seconds.
    #[serde(default = "default_ttl_s")]
    pub ttl_s: u32,
    /// Up to how many regions an answer names.
    #[serde(default = "default_regions_per_answer")]
    pub regions_per_answer: usize,
    /// The order of regions for clients of no known network; as listed if not given.
    #[serde(default)]
    pub default_order: Vec<String>,
    /// Networks of clients and the order of regions for each.
    #[serde(default)]
    pub networks: Vec<ClientNetwork>,
}

/// Clients that are near one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientNetwork {
    /// Their addresses, such as `10.1.0.0/16`. The longest match decides.
    pub cidr: String,
    /// Regions from near to far.
    pub order: Vec<String>,
}

/// Distances between regions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WanSection {
    /// A round trip for each pair of regions. Elections are timed by the largest, and
    /// `meridian up` delays packets by them.
    #[serde(default)]
    pub round_trips: Vec<RoundTrip>,
}

/// How far two regions are from each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundTrip {
    /// The two regions.
    pub between: [String; 2],
    /// From one to the other and back, in milliseconds.
    pub ms: u64,
}

/// Who may be primary, and how patient everybody is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverSection {
    /// Regions that may have the primary role, first choice first; all, as listed, if not given.
    #[serde(default)]
    pub priority: Vec<String>,
    /// Durations.
    #[serde(default)]
    pub timing: TimingSection,
    /// A region that joins is admitted (to DNS, to clients, to the primary role) when it lags
    /// behind its peers by no more than this, in milliseconds.
    #[serde(default = "default_admit_lag_ms")]
    pub admit_lag_ms: u64,
}

impl Default for FailoverSection {
    fn default() -> Self {
        let (priority, timing) = (Vec::new(), TimingSection::default());
        FailoverSection { priority, timing, admit_lag_ms: default_admit_lag_ms() }
    }
}

fn default_admit_lag_ms() -> u64 {
    1_000
}

/// Durations of the failover controller in milliseconds; see `meridian_failover::Timing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "documented where they act")]
pub struct TimingSection {
    pub heartbeat_ms: u64,
    pub down_after_ms: u64,
    pub up_after_ms: u64,
    pub lease_ms: u64,
    pub degrade_after_ms: u64,
    pub flap_window_ms: u64,
    pub hold_max_ms: u64,
    pub startup_grace_ms: u64,
    pub return_after_ms: Option<u64>,
    pub slow_ms: u64,
    pub check_stale_ms: u64,
    pub check_dead_ms: u64,
}

/// Durability and disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// When a reply may be sent.
    pub appendfsync: AppendFsync,
    /// Log that is kept beyond what the checkpoint and connected peers need, so that a region that
    /// was away can catch up from it.
    pub log_retention: Size,
    /// The most log that is kept for a region that is away. Beyond it the region is brought back by
    /// state repair.
    pub log_limit: Size,
    /// One partition is compared with another region's this often, in milliseconds; 0 is never.
    pub scrub_every_ms: u64,
    /// Log after which a checkpoint is written; recovery replays about this much.
    pub checkpoint_trigger: Size,
    /// Length of a log segment.
    pub log_segment: Size,
    /// How much is read in a second to look for rot; not at all if zero.
    pub disk_check_rate: Size,
    /// The rest between two looks at everything.
    pub disk_check_every: Period,
    /// Memory for the checkpoint's blocks, indexes and filters.
    pub checkpoint_cache: Size,
    /// Memory for checkpoint writes that are not yet in a file.
    pub checkpoint_memtable: Size,
}

/// Redis's policies for when a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(clap::ValueEnum)]
pub enum AppendFsync {
    /// After it is on disk.
    Always,
    /// After it is in the log; on disk within a second.
    #[default]
    Everysec,
}

/// Bounds of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Redis clients at once.
    pub max_clients: u32,
    /// Replies that may wait for one client; a client that does not read them is closed.
    pub client_output: Size,
    /// A region whose clock is further than this from the majority's refuses to write, in
    /// milliseconds.
    pub clock_skew_ms: u64,
}

/// What Redis clients are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// A file that holds the password (`requirepass`); `MERIDIAN_PASSWORD` goes before it.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// The Postgres primary whose rows are mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSection {
    /// A libpq connection string without a password.
    pub url: String,
    /// A file that holds the password; `MERIDIAN_POSTGRES_PASSWORD` goes before it.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The publication; it is created when missing.
    #[serde(default = "default_postgres_name")]
    pub publication: String,
    /// The replication slot; it is created when missing.
    #[serde(default = "default_postgres_name")]
    pub slot: String,
    /// Every table with a key in this schema, unless `tables` lists some.
    #[serde(default = "default_schema")]
    pub schema: String,
    /// These tables only: `orders`, `sales.orders`.
    #[serde(default)]
    pub tables: Vec<String>,
}

impl ClusterFile {
    /// The topology in `path`, or without one the example; and its text.
    ///
    /// # Errors
    /// As [`ClusterFile::read`].
    pub fn open(path: Option<&Path>) -> Result<(ClusterFile, String)> {
        match path {
            Some(path) => read_text(path).and_then(|text| {
                let file = ClusterFile::parse(&text).with_context(|| path.display().to_string())?;
                Ok((file, text))
            }),
            None => Ok((ClusterFile::parse(EXAMPLE)?, EXAMPLE.to_owned())),
        }
    }

    /// Reads and checks a topology file.
    ///
    /// # Errors
    /// Names the file, the field, and what would be right.
    pub fn read(path: &Path) -> Result<ClusterFile> {
        Ok(ClusterFile::open(Some(path))?.0)
    }

    /// As [`ClusterFile::read`], from a text.
    pub fn parse(text: &str) -> Result<ClusterFile> {
        let file: ClusterFile = serde_yaml_ng::from_str(text)?;
        file.check()?;
        Ok(file)
    }
}

fn read_text(path: &Path) -> Result<String> {
    let what = || format!("cannot read the topology file {}", path.display());
    let length = std::fs::metadata(path).with_context(what)?.len();
    if length > FILE_BYTES_MAX {
        bail!("{}: {length} bytes; a topology has up to {FILE_BYTES_MAX}", path.display());
    }
    std::fs::read_to_string(path).with_context(what)
}

fn default_partitions() -> u16 {
    16
}

fn default_names() -> Vec<String> {
    vec!["redis".to_owned()]
}

fn default_ttl_s() -> u32 {
    5
}

fn default_regions_per_answer() -> usize {
    1
}

fn default_log() -> String {
    "info".to_owned()
}

pub(super) fn default_postgres_name() -> String {
    "meridian".to_owned()
}

pub(super) fn default_schema() -> String {
    "public".to_owned()
}

impl Default for TimingSection {
    fn default() -> Self {
        let timing = meridian_failover::Timing::default();
        TimingSection {
            heartbeat_ms: timing.heartbeat_ms,
            down_after_ms: timing.down_after_ms,
            up_after_ms: timing.up_after_ms,
            lease_ms: timing.lease_ms,
            degrade_after_ms: timing.degrade_after_ms,
            flap_window_ms: timing.flap_window_ms,
            hold_max_ms: timing.hold_max_ms,
            startup_grace_ms: timing.startup_grace_ms,
            return_after_ms: timing.return_after_ms,
            slow_ms: timing.slow_ms,
            check_stale_ms: timing.check_stale_ms,
            check_dead_ms: timing.check_dead_ms,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Storage {
            appendfsync: AppendFsync::default(),
            log_retention: Size(1 << 30),
            log_limit: Size(16 << 30),
            scrub_every_ms: 10_000,
            checkpoint_trigger: Size(256 << 20),
            log_segment: Size(64 << 20),
            disk_check_rate: Size(8 << 20),
            disk_check_every: Period(600),
            checkpoint_cache: Size(64 << 20),
            checkpoint_memtable: Size(32 << 20),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let clock_skew_ms = meridian_clock::limits::DEFAULT_SKEW_LIMIT_MS;
        Limits { max_clients: 10_000, client_output: Size(256 << 20), clock_skew_ms }
    }
}
