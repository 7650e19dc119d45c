//! Testing the tester: with a rule switched off, some seed must fail.
//!
//! The bounds are at least five times what was needed on average when they were set, so that a
//! change of the schedule does not make them a matter of luck. docs/TESTING.md lists them; a test
//! compares.

use meridian_simulations::{Ablation, Plan, simulate};

/// For every rule, the seeds within which its absence is noticed.
const BOUNDS: [(&str, u64); 36] = [
    ("apply-gaps", 100),
    ("ignore-dependencies", 50),
    ("reuse-ordinal", 100),
    ("ship-unsynced", 100),
    ("checkpoint-ahead", 50),
    ("drop-cuts", 100),
    ("collect-early", 100),
    ("keep-remains", 150),
    ("expire-unsettled", 500),
    ("reply-unsynced", 100),
    ("checkpoint-unsynced", 600),
    ("arrival-order", 20),
    ("remove-wins", 20),
    ("double-increment", 20),
    ("forget-floor", 50),
    ("believe-early", 200),
    ("acknowledge-hearsay", 120),
    ("follow-any-clock", 250),
    ("record-first", 120),
    ("forget-deadlines", 50),
    ("keep-cleared", 30),
    ("no-relay", 40),
    ("vote-unsynced", 800),
    ("repair-unpaused", 600),
    ("repair-looks-early", 1600),
    ("repair-keeps-the-removed", 40),
    ("repair-without-residue", 200),
    ("drop-folds", 300),
    ("widen-context", 80),
    ("go-unaware", 50),
    ("forget-clock-floor", 30),
    ("serve-while-leaving", 200),
    ("guess-ordinal", 200),
    ("settle-without-newcomers", 400),
    ("leave-with-vote", 20),
    ("believe-one-clock", 30),
];

/// What a seed's plan gets where a rule of state repair is off: regions that are often alone for
/// longer than their logs reach.
const REPAIRS: &str = "regions=3 partitions=1 releases=1 retention=300 checkpoint=40000 \
    isolate=500000 delay=60000 jitter=1000 think=6000 reads=100 active=3000000 look=200000 skew=0 \
    keys=2 clients=2 families=counters+hashes+mixed restore=0 bit-rot=0 lying-sync=0";

/// Where what a repair finds equal has to change before it ends: nothing is sent whole, the donor
/// writes more than its log holds and the receivers do not, and lanes stand still now and then, so
/// that one overtakes the other.
const UNEQUAL_IN_TIME: &str = "partitions=1 releases=1 checkpoint=20000 sketch=40 names=4 keys=2 \
    families=sets busy=5 think=30000 clients=1 reads=0 transactions=0 travel=0 padding=0 ttl=1000 \
    jitter=500 stalls=150 cut=0 turn=5000 sync=8000 durability=1 commits=1000 drift=100 skew=0 \
    compact=0 inbox=0 quic=0 control=0 partial=0 fence=0 loss=0 duplicates=0 narrow=0 \
    inbound-drops=0 outbound-drops=0 break=0 pause=0 clock-jump=0 machine-crash=0 process-crash=0 \
    step-crash=0 io-error=0 disk-full=0 bit-rot=0 lying-sync=0 backup=0 restore=0";
const UNPAUSED: &str =
    "regions=4 isolate=400000 retention=1000 active=2000000 delay=60000 look=40000";
const EARLY: &str = "regions=2 isolate=250000 retention=600 active=4000000 delay=200000 look=20000";

/// Where several regions must write and reset counters for a while.
const COUNTERS: &str = "regions=4 active=3000000 think=25000 keys=2 families=counters+hashes";

/// Where one of compaction is off: lanes so narrow that whoever reads is always behind.
const BUNDLES: &str = "partitions=1 regions=3 retention=0 reads=50 skew=0 keys=1 quic=0 restore=0 \
    bit-rot=0 lying-sync=0 partial=0 compact=100 narrow=1 delay=20000 think=5000 active=1000000 \
    break=300000 families=counters+hashes";

