//! What is said in the log about clocks: once for each thing that happens.

use meridian_clock::Fence;
use meridian_node::{Alarm, Claim};

/// Tells the operator.
pub fn tell(alarm: &Alarm) {
    match alarm {
        Alarm::Fenced(Fence::Skewed { ahead_us }) => tracing::error!(
            majority_ahead_ms = ahead_us / 1_000,
            "this region's clock is off: it refuses to write until the clock is set"
        ),
        Alarm::Fenced(Fence::Unconfirmed { leap_ms }) => tracing::error!(
            leap_ms,
            "the clock shows much more than when this region last ran: it refuses to write until \
             other regions confirm it"
        ),
        Alarm::Unfenced => tracing::warn!("this region's clock is right: it writes again"),
        Alarm::Held { origin, ahead_ms } => tracing::error!(
            %origin,
            ahead_ms,
            "an origin stamps in the future, or this region's clock is behind: its writes are held"
        ),
        Alarm::Released(origin) => {
            tracing::warn!(%origin, "the origin's writes are not held any more");
        }
        Alarm::Outlived => tracing::error!(
            "other regions have writes of this one that it does not have: its directory is an old \
             copy, or its disk has lied. It writes nothing more; renew it: meridian disk renew"
        ),
        Alarm::Doubtful { peer, claim: Claim::Future } => tracing::error!(
            %peer,
            "the peer claims to have writes from the future: what it acknowledges is not believed"
        ),
        Alarm::Doubtful { peer, claim: Claim::NeverWritten } => tracing::error!(
            %peer,
            "the peer has writes of this region that this region never wrote: it lies, or this \
             region goes on from an old copy under its old ordinal"
        ),
    }
}
