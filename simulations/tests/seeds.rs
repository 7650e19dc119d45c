//! Seeds that must hold: a fixed set, the same on every machine, and some that nobody has run.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "fresh seeds come from the clock; what a seed does does not"
)]

use std::time::SystemTime;

use meridian_simulations::{Counts, Plan, simulate};

/// Fixed seeds; two tests share them, so that both run at once.
const FIXED: u64 = 2000;
/// Fresh seeds.
const FRESH: u64 = 600;

/// Seeds that are all run over QUIC: its rarer paths need more of them than the fixed ones have,
/// and more time.
const OVER_QUIC: u64 = 60;
const LONG_OVER_QUIC: &str = "quic=1 active=3000000 cut=500000";

/// Seeds in which regions come, go and are declared dead.
const OVER_MEMBERS: u64 = 40;
const MEMBERS: &str = "control=1 quic=0 restore=0 bit-rot=0 lying-sync=0 active=8000000 \
    delay=40000 think=100000 join=1500000 leave=1500000 declare-dead=3000000";

/// Runs plans, panics with the first failure and what replays it, and adds up what happened.
fn check(plans: impl Iterator<Item = Plan>) -> Counts {
    let mut counts = Counts::default();
    for plan in plans {
        match simulate(&plan, None) {
            Ok(report) => counts.add(&report.counts),
            Err(failure) => panic!("{failure}"),
        }
    }
    counts
}

#[test]
fn even_seeds_hold_and_meet_every_kind_of_fault() {
    let over_quic = |seed| Plan::of(seed).with(LONG_OVER_QUIC).expect("a plan");
    let over_quic = (0..OVER_QUIC).map(over_quic);
    let over_members = |seed| Plan::of(seed).with(MEMBERS).expect("a plan");
    let over_members = (0..OVER_MEMBERS).map(over_members);
    let fixed = (0..FIXED).step_by(2).map(Plan::of);
    let counts = check(fixed.chain(over_quic).chain(over_members));
    for (name, count) in counts.fields() {
        assert!(count > 0, "no {name} in {} seeds: nothing was learnt about it", FIXED / 2);
    }
}

#[test]
fn odd_seeds_hold() {
    check((1..FIXED).step_by(2).map(Plan::of));
}

#[test]
fn fresh_seeds_hold() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let from = now.as_secs() * 1_000;
    println!("fresh seeds from {from} to {}", from + FRESH - 1);
    check((from..from + FRESH).map(Plan::of));
}
