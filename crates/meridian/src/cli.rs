//! The command line: what can be said, and the help that teaches it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::backup::instant;
use crate::config::AppendFsync;

const EXAMPLES: &str = "\
Try it:
  meridian up                                   three regions on this machine
  redis-cli -h 127.0.0.1 -p 7379 set greeting hello
  redis-cli -h 127.0.0.2 -p 7379 get greeting   the same key in another region
  meridian status                               how they are
  meridian wan cut us-east eu-central           break a link, then: meridian wan heal
  redis-cli -h 127.0.0.1 -p 7379 meridian help  what Redis has no words for: session tokens,
                                                conflicts, digests

Run a region as a service:
  meridian cert init && meridian cert issue us-east
  meridian node --config regions.yaml --region us-east

`meridian help COMMAND` says more about each. Exit codes: 0 done, 1 failed, 2 not understood,
3 a data directory is damaged.";

/// An active-active data platform over several regions that speaks Redis.
#[derive(Debug, Parser)]
#[command(name = "meridian", version, after_help = EXAMPLES, subcommand_required = true)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one region's node, as a service would.
    Node(NodeArgs),
    /// Run every region on this machine, with the WAN's delays between them.
    Up(UpArgs),
    /// Stop a cluster that `meridian up` runs.
    Down(RunningArgs),
    /// Show how each region is, as it says itself.
    Status(StatusArgs),
    /// Break and mend the links of a cluster that `meridian up` runs.
    #[command(after_help = WAN_EXAMPLES)]
    Wan(WanArgs),
    /// Take a region out of the cluster; kill, freeze and start those that `meridian up` runs.
    #[command(after_help = REGION_EXAMPLES)]
    Region(RegionArgs),
    /// Take, list, verify and prune backups of a region.
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// Make a region's directory out of backups, as it was at any instant that they cover.
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
    /// List what a dead region's disk has and nobody else, or write it again.
    #[command(after_help = SALVAGE_HELP)]
    Salvage(SalvageArgs),
    /// Read what is readable of a damaged data directory, and begin a new one.
    #[command(after_help = DISK_EXAMPLES)]
    Disk(DiskArgs),
    /// Add this machine to a running cluster as a new region, and run its node.
    #[command(after_help = JOIN_HELP)]
    Join(JoinArgs),
    /// Make and inspect the cluster's certificates.
    #[command(after_help = CERT_EXAMPLES)]
    Cert(CertArgs),
    /// Check a topology file, or print one to start from.
    #[command(after_help = CONFIG_EXAMPLES)]
    Config(ConfigArgs),
}

/// Which cluster.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// Topology file; without it the three regions of `meridian config example`.
    #[arg(long, short, global = true, value_name = "FILE", env = "MERIDIAN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Directory that holds a directory for each region [default: below ~/.local/state].
    #[arg(long, global = true, value_name = "DIR", env = "MERIDIAN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

const NODE_HELP: &str = "\
Examples:
  meridian node --config regions.yaml --region us-east
  MERIDIAN_PASSWORD=… meridian node -c regions.yaml --region us-east --appendfsync always

Secrets come by the environment, or by files that the topology names; they are never printed:
  MERIDIAN_PASSWORD             what Redis clients must AUTH with (auth.password_file)
  MERIDIAN_POSTGRES_URL         the Postgres to follow (postgres.url)
  MERIDIAN_POSTGRES_PASSWORD    its password (postgres.password_file)

SIGTERM and SIGINT end it in an orderly way; SIGKILL loses nothing that was acknowledged under
`appendfsync always`, and up to a second under `everysec`, as with Redis.";

/// One node.
#[derive(Args, Clone, Debug)]
#[command(after_help = NODE_HELP)]
pub struct NodeArgs {
    /// Topology file, the same in every region.
    #[arg(long, short, value_name = "FILE", env = "MERIDIAN_CONFIG")]
    pub config: PathBuf,
    /// Which of its regions this is.
    #[arg(long, short, value_name = "NAME", env = "MERIDIAN_REGION")]
    pub region: String,
    /// Directory that holds a directory for each region [default: below ~/.local/state].
    #[arg(long, value_name = "DIR", env = "MERIDIAN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory of ca.pem, node.pem and node.key [default: DATA_DIR/NAME/certificates].
    #[arg(long, value_name = "DIR", env = "MERIDIAN_CERTIFICATES")]
    pub certificates: Option<PathBuf>,
    /// When a write is acknowledged: on disk, or on disk within a second.
    #[arg(long, value_name = "POLICY", env = "MERIDIAN_APPENDFSYNC")]
    pub appendfsync: Option<AppendFsync>,
    /// What is logged: a level, or a filter such as info,meridian_mesh=debug.
    #[arg(long, value_name = "FILTER", env = "MERIDIAN_LOG")]
    pub log: Option<String>,
    /// Reach a peer at another address than the topology's; may be repeated.
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = peer)]
    pub peer: Vec<(String, String)>,
    /// End when the standard input closes: with whoever started this node.
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

