//! The cluster's certificate authority and the certificates of its nodes, as PEM files.
//!
//! One authority per cluster; being in the cluster means holding a certificate from it. The key of
//! the authority is needed only to issue: it may be kept away from the nodes.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::identity::{self, BadName};

/// The authority's certificate, beside the authority's key and beside every node's certificate.
pub const CA_CERTIFICATE_FILE: &str = "ca.pem";
/// The authority's key.
pub const CA_KEY_FILE: &str = "ca.key";
/// A node's certificate.
pub const NODE_CERTIFICATE_FILE: &str = "node.pem";
/// A node's key.
pub const NODE_KEY_FILE: &str = "node.key";

/// How long an authority is valid.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * DAY);
/// How long a node's certificate is valid.
pub const NODE_VALIDITY: Duration = Duration::from_secs(365 * DAY);
/// Certificates begin this long before they are made, for clocks that are behind.
pub const VALID_BEFORE: Duration = Duration::from_secs(3600);

const DAY: u64 = 24 * 3600;

/// The largest file that is read as PEM, in bytes.
const PEM_BYTES_MAX: u64 = 64 << 10;

/// Why certificates could not be made, saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A region or cluster name that cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Key or certificate generation failed.
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A file does not hold what its name says.
    #[error("{} does not hold a {expected} in PEM form", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What should have been there.
        expected: &'static str,
    },
    /// The two files of an authority or node do not belong together.
    #[error("{} does not belong to the key beside it", path.display())]
    Mismatch {
        /// The certificate's file.
        path: PathBuf,
    },
}

