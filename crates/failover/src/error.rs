//! Refused inputs of the failover controller.

use thiserror::Error;

/// Nothing was changed by what caused one of these.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Error {
    /// The configuration contradicts itself; fix the topology file.
    #[error("failover configuration: {0}")]
    Config(String),
    /// The topology contradicts itself; fix the topology file.
    #[error("topology: {0}")]
    Topology(String),
    /// Text that is not a network in CIDR form.
    #[error("{0:?} is not a network such as 10.0.0.0/8 or 2001:db8::/32")]
    Cidr(String),
    /// A heartbeat from a region that is not configured.
    #[error("region {0} is not part of this cluster")]
    UnknownRegion(u16),
    /// A heartbeat that no correct region sends.
    #[error("invalid heartbeat from region {from}: {reason}")]
    Heartbeat {
        /// The sender.
        from: u16,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Bytes that are not a control state (of this version).
    #[error("control state: {0}")]
    State(&'static str),
}
