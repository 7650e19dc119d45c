//! The WAN of `up`: a link for each pair of regions, found by their names.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meridian_wan::{Direction, Link, LinkId, Shape, Wan, WanHandle};

use super::protocol::RunningLink;
use crate::config::{ClusterFile, Region};

/// Losses repeat from run to run.
const SEED: u64 = 0x6d65_7269_6469_616e;

/// All links between regions. Of two regions the one with the lower ordinal calls, so its packets
/// go through the link's forward direction.
pub struct Links {
    wan: WanHandle,
    links: Vec<Pair>,
}

struct Pair {
    id: LinkId,
    caller: String,
    called: String,
    is_cut_forward: bool,
    is_cut_backward: bool,
}

impl Links {
    /// Starts a link for each pair of regions; if `is_delayed` with half of the pair's round trip
    /// each way.
    ///
    /// # Errors
    /// When a link cannot listen.
    pub fn start(cluster: &ClusterFile, is_delayed: bool) -> Result<Links> {
        let mut regions: Vec<&Region> = cluster.regions.iter().collect();
        regions.sort_by_key(|region| region.ordinal);
        let mut links = Vec::new();
        let mut pairs = Vec::new();
        for (index, caller) in regions.iter().enumerate() {
            for called in &regions[index + 1..] {
                let known_ms = cluster.round_trip_ms(&caller.name, &called.name);
                let round_trip_ms = known_ms.filter(|_| is_delayed).unwrap_or(0);
                let shape = Shape::delay(Duration::from_millis(round_trip_ms) / 2);
                let listen = SocketAddr::new(loopback_like(called.mesh), 0);
                pairs.push(Pair {
                    id: LinkId(links.len()),
                    caller: caller.name.clone(),
                    called: called.name.clone(),
                    is_cut_forward: false,
                    is_cut_backward: false,
                });
                links.push(Link { listen, to: called.mesh, shape });
            }
        }
        Ok(Links { wan: Wan::start(links, SEED).context("the WAN")?, links: pairs })
    }

    /// Where a region has to call its peers to go through the links.
    ///
    /// # Errors
    /// None that can happen to links that were started.
    pub fn peers_of(&self, region: &str) -> Result<Vec<(String, SocketAddr)>> {
        let called = self.links.iter().filter(|pair| pair.caller == region);
        called.map(|pair| Ok((pair.called.clone(), self.wan.listen_addr(pair.id)?))).collect()
    }

    /// Cuts the links between two regions, or all of one; `one_way` only what leaves `from`.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn cut(&mut self, from: &str, to: Option<&str>, one_way: bool) -> Result<String> {
        self.switch(Some(from), to, one_way, true)
    }

    /// Heals the links between two regions, all of one, or all.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn heal(&mut self, from: Option<&str>, to: Option<&str>) -> Result<String> {
        self.switch(from, to, false, false)
    }

    /// Changes how a link treats packets from now on.
    ///
    /// # Errors
    /// When there is no such link, or the figures make no sense.
    pub fn set(&mut self, from: &str, to: &str, shape: Shape) -> Result<String> {
        let found = self.matching(Some(from), Some(to))?;
        for index in found {
            self.wan.set_shape(self.links[index].id, shape)?;
        }
        let round_trip_ms = shape.one_way_delay.as_millis() * 2;
        Ok(format!("{from} – {to}: {round_trip_ms} ms round trip, {} lost", shape.loss))
    }

    /// Every link and what has passed over it.
    ///
    /// # Errors
    /// None that can happen to links that were started.
    pub fn describe(&self) -> Result<Vec<RunningLink>> {
        let describe = |pair: &Pair| {
            let shape = self.wan.shape(pair.id)?;
            let stats = self.wan.stats(pair.id)?;
            let both = [stats.forward, stats.backward];
            Ok(RunningLink {
                from: pair.caller.clone(),
                to: pair.called.clone(),
                rtt_ms: shape.one_way_delay.as_secs_f64() * 2000.0,
                loss: shape.loss,
                is_cut_forward: pair.is_cut_forward,
                is_cut_backward: pair.is_cut_backward,
                packets: both.iter().map(|line| line.forwarded).sum(),
                bytes: both.iter().map(|line| line.forwarded_bytes).sum(),
                lost: both.iter().map(|line| line.lost + line.cut + line.overflowed).sum(),
            })
        };
        self.links.iter().map(describe).collect()
    }

    fn switch(
        &mut self,
        from: Option<&str>,
        to: Option<&str>,
        one_way: bool,
        is_cut: bool,
    ) -> Result<String> {
        let found = self.matching(from, to)?;
        let mut names = Vec::new();
        for index in found {
            let pair = &mut self.links[index];
            let leaves_caller = from.is_none_or(|from| from == pair.caller);
            if !one_way || leaves_caller {
                self.wan.set_cut(pair.id, Direction::Forward, is_cut)?;
                pair.is_cut_forward = is_cut;
            }
            if !one_way || !leaves_caller {
                self.wan.set_cut(pair.id, Direction::Backward, is_cut)?;
                pair.is_cut_backward = is_cut;
            }
            let (one, other) = match leaves_caller {
                true => (&pair.caller, &pair.called),
                false => (&pair.called, &pair.caller),
            };
            names.push(format!("{one} {} {other}", if one_way { "→" } else { "–" }));
        }
        Ok(format!("{} {}", names.join(", "), if is_cut { "cut" } else { "healed" }))
    }

    /// The links that two names mean, as places in the list.
    fn matching(&self, from: Option<&str>, to: Option<&str>) -> Result<Vec<usize>> {
        for name in [from, to].into_iter().flatten() {
            ensure!(
                self.links.iter().any(|pair| pair.caller == name || pair.called == name),
                "there is no link of {name:?}"
            );
        }
        let has = |pair: &Pair, name: Option<&str>| {
            name.is_none_or(|name| pair.caller == name || pair.called == name)
        };
        let links = self.links.iter().enumerate();
        let found = links.filter(|(_, pair)| has(pair, from) && has(pair, to));
        let found: Vec<usize> = found.map(|(index, _)| index).collect();
        match (from, to) {
            (Some(from), Some(to)) if from == to => bail!("{from} has no link to itself"),
            _ if found.is_empty() => bail!("there is no such link"),
            _ => Ok(found),
        }
    }
}

