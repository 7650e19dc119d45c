//! Requests that a certificate of the cluster vouches for, outside of the mesh: an operator's
//! command to a node's admin port is signed with the private key of a region's certificate, and
//! the node checks that its own authority has issued it.

use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::ca::NodeCertificate;
use crate::identity;
use crate::refusal::Refusal;

/// In front of everything that is signed: a signature for this is of use for nothing else.
const DOMAIN: &[u8] = b"meridian request 1\n";

/// Why a request could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("the private key cannot sign: {0}")]
pub struct SignError(#[from] rustls::Error);

impl NodeCertificate {
    /// Signs a request.
    ///
    /// # Errors
    /// When the key is of a kind that cannot sign.
    pub fn sign(&self, request: &[u8]) -> Result<Vec<u8>, SignError> {
        let key = rustls::crypto::ring::sign::any_supported_type(self.key())?;
        let schemes: Vec<rustls::SignatureScheme> = SCHEMES.iter().map(|(s, _)| *s).collect();
        let unfit = || rustls::Error::General("no scheme that nodes accept".to_owned());
        let signer = key.choose_scheme(&schemes).ok_or_else(unfit)?;
        let mut signature = scheme_code(signer.scheme()).to_be_bytes().to_vec();
        signature.append(&mut signer.sign(&[DOMAIN, request].concat())?);
        Ok(signature)
    }

    /// Checks who has signed a request: the name of the region whose certificate (as PEM) this
    /// node's authority has issued for `cluster`.
    ///
    /// # Errors
    /// What is wrong with the certificate or the signature.
    pub fn check_signature(
        &self,
        cluster: &str,
        request: &[u8],
        certificate_pem: &str,
        signature: &[u8],
    ) -> Result<String, Refusal> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| Refusal::BadCertificate)?;
        let parsed =
            webpki::EndEntityCert::try_from(&certificate).map_err(|_| Refusal::BadCertificate)?;
        let anchor =
            webpki::anchor_from_trusted_cert(self.ca()).map_err(|_| Refusal::UntrustedCa)?;
        let now = UnixTime::since_unix_epoch(
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        );
        let issued = parsed.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            std::slice::from_ref(&anchor),
            &[],
            now,
            webpki::KeyUsage::client_auth(),
            None,
            None,
        );
        issued.map_err(|error| match error {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                Refusal::Expired
            }
            _ => Refusal::UntrustedCa,
        })?;
        let (code, signature) =
            signature.split_first_chunk::<2>().ok_or(Refusal::BadCertificate)?;
        let code = u16::from_be_bytes(*code);
        let algorithm = SCHEMES.iter().find(|(scheme, _)| scheme_code(*scheme) == code);
        let (_, algorithm) = algorithm.ok_or(Refusal::BadCertificate)?;
        parsed
            .verify_signature(*algorithm, &[DOMAIN, request].concat(), signature)
            .map_err(|_| Refusal::BadCertificate)?;
        identity::region_of(&certificate, cluster)
    }
}

/// Schemes that are accepted, and how each is checked.
static SCHEMES: &[(
    rustls::SignatureScheme,
    &dyn rustls::pki_types::SignatureVerificationAlgorithm,
)] = &[
    (rustls::SignatureScheme::ECDSA_NISTP256_SHA256, webpki::ring::ECDSA_P256_SHA256),
    (rustls::SignatureScheme::ECDSA_NISTP384_SHA384, webpki::ring::ECDSA_P384_SHA384),
    (rustls::SignatureScheme::ED25519, webpki::ring::ED25519),
];

/// The number of a scheme in TLS (RFC 8446, 4.2.3).
fn scheme_code(scheme: rustls::SignatureScheme) -> u16 {
    scheme.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::ClusterCa;

    #[test]
    fn only_a_certificate_of_the_cluster_vouches() {
        let ca = ClusterCa::create().expect("ca");
        let node = ca.issue("us-east", "shop").expect("certificate");
        let operator = ca.issue("eu-central", "shop").expect("certificate");
        let signature = operator.sign(b"leave").expect("signs");
        let check = |certificate: &NodeCertificate, request: &[u8], signature: &[u8]| {
            node.check_signature("shop", request, &certificate.pem(), signature)
        };
        assert_eq!(check(&operator, b"leave", &signature).as_deref(), Ok("eu-central"));
        assert_eq!(check(&operator, b"stay", &signature), Err(Refusal::BadCertificate));
        assert_eq!(check(&node, b"leave", &signature), Err(Refusal::BadCertificate));
        assert_eq!(check(&operator, b"leave", &[]), Err(Refusal::BadCertificate));
        assert_eq!(check(&operator, b"leave", &[9; 70]), Err(Refusal::BadCertificate));
        let other = ClusterCa::create().expect("ca").issue("eu-central", "shop").expect("issued");
        let forged = other.sign(b"leave").expect("signs");
        assert_eq!(check(&other, b"leave", &forged), Err(Refusal::UntrustedCa));
        let stranger = ca.issue("eu-central", "warehouse").expect("issued");
        let signed = stranger.sign(b"leave").expect("signs");
        assert_eq!(check(&stranger, b"leave", &signed), Err(Refusal::UnknownRegion));
        let garbage = node.check_signature("shop", b"leave", "no certificate", &signature);
        assert_eq!(garbage, Err(Refusal::BadCertificate));
    }
}
