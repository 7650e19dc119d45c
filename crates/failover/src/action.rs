//! What the controller asks its shell to do.

/// An effect, as a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this heartbeat to every other region, unreliably (a datagram).
    Broadcast(Vec<u8>),
    /// Propose this entry to the control group.
    Propose(Vec<u8>),
    /// Hand the control group's leadership to this region.
    TransferLeadership(u16),
}
