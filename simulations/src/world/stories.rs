//! What random faults do not show, because they end: stories told on purpose.

use super::World;
use crate::plan::{Fault, MS, SECOND};

/// Three regions 40 ms apart; nothing goes wrong but what the story says.
fn calm_world() -> World {
    let plan = "seed=1 regions=3 durability=1 control=1 delay=40000 jitter=100 loss=20 \
                duplicates=20 active=60000000 think=50000 families=strings+counters+sets";
    World::new(plan.parse().expect("a plan"), None).expect("starts")
}

impl World {
    fn run_until(&mut self, until_us: u64) {
        while self.now_us < until_us {
            let is_over = self.step().expect("no judge objects");
            assert!(!is_over, "the story is longer than its plan");
        }
    }

    fn primaries(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.is_primary(*place)).collect()
    }

    /// Whether the region has everything that another one had written and synced by now.
    fn has_all_of(&self, place: usize, other: usize) -> bool {
        let origin = self.places[other].config.origin;
        let pairs = self.places[place].appended.iter().zip(&self.places[other].synced);
        let mut pairs = pairs.map(|(here, there)| (here.get(origin), there.get(origin)));
        pairs.all(|(here, there)| here >= there)
    }
}

#[test]
fn the_primary_role_moves_when_its_region_dies_and_comes_back() {
    let mut world = calm_world();
    world.run_until(3 * SECOND);
    assert_eq!(world.primaries(), [0]);
    world.crash(0, true).expect("dies");
    world.run_until(6 * SECOND);
    assert_eq!(world.primaries(), [1]);
    world.start(0).expect("starts");
    world.run_until(30 * SECOND);
    assert_eq!(world.primaries(), [0], "the first choice has it again");
    assert!(world.counts.takeovers >= 3);
}

#[test]
fn a_region_without_a_majority_is_not_primary_for_long() {
    let mut world = calm_world();
    world.run_until(3 * SECOND);
    for other in [1, 2] {
        world.network.cut(0, other);
        world.network.cut(other, 0);
    }
    world.run_until(6 * SECOND);
    assert_eq!(world.primaries(), [1]);
}

#[test]
fn what_cannot_come_directly_comes_through_a_third_region() {
    let mut world = calm_world();
    world.run_until(2 * SECOND);
    world.network.cut(0, 1);
    world.network.cut(1, 0);
    world.break_session((0, 1), MS);
    world.run_until(10 * SECOND);
    // Everything stands still while both ends are compared; then what is on its way arrives.
    for slot in 0..world.clients.len() {
        world.clients[slot] = None;
    }
    world.calm = true;
    world.run_until(13 * SECOND);
    assert!(world.network.is_cut(0, 1), "the cut is still there");
    assert!(world.has_all_of(0, 1) && world.has_all_of(1, 0));
}

#[test]
fn a_region_that_stands_still_is_not_missed_for_ever() {
    let mut world = calm_world();
    world.run_until(2 * SECOND);
    world.places[0].paused_until_us = 5 * SECOND;
    world.run_until(4 * SECOND);
    assert_eq!(world.primaries(), [1], "its lease ran out while it slept");
    world.run_until(6 * SECOND);
    assert!(world.primaries().len() <= 1);
    world.strike(Fault::SessionBreak, 0).expect("a session breaks");
    world.run_until(25 * SECOND);
    assert_eq!(world.primaries(), [0]);
}