/// A cluster's certificate authority, able to issue.
pub struct ClusterCa {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ClusterCa {
    /// A new authority with a new key (ECDSA on P-256).
    pub fn create() -> Result<ClusterCa, CaError> {
        let key = KeyPair::generate()?;
        let mut params = ca_params(&key);
        let now = SystemTime::now();
        set_validity(&mut params, now - VALID_BEFORE, now + CA_VALIDITY);
        let certificate = params.self_signed(&key)?;
        Ok(ClusterCa {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Writes `ca.pem` and `ca.key` (mode 0600) to a directory, which is made if missing. An
    /// authority that is already there is never overwritten: its certificates would be orphans.
    pub fn save(&self, directory: &Path) -> Result<(), CaError> {
        make_directory(directory)?;
        let key = directory.join(CA_KEY_FILE);
        write_new(&key, self.issuer.key().serialize_pem().as_bytes(), 0o600)
            .map_err(|source| CaError::File { path: key, source })?;
        replace(&directory.join(CA_CERTIFICATE_FILE), self.certificate_pem.as_bytes(), 0o644)
    }

    /// Loads what [`ClusterCa::save`] wrote.
    pub fn load(directory: &Path) -> Result<ClusterCa, CaError> {
        let path = directory.join(CA_CERTIFICATE_FILE);
        let certificate_pem = read_pem(&path, false)?;
        let certificate = parse_certificate(&path, &certificate_pem)?;
        let key_path = directory.join(CA_KEY_FILE);
        let key = KeyPair::from_pem(&read_pem(&key_path, true)?)
            .map_err(|_| CaError::NotPem { path: key_path, expected: "private key" })?;
        // The name follows from the key, so the issuer can be rebuilt without parsing; that the
        // certificate is of this key is checked by letting it judge a fresh certificate.
        let params = ca_params(&key);
        let ca = ClusterCa { certificate, certificate_pem, issuer: Issuer::new(params, key) };
        let probe = ca.issue("probe", "probe")?;
        if !probe.is_issued_by(&ca.certificate) {
            return Err(CaError::Mismatch { path });
        }
        Ok(ca)
    }

    /// A certificate for a region's node, valid for [`NODE_VALIDITY`] from now.
    pub fn issue(&self, region: &str, cluster: &str) -> Result<NodeCertificate, CaError> {
        let now = SystemTime::now();
        self.issue_between(region, cluster, now - VALID_BEFORE, now + NODE_VALIDITY)
    }

    /// A certificate for a region's node, valid between two instants.
    pub fn issue_between(
        &self,
        region: &str,
        cluster: &str,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<NodeCertificate, CaError> {
        let name = identity::dns_name(region, cluster)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&name);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every node both calls and is called.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, from, until);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(NodeCertificate {
            ca: self.certificate.clone(),
            ca_pem: self.certificate_pem.clone(),
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }
}

impl std::fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterCa { key: hidden }")
    }
}

/// What a node needs to prove who it is and to check who the others are.
pub struct NodeCertificate {
    ca: CertificateDer<'static>,
    ca_pem: String,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: PrivateKeyDer<'static>,
    key_pem: String,
}

impl NodeCertificate {
    /// Writes `ca.pem`, `node.pem` and `node.key` (mode 0600) to a directory, which is made if
    /// missing. Earlier ones are replaced: that is how a certificate is renewed.
    pub fn save(&self, directory: &Path) -> Result<(), CaError> {
        make_directory(directory)?;
        replace(&directory.join(CA_CERTIFICATE_FILE), self.ca_pem.as_bytes(), 0o644)?;
        replace(&directory.join(NODE_KEY_FILE), self.key_pem.as_bytes(), 0o600)?;
        replace(&directory.join(NODE_CERTIFICATE_FILE), self.certificate_pem.as_bytes(), 0o644)
    }

    /// Loads what [`NodeCertificate::save`] wrote.
    pub fn load(directory: &Path) -> Result<NodeCertificate, CaError> {
        let ca_path = directory.join(CA_CERTIFICATE_FILE);
        let path = directory.join(NODE_CERTIFICATE_FILE);
        let key_path = directory.join(NODE_KEY_FILE);
        let ca_pem = read_pem(&ca_path, false)?;
        let certificate_pem = read_pem(&path, false)?;
        let key_pem = read_pem(&key_path, true)?;
        let node = NodeCertificate {
            ca: parse_certificate(&ca_path, &ca_pem)?,
            ca_pem,
            certificate: parse_certificate(&path, &certificate_pem)?,
            certificate_pem,
            key: PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
                .map_err(|_| CaError::NotPem { path: key_path, expected: "private key" })?,
            key_pem,
        };
        let provider = rustls::crypto::ring::default_provider();
        let signing = rustls::sign::CertifiedKey::from_der(
            vec![node.certificate.clone()],
            node.key.clone_key(),
            &provider,
        );
        match signing {
            Ok(_) => Ok(node),
            Err(_) => Err(CaError::Mismatch { path }),
        }
    }

    /// The node's certificate as PEM.
    pub fn pem(&self) -> String {
        self.certificate_pem.clone()
    }

    /// The node's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority that the others must be issued by.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub(crate) fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// Whether `ca` issued this certificate and it is valid now.
    fn is_issued_by(&self, ca: &CertificateDer<'static>) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        if roots.add(ca.clone()).is_err() {
            return false;
        }
        let Ok(leaf) = rustls::server::ParsedCertificate::try_from(&self.certificate) else {
            return false;
        };
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &roots,
            &[],
            rustls::pki_types::UnixTime::now(),
            webpki::ALL_VERIFICATION_ALGS,
        )
        .is_ok()
    }
}

impl std::fmt::Debug for NodeCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeCertificate { key: hidden }")
    }
}

/// The name carries the key's fingerprint, so that two authorities are never mistaken for one.
fn ca_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let fingerprint = params.key_identifier(key);
    let hex: String = fingerprint.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = common_name(&format!("Meridian cluster CA {hex}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn set_validity(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: SystemTime| {
        epoch + time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO)
    };
    params.not_before = since(from);
    params.not_after = since(until);
}