const UP_HELP: &str = "\
Examples:
  meridian up                          until Ctrl-C, data kept for the next time
  meridian up --data-dir /tmp/try      data somewhere else
  meridian up --no-delay               regions as near as processes are
  meridian up --with-postgres postgresql://me@127.0.0.1/shop
                                       rows are read as pg:<table>:<key> in every region

Certificates are made when there are none. Each node's log is DATA_DIR/REGION/node.log.";

/// A cluster on this machine.
#[derive(Args, Clone, Debug)]
#[command(after_help = UP_HELP)]
pub struct UpArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// No delay on the links between regions; they can still be cut.
    #[arg(long)]
    pub no_delay: bool,
    /// No links: regions talk to each other directly.
    #[arg(long, conflicts_with = "no_delay")]
    pub no_wan: bool,
    /// Follow this Postgres from the primary region (MERIDIAN_POSTGRES_URL hides a password better).
    #[arg(long, value_name = "URL")]
    pub with_postgres: Option<String>,
    /// When a write is acknowledged: on disk, or on disk within a second.
    #[arg(long, value_name = "POLICY", env = "MERIDIAN_APPENDFSYNC")]
    pub appendfsync: Option<AppendFsync>,
    /// What the nodes log: a level, or a filter such as info,meridian_mesh=debug.
    #[arg(long, value_name = "FILTER", env = "MERIDIAN_LOG")]
    pub log: Option<String>,
    /// End when the standard input closes: with whoever started this.
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

/// A cluster that `up` runs.
#[derive(Args, Clone, Debug)]
pub struct RunningArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// How the regions are.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What the regions answered, as JSON, instead of a table.
    #[arg(long)]
    pub json: bool,
}

const WAN_EXAMPLES: &str = "\
Examples:
  meridian wan show                             every link: delay, loss, packets
  meridian wan cut us-east eu-central           nothing passes between the two
  meridian wan cut us-east --one-way            nothing leaves us-east
  meridian wan heal                             everything passes again
  meridian wan set us-east eu-central --rtt-ms 300 --loss 0.02";

/// Links.
#[derive(Args, Clone, Debug)]
pub struct WanArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What to do with the links.
    #[command(subcommand)]
    pub action: WanAction,
}

/// What can be done with links.
#[derive(Clone, Debug, Subcommand)]
pub enum WanAction {
    /// List the links.
    Show,
    /// Let nothing through; packets under way are lost.
    Cut {
        /// A region.
        from: String,
        /// The other; without it all links of the first.
        to: Option<String>,
        /// Only what goes from the first to the other.
        #[arg(long)]
        one_way: bool,
    },
    /// Let everything through again.
    Heal {
        /// A region; without it all links.
        from: Option<String>,
        /// The other; without it all links of the first.
        to: Option<String>,
    },
    /// Change a link's delay and loss.
    Set {
        /// A region.
        from: String,
        /// The other.
        to: String,
        /// Round trip in milliseconds.
        #[arg(long, value_name = "MS")]
        rtt_ms: u64,
        /// Probability that a packet is lost, 0 to 1.
        #[arg(long, default_value_t = 0.0)]
        loss: f64,
        /// Packets take up to this much longer, in milliseconds.
        #[arg(long, value_name = "MS", default_value_t = 0)]
        jitter_ms: u64,
    },
}

const SALVAGE_HELP: &str = "\
Examples:
  meridian salvage DATA_DIR/sa-east --via 10.0.0.1:7500            list them (as --list)
  meridian salvage DATA_DIR/sa-east --via 10.0.0.1:7500 --merge    write them again

