//! Who hears whom: this region's own ears and the reports of the others, weighed by majority.

use std::collections::BTreeMap;

use crate::FailoverConfig;
use crate::heartbeat::{Heartbeat, Sighting};

/// What one region hears of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Heard,
    Silent,
    /// No evidence either way: too early after a start, or the witness itself is silent.
    Unknown,
}

/// What the voters together hear of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// A majority of voters exchanges heartbeats with it.
    Heard,
    /// Neither is certain.
    Unclear,
    /// So many voters are cut from it that it cannot be part of a majority.
    Silent,
}

/// The other regions' heartbeats. Times are this region's clock.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    started_ms: u64,
    peers: BTreeMap<u16, Peer>,
}

#[derive(Debug, Clone, Default)]
struct Peer {
    /// When the newest heartbeat arrived, moved by this region's own pauses.
    heard_ms: Option<u64>,
    last: Option<Heartbeat>,
}

impl Peers {
    pub(crate) fn new(config: &FailoverConfig, now_ms: u64) -> Self {
        let others = config.regions.iter().filter(|&&region| region != config.id);
        let peers = others.map(|&region| (region, Peer::default())).collect();
        Self { started_ms: now_ms, peers }
    }

    /// Begins to listen to new regions and forgets those that are gone.
    pub(crate) fn set_regions(&mut self, config: &FailoverConfig) {
        self.peers.retain(|region, _| config.regions.contains(region));
        for &region in config.regions.iter().filter(|&&region| region != config.id) {
            self.peers.entry(region).or_default();
        }
    }

    /// Keeps a heartbeat unless a newer one of the sender was kept already (datagrams overtake
    /// each other). A lower incarnation is believed once the higher one has fallen silent: the
    /// region's clock was set back between two lives.
    pub(crate) fn receive(
        &mut self,
        now_ms: u64,
        from: u16,
        heartbeat: Heartbeat,
        config: &FailoverConfig,
    ) -> bool {
        let is_silent = self.link_from_here(from, now_ms, config) == Link::Silent;
        let Some(peer) = self.peers.get_mut(&from) else { return false };
        if let Some(last) = &peer.last {
            let is_older_life = heartbeat.incarnation < last.incarnation;
            let is_newer = heartbeat.stamp() > last.stamp();
            let is_set_back = is_older_life && is_silent;
            if !is_newer && !is_set_back {
                return false;
            }
        }
        peer.heard_ms = Some(now_ms);
        peer.last = Some(heartbeat);
        true
    }

    /// The time during which this region did not run is not evidence of the others' silence.
    pub(crate) fn forgive_pause(&mut self, gap_ms: u64) {
        self.started_ms += gap_ms;
        for peer in self.peers.values_mut() {
            peer.heard_ms = peer.heard_ms.map(|heard_ms| heard_ms + gap_ms);
        }
    }

    /// The newest heartbeat of `region`.
    pub(crate) fn last(&self, region: u16) -> Option<&Heartbeat> {
        self.peers.get(&region).and_then(|peer| peer.last.as_ref())
    }

    /// When `region` was heard last.
    pub(crate) fn heard_ms(&self, region: u16) -> Option<u64> {
        self.peers.get(&region).and_then(|peer| peer.heard_ms)
    }

    /// The newest heartbeat of `region`, if that is not silent.
    pub(crate) fn fresh(
        &self,
        region: u16,
        now_ms: u64,
        config: &FailoverConfig,
    ) -> Option<&Heartbeat> {
        let peer = self.peers.get(&region)?;
        let silent_ms = now_ms.saturating_sub(peer.heard_ms?);
        peer.last.as_ref().filter(|_| silent_ms < config.timing.down_after_ms)
    }

    /// Milliseconds since `region` was heard; counted from the start once it has had the time to
    /// appear, `None` until then.
    pub(crate) fn silent_ms(
        &self,
        region: u16,
        now_ms: u64,
        config: &FailoverConfig,
    ) -> Option<u64> {
        if let Some(heard_ms) = self.heard_ms(region) {
            return Some(now_ms.saturating_sub(heard_ms));
        }
        let waited_ms = now_ms.saturating_sub(self.started_ms);
        (waited_ms >= config.timing.startup_grace_ms).then_some(waited_ms)
    }