/// Links are of this machine only.
fn loopback_like(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
        SocketAddr::V6(_) => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links::start(&ClusterFile::open(None).unwrap().0, true).unwrap()
    }

    fn cuts(links: &Links) -> Vec<(bool, bool)> {
        let all = links.describe().unwrap();
        all.iter().map(|link| (link.is_cut_forward, link.is_cut_backward)).collect()
    }

    #[tokio::test]
    async fn each_pair_has_a_link_with_its_delay() {
        let links = links();
        let described = links.describe().unwrap();
        let names: Vec<_> =
            described.iter().map(|l| (l.from.as_str(), l.to.as_str(), l.rtt_ms)).collect();
        assert_eq!(
            names,
            [
                ("us-east", "eu-central", 80.0),
                ("us-east", "ap-southeast", 220.0),
                ("eu-central", "ap-southeast", 180.0)
            ]
        );
        assert_eq!(links.peers_of("us-east").unwrap().len(), 2);
        assert_eq!(links.peers_of("ap-southeast").unwrap(), []);
    }

    #[tokio::test]
    async fn links_without_delay_are_links_all_the_same() {
        let links = Links::start(&ClusterFile::open(None).unwrap().0, false).unwrap();
        assert!(links.describe().unwrap().iter().all(|link| link.rtt_ms == 0.0));
        assert_eq!(links.peers_of("us-east").unwrap().len(), 2);
    }

    #[tokio::test]
    async fn links_are_cut_and_healed_by_name() {
        let mut links = links();
        let (all, none) = ((true, true), (false, false));
        let said = links.cut("eu-central", Some("us-east"), false).unwrap();
        assert_eq!(said, "eu-central – us-east cut");
        assert_eq!(cuts(&links), [all, none, none]);
        links.cut("ap-southeast", None, false).unwrap();
        assert_eq!(cuts(&links), [all, all, all]);
        links.heal(None, None).unwrap();
        assert_eq!(cuts(&links), [none, none, none]);
        let said = links.cut("eu-central", None, true).unwrap();
        assert_eq!(said, "eu-central → us-east, eu-central → ap-southeast cut");
        assert_eq!(cuts(&links), [(false, true), none, (true, false)]);
        links.heal(Some("us-east"), None).unwrap();
        assert_eq!(cuts(&links), [none, none, (true, false)]);
        for (from, to) in [("mars", None), ("us-east", Some("mars")), ("us-east", Some("us-east"))]
        {
            assert!(links.cut(from, to, false).is_err(), "{from} {to:?}");
        }
    }

    #[tokio::test]
    async fn a_link_is_reshaped() {
        let mut links = links();
        let shape = Shape { loss: 0.5, ..Shape::delay(Duration::from_millis(7)) };
        links.set("us-east", "eu-central", shape).unwrap();
        let link = &links.describe().unwrap()[0];
        assert_eq!((link.rtt_ms, link.loss), (14.0, 0.5));
        let nonsense = Shape { loss: 7.0, ..Shape::default() };
        assert!(links.set("us-east", "eu-central", nonsense).is_err());
    }
}
