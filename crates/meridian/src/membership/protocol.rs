//! What an operator's command says to a node's admin port: a request, and who vouches for it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use meridian_mesh::NodeCertificate;
use serde::{Deserialize, Serialize};

/// Where requests are sent to.
pub const PATH: &str = "/members";

/// A change of who belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum MemberRequest {
    /// A new region asks for an ordinal. Its own certificate must vouch for it.
    Join {
        /// Its name.
        name: String,
        /// The same whenever this directory asks.
        token: u64,
        /// Where the others reach its mesh.
        mesh: String,
        /// Where Redis clients connect.
        redis: SocketAddr,
        /// Its admin port.
        admin: SocketAddr,
        /// Its DNS server.
        dns: SocketAddr,
        /// What DNS answers for it.
        clients: Vec<IpAddr>,
        /// When it was asked, in milliseconds since 1970.
        at_ms: u64,
    },
    /// A region is to leave.
    Leave {
        /// Its name.
        name: String,
        /// When it was asked, in milliseconds since 1970.
        at_ms: u64,
    },
    /// A region will not come back.
    Dead {
        /// Its name.
        name: String,
        /// When it was asked, in milliseconds since 1970.
        at_ms: u64,
    },
}

impl MemberRequest {
    /// When it was asked.
    pub fn at_ms(&self) -> u64 {
        match self {
            MemberRequest::Join { at_ms, .. }
            | MemberRequest::Leave { at_ms, .. }
            | MemberRequest::Dead { at_ms, .. } => *at_ms,
        }
    }
}

/// A request and a certificate of the cluster that vouches for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The request as JSON, exactly as it was signed.
    pub request: String,
    /// The certificate as PEM.
    pub certificate: String,
    /// The signature in hexadecimal digits.
    pub signature: String,
}

/// What a region that joins is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Joined {
    /// Its ordinal.
    pub ordinal: u16,
    /// The agreed state in which it is a member, in hexadecimal digits.
    pub state: String,
    /// The cluster's topology file.
    pub topology: String,
}

impl Signed {
    /// Signs a request.
    ///
    /// # Errors
    /// When the certificate's key cannot sign.
    pub fn new(request: &MemberRequest, certificate: &NodeCertificate) -> Result<Signed> {
        let request = serde_json::to_string(request).context("writing the request")?;
        let signature = certificate.sign(request.as_bytes())?;
        Ok(Signed { request, certificate: certificate.pem(), signature: to_hex(&signature) })
    }

    /// Who vouches for it, and what it asks for.
    ///
    /// # Errors
    /// When the signature or the request is not to be taken.
    pub fn open(&self, mine: &NodeCertificate, cluster: &str) -> Result<(String, MemberRequest)> {
        let signature = from_hex(&self.signature).context("the signature is not hexadecimal")?;
        let signer = mine
            .check_signature(cluster, self.request.as_bytes(), &self.certificate, &signature)
            .map_err(|refusal| {
                anyhow::anyhow!("the certificate does not vouch for it: {refusal}")
            })?;
        let request =
            serde_json::from_str(&self.request).context("the request is not understood")?;
        Ok((signer, request))
    }
}

/// Bytes as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal digits as bytes.
pub fn from_hex(text: &str) -> Result<Vec<u8>> {
    ensure!(
        text.len().is_multiple_of(2) && text.is_ascii(),
        "an odd number of digits, or no digits"
    );
    let digits = |at: usize| text.get(at..at + 2).unwrap_or_default();
    let byte = |at: usize| {
        let digits = digits(at);
        ensure!(digits.bytes().all(|b| b.is_ascii_hexdigit()), "not hexadecimal");
        u8::from_str_radix(digits, 16).context("not hexadecimal")
    };
    (0..text.len()).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_mesh::ClusterCa;

    #[test]
    fn a_request_is_taken_from_the_cluster_only() {
        let ca = ClusterCa::create().unwrap();
        let node = ca.issue("us", "shop").unwrap();
        let request = MemberRequest::Leave { name: "eu".into(), at_ms: 5 };
        let signed = Signed::new(&request, &ca.issue("ap", "shop").unwrap()).unwrap();
        assert_eq!(signed.open(&node, "shop").unwrap(), ("ap".to_owned(), request.clone()));
        let changed = Signed { request: signed.request.replace("eu", "us"), ..signed.clone() };
        assert!(changed.open(&node, "shop").is_err());
        let odd = Signed { signature: "abc".into(), ..signed.clone() };
        assert!(odd.open(&node, "shop").is_err());
        let stranger = ClusterCa::create().unwrap().issue("ap", "shop").unwrap();
        let forged = Signed::new(&request, &stranger).unwrap().open(&node, "shop");
        assert!(forged.unwrap_err().to_string().contains("untrusted-ca"));
    }

    #[test]
    fn hexadecimal_digits() {
        assert_eq!(from_hex(&to_hex(&[0, 1, 0xfe])).unwrap(), [0, 1, 0xfe]);
        for bad in ["a", "zz", "é", "+1"] {
            assert!(from_hex(bad).is_err(), "{bad}");
        }
    }
}
