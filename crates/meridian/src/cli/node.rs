//! `node`, `up` and `join`: commands that run nodes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::ClusterArgs;
use crate::config::AppendFsync;

pub(super) const NODE_HELP: &str = "\
Examples:
  meridian node --config regions.yaml --region us-east
  MERIDIAN_PASSWORD=… meridian node -c regions.yaml --region us-east --appendfsync always

Secrets come by the environment, or by files that the topology names; they are never printed:
  MERIDIAN_PASSWORD             what Redis clients must AUTH with (auth.password_file)
  MERIDIAN_POSTGRES_URL         the Postgres to follow (postgres.url)
  MERIDIAN_POSTGRES_PASSWORD    its password (postgres.password_file)

SIGTERM and SIGINT end it in an orderly way; SIGKILL loses nothing that was acknowledged under
`appendfsync always`, and up to a second under `everysec`, as with Redis.";

/// What every command that runs one node takes.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Directory that holds a directory for each region [default: below ~/.local/state].
    #[arg(long, value_name = "DIR", env = "MERIDIAN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory of ca.pem, node.pem and node.key [default: DATA_DIR/NAME/certificates].
    #[arg(long, value_name = "DIR", env = "MERIDIAN_CERTIFICATES")]
    pub certificates: Option<PathBuf>,
    /// When a write is acknowledged: on disk, or on disk within a second.
    #[arg(long, value_name = "POLICY", env = "MERIDIAN_APPENDFSYNC")]
    pub appendfsync: Option<AppendFsync>,
    /// End when the standard input closes: with whoever started this node.
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
}

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
    /// Where and how it runs.
    #[command(flatten)]
    pub run: RunArgs,
    /// What is logged: a level, or a filter such as info,meridian_mesh=debug.
    #[arg(long, value_name = "FILTER", env = "MERIDIAN_LOG")]
    pub log: Option<String>,
    /// Reach a peer at another address than the topology's; may be repeated.
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = peer)]
    pub peer: Vec<(String, String)>,
}

pub(super) const UP_HELP: &str = "\
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

pub(super) const JOIN_HELP: &str = "\
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
    /// Where and how it runs.
    #[command(flatten)]
    pub run: RunArgs,
    /// What is logged [default: warn, so that the progress can be seen].
    #[arg(long, value_name = "FILTER", env = "MERIDIAN_LOG")]
    pub log: Option<String>,
    /// Get the ordinal and write the files, but do not run the node.
    #[arg(long)]
    pub prepare_only: bool,
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
    use super::*;

    #[test]
    fn peers_are_names_and_addresses() {
        assert_eq!(peer("eu=127.0.0.1:9"), Ok(("eu".into(), "127.0.0.1:9".into())));
        for bad in ["", "eu", "eu=", "=127.0.0.1:9", "eu=host"] {
            assert!(peer(bad).is_err(), "{bad}");
        }
    }
}