For a region that was declared dead. Its own writes that no living region has are read from its
log and, with --merge, repeated in their order as new writes through a client connection: they win
over what was written to the same keys since, so look at the list first. What was merged is marked
in DIR/salvaged and not merged twice. MERIDIAN_PASSWORD is the password for --merge.";

/// What a dead region had written.
#[derive(Args, Clone, Debug)]
pub struct SalvageArgs {
    /// The region's directory (DATA_DIR/REGION).
    pub directory: PathBuf,
    /// The admin port of a running node.
    #[arg(long, value_name = "HOST:PORT")]
    pub via: String,
    /// Only list them, which is what is done without --merge as well.
    #[arg(long, conflicts_with = "merge")]
    pub list: bool,
    /// Write them again.
    #[arg(long)]
    pub merge: bool,
    /// Where to write them [default: the Redis port of the node that was asked].
    #[arg(long, value_name = "IP:PORT", requires = "merge")]
    pub redis: Option<SocketAddr>,
}

const JOIN_HELP: &str = "\
Examples:
  meridian cert issue sa-east --new --out sa-east      where ca.key is; take the directory along
  meridian join sa-east --via 10.0.0.1:7500 --certificates sa-east \\
      --redis 10.0.0.4:7379 --mesh 10.0.0.4:7400 --admin 10.0.0.4:7500 --dns 10.0.0.4:53

The node asks a running one for an ordinal, writes DATA_DIR/NAME/regions.yaml and runs: it gets the
data while traffic flows, and is shown how far it is. Until it lags behind the others by no more
than failover.admit_lag_ms, clients get -LOADING, and neither DNS nor the primary role comes here.
The other regions need no change and no restart. When it has joined, run it like any other node:
  meridian node --config DATA_DIR/NAME/regions.yaml --region NAME --data-dir DATA_DIR
`meridian join` again in the same directory goes on where it was.";

/// A new region.
#[derive(Args, Clone, Debug)]
pub struct JoinArgs {
    /// The new region's name, as in its certificate.
    pub name: String,
    /// The admin port of a running node.
    #[arg(long, value_name = "HOST:PORT")]
    pub via: String,
    /// Where Redis clients connect.
    #[arg(long, value_name = "IP:PORT")]
    pub redis: SocketAddr,
    /// Where the mesh listens (UDP).
    #[arg(long, value_name = "IP:PORT")]
    pub mesh: SocketAddr,
    /// Health, metrics, status.
    #[arg(long, value_name = "IP:PORT")]
    pub admin: SocketAddr,
    /// The DNS server.
    #[arg(long, value_name = "IP:PORT")]
    pub dns: SocketAddr,
    /// Under which host:port the others reach the mesh [default: --mesh].
    #[arg(long, value_name = "HOST:PORT")]
    pub mesh_address: Option<String>,
    /// What DNS answers for this region; may be repeated [default: the address of --redis].
    #[arg(long = "client-address", value_name = "IP")]
    pub client_addresses: Vec<IpAddr>,
    /// Directory that holds a directory for each region [default: below ~/.local/state].
    #[arg(long, value_name = "DIR", env = "MERIDIAN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory of ca.pem, node.pem and node.key [default: DATA_DIR/NAME/certificates].
    #[arg(long, value_name = "DIR", env = "MERIDIAN_CERTIFICATES")]
    pub certificates: Option<PathBuf>,
    /// When a write is acknowledged: on disk, or on disk within a second.
    #[arg(long, value_name = "POLICY", env = "MERIDIAN_APPENDFSYNC")]
    pub appendfsync: Option<AppendFsync>,
    /// What is logged [default: warn, so that the progress can be seen].
    #[arg(long, value_name = "FILTER", env = "MERIDIAN_LOG")]
    pub log: Option<String>,
    /// Get the ordinal and write the files, but do not run the node.
    #[arg(long)]
    pub prepare_only: bool,
    /// End when the standard input closes: with whoever started this node.
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

const REGION_EXAMPLES: &str = "\
Examples of a cluster on many machines (see also: meridian join):
  meridian region leave sa-east --via 10.0.0.1:7500   hand everything over, then go
  meridian region dead sa-east --via 10.0.0.1:7500    it will not come back: wait for it no more
Both need a certificate of the cluster (--certificates), of whichever region.

Examples with `meridian up`:
  meridian region kill us-east      SIGKILL, as a power cut would
  meridian region start us-east     start it again from its directory
  meridian region freeze us-east    SIGSTOP: it is there and says nothing
  meridian region thaw us-east";

/// Regions.
#[derive(Args, Clone, Debug)]
pub struct RegionArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What to do.
    #[command(subcommand)]
    pub action: RegionAction,
}

