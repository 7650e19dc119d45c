//! What happens when a region fails, as readable scripts over the demo's WAN. Times are virtual:
//! the same on every machine.

#[allow(dead_code)] // each test uses its part of it
mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;

use meridian_failover::{
    DnsTable, FailoverConfig, Level, Network, Reason, RegionAddresses, RegionState, Topology,
};
use world::{AP, EU, US, World};

/// The region that clients near us-east are sent to, by `witness`'s DNS server.
fn dns_answer(world: &World, witness: u16) -> u16 {
    let region = |name: &str| RegionAddresses {
        name: name.to_owned(),
        addresses: vec![IpAddr::from([127, 0, 0, 1])],
    };
    let topology = Topology {
        regions: BTreeMap::from([(US, region("us")), (EU, region("eu")), (AP, region("ap"))]),
        networks: vec![Network {
            cidr: "10.0.0.0/16".parse().expect("a network"),
            order: vec![US, EU, AP],
        }],
        default_order: vec![AP, EU, US],
        regions_per_answer: 1,
    };
    let failover = world.failover(witness);
    let suspects = failover.suspects(world.local_ms(witness));
    let table = DnsTable::compute(failover.state(), &topology, &suspects);
    table.route(IpAddr::from([10, 0, 0, 1])).regions[0]
}

#[test]
fn a_cluster_starts_with_its_first_choice_as_primary_and_the_control_leader_elsewhere() {
    let world = World::settled(1);
    assert_eq!(world.primary(), Some(US));
    assert_eq!(world.epoch(US), 0, "a clean start decides nothing: {:#?}", world.trace);
    for id in [US, EU, AP] {
        assert_eq!(world.failover(id).health(world.local_ms(id)).level, Level::Healthy);
        assert_eq!(dns_answer(&world, id), US);
    }
}

#[test]
fn the_primary_is_killed_and_comes_back() {
    for seed in 0..20 {
        let mut world = World::settled(seed);
        world.kill(US);
        let dns_ms = world.run_until(2_000, |w| dns_answer(w, EU) == EU && dns_answer(w, AP) == EU);
        assert!(dns_ms <= 800, "seed {seed}: DNS answers moved after {dns_ms} ms");
        let moved_ms = dns_ms + world.run_until(2_000, |w| w.primary() == Some(EU));
        assert!(moved_ms <= 1_200, "seed {seed}: the role moved after {moved_ms} ms");
        assert_eq!(world.state(EU, US), RegionState::Down);

        world.start(US);
        world.run_until(6_000, |w| w.state(EU, US) == RegionState::Up);
        assert_eq!(dns_answer(&world, EU), US);
        let back_ms = world.run_until(8_000, |w| w.primary() == Some(US));
        assert!(back_ms >= 2_500, "seed {seed}: it must prove itself first, not {back_ms} ms");
    }
}

#[test]
fn a_frozen_primary_is_replaced_and_wakes_up_as_nothing() {
    let mut world = World::settled(2);
    world.freeze(US);
    let moved_ms = world.run_until(2_000, |w| w.primary() == Some(EU));
    assert!(moved_ms <= 1_200, "{moved_ms} ms");
    world.run(5_000);
    world.thaw(US);
    // The world checks at every step that it does not act; here, that it knows.
    assert!(!world.failover(US).is_primary(world.local_ms(US)));
    world.run_until(8_000, |w| w.is_all_up());
    world.run_until(8_000, |w| w.primary() == Some(US));
}

#[test]
fn a_short_freeze_harms_nobody() {
    let mut world = World::settled(3);
    for id in [US, EU, AP] {
        let epoch = world.epoch(EU);
        world.freeze(id);
        world.run(250);
        world.thaw(id);
        world.run(3_000);
        assert_eq!(world.epoch(EU), epoch, "{:#?}", world.trace);
        assert_eq!(world.primary(), Some(US));
    }
}

