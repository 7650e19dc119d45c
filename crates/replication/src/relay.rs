//! The relay trees: in a large cluster not every region feeds every other one directly.
//!
//! Every region computes the same tree for each origin from what all of them know, the regions and
//! their distances: nothing needs to be agreed upon. The origin feeds the nearest ones, these feed
//! those that are farther away (Prim's algorithm over arrival times, with a bound on the children
//! of a node). While regions know different topologies, say during an upgrade, their trees may not
//! fit together; then nothing arrives at somebody although others have it, which
//! [`Router`](crate::Router) notices and goes round.

use std::collections::{BTreeMap, BTreeSet};

use meridian_clock::Origin;

use crate::limits::{RELAY_HOP_MS, RELAY_LOAD_MS};

/// For every origin, from whom each other region gets that origin's frames.
pub type Trees = BTreeMap<Origin, BTreeMap<Origin, Origin>>;

/// From whom one region gets whose frames. Whoever is not named is asked directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayPlan {
    upstreams: BTreeMap<Origin, Origin>,
}

impl RelayPlan {
    /// Everybody is asked directly.
    #[must_use]
    pub fn direct() -> RelayPlan {
        RelayPlan::default()
    }

    /// The part of `me` in the trees of [`relay_trees`].
    #[must_use]
    pub fn new(
        me: Origin,
        regions: &BTreeSet<Origin>,
        round_trip_ms: impl Fn(Origin, Origin) -> u64,
        fanout: usize,
    ) -> RelayPlan {
        if regions.len() <= fanout.max(1) + 1 {
            return RelayPlan::direct();
        }
        let trees = relay_trees(regions, round_trip_ms, fanout);
        let mine = |(origin, tree): (&Origin, &BTreeMap<Origin, Origin>)| {
            tree.get(&me).map(|upstream| (*origin, *upstream))
        };
        RelayPlan { upstreams: trees.iter().filter_map(mine).collect() }
    }

    /// Whom to ask for an origin's frames while all is well.
    #[must_use]
    pub fn upstream(&self, origin: Origin) -> Origin {
        self.upstreams.get(&origin).copied().unwrap_or(origin)
    }
}

/// One tree for each origin, in which no region feeds more than `fanout` others (at least one).
/// `round_trip_ms` need not be symmetric: the lower ordinal is asked first.
#[must_use]
pub fn relay_trees(
    regions: &BTreeSet<Origin>,
    round_trip_ms: impl Fn(Origin, Origin) -> u64,
    fanout: usize,
) -> Trees {
    // What a region already feeds in other trees makes it a little farther away, so that the best
    // connected ones do not feed everybody with everything.
    let mut load: BTreeMap<Origin, u64> = BTreeMap::new();
    let mut trees = Trees::new();
    for origin in regions {
        let tree = grow(*origin, regions, &round_trip_ms, fanout.max(1), &load);
        for upstream in tree.values() {
            *load.entry(*upstream).or_default() += 1;
        }
        trees.insert(*origin, tree);
    }
    trees
}

/// A region that has its place in the tree.
struct Placed {
    node: Origin,
    /// When a frame arrives there, after its writing.
    arrival_ms: u64,
    children: usize,
}

fn grow(
    origin: Origin,
    regions: &BTreeSet<Origin>,
    round_trip_ms: &impl Fn(Origin, Origin) -> u64,
    fanout: usize,
    load: &BTreeMap<Origin, u64>,
) -> BTreeMap<Origin, Origin> {
    let mut tree = BTreeMap::new();
    let mut placed = vec![Placed { node: origin, arrival_ms: 0, children: 0 }];
    let mut missing: Vec<Origin> = regions.iter().copied().filter(|r| *r != origin).collect();
    while !missing.is_empty() {
        let busy = |node: Origin| {
            load.get(&node).copied().unwrap_or(0) * RELAY_LOAD_MS / (regions.len() as u64 - 1)
        };
        let cost = |parent: &Placed, child: Origin| {
            let (low, high) = (parent.node.min(child), parent.node.max(child));
            let link = round_trip_ms(low, high) / 2;
            let way = parent.arrival_ms + link + RELAY_HOP_MS;
            // Of two ways that are about as long, the one whose last link is short: the long links
            // are crossed once. Who feeds many already comes late, and so feeds few.
            (way + link / 2 + busy(parent.node) + busy(child), way)
        };
        let open = placed.iter().enumerate().filter(|(_, parent)| parent.children < fanout);
        let pairs = open.flat_map(|(at, parent)| {
            missing.iter().enumerate().map(move |(index, child)| {
                let (cost, way) = cost(parent, *child);
                (cost, *child, parent.node, at, index, way)
            })
        });
        // Somebody always has room: the one that was placed last feeds nobody yet.
        let Some((_, child, parent, at, index, arrival_ms)) = pairs.min() else { break };
        placed[at].children += 1;
        tree.insert(child, parent);
        placed.push(Placed { node: child, arrival_ms, children: 0 });
        missing.swap_remove(index);
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(count: u16) -> BTreeSet<Origin> {
        (0..count).map(Origin).collect()
    }

    /// How many hops a frame of `origin` takes to `node`.
    fn depth(trees: &Trees, origin: Origin, node: Origin) -> usize {
        let hops = std::iter::successors(Some(node), |at| trees[&origin].get(at).copied());
        hops.take(trees.len() + 1).position(|at| at == origin).expect("a loop")
    }

    #[test]
    fn up_to_the_fanout_everybody_is_asked_directly() {
        let plan = RelayPlan::new(Origin(3), &regions(8), |_, _| 10, 7);
        assert_eq!(plan, RelayPlan::direct());
        assert_eq!(plan.upstream(Origin(5)), Origin(5));
    }

    #[test]
    fn the_far_get_it_from_the_near() {
        // Two continents of five: 10 ms within, 100 ms across.
        let apart = |a: Origin, b: Origin| if (a.0 < 5) == (b.0 < 5) { 10 } else { 100 };
        let trees = relay_trees(&regions(10), apart, 5);
        for origin in regions(10) {
            let same = |node: &Origin| (node.0 < 5) == (origin.0 < 5);
            let crossings = trees[&origin].iter().filter(|(c, p)| same(c) != same(p)).count();
            assert_eq!(crossings, 1, "the ocean is crossed once for {origin}: {trees:?}");
        }
    }

    #[test]
    fn fifty_regions_are_at_most_three_hops_away_and_the_work_is_shared() {
        let trees = relay_trees(&regions(50), |_, _| 80, 7);
        let mut fed: BTreeMap<Origin, usize> = BTreeMap::new();
        for (origin, tree) in &trees {
            assert_eq!(tree.len(), 49);
            let mut children: BTreeMap<Origin, usize> = BTreeMap::new();
            for (node, parent) in tree {
                *children.entry(*parent).or_default() += 1;
                assert!(depth(&trees, *origin, *node) <= 3);
            }
            assert!(children.values().all(|c| *c <= 7));
            children.into_iter().for_each(|(p, c)| *fed.entry(p).or_default() += c);
        }
        assert!(fed.values().all(|streams| *streams <= 2 * 49), "{fed:?}");
    }

    #[test]
    fn a_chain_is_the_narrowest_tree() {
        let trees = relay_trees(&regions(6), |_, _| 10, 0);
        for (origin, tree) in &trees {
            let parents: BTreeSet<Origin> = tree.values().copied().collect();
            assert_eq!(parents.len(), 5, "each feeds one in the tree of {origin}");
        }
    }
}
