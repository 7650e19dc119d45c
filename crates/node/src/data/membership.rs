//! Regions come and go while the data is served.

use std::collections::BTreeSet;

use meridian_clock::{Origin, VersionVector};

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

    /// Whether every other region durably has all that this one has written, and all that it has of
    /// regions that are gone or away: nothing is lost when it goes. Only meaningful once it writes
    /// nothing new.
    #[must_use]
    pub fn is_held_by_all(&self) -> bool {
        let stage = self.engine.stage();
        let mine = stage.vectors();
        // Who is heard ships its own writes itself; for the dead, for who has left and for who may not
        // come back nobody does.
        let is_ours = |origin: Origin| {
            let is_heard = self.peers.get(&origin).is_some_and(|peer| peer.version.is_some());
            !is_heard || !self.config.peers.contains(&origin)
        };
        self.config.peers.iter().all(|peer| {
            // What it has written itself it had on disk before it came here (rule R6).
            let must_have = |origin: Origin| origin != *peer && is_ours(origin);
            let holds = |(theirs, mine): (&VersionVector, &VersionVector)| {
                mine.iter().all(|(origin, time)| !must_have(origin) || theirs.get(origin) >= time)
            };
            self.acknowledged(*peer).is_some_and(|theirs| {
                theirs.len() == mine.len() && theirs.iter().zip(&mine).all(holds)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use meridian_clock::Time;
    use meridian_keyspace::{Ablations, Durability, Engine, EngineConfig, Stage, StageConfig};
    use meridian_store::LogPosition;

    use super::*;
    use crate::{
        DataConfig,
        data::{LastWord, Peer},
        limits::LAST_WORDS_MS,
    };

    const ME: Origin = Origin(0);
    const PEER: Origin = Origin(1);
    const DEAD: Origin = Origin(2);
    const AWAY: Origin = Origin(3);

    fn node() -> DataNode {
        let ablations = Ablations::default();
        let stage = StageConfig { me: ME, partitions: 1, seed: 1, ablations };
        let config = EngineConfig {
            stage: stage.clone(),
            durability: Durability::Always,
            password: None,
            cluster: "test".into(),
            region: "me".into(),
            regions: BTreeMap::new(),
        };
        let engine = Engine::new(config, Stage::new(stage), LogPosition(0));
        let (cluster, peers) = ("test".into(), vec![PEER, DEAD, AWAY]);
        DataNode::new(engine, DataConfig { cluster, peers, ablations, scrub_every_ms: 0 })
    }

    /// A peer acknowledges that now.
    fn say(node: &mut DataNode, peer: Origin, vector: VersionVector) {
        let word = LastWord { vectors: vec![vector], at_ms: node.now_ms };
        node.acknowledged.insert(peer, word);
    }

    #[test]
    fn who_leaves_hands_over_what_only_it_has_of_the_dead_and_of_who_is_away() {
        let mut node = node();
        node.set_members(vec![PEER, AWAY], 4);
        let mine = &mut node.engine.stage_mut().partition_mut(0).vector;
        mine.set(ME, Time(7));
        mine.set(DEAD, Time(5));
        mine.set(PEER, Time(9));
        mine.set(AWAY, Time(3));
        // What it wrote last came here before it could acknowledge it.
        let mut away = VersionVector::new();
        away.set(ME, Time(7));
        away.set(DEAD, Time(5));
        say(&mut node, AWAY, away);
        let heard = Peer { version: Some(1), ..Peer::default() };
        node.peers.insert(PEER, heard);
        let mut theirs = VersionVector::new();
        for (origin, time) in [(ME, 7), (DEAD, 5), (AWAY, 3)] {
            say(&mut node, PEER, theirs.clone());
            assert!(!node.is_held_by_all(), "nobody else has what {origin:?} wrote");
            theirs.set(origin, Time(time));
        }
        say(&mut node, PEER, theirs);
        assert!(node.is_held_by_all());
    }

    #[test]
    fn an_origin_is_retired_on_words_that_were_said_after_its_last_ones_could_have_come() {
        let mut node = node();
        node.set_members(vec![PEER], 4);
        node.origins.insert(DEAD);
        let is_retired = |node: &mut DataNode| {
            node.retire_origins();
            node.engine.stage().partition(0).is_complete(DEAD, Time(5))
        };
        say(&mut node, PEER, VersionVector::new());
        for ms in [0, 100, 2 * LAST_WORDS_MS] {
            node.now_ms = ms;
            assert!(!is_retired(&mut node), "{ms} ms: said before");
        }
        say(&mut node, PEER, VersionVector::new());
        assert!(is_retired(&mut node));
    }

    #[test]
    fn the_last_one_retires_who_is_gone_also_after_a_restart() {
        let mut node = node();
        node.engine.stage_mut().partition_mut(0).vector.set(DEAD, Time(5));
        let DataNode { engine, mut config, .. } = node;
        config.peers.clear();
        let mut again = DataNode::new(engine, config);
        again.handed_out = 4;
        for ms in [0, 2 * LAST_WORDS_MS] {
            again.now_ms = ms;
            again.retire_origins();
        }
        assert!(again.engine.stage().partition(0).is_complete(DEAD, Time(9)));
    }
}
