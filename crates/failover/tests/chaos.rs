//! Random faults from a seed. The world checks at every millisecond that there are never two
//! primaries and that everybody agrees; after healing the cluster must be whole again.

#[allow(dead_code)] // each test uses its part of it
mod world;

use meridian_failover::FailoverConfig;
use world::{US, World};

/// One seed's run over the given regions; the trace.
fn storm(regions: &[u16], seed: u64) -> Vec<String> {
    let mut world = World::with(FailoverConfig::new(regions[0], regions.to_vec()), seed);
    for _ in 0..60 {
        let (id, other) = (world.pick(regions), world.pick(regions));
        match world.pick(&[0, 0, 1, 1, 2, 3, 3, 4, 5, 6, 7, 8]) {
            0 => world.kill(id),
            1 => world.start(id),
            2 if world.is_alive(id) => world.freeze(id),
            3 => regions.iter().for_each(|&id| world.thaw(id)),
            4 => world.isolate(id),
            5 => world.cut(id, other),
            6 => world.heal(),
            7 => world.loss = world.pick(&[0, 10, 40]),
            _ => {
                let is_broken = world.pick(&[true, false]);
                world.break_disk(id, is_broken);
            }
        }
        let pause_ms = world.pick(&[1, 50, 300, 700, 2_000, 4_000]);
        world.run(pause_ms);
    }
    world.heal();
    world.loss = 0;
    for &id in regions {
        world.thaw(id);
        world.start(id);
        world.break_disk(id, false);
    }
    // The longest hold, and what it takes before and after it.
    world.run_until(80_000, |w| w.is_all_up() && w.primary() == Some(US));
    let epoch = world.epoch(US);
    world.run(10_000);
    assert_eq!(world.epoch(US), epoch, "a whole cluster decides nothing");
    world.trace
}

#[test]
fn three_regions_never_have_two_primaries() {
    for seed in 0..25 {
        println!("seed {seed}");
        let trace = storm(&[0, 1, 2], seed);
        assert!(trace.iter().any(|line| line.contains("Epoch")), "nothing happened");
    }
}

#[test]
fn five_regions_never_have_two_primaries() {
    for seed in 1_000..1_006 {
        println!("seed {seed}");
        storm(&[0, 1, 2, 3, 4], seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(storm(&[0, 1, 2], 5), storm(&[0, 1, 2], 5));
    assert_ne!(storm(&[0, 1, 2], 5), storm(&[0, 1, 2], 6));
}
