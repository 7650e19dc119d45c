//! Why a connection was not accepted or not kept, as a closed list that can be counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quinn::ConnectionError;

use crate::limits::REASON_BYTES_MAX;

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The certificate was not issued by this cluster's authority.
    UntrustedCa,
    /// The one who answered is not the region that was dialled.
    WrongName,
    /// The certificate names a region or cluster that is not in the topology.
    UnknownRegion,
    /// The certificate has expired or is not valid yet.
    Expired,
    /// The caller showed no certificate.
    NoCertificate,
    /// The certificate cannot be used for something else.
    BadCertificate,
    /// Not Meridian's protocol, or not this version of it.
    WrongProtocol,
    /// The region is known, but by another ordinal.
    WrongOrdinal,
    /// The caller should have waited to be called: the lower ordinal dials.
    WrongDirection,
    /// A message was larger than allowed.
    Oversize,
    /// Bytes that make no sense: bad compression, unknown or doubled lanes.
    Malformed,
    /// The other side refused this node.
    RefusedByPeer,
    /// The handshake did not end in time.
    Slow,
    /// Too many handshakes were under way.
    Overload,
    /// An operator has declared the region dead: it must not come back under its ordinal.
    DeclaredDead,
    /// The region has left the cluster.
    HasLeft,
}

impl Refusal {
    /// All reasons, for metrics.
    pub const ALL: [Refusal; 16] = [
        Refusal::UntrustedCa,
        Refusal::WrongName,
        Refusal::UnknownRegion,
        Refusal::Expired,
        Refusal::NoCertificate,
        Refusal::BadCertificate,
        Refusal::WrongProtocol,
        Refusal::WrongOrdinal,
        Refusal::WrongDirection,
        Refusal::Oversize,
        Refusal::Malformed,
        Refusal::RefusedByPeer,
        Refusal::Slow,
        Refusal::Overload,
        Refusal::DeclaredDead,
        Refusal::HasLeft,
    ];

    /// The name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::UntrustedCa => "untrusted-ca",
            Refusal::WrongName => "wrong-name",
            Refusal::UnknownRegion => "unknown-region",
            Refusal::Expired => "expired",
            Refusal::NoCertificate => "no-certificate",
            Refusal::BadCertificate => "bad-certificate",
            Refusal::WrongProtocol => "wrong-protocol",
            Refusal::WrongOrdinal => "wrong-ordinal",
            Refusal::WrongDirection => "wrong-direction",
            Refusal::Oversize => "oversize",
            Refusal::Malformed => "malformed",
            Refusal::RefusedByPeer => "refused-by-peer",
            Refusal::Slow => "slow",
            Refusal::Overload => "overload",
            Refusal::DeclaredDead => "declared-dead",
            Refusal::HasLeft => "has-left",
        }
    }

    /// The application close code that tells the other side.
    pub(crate) fn close_code(self) -> quinn::VarInt {
        quinn::VarInt::from_u32(REFUSED_CODE + self as u32)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// This node ends its work.
pub(crate) const SHUTDOWN_CODE: u32 = 1;
/// A newer connection of the same peer took over.
pub(crate) const REPLACED_CODE: u32 = 2;
/// The application asked for it.
pub(crate) const DISCONNECTED_CODE: u32 = 3;
/// The region is not this side's peer any more.
pub(crate) const REMOVED_CODE: u32 = 4;
/// Codes from here on are refusals.
const REFUSED_CODE: u32 = 16;

/// How often each refusal happened.
#[derive(Debug, Default)]
pub(crate) struct RefusalCounters([AtomicU64; Refusal::ALL.len()]);

impl RefusalCounters {
    /// Counts one; returns how many there have been.
    pub(crate) fn add(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize].fetch_add(1, Relaxed) + 1
    }

    /// The refusals that happened, with how often.
    pub(crate) fn snapshot(&self) -> Vec<(Refusal, u64)> {
        let counted = Refusal::ALL.iter().map(|&r| (r, self.0[r as usize].load(Relaxed)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

/// Whether a handshake failed because someone was refused (else the other side was just not
/// reachable). `dialed`: this node called.
pub(crate) fn of_connection_error(error: &ConnectionError, dialed: bool) -> Option<Refusal> {
    match error {
        // This side's own verdict about the other's certificate.
        ConnectionError::TransportError(error) => Some(of_tls_alert(error.code.into(), dialed)),
        // The other side's verdict about this one's.
        ConnectionError::ConnectionClosed(close) => (u64::from(close.error_code) & !0xff
            == TLS_ALERT_BASE)
            .then_some(Refusal::RefusedByPeer),
        ConnectionError::ApplicationClosed(close) => (close.error_code.into_inner()
            >= u64::from(REFUSED_CODE))
        .then_some(Refusal::RefusedByPeer),
        ConnectionError::VersionMismatch => Some(Refusal::WrongProtocol),
        ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => None,
    }
}

/// QUIC carries TLS alerts in the low byte (RFC 9001, 4.8).
const TLS_ALERT_BASE: u64 = 0x100;

/// The alert numbers are TLS 1.3's (RFC 8446, 6.2).
fn of_tls_alert(code: u64, dialed: bool) -> Refusal {
    match code.checked_sub(TLS_ALERT_BASE) {
        // A dialer's bad_certificate is the name's: chain and dates have alerts of their own.
        Some(42) if dialed => Refusal::WrongName,
        Some(42..=44 | 46 | 51) => Refusal::BadCertificate,
        Some(45) => Refusal::Expired,
        Some(48) => Refusal::UntrustedCa,
        Some(116) => Refusal::NoCertificate,
        _ => Refusal::WrongProtocol,
    }
}

/// Whether the other side ended the connection because this region is no member any more.
pub(crate) fn expelled_by(error: &ConnectionError) -> Option<Refusal> {
    let ConnectionError::ApplicationClosed(close) = error else { return None };
    [Refusal::DeclaredDead, Refusal::HasLeft]
        .into_iter()
        .find(|r| r.close_code() == close.error_code)
}

/// A peer's words for a log line: bounded, and printable.
pub(crate) fn printable(reason: &[u8]) -> String {
    let bounded = &reason[..reason.len().min(REASON_BYTES_MAX)];
    String::from_utf8_lossy(bounded).escape_debug().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed_once_and_in_order() {
        for (index, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, index, "{refusal}");
        }
        let names: std::collections::BTreeSet<_> =
            Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
    }

    #[test]
    fn counts_by_reason() {
        let counters = RefusalCounters::default();
        assert_eq!(counters.add(Refusal::Slow), 1);
        assert_eq!(counters.add(Refusal::Slow), 2);
        assert_eq!(counters.add(Refusal::Expired), 1);
        assert_eq!(counters.snapshot(), [(Refusal::Expired, 1), (Refusal::Slow, 2)]);
    }

    #[test]
    fn a_peers_words_cannot_forge_log_lines() {
        assert_eq!(printable(b"bye\nERROR fake"), "bye\\nERROR fake");
        assert!(printable(&[b'x'; 10_000]).len() <= REASON_BYTES_MAX);
    }
}
