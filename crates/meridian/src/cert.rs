//! `meridian cert`: the cluster's authority and its regions' certificates.

mod validity;

pub(crate) use validity::days_since_1970;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use meridian_mesh::{
    CA_CERTIFICATE_FILE, CA_KEY_FILE, ClusterCa, NODE_CERTIFICATE_FILE, NodeCertificate,
};

use crate::cli::{CertAction, CertArgs};
use crate::config::{ClusterFile, Paths};

/// A certificate that ends within this time is renewed by `up` and remarked on by `show`.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * DAY_S);
const DAY_S: u64 = 24 * 3600;

/// Does what the command line says.
///
/// # Errors
/// When files cannot be read or written, or a region is unknown.
pub fn run(args: &CertArgs) -> Result<()> {
    let (cluster, _) = ClusterFile::open(args.cluster.config.as_deref())?;
    let paths = Paths::resolve(&cluster, args.cluster.data_dir.clone());
    match &args.action {
        CertAction::Init => init(&paths),
        CertAction::Issue { regions, out, new } => {
            issue(&cluster, &paths, regions, out.as_deref(), *new)
        }
        CertAction::Show => show(&cluster, &paths),
    }
}

/// Makes the authority and the regions' certificates where they are missing or about to end, and
/// tells which regions got one.
///
/// # Errors
/// When what is there is damaged or cannot be written.
pub fn ensure_all(cluster: &ClusterFile, paths: &Paths) -> Result<Vec<String>> {
    let directory = paths.authority();
    if !directory.join(CA_KEY_FILE).exists() {
        ensure!(
            !directory.join(CA_CERTIFICATE_FILE).exists(),
            "{} has a certificate without its key",
            directory.display()
        );
        ClusterCa::create()?.save(&directory)?;
    }
    let authority = ClusterCa::load(&directory)?;
    let mut issued = Vec::new();
    for region in &cluster.regions {
        let directory = certificates(cluster, paths, &region.name);
        if !is_current(&directory, &paths.authority()) {
            authority.issue(&region.name, &cluster.cluster)?.save(&directory)?;
            issued.push(region.name.clone());
        }
    }
    Ok(issued)
}

/// A region's certificates: where the topology says, else below the region's directory.
fn certificates(cluster: &ClusterFile, paths: &Paths, region: &str) -> PathBuf {
    let given = cluster.region(region).ok().and_then(|region| region.certificates.clone());
    given.unwrap_or_else(|| paths.certificates(region))
}

fn init(paths: &Paths) -> Result<()> {
    let directory = paths.authority();
    ensure!(
        !directory.join(CA_KEY_FILE).exists(),
        "there is an authority in {} already; a new one would orphan its certificates",
        directory.display()
    );
    ClusterCa::create()?.save(&directory)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "made the cluster's authority in {}", directory.display())?;
    writeln!(out, "keep {CA_KEY_FILE} safe, and away from the nodes")?;
    Ok(())
}

fn issue(
    cluster: &ClusterFile,
    paths: &Paths,
    regions: &[String],
    out: Option<&Path>,
    is_new: bool,
) -> Result<()> {
    ensure!(!is_new || !regions.is_empty(), "--new: name the region");
    let names: Vec<&str> = match regions {
        [] => cluster.names(),
        some => some.iter().map(String::as_str).collect(),
    };
    ensure!(out.is_none() || names.len() == 1, "--out takes one region, not {}", names.len());
    let directory = paths.authority();
    let authority = ClusterCa::load(&directory).with_context(|| {
        format!("the cluster's authority in {} (made by: meridian cert init)", directory.display())
    })?;
    for name in names {
        if !is_new {
            cluster.region(name)?;
        }
        let directory = out.map_or_else(|| certificates(cluster, paths, name), Path::to_path_buf);
        authority.issue(name, &cluster.cluster)?.save(&directory)?;
        writeln!(std::io::stdout(), "{name}: {}", directory.display())?;
    }
    Ok(())
}

