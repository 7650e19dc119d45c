//! The same seed does the same thing, and an option that only looks changes nothing.

use meridian_simulations::{Ablation, simulate};

#[test]
fn a_seed_run_twice_has_one_trace() {
    for seed in 0..40 {
        assert_eq!(simulate(seed, None, None), simulate(seed, None, None), "seed {seed}");
    }
}

#[test]
fn a_failing_seed_fails_alike_and_names_the_command_that_replays_it() {
    let fail = |seed| simulate(seed, Some(Ablation::IgnoreDependencies), None).err();
    let failure = (0..100).find_map(fail).expect("one of a hundred seeds notices");
    assert_eq!(fail(failure.seed), Some(failure.clone()));
    let text = failure.to_string();
    assert!(text.contains(&format!("make simulate SEED={}", failure.seed)), "{text}");
}

#[test]
fn tracing_changes_nothing() {
    fn ignore(_line: &str) {}
    for seed in 0..5 {
        assert_eq!(simulate(seed, None, Some(ignore)), simulate(seed, None, None), "seed {seed}");
    }
}

#[test]
fn seeds_differ() {
    let hash = |seed| simulate(seed, None, None).expect("holds").hash;
    assert_ne!(hash(1), hash(2));
}
