//! Regions come and go while the data is served.

use std::collections::BTreeSet;

use meridian_clock::Origin;

use super::DataNode;

impl DataNode {
    /// Changes who the other regions are. `handed_out` is the number of ordinals that the control
    /// group has handed out as far as this region knows: an origin below it that is no peer is
    /// retired, one above it is a region that this one has not heard of yet, and nothing may be
    /// concluded from its silence.
    pub fn set_members(&mut self, peers: Vec<Origin>, handed_out: u16) {
        self.handed_out = handed_out;
        if self.config.peers == peers {
            return;
        }
        let gone: BTreeSet<Origin> =
            self.config.peers.iter().copied().filter(|peer| !peers.contains(peer)).collect();
        for peer in gone {
            // Its session is ended by the transport; its word counts no more.
            self.peers.remove(&peer);
            self.acknowledged.remove(&peer);
        }
        self.origins.extend(&peers);
        self.config.peers = peers;
        self.reroute(None);
    }

    /// The other regions.
    #[must_use]
    pub fn peers(&self) -> &[Origin] {
        &self.config.peers
    }

    /// Whether this region has what its peers had when their sessions began, and lags behind none
    /// of them by more than `bound_ms`: what a region that joins must reach before it serves.
    #[must_use]
    pub fn is_within(&self, bound_ms: u64) -> bool {
        let is_near = |(_, lag): (Origin, crate::PeerLag)| lag.behind_ms <= bound_ms;
        self.is_caught_up() && self.lags().all(is_near)
    }

    /// Whether every other region durably has all that this one has written: nothing is lost when
    /// it goes. Only meaningful once it writes nothing new.
    #[must_use]
    pub fn is_held_by_all(&self) -> bool {
        let stage = self.engine.stage();
        let me = stage.me();
        let mine = stage.vectors();
        self.config.peers.iter().all(|peer| {
            self.acknowledged(*peer).is_some_and(|theirs| {
                theirs.len() == mine.len()
                    && theirs.iter().zip(&mine).all(|(t, m)| t.get(me) >= m.get(me))
            })
        })
    }
}
