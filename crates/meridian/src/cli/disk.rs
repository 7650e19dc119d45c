//! `backup`, `restore` and `disk`: what is kept, and what comes back.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use crate::backup::instant;

pub(super) const BACKUP_EXAMPLES: &str = "\
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

pub(super) const RESTORE_EXAMPLES: &str = "\
Examples:
  meridian restore /backups/us-east --to /var/lib/meridian/us-east/data --ordinal 7
  meridian restore /backups/us-east --to DIR --ordinal 7 --at 2026-11-21T11:30:00Z
  meridian restore /backups/us-east --to DIR --ordinal 0 --cluster shop-copy --region us-east

A restored region takes an ordinal that was never used: its old self may have shown others what the
backup does not hold. `meridian join NAME --prepare-only` hands one out while other regions run. In
the same cluster it then gets from the others all that was written since, so going back in time
needs a cluster of its own (--cluster): restore each of its regions from the same backups and to the
same instant.";

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

pub(super) const DISK_EXAMPLES: &str = "\
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