fn show(cluster: &ClusterFile, paths: &Paths) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let authority = paths.authority().join(CA_CERTIFICATE_FILE);
    writeln!(out, "{:<16} {}", "authority", words(&authority))?;
    for region in &cluster.regions {
        let path = certificates(cluster, paths, &region.name).join(NODE_CERTIFICATE_FILE);
        writeln!(out, "{:<16} {}", region.name, words(&path))?;
    }
    Ok(())
}

/// A certificate's state in a few words.
fn words(path: &Path) -> String {
    let until = match validity::valid_until(path) {
        Ok(until) => until,
        Err(_) if !path.exists() => return format!("none ({})", path.display()),
        Err(error) => return format!("damaged: {error:#}"),
    };
    match until.duration_since(SystemTime::now()) {
        Ok(left) if left < RENEW_BEFORE => {
            let days = left.as_secs() / DAY_S;
            format!("valid for {days} more days only: renew it ({})", path.display())
        }
        Ok(left) => format!("valid for {} days ({})", left.as_secs() / DAY_S, path.display()),
        Err(_) => format!("no longer valid ({})", path.display()),
    }
}

/// Whether a region's certificate is there, of this authority, and valid for a while.
fn is_current(directory: &Path, authority: &Path) -> bool {
    let same_authority = || {
        let read = |directory: &Path| std::fs::read(directory.join(CA_CERTIFICATE_FILE)).ok();
        let own = read(directory);
        own.is_some() && own == read(authority)
    };
    let valid_until = validity::valid_until(&directory.join(NODE_CERTIFICATE_FILE));
    let later = (SystemTime::now() + RENEW_BEFORE).max(UNIX_EPOCH);
    NodeCertificate::load(directory).is_ok()
        && same_authority()
        && valid_until.is_ok_and(|until| until > later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterFile {
        ClusterFile::open(None).expect("the example").0
    }

    #[test]
    fn what_is_missing_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths { base: directory.path().to_owned() };
        let cluster = cluster();
        let names = ["us-east", "eu-central", "ap-southeast"];
        assert_eq!(ensure_all(&cluster, &paths).unwrap(), names);
        assert!(ensure_all(&cluster, &paths).unwrap().is_empty());
        std::fs::remove_file(paths.certificates("us-east").join(NODE_CERTIFICATE_FILE)).unwrap();
        assert_eq!(ensure_all(&cluster, &paths).unwrap(), ["us-east"]);
    }

    #[test]
    fn certificates_of_another_authority_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths { base: directory.path().to_owned() };
        let cluster = cluster();
        ensure_all(&cluster, &paths).unwrap();
        std::fs::remove_dir_all(paths.authority()).unwrap();
        assert_eq!(ensure_all(&cluster, &paths).unwrap().len(), 3);
    }

    #[test]
    fn one_that_ends_soon_is_renewed() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths { base: directory.path().to_owned() };
        let cluster = cluster();
        ensure_all(&cluster, &paths).unwrap();
        let now = SystemTime::now();
        let soon = now + Duration::from_secs(2 * DAY_S);
        let authority = ClusterCa::load(&paths.authority()).unwrap();
        let short = authority.issue_between("us-east", &cluster.cluster, now, soon).unwrap();
        short.save(&paths.certificates("us-east")).unwrap();
        let path = paths.certificates("us-east").join(NODE_CERTIFICATE_FILE);
        assert!(words(&path).contains("renew it"), "{}", words(&path));
        assert_eq!(ensure_all(&cluster, &paths).unwrap(), ["us-east"]);
        assert!(words(&path).starts_with("valid for 36"), "{}", words(&path));
    }

    #[test]
    fn an_authority_is_not_made_twice() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths { base: directory.path().to_owned() };
        init(&paths).unwrap();
        assert!(init(&paths).unwrap_err().to_string().contains("already"));
        issue(&cluster(), &paths, &["us-east".into()], None, false).unwrap();
        assert!(issue(&cluster(), &paths, &["mars".into()], None, false).is_err());
        assert!(issue(&cluster(), &paths, &[], None, true).is_err(), "a new region has a name");
        issue(&cluster(), &paths, &["mars".into()], None, true).unwrap();
    }
}
