//! Where a cluster's files are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ClusterFile;

/// The directories of a cluster on this machine.
///
/// ```text
/// <base>/ca/                    the authority: ca.pem, ca.key (only where certificates are made)
/// <base>/<region>/data/         log, checkpoint, and what the control group has voted
/// <base>/<region>/certificates/ ca.pem, node.pem, node.key
/// <base>/<region>/joined.state, join.token, regions.yaml   of a region that joined a cluster
/// <base>/<region>/node.log      what the node says, when `up` has started it
/// <base>/up.sock                how to reach a running `up`
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The directory that holds all of it.
    pub base: PathBuf,
}

impl Paths {
    /// `wanted` (from a flag or the environment), else what the file says, else a directory for
    /// the state of programs: `$XDG_STATE_HOME` or `~/.local/state`, else `./.meridian`.
    pub fn resolve(file: &ClusterFile, wanted: Option<PathBuf>) -> Paths {
        let environment = |name: &str| std::env::var_os(name);
        let given = wanted.or_else(|| file.data_dir.clone());
        Paths { base: given.unwrap_or_else(|| default_base(&file.cluster, environment)) }
    }

    /// The authority's files.
    pub fn authority(&self) -> PathBuf {
        self.base.join("ca")
    }

    /// A region's directory.
    pub fn region(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// A region's log and checkpoint.
    pub fn data(&self, name: &str) -> PathBuf {
        self.region(name).join("data")
    }

    /// A region's certificates, unless the file names another directory.
    pub fn certificates(&self, name: &str) -> PathBuf {
        self.region(name).join("certificates")
    }

    /// What a region that joined a running cluster was told: the agreed state in which it is a
    /// member.
    pub fn joined_state(&self, name: &str) -> PathBuf {
        self.region(name).join("joined.state")
    }

    /// The number by which a region's directory asks for an ordinal.
    pub fn join_token(&self, name: &str) -> PathBuf {
        self.region(name).join("join.token")
    }

    /// The topology file of a region that joined.
    pub fn joined_topology(&self, name: &str) -> PathBuf {
        self.region(name).join("regions.yaml")
    }

    /// What a region's node has said, when `up` has started it.
    pub fn node_log(&self, name: &str) -> PathBuf {
        self.region(name).join("node.log")
    }

    /// Where a running `up` listens.
    pub fn control_socket(&self) -> PathBuf {
        self.base.join("up.sock")
    }
}

fn default_base(cluster: &str, environment: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    // The specification of base directories says to ignore relative ones.
    let absolute = |name: &str| environment(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    match state {
        Some(state) => state.join("meridian").join(cluster),
        None => Path::new(".meridian").join(cluster),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_goes_where_state_belongs() {
        let base = |variables: &[(&str, &str)]| {
            let found = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            default_base("shop", found).display().to_string()
        };
        assert_eq!(base(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), "/s/meridian/shop");
        assert_eq!(base(&[("HOME", "/h")]), "/h/.local/state/meridian/shop");
        assert_eq!(base(&[("XDG_STATE_HOME", "relative")]), ".meridian/shop");
        assert_eq!(base(&[]), ".meridian/shop");
    }
}
