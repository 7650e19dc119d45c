//! The same plan does the same thing, an option that only looks changes nothing, and what has
//! failed once is run for ever.

use std::{fs, path::Path};

use meridian_simulations::{Ablation, Plan, shrink, simulate};

#[test]
fn a_seed_run_twice_has_one_trace() {
    for seed in 0..60 {
        let plan = Plan::of(seed);
        assert_eq!(simulate(&plan, None), simulate(&plan, None), "seed {seed}");
    }
}

#[test]
fn a_run_over_quic_has_one_trace_too() {
    for seed in 0..20 {
        let plan = Plan::of(seed).with("quic=1").expect("a plan");
        let report = simulate(&plan, None).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.counts.packets > 0, "seed {seed} is not over QUIC");
        assert_eq!(simulate(&plan, None), Ok(report), "seed {seed}");
    }
}

#[test]
fn a_plan_that_was_written_down_and_read_back_has_the_same_trace() {
    for seed in 0..10 {
        let plan = Plan::of(seed);
        let read: Plan = plan.to_string().parse().expect("what was written can be read");
        assert_eq!(simulate(&plan, None), simulate(&read, None), "seed {seed}");
    }
}

#[test]
fn tracing_changes_nothing() {
    fn ignore(_line: &str) {}
    for seed in 0..5 {
        let plan = Plan::of(seed);
        assert_eq!(simulate(&plan, Some(ignore)), simulate(&plan, None), "seed {seed}");
    }
}

#[test]
fn seeds_differ() {
    let hash = |seed| simulate(&Plan::of(seed), None).expect("holds").hash;
    assert_ne!(hash(1), hash(2));
}

/// The first failure with a rule switched off.
fn failing(rule: Ablation) -> meridian_simulations::Failure {
    let fail = |seed| simulate(&Plan::of(seed).without(Some(rule)), None).err();
    *(0..100).find_map(fail).expect("one of a hundred seeds notices")
}

#[test]
fn a_failing_plan_fails_alike_and_names_the_command_that_replays_it() {
    let failure = failing(Ablation::IgnoreDependencies);
    assert_eq!(simulate(&failure.plan, None).err().as_deref(), Some(&failure));
    let text = failure.to_string();
    let (_, command) = text.rsplit_once("--replay ").expect("a command");
    let plan: Plan = command.trim_matches('\'').parse().expect("a plan");
    assert_eq!(simulate(&plan, None).err().as_deref(), Some(&failure));
}

#[test]
fn a_failing_plan_becomes_smaller_and_still_fails() {
    let failure = failing(Ablation::RemoveWins);
    let small = shrink(failure.clone());
    assert!(simulate(&small.plan, None).is_err(), "{small}");
    let lengths = [&small, &failure].map(|f| f.plan.to_string().len());
    assert!(
        lengths[0] < lengths[1] / 2,
        "{} is not much smaller than {}",
        small.plan,
        failure.plan
    );
}

/// Plans that failed once. One that names a rule that is off must fail, all others must hold.
#[test]
fn the_corpus() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut plans = 0;
    for file in fs::read_dir(&directory).expect("simulations/corpus") {
        let path = file.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a readable file");
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let plan: Plan = line.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            plans += 1;
            match (simulate(&plan, None), plan.rule_off()) {
                (Err(failure), None) => panic!("{}: {failure}", path.display()),
                (Ok(_), Some(_)) => panic!("{}: goes unnoticed", path.display()),
                _ => {}
            }
        }
    }
    assert!(plans > 0, "the corpus is empty");
}