fn make_directory(directory: &Path) -> Result<(), CaError> {
    fs::create_dir_all(directory)
        .map_err(|source| CaError::File { path: directory.to_owned(), source })
}

fn read_pem(path: &Path, is_secret: bool) -> Result<String, CaError> {
    let failed = |source| CaError::File { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.len() > PEM_BYTES_MAX {
        return Err(failed(io::Error::other("too large to be a PEM file")));
    }
    if is_secret && metadata.mode() & 0o077 != 0 {
        // Not an error: secrets mounted by an orchestrator often look like this.
        tracing::warn!(path = %path.display(), "a private key that others can read");
    }
    fs::read_to_string(path).map_err(failed)
}

fn parse_certificate(path: &Path, pem: &str) -> Result<CertificateDer<'static>, CaError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| CaError::NotPem { path: path.to_owned(), expected: "certificate" })
}

/// Writes beside the file, then renames, so that there is always a whole one.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CaError> {
    let failed = |source| CaError::File { path: path.to_owned(), source };
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    write_new(&beside, bytes, mode).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_survives_its_files() {
        let directory = tempfile::tempdir().expect("directory");
        let created = ClusterCa::create().expect("ca");
        created.save(directory.path()).expect("save");
        let loaded = ClusterCa::load(directory.path()).expect("load");
        let node = loaded.issue("us-east", "shop").expect("issue");
        assert!(node.is_issued_by(&created.certificate));
        assert!(!node.is_issued_by(&ClusterCa::create().expect("other").certificate));
        let mode = fs::metadata(directory.path().join(CA_KEY_FILE)).expect("key").mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_authority_is_not_overwritten_but_a_node_is_renewed() {
        let directory = tempfile::tempdir().expect("directory");
        let ca = ClusterCa::create().expect("ca");
        ca.save(directory.path()).expect("save");
        let second = ClusterCa::create().expect("ca").save(directory.path());
        assert!(matches!(second, Err(CaError::File { source, .. })
            if source.kind() == io::ErrorKind::AlreadyExists));
        for region in ["us-east", "eu-central"] {
            ca.issue(region, "shop").expect("issue").save(directory.path()).expect("save");
            let loaded = NodeCertificate::load(directory.path()).expect("load");
            assert!(loaded.is_issued_by(&ca.certificate));
            assert_eq!(identity::region_of(loaded.certificate(), "shop").as_deref(), Ok(region));
        }
        let mode = fs::metadata(directory.path().join(NODE_KEY_FILE)).expect("key").mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let (ours, theirs) = (tempfile::tempdir().expect("a"), tempfile::tempdir().expect("b"));
        for directory in [&ours, &theirs] {
            let ca = ClusterCa::create().expect("ca");
            ca.save(directory.path()).expect("save");
            ca.issue("us-east", "shop").expect("issue").save(directory.path()).expect("save");
        }
        for name in [CA_KEY_FILE, NODE_KEY_FILE] {
            fs::copy(theirs.path().join(name), ours.path().join(name)).expect("copy");
        }
        assert!(matches!(ClusterCa::load(ours.path()), Err(CaError::Mismatch { .. })));
        assert!(matches!(NodeCertificate::load(ours.path()), Err(CaError::Mismatch { .. })));
        fs::write(ours.path().join(CA_CERTIFICATE_FILE), "not a certificate").expect("write");
        assert!(matches!(ClusterCa::load(ours.path()), Err(CaError::NotPem { .. })));
        assert!(matches!(ClusterCa::load(&ours.path().join("nowhere")), Err(CaError::File { .. })));
    }

    #[test]
    fn secrets_are_not_printed() {
        let ca = ClusterCa::create().expect("ca");
        let node = ca.issue("us-east", "shop").expect("issue");
        let printed = format!("{ca:?} {node:?}");
        assert_eq!(printed, "ClusterCa { key: hidden } NodeCertificate { key: hidden }");
    }
}
