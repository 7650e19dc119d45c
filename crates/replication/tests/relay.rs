//! Everything arrives, whatever the links and whatever the plan: routers on random graphs.
//!
//! A model of delivery, no more: every region knows up to which time it has each origin's writes,
//! and an upstream sends what its subscriber lacks over a link with a delay. Watermarks, silence,
//! subscriptions and sessions that outlive their links are as in the node.

use std::collections::{BTreeMap, BTreeSet};

use meridian_clock::{Origin, Time, VersionVector};
use meridian_replication::{PeerView, RelayPlan, Router, Upstreams};
use proptest::prelude::*;

/// One step of time in milliseconds.
const STEP_MS: u64 = 50;
/// A watermark every so many steps.
const WATERMARK_STEPS: u64 = 2;
/// A session whose link is dead ends after so many steps.
const SESSION_STEPS: u64 = 60;
/// Everything has arrived this long after the last write: some stuck links in a row.
const SETTLE_STEPS: u64 = 60_000 / STEP_MS;

/// What travels on a link.
enum Word {
    Watermark(VersionVector),
    Subscribe(BTreeSet<Origin>, VersionVector),
    /// The writes of an origin after the first time, up to the second.
    Writes(Origin, Time, Time),
}

/// One end of a link, as its region sees it.
#[derive(Default)]
struct End {
    heard_step: u64,
    said: Vec<VersionVector>,
    asked: BTreeSet<Origin>,
    /// What the other end asked for, and what it has or was sent.
    wanted: BTreeSet<Origin>,
    sent: VersionVector,
    /// What is on the way to here, by step of arrival.
    arriving: Vec<(u64, Word)>,
}

struct Region {
    router: Router,
    vector: VersionVector,
    upstreams: Upstreams,
    ends: BTreeMap<usize, End>,
}

/// Two regions, the lower one first.
type Pair = (usize, usize);

struct Net {
    regions: Vec<Region>,
    /// Delay of each link in steps.
    delays: BTreeMap<Pair, u64>,
    /// Links that are dead, and since which step.
    dead: BTreeMap<Pair, u64>,
    step: u64,
}

fn link(a: usize, b: usize) -> Pair {
    (a.min(b), a.max(b))
}

fn origin(region: usize) -> Origin {
    Origin(region as u16)
}

impl Net {
    fn new(delays: BTreeMap<Pair, u64>, plans: Vec<RelayPlan>) -> Net {
        let ends = |me: usize| {
            let of_me = delays.keys().filter(|(a, b)| *a == me || *b == me);
            of_me.map(|(a, b)| (a + b - me, End::default())).collect()
        };
        let region = |(me, plan)| Region {
            router: Router::new(plan),
            vector: VersionVector::new(),
            upstreams: Upstreams::new(),
            ends: ends(me),
        };
        let regions = plans.into_iter().enumerate().map(region).collect();
        Net { regions, delays, dead: BTreeMap::new(), step: 0 }
    }

    /// The link carries nothing any more; its ends notice later.
    fn kill(&mut self, of: Pair) {
        self.dead.insert(of, self.step);
    }

