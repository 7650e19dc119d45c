//! The command line: what can be said, and the help that teaches it.

mod disk;
mod node;
mod operate;
mod setup;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::disk::{BACKUP_EXAMPLES, DISK_EXAMPLES, RESTORE_EXAMPLES};
pub use self::disk::{BackupAction, BackupArgs, DiskAction, DiskArgs, RestoreArgs};
use self::node::JOIN_HELP;
pub use self::node::{JoinArgs, NodeArgs, UpArgs};
use self::operate::{REGION_EXAMPLES, SALVAGE_HELP, WAN_EXAMPLES};
pub use self::operate::{RegionAction, RegionArgs, SalvageArgs, ViaArgs, WanAction, WanArgs};
use self::setup::{CERT_EXAMPLES, CONFIG_EXAMPLES};
pub use self::setup::{CertAction, CertArgs, ConfigAction, ConfigArgs};

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
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