/// What can be done with a region's process.
#[derive(Clone, Debug, Subcommand)]
pub enum RegionAction {
    /// End it at once (SIGKILL).
    Kill {
        /// The region.
        name: String,
    },
    /// End it in an orderly way (SIGTERM).
    Stop {
        /// The region.
        name: String,
    },
    /// Start it again.
    Start {
        /// The region.
        name: String,
    },
    /// Stop its clock, as it were (SIGSTOP).
    Freeze {
        /// The region.
        name: String,
    },
    /// Let it go on (SIGCONT).
    Thaw {
        /// The region.
        name: String,
    },
    /// Take it out of the cluster in order: it takes no more writes, hands over all that it has,
    /// and ends. Nothing is lost; its ordinal is not used again.
    Leave {
        /// The region.
        name: String,
        /// How to reach the cluster.
        #[command(flatten)]
        via: ViaArgs,
    },
    /// Declare a region dead that will not come back: the others wait for it no more. What only
    /// it had can be salvaged from its disk (meridian salvage).
    Dead {
        /// The region.
        name: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// How to reach the cluster.
        #[command(flatten)]
        via: ViaArgs,
    },
}

/// How a running cluster is reached, and what vouches for whoever asks.
#[derive(Args, Clone, Debug)]
pub struct ViaArgs {
    /// The admin port of a running node [default: the first of the topology that answers].
    #[arg(long, value_name = "HOST:PORT")]
    pub via: Option<String>,
    /// A certificate of the cluster (ca.pem, node.pem, node.key) [default: the first below
    /// DATA_DIR].
    #[arg(long, value_name = "DIR", env = "MERIDIAN_CERTIFICATES")]
    pub certificates: Option<PathBuf>,
}

const BACKUP_EXAMPLES: &str = "\
Examples:
  meridian backup create /backups/us-east --node 127.0.0.1:7380   of a running node, by itself
  meridian backup create /backups/us-east --data /var/lib/meridian/us-east/data   of a stopped one
  meridian backup list /backups/us-east          what there is, and which instants it restores
  meridian backup verify /backups/us-east        read the newest back as a node would
  meridian backup prune /backups/us-east --keep 28

A directory holds any number of backups of one region. What an earlier one holds is not copied
again, and the log between two backups is stored whole: any instant from the oldest backup on can be
restored. `backup:` in the topology takes them by schedule.";

/// Backups.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: BackupAction,
}

/// What can be done with backups.
#[derive(Clone, Debug, Subcommand)]
pub enum BackupAction {
    /// Take one.
    #[command(group = ArgGroup::new("source").required(true).args(["node", "data"]))]
    Create {
        /// Directory of backups; of the node's host when a node takes it.
        directory: PathBuf,
        /// Admin port of a running node of this host, which takes it itself.
        #[arg(long, value_name = "HOST:PORT")]
        node: Option<String>,
        /// Data directory of a node that does not run.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// List them, and which instants they restore.
    List {
        /// Directory of backups.
        directory: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read one back: every checksum, then the recovery that nodes start with, then digests.
    Verify {
        /// Directory of backups.
        directory: PathBuf,
        /// Which one [default: the newest].
        #[arg(long, value_name = "ID", conflicts_with = "all")]
        backup: Option<String>,
        /// All of them.
        #[arg(long)]
        all: bool,
    },
    /// Remove old ones, and what none of the others needs.
    Prune {
        /// Directory of backups.
        directory: PathBuf,
        /// How many of the newest stay.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        keep: u64,
    },
}

const RESTORE_EXAMPLES: &str = "\
Examples:
  meridian restore /backups/us-east --to /var/lib/meridian/us-east/data --ordinal 7
  meridian restore /backups/us-east --to DIR --ordinal 7 --at 2026-11-21T11:30:00Z
  meridian restore /backups/us-east --to DIR --ordinal 0 --cluster shop-copy --region us-east

Ordinals are handed out by `meridian join NAME --prepare-only` while other regions run. A restored region takes an ordinal that was never used: its old self may have shown others what the
backup does not hold. In the same cluster it then gets from the others all that was written since,
so going back in time needs a cluster of its own (--cluster): restore each of its regions from the
same backups and to the same instant.";

/// A restore.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// Directory of backups.
    pub directory: PathBuf,
    /// The data directory to make; not there yet, or empty.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// The region's new ordinal, never used before in its cluster.
    #[arg(long, value_name = "N")]
    pub ordinal: u16,
    /// As it was at this instant (2026-11-21T11:30:00Z) [default: as the newest backup ends].
    #[arg(long, value_name = "TIME", value_parser = instant::parse)]
    pub at: Option<u64>,
    /// From this backup alone.
    #[arg(long, value_name = "ID")]
    pub backup: Option<String>,
    /// The region's name [default: as in the backup].
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// The name of a new cluster [default: as in the backup].
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
}

const DISK_EXAMPLES: &str = "\
Examples:
  meridian disk read /var/lib/meridian/us-east/data                   its own writes, as JSON lines
  meridian disk read DIR --since 2026-11-21T11:30:00Z
  meridian disk renew /var/lib/meridian/us-east/data --ordinal 7      set it aside, begin anew

With a backup, `meridian restore` brings more back. A renewed region gets everything from the others;
what it had not sent to any of them before is only in what `read` shows.";

/// A damaged data directory.
#[derive(Args, Clone, Debug)]
pub struct DiskArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: DiskAction,
}