    fn run(&mut self, steps: u64, writers: bool) {
        for _ in 0..steps {
            self.step += 1;
            for me in 0..self.regions.len() {
                if writers && self.step.is_multiple_of(1 + me as u64 % 7) {
                    let now = Time::from_ms(1_000_000 + self.step * STEP_MS);
                    self.regions[me].vector.raise(origin(me), now);
                }
                self.drop_sessions(me);
                self.receive(me);
                self.route(me);
                self.ship(me);
                if self.step.is_multiple_of(WATERMARK_STEPS) {
                    let vector = self.regions[me].vector.clone();
                    for to in self.regions[me].ends.keys().copied().collect::<Vec<_>>() {
                        self.send(me, to, Word::Watermark(vector.clone()));
                    }
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, word: Word) {
        let of = link(from, to);
        let at = self.step + self.delays[&of];
        if !self.dead.contains_key(&of)
            && let Some(end) = self.regions[to].ends.get_mut(&from)
        {
            end.arriving.push((at, word));
        }
    }

    fn drop_sessions(&mut self, me: usize) {
        let (dead, now) = (&self.dead, self.step);
        self.regions[me].ends.retain(|peer, _| {
            dead.get(&link(me, *peer)).is_none_or(|since| now < since + SESSION_STEPS)
        });
    }

    fn receive(&mut self, me: usize) {
        let (now, region) = (self.step, &mut self.regions[me]);
        for end in region.ends.values_mut() {
            let arriving = std::mem::take(&mut end.arriving);
            let (arrived, later): (Vec<_>, _) =
                arriving.into_iter().partition(|(at, _)| *at <= now);
            end.arriving = later;
            for (_, word) in arrived {
                end.heard_step = now;
                match word {
                    Word::Watermark(vector) => end.said = vec![vector],
                    Word::Subscribe(origins, has) => (end.wanted, end.sent) = (origins, has),
                    Word::Writes(origin, after, upto) => {
                        if region.vector.get(origin) >= after {
                            region.vector.raise(origin, upto);
                        }
                    }
                }
            }
        }
    }

    fn route(&mut self, me: usize) {
        let origins = (0..self.regions.len()).map(origin).collect();
        let (now, delays, region) = (self.step, &self.delays, &mut self.regions[me]);
        let view = |(peer, end): (&usize, &End)| {
            let view = PeerView {
                silent_ms: (now - end.heard_step) * STEP_MS,
                round_trip_ms: 2 * delays[&link(me, *peer)] * STEP_MS,
                vectors: end.said.clone(),
            };
            (origin(*peer), view)
        };
        let peers = region.ends.iter().map(view).collect();
        let mine = vec![region.vector.clone()];
        region.upstreams = region.router.route(now * STEP_MS, origin(me), &origins, &mine, &peers);
        let mut asks = Vec::new();
        for (peer, origins) in &region.upstreams {
            let end = region.ends.get_mut(&usize::from(peer.0)).expect("a peer");
            if end.asked != *origins {
                end.asked.clone_from(origins);
                asks.push((usize::from(peer.0), origins.clone(), region.vector.clone()));
            }
        }
        for (peer, origins, has) in asks {
            self.send(me, peer, Word::Subscribe(origins, has));
        }
    }

    fn ship(&mut self, me: usize) {
        let region = &mut self.regions[me];
        let mut out = Vec::new();
        for (peer, end) in &mut region.ends {
            for origin in &end.wanted {
                let (sent, have) = (end.sent.get(*origin), region.vector.get(*origin));
                if have > sent {
                    end.sent.set(*origin, have);
                    out.push((*peer, Word::Writes(*origin, sent, have)));
                }
            }
        }
        out.into_iter().for_each(|(peer, word)| self.send(me, peer, word));
    }

    /// Runs without writers until everything has arrived; false when it does not.
    fn settle(&mut self) -> bool {
        (0..SETTLE_STEPS).any(|_| {
            self.run(1, false);
            self.is_settled()
        })
    }

    fn is_settled(&self) -> bool {
        self.regions.iter().all(|region| region.vector == self.regions[0].vector)
    }

    fn detours(&self) -> u64 {
        self.regions.iter().map(|region| region.router.detours).sum()
    }
}

/// Draws a number below a bound: SplitMix64 (Steele, Lea, Flood 2014).
fn draw(seed: &mut u64, below: usize) -> usize {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % below as u64) as usize
}

/// A random tree, which alone connects all, and some links more.
fn graph(count: usize, more: usize, seed: &mut u64) -> (Vec<Pair>, Vec<Pair>) {
    let tree: Vec<_> = (1..count).map(|node| link(node, draw(seed, node))).collect();
    let mut pairs: Vec<_> = (0..more).map(|_| link(draw(seed, count), draw(seed, count))).collect();
    pairs.retain(|pair| pair.0 != pair.1 && !tree.contains(pair));
    (tree, pairs)
}

fn delays(links: impl Iterator<Item = Pair>, seed: &mut u64) -> BTreeMap<Pair, u64> {
    links.map(|of| (of, 1 + draw(seed, 4) as u64)).collect()
}

/// Plans that were made with different distances, so that their ways may run in circles.
fn careless_plans(count: usize, seed: &mut u64) -> Vec<RelayPlan> {
    let regions = (0..count).map(origin).collect();
    let plan = |me: usize| {
        let salt = draw(seed, 1 << 20);
        let distance = |a: Origin, b: Origin| {
            let mut pair = (salt + 64 * usize::from(a.0) + usize::from(b.0)) as u64;
            draw(&mut pair, 300) as u64
        };
        RelayPlan::new(origin(me), &regions, distance, 1)
    };
    (0..count).map(plan).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Links die under load, sessions go on for a while, plans contradict each other: as long as
    /// the graph is connected, everything arrives everywhere.
    #[test]
    fn on_any_connected_graph_everything_arrives(
        count in 2usize..12, more in 0usize..20, careless: bool, mut seed: u64,
    ) {
        let (tree, more) = graph(count, more, &mut seed);
        let plans = match careless {
            true => careless_plans(count, &mut seed),
            false => vec![RelayPlan::direct(); count],
        };
        let mut net = Net::new(delays(tree.iter().chain(&more).copied(), &mut seed), plans);
        net.run(100, true);
        more.iter().for_each(|of| net.kill(*of));
        net.run(100, true);
        prop_assert!(net.settle());
    }
}

#[test]
fn while_all_is_well_everybody_has_one_upstream_for_each_origin() {
    let (count, mut seed) = (20, 7);
    let regions: BTreeSet<Origin> = (0..count).map(origin).collect();
    let delays = delays((0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))), &mut seed);
    let distance =
        |a: Origin, b: Origin| 2 * STEP_MS * delays[&link(usize::from(a.0), usize::from(b.0))];
    let plans: Vec<RelayPlan> =
        (0..count).map(|me| RelayPlan::new(origin(me), &regions, distance, 4)).collect();
    let mut net = Net::new(delays.clone(), plans.clone());
    net.run(400, true);
    assert_eq!(net.detours(), 0, "nobody was suspected");
    let mut fed: BTreeMap<(Origin, Origin), usize> = BTreeMap::new();
    for (me, region) in net.regions.iter().enumerate() {
        for (peer, origins) in &region.upstreams {
            for of in origins {
                assert_eq!(plans[me].upstream(*of), *peer);
                *fed.entry((*peer, *of)).or_default() += 1;
            }
        }
    }
    assert_eq!(fed.values().sum::<usize>(), count * (count - 1));
    assert!(fed.values().all(|children| *children <= 4), "{fed:?}");
    assert!(net.settle());
}

/// A–C of three regions is cut: both go through B before the session has ended.
#[test]
fn a_cut_link_heals_through_the_third_region_while_its_session_lasts() {
    let delays = BTreeMap::from([((0, 1), 1), ((1, 2), 1), ((0, 2), 1)]);
    let mut net = Net::new(delays, vec![RelayPlan::direct(); 3]);
    net.run(100, true);
    net.kill((0, 2));
    let cut = net.step;
    let known = net.regions[0].vector.get(origin(0));
    while net.regions[2].vector.get(origin(0)) <= known {
        net.run(1, true);
    }
    assert!(net.step - cut < SESSION_STEPS / 3, "after {} steps", net.step - cut);
    assert_eq!(net.detours(), 2, "C asks B for A's, and A asks B for C's");
}
