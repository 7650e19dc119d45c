//! `cert` and `config`: what a cluster needs before it runs.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClusterArgs;

pub(super) const CERT_EXAMPLES: &str = "\
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

pub(super) const CONFIG_EXAMPLES: &str = "\
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