/// And where clocks are set about, and processes start again.
const CLOCKS: &str = "fence=250 drift=1000 clock-jump=150000 jump=2000000 process-crash=250000 \
    think=150000 look=40000 active=3000000 quic=0 away=100000 machine-crash=0 lying-sync=0 \
    bit-rot=0 restore=0 step-crash=0 io-error=0 disk-full=0";

/// Where members change: what all those plans have in common.
const MEMBERS: &str = "control=1 quic=0 restore=0 bit-rot=0 lying-sync=0 regions=3 active=8000000 \
    delay=30000 jitter=0 loss=0 sync=8000 think=150000";

/// Where regions leave while much is written.
const LEAVE: &str = "leave=1500000 active=5000000 delay=60000 think=40000";

/// Where regions join and are alone now and then, while keys expire.
const EXPIRE: &str = "join=500000 families=mortals think=300000 ttl=600 keys=3 clients=3 durability=1 \
    reads=50 isolate=300000 cut=0 machine-crash=0 process-crash=0 step-crash=0 io-error=0 disk-full=0 \
    pause=0 fence=0 skew=0 drift=0 clock-jump=0 turn=5000 commits=1000 inbox=0";

/// What the plans get in which a rule's absence is looked for, where most plans say little of it.
fn with(name: &str) -> String {
    let both = |more| format!("{UNEQUAL_IN_TIME} {more}");
    let members = |more: &str| format!("{MEMBERS} {more}");
    let plan = match name {
        "repair-unpaused" => return both(UNPAUSED),
        "repair-looks-early" => return both(EARLY),
        "repair-keeps-the-removed" | "repair-without-residue" => REPAIRS,
        "acknowledge-hearsay" | "believe-early" => COUNTERS,
        "drop-folds" | "widen-context" => BUNDLES,
        "forget-clock-floor" => CLOCKS,
        "believe-one-clock" => "liar=1 fence=250 clock-jump=0 drift=1000 skew=0",
        "vote-unsynced" => "control=1",
        "serve-while-leaving" => return members(LEAVE),
        "guess-ordinal" => return members("join=600000"),
        "settle-without-newcomers" => return members(EXPIRE),
        "leave-with-vote" => return members("leave=1500000 join=2000000"),
        _ => "",
    };
    plan.to_owned()
}

/// Panics if no seed below its bound notices that the rule is off.
fn check((name, bound): (&str, u64)) {
    let rule = Ablation::named(name).unwrap_or_else(|| panic!("no rule is called {name}"));
    let with = with(name);
    let plan = |seed| Plan::of(seed).with(&with).expect("a plan").without(Some(rule));
    let run = |seed| simulate(&plan(seed), None).err();
    let failure = (0..bound).find_map(run);
    let failure = failure.unwrap_or_else(|| panic!("{name} goes unnoticed in {bound} seeds"));
    let what = failure.what.lines().next().unwrap_or_default();
    println!("{name}: seed {}: {what}", failure.plan.source());
}

/// Every fourth rule, from one on: four tests share them, so that they run at once.
fn check_from(first: usize) {
    BOUNDS.into_iter().skip(first).step_by(4).for_each(check);
}

#[test]
fn rules_that_are_off_are_noticed_first_quarter() {
    check_from(0);
}

#[test]
fn rules_that_are_off_are_noticed_second_quarter() {
    check_from(1);
}

#[test]
fn rules_that_are_off_are_noticed_third_quarter() {
    check_from(2);
}

#[test]
fn rules_that_are_off_are_noticed_fourth_quarter() {
    check_from(3);
}

#[test]
fn every_rule_has_a_bound_and_the_documentation_names_it() {
    let known: Vec<&str> = Ablation::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(BOUNDS.map(|(name, _)| name).to_vec(), known);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/TESTING.md");
    let text = std::fs::read_to_string(path).expect("docs/TESTING.md");
    for (name, bound) in BOUNDS {
        let row = text.lines().find(|line| line.contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("docs/TESTING.md says nothing of {name}"));
        assert!(row.ends_with(&format!("| {bound} |")), "{row}: the test says {bound}");
    }
}