/// What can be done with a damaged data directory.
#[derive(Clone, Debug, Subcommand)]
pub enum DiskAction {
    /// List the region's own writes that are still in its log, a JSON document a line.
    Read {
        /// The data directory; its node must not run.
        data: PathBuf,
        /// Only what was stamped after this instant (2026-11-21T11:30:00Z).
        #[arg(long, value_name = "TIME", value_parser = instant::parse)]
        since: Option<u64>,
        /// Writes of all regions.
        #[arg(long)]
        all: bool,
    },
    /// Set the directory aside and make an empty one under a new ordinal.
    Renew {
        /// The data directory; its node must not run.
        data: PathBuf,
        /// The region's new ordinal, never used before in its cluster.
        #[arg(long, value_name = "N")]
        ordinal: u16,
    },
}

const CERT_EXAMPLES: &str = "\
Regions prove to each other who they are by certificates of the cluster's own authority.
  meridian cert init                        make the authority: DATA_DIR/ca
  meridian cert issue us-east               a certificate for a region: DATA_DIR/us-east/certificates
  meridian cert issue us-east --out DIR     … to take to its machine
  meridian cert show                        what there is and until when it is valid

Keep ca.key away from the nodes; they do not need it. `issue` again renews a certificate; a node
reads it when it starts. `meridian up` makes what is missing by itself.";

/// Certificates.
#[derive(Args, Clone, Debug)]
pub struct CertArgs {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What to do.
    #[command(subcommand)]
    pub action: CertAction,
}

/// What can be done with certificates.
#[derive(Clone, Debug, Subcommand)]
pub enum CertAction {
    /// Make the cluster's authority.
    Init,
    /// Issue certificates for regions.
    Issue {
        /// The regions; all of the topology if none is named.
        regions: Vec<String>,
        /// Where to, for a single region [default: DATA_DIR/REGION/certificates].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// The region is not in the topology yet: it is going to join.
        #[arg(long)]
        new: bool,
    },
    /// List certificates and until when they are valid.
    Show,
}

const CONFIG_EXAMPLES: &str = "\
Examples:
  meridian config example > regions.yaml    a topology with comments, to start from
  meridian config check regions.yaml        what it says, or what is wrong with it";

/// Topology files.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// What can be done with topology files.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigAction {
    /// Read a file and say what it describes.
    Check {
        /// The file.
        file: PathBuf,
        /// Print it with every default filled in.
        #[arg(long)]
        full: bool,
    },
    /// Print the three-region topology with its comments.
    Example,
}

fn peer(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() && address.contains(':') => {
            Ok((name.to_owned(), address.to_owned()))
        }
        _ => Err("expected NAME=HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn peers_are_names_and_addresses() {
        assert_eq!(peer("eu=127.0.0.1:9"), Ok(("eu".into(), "127.0.0.1:9".into())));
        for bad in ["", "eu", "eu=", "=127.0.0.1:9", "eu=host"] {
            assert!(peer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_command_explains_itself() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} has no help", argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
