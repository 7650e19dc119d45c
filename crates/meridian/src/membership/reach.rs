//! Reaching a running cluster from the outside: where its nodes are asked, and who vouches.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meridian_mesh::{NODE_KEY_FILE, NodeCertificate};
use serde_json::Value;

use super::protocol::{MemberRequest, PATH, Signed};
use crate::cli::{ClusterArgs, ViaArgs};
use crate::config::{ClusterFile, Paths};
use crate::http;

/// How long a node may take to say how it is.
const STATUS_WITHIN: Duration = Duration::from_secs(3);
/// How long a node may take to decide: more than it is patient itself.
const DECISION_WITHIN: Duration = Duration::from_secs(30);

/// A running cluster and a certificate that it trusts.
pub struct Cluster {
    /// The node that is asked.
    pub via: SocketAddr,
    certificate: NodeCertificate,
}

/// A `host:port`, with or without `http://`.
///
/// # Errors
/// When it is none, or has no address.
pub async fn resolve(text: &str) -> Result<SocketAddr> {
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let mut found = tokio::net::lookup_host(bare)
        .await
        .with_context(|| format!("{text:?}: expected the HOST:PORT of a node's admin port"))?;
    found.next().with_context(|| format!("{text:?} has no address"))
}

/// A node's status.
///
/// # Errors
/// When it does not answer.
pub async fn status(admin: SocketAddr) -> Result<Value> {
    let answer = http::get(admin, "/status", STATUS_WITHIN).await?;
    ensure!(answer.status == 200, "http://{admin}/status: code {}", answer.status);
    serde_json::from_str(&answer.body).with_context(|| format!("http://{admin}/status"))
}

impl Cluster {
    /// A cluster behind this node.
    pub fn new(via: SocketAddr, certificate: NodeCertificate) -> Cluster {
        Cluster { via, certificate }
    }

    /// The cluster that the command line names: the node it says, or the first of the topology
    /// that answers and is not `except`.
    ///
    /// # Errors
    /// When nobody answers or no certificate is found.
    pub async fn find(args: &ClusterArgs, via: &ViaArgs, except: &str) -> Result<Cluster> {
        let (file, _) = ClusterFile::open(args.config.as_deref())?;
        let paths = Paths::resolve(&file, args.data_dir.clone());
        let certificate = NodeCertificate::load(&certificates(&file, &paths, via)?)?;
        if let Some(via) = &via.via {
            return Ok(Cluster::new(resolve(via).await?, certificate));
        }
        for region in file.regions.iter().filter(|region| region.name != except) {
            let admin = region.operator_address(region.admin);
            if status(admin).await.is_ok() {
                return Ok(Cluster::new(admin, certificate));
            }
        }
        bail!("no region of the topology answers; say where one does: --via HOST:PORT")
    }

    /// Asks for a change of the members; what the node answers.
    ///
    /// # Errors
    /// What the node says against it.
    pub async fn ask(&self, request: &MemberRequest) -> Result<String> {
        let signed = Signed::new(request, &self.certificate)?;
        let body = serde_json::to_string(&signed).context("writing the request")?;
        let answer = http::post(self.via, PATH, &body, DECISION_WITHIN).await?;
        ensure!(answer.status == 200, "{}: {}", self.via, answer.body.trim());
        Ok(answer.body)
    }
}

/// Where a certificate of the cluster is: as told, or of any region below the data directory.
fn certificates(file: &ClusterFile, paths: &Paths, via: &ViaArgs) -> Result<PathBuf> {
    if let Some(given) = &via.certificates {
        return Ok(given.clone());
    }
    let of_region = |name: &&str| {
        let region = file.region(name).ok().and_then(|region| region.certificates.clone());
        region.unwrap_or_else(|| paths.certificates(name))
    };
    let found = file.names().iter().map(of_region).find(|dir| dir.join(NODE_KEY_FILE).exists());
    found.with_context(|| {
        let base = paths.base.display();
        format!("no certificate of the cluster below {base}; say where one is: --certificates DIR")
    })
}