#[test]
fn a_region_that_is_heard_but_hears_nobody_is_down() {
    let mut world = World::settled(4);
    world.cut(EU, US);
    world.cut(AP, US);
    world.run_until(2_500, |w| w.primary() == Some(EU));
    assert_eq!(world.state(EU, US), RegionState::Down);
    assert!(world.failover(US).is_isolated(world.local_ms(US)));
    world.heal();
    world.run_until(10_000, |w| w.is_all_up() && w.primary() == Some(US));
}

#[test]
fn one_cut_link_of_three_changes_nothing() {
    let mut world = World::settled(5);
    for (a, b) in [(US, EU), (EU, AP), (US, AP)] {
        world.cut(a, b);
        world.run(5_000);
        assert_eq!(world.epoch(EU), 0, "{a} to {b}: {:#?}", world.trace);
        assert_eq!(world.primary(), Some(US));
        world.cut(b, a);
        world.run(5_000);
        assert_eq!(world.epoch(EU), 0, "{a} and {b}: {:#?}", world.trace);
        world.heal();
        world.run(2_000);
    }
}

#[test]
fn an_isolated_primary_stops_before_another_begins_and_says_why() {
    let mut world = World::settled(6);
    world.isolate(US);
    let stopped_ms = world.run_until(2_000, |w| w.primary() != Some(US));
    assert_eq!(world.primary(), None, "nobody begins at the same time");
    assert!(stopped_ms <= 450, "{stopped_ms} ms");
    let health = world.failover(US).health(world.local_ms(US));
    assert_eq!(health.level, Level::Degraded);
    assert!(matches!(health.reasons[..], [Reason::Isolated { since_ms: Some(_) }]), "{health:?}");
    assert!(health.reasons[0].to_string().starts_with("cut off: no majority"));
    world.run_until(1_500, |w| w.primary() == Some(EU));
    assert_eq!(world.epoch(US), 0, "it cannot decide and does not hear of decisions");
    assert!(world.failover(US).suspects(world.local_ms(US)).is_empty(), "it accuses nobody");
    world.heal();
    world.run_until(10_000, |w| w.is_all_up() && w.primary() == Some(US));
}

#[test]
fn two_of_three_die_and_the_survivor_decides_nothing() {
    let mut world = World::settled(7);
    world.kill(EU);
    world.kill(AP);
    world.run(10_000);
    assert_eq!(world.primary(), None);
    assert_eq!(world.epoch(US), 0);
    assert!(world.failover(US).is_isolated(world.local_ms(US)));
    assert_eq!(dns_answer(&world, US), US, "its DNS goes on with what was last agreed");
    world.start(EU);
    world.run_until(4_000, |w| w.primary() == Some(US));
    world.run_until(4_000, |w| w.state(US, AP) == RegionState::Down);
    world.start(AP);
    world.run_until(15_000, |w| w.is_all_up() && w.primary() == Some(US));
}

#[test]
fn a_flapping_region_is_kept_out_for_longer_and_longer() {
    let mut world = World::settled(8);
    let mut outages = Vec::new();
    for _ in 0..5 {
        world.isolate(US);
        world.run_until(3_000, |w| w.state(EU, US) == RegionState::Down);
        world.heal();
        outages.push(world.run_until(60_000, |w| w.state(EU, US) == RegionState::Up));
    }
    for pair in outages.windows(2) {
        assert!(pair[1] >= pair[0] * 3 / 2, "{outages:?}");
    }
    assert!(outages[4] >= 16 * 2_000, "{outages:?}");
    // A flap during the wait starts the wait anew, without a decision.
    world.isolate(US);
    world.run_until(3_000, |w| w.state(EU, US) == RegionState::Down);
    let epoch = world.epoch(EU);
    for _ in 0..20 {
        world.heal();
        world.run(1_000);
        world.isolate(US);
        world.run(1_000);
    }
    assert_eq!(world.epoch(EU), epoch);
    // After a long good time it is forgiven.
    world.heal();
    world.run_until(70_000, |w| w.is_all_up());
    world.run(61_000);
    world.isolate(US);
    world.run_until(3_000, |w| w.state(EU, US) == RegionState::Down);
    assert_eq!(world.failover(EU).state().regions[&US].flaps, 1);
}

