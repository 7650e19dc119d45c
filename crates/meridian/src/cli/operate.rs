//! `wan`, `region` and `salvage`: commands to a cluster that runs.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClusterArgs;

pub(super) const WAN_EXAMPLES: &str = "\
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

pub(super) const REGION_EXAMPLES: &str = "\
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

pub(super) const SALVAGE_HELP: &str = "\
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
