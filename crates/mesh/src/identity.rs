//! Who a certificate belongs to: a region's name as a DNS name, `<region>.<cluster>.meridian`.

use rustls::pki_types::CertificateDer;

use crate::refusal::Refusal;

/// The last label of every name.
const SUFFIX: &str = "meridian";

/// A region or cluster name that cannot stand in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a name: 1 to 63 of a-z, 0-9 and '-', not first or last '-'")]
pub struct BadName {
    /// What was given.
    pub name: String,
}

/// The DNS name of a region, as it stands in its certificate.
pub fn dns_name(region: &str, cluster: &str) -> Result<String, BadName> {
    for name in [region, cluster] {
        if !is_label(name) {
            return Err(BadName { name: name.to_owned() });
        }
    }
    Ok(format!("{region}.{cluster}.{SUFFIX}"))
}

/// The region whose certificate this is. It must carry one name, and one of this cluster: a
/// certificate for two regions could speak for both.
pub(crate) fn region_of(
    certificate: &CertificateDer<'_>,
    cluster: &str,
) -> Result<String, Refusal> {
    let parsed =
        webpki::EndEntityCert::try_from(certificate).map_err(|_| Refusal::BadCertificate)?;
    let mut names = parsed.valid_dns_names();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(Refusal::BadCertificate);
    };
    let region = name
        .strip_suffix(SUFFIX)
        .and_then(|rest| rest.strip_suffix('.'))
        .and_then(|rest| rest.strip_suffix(cluster))
        .and_then(|rest| rest.strip_suffix('.'));
    match region {
        Some(region) if is_label(region) => Ok(region.to_owned()),
        _ => Err(Refusal::UnknownRegion),
    }
}

/// A DNS label (RFC 1123) in lower case, so that there is one way to write it.
fn is_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::ClusterCa;

    #[test]
    fn names_are_labels() {
        assert_eq!(dns_name("us-east", "shop").as_deref(), Ok("us-east.shop.meridian"));
        for bad in ["", "US", "a.b", "-a", "a-", "ü", "a b", &"x".repeat(64)] {
            assert_eq!(dns_name(bad, "shop"), Err(BadName { name: bad.into() }));
            assert!(dns_name("us-east", bad).is_err());
        }
    }

    #[test]
    fn the_region_is_read_from_the_certificate() {
        let ca = ClusterCa::create().expect("ca");
        let node = ca.issue("us-east", "shop").expect("certificate");
        assert_eq!(region_of(node.certificate(), "shop").as_deref(), Ok("us-east"));
        for other in ["hop", "east.shop", "sho", "shop2", ""] {
            assert_eq!(region_of(node.certificate(), other), Err(Refusal::UnknownRegion));
        }
        let garbage = CertificateDer::from(vec![1, 2, 3]);
        assert_eq!(region_of(&garbage, "shop"), Err(Refusal::BadCertificate));
    }
}