#[test]
fn a_region_whose_disk_fails_gives_the_role_away_with_a_short_gap() {
    let mut world = World::settled(9);
    world.break_disk(US, true);
    world.run_until(3_000, |w| w.primary() != Some(US));
    let gap_ms = world.run_until(3_000, |w| w.primary() == Some(EU));
    assert!(gap_ms <= 500, "{gap_ms} ms without a primary");
    let health = world.failover(US).health(world.local_ms(US));
    assert_eq!(health.level, Level::Unhealthy);
    assert!(health.reasons[0].to_string().contains("fsync failed"), "{health:?}");
    assert_eq!(dns_answer(&world, US), EU, "its own DNS sends clients away");
    world.break_disk(US, false);
    world.run_until(10_000, |w| w.is_all_up());
}

#[test]
fn the_role_returns_by_plan_with_a_short_gap() {
    for seed in 0..20 {
        let mut world = World::settled(seed);
        world.kill(US);
        world.run_until(2_000, |w| w.primary() == Some(EU));
        world.start(US);
        world.run_until(15_000, |w| w.primary() != Some(EU));
        let gap_ms = world.run_until(2_000, |w| w.primary() == Some(US));
        assert!(gap_ms <= 500, "seed {seed}: {gap_ms} ms without a primary");
    }
}

#[test]
fn the_role_stays_where_it_is_if_so_configured() {
    let mut config = FailoverConfig::new(US, vec![US, EU, AP]);
    config.timing.return_after_ms = None;
    let mut world = World::with(config, 10);
    world.run_until(5_000, |w| w.primary() == Some(US));
    world.kill(US);
    world.run_until(2_500, |w| w.primary() == Some(EU));
    world.start(US);
    world.run_until(10_000, |w| w.is_all_up());
    world.run(20_000);
    assert_eq!(world.primary(), Some(EU));
}

#[test]
fn a_returning_region_serves_only_after_it_has_caught_up() {
    let mut world = World::settled(11);
    world.catch_up_ms = 6_000;
    world.kill(US);
    world.run_until(2_000, |w| w.state(EU, US) == RegionState::Down);
    world.start(US);
    world.run_until(4_000, |w| w.state(EU, US) == RegionState::Recovering);
    assert_eq!(dns_answer(&world, EU), EU, "reachable, but not used yet");
    assert_eq!(world.primary(), Some(EU));
    world.run(500);
    let health = world.failover(US).health(world.local_ms(US));
    assert_eq!(health.reasons, [Reason::CatchingUp, Reason::Excluded]);
    world.run_until(4_000, |w| w.is_all_up());
    assert_eq!(world.failover(US).health(world.local_ms(US)).level, Level::Healthy);
    assert_eq!(dns_answer(&world, EU), US);
}

/// A voter that restarts has forgotten whom it confirmed; it must not call itself released.
#[test]
fn a_restarted_voter_waits_out_what_it_may_have_confirmed() {
    let mut config = FailoverConfig::new(US, vec![US, EU, AP]);
    config.timing.down_after_ms = 2_000;
    config.timing.lease_ms = 1_500;
    let mut world = World::with(config, 13);
    world.run_until(5_000, |w| w.primary() == Some(US));
    world.kill(US);
    world.run_until(6_000, |w| w.primary() == Some(EU));
    world.start(US);
    world.run_until(10_000, |w| w.is_all_up());
    // The leader does not hear eu and has nothing to wait for; eu does not hear of decisions. It
    // holds its lease by the word of us alone.
    world.cut(EU, AP);
    let epoch = world.epoch(AP);
    world.run_until(8_000, |w| w.epoch(US) > epoch);
    assert_eq!(world.primary(), Some(EU));
    world.kill(US);
    world.start(US);
    // Never two of them, says the world at every step.
    world.run_until(4_000, |w| w.primary() == Some(US));
}

#[test]
fn a_lossy_network_raises_no_false_alarm() {
    let mut world = World::settled(12);
    world.loss = 20;
    world.run(120_000);
    assert_eq!(world.epoch(EU), 0, "{:#?}", world.trace);
    assert_eq!(world.primary(), Some(US));
}