    /// What this region tells the others that it hears.
    pub(crate) fn sightings(&self, now_ms: u64, config: &FailoverConfig) -> Vec<Sighting> {
        let sighting = |(&region, peer): (&u16, &Peer)| Sighting {
            region,
            silent_ms: self
                .silent_ms(region, now_ms, config)
                .map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)),
            echo: peer.last.as_ref().map(Heartbeat::stamp),
        };
        self.peers.iter().map(sighting).collect()
    }

    /// What the voters together hear of `region`. A link counts in both directions: a region that
    /// can speak but not hear is of no use to the others.
    pub(crate) fn reach(&self, region: u16, now_ms: u64, config: &FailoverConfig) -> Reach {
        let itself = usize::from(config.voters.contains(&region));
        let links = config.voters.iter().filter(|&&voter| voter != region);
        let links: Vec<Link> =
            links.map(|&voter| self.link_both_ways(voter, region, now_ms, config)).collect();
        let heard = links.iter().filter(|&&link| link == Link::Heard).count() + itself;
        let cut = links.iter().filter(|&&link| link == Link::Silent).count();
        if heard >= config.majority() {
            Reach::Heard
        } else if config.voters.len() - cut < config.majority() {
            Reach::Silent
        } else {
            Reach::Unclear
        }
    }

    fn link_both_ways(&self, a: u16, b: u16, now_ms: u64, config: &FailoverConfig) -> Link {
        match (self.link(a, b, now_ms, config), self.link(b, a, now_ms, config)) {
            (Link::Silent, _) | (_, Link::Silent) => Link::Silent,
            (Link::Heard, Link::Heard) => Link::Heard,
            _ => Link::Unknown,
        }
    }

    /// What `witness` hears of `region`, as far as this region knows.
    fn link(&self, witness: u16, region: u16, now_ms: u64, config: &FailoverConfig) -> Link {
        if witness == config.id {
            return self.link_from_here(region, now_ms, config);
        }
        let Some(heartbeat) = self.fresh(witness, now_ms, config) else { return Link::Unknown };
        match heartbeat.sighting(region).and_then(|sighting| sighting.silent_ms) {
            Some(ms) if u64::from(ms) >= config.timing.down_after_ms => Link::Silent,
            Some(_) => Link::Heard,
            None => Link::Unknown,
        }
    }

    fn link_from_here(&self, region: u16, now_ms: u64, config: &FailoverConfig) -> Link {
        match self.silent_ms(region, now_ms, config) {
            Some(ms) if ms >= config.timing.down_after_ms => Link::Silent,
            Some(_) => Link::Heard,
            None => Link::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Level;

    fn heartbeat(incarnation: u64, sent_ms: u64, seen: &[(u16, u32)]) -> Heartbeat {
        let sighting =
            |&(region, ms): &(u16, u32)| Sighting { region, silent_ms: Some(ms), echo: None };
        Heartbeat {
            incarnation,
            sent_ms,
            epoch: 0,
            primary: 0,
            level: Level::Healthy,
            is_caught_up: true,
            is_released: true,
            seen: seen.iter().map(sighting).collect(),
        }
    }

    /// Reach of region 2 at 10 s, as seen by region 0 of three, which heard each peer at the
    /// given times.
    fn reach_of_2(one: (u64, &[(u16, u32)]), two: (u64, &[(u16, u32)])) -> Reach {
        let config = FailoverConfig::new(0, vec![0, 1, 2]);
        let mut peers = Peers::new(&config, 0);
        for (region, (at_ms, seen)) in [(1, one), (2, two)] {
            assert!(peers.receive(at_ms, region, heartbeat(1, at_ms, seen), &config));
        }
        peers.reach(2, 10_000, &config)
    }

    #[test]
    fn a_majority_decides_in_both_directions() {
        let (now, long_ago) = (9_990, 9_000);
        let all_well = [(0, 10), (2, 10)];
        assert_eq!(reach_of_2((now, &all_well), (now, &[(0, 5), (1, 5)])), Reach::Heard);
        assert_eq!(reach_of_2((now, &[(0, 5), (2, 900)]), (long_ago, &[])), Reach::Silent);
        // One of two does not hear it: not a majority of three.
        assert_eq!(reach_of_2((now, &[(0, 5), (2, 900)]), (now, &[(0, 5), (1, 5)])), Reach::Heard);
        assert_eq!(reach_of_2((now, &all_well), (long_ago, &[])), Reach::Unclear);
        // It is heard by all and hears nobody.
        assert_eq!(reach_of_2((now, &all_well), (now, &[(0, 900), (1, 900)])), Reach::Silent);
        // The other witness is silent too: one voter alone knows nothing for certain.
        assert_eq!(reach_of_2((long_ago, &all_well), (long_ago, &[])), Reach::Unclear);
    }

    #[test]
    fn older_heartbeats_do_not_replace_newer_ones() {
        let config = FailoverConfig::new(0, vec![0, 1, 2]);
        let mut peers = Peers::new(&config, 0);
        let mut receive = |at_ms, incarnation, sent_ms| {
            peers.receive(at_ms, 1, heartbeat(incarnation, sent_ms, &[]), &config)
        };
        assert!(receive(10, 5, 100));
        assert!(!receive(20, 5, 100), "a duplicate");
        assert!(!receive(30, 5, 90), "overtaken");
        assert!(!receive(40, 4, 900), "of a former life");
        assert!(receive(50, 6, 1), "a new life");
        assert!(receive(2_000, 4, 1), "clock set back between two lives");
    }

    #[test]
    fn own_pauses_are_not_held_against_others() {
        let config = FailoverConfig::new(0, vec![0, 1, 2]);
        let mut peers = Peers::new(&config, 0);
        assert!(peers.receive(100, 1, heartbeat(1, 1, &[]), &config));
        peers.forgive_pause(60_000);
        assert_eq!(peers.silent_ms(1, 60_150, &config), Some(50));
        assert_eq!(peers.silent_ms(2, 60_150, &config), None, "never heard, still in grace");
    }
}
