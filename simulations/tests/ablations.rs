//! Testing the tester: with a rule switched off, some seed must fail.
//!
//! The bounds are at least eight times what was needed on average when they were set, so that a
//! change of the schedule does not make them a matter of luck; docs/TESTING.md has the figures.

use meridian_simulations::{Ablation, Plan, simulate};

/// Panics if no seed below `bound` notices that the rule is off.
fn check(ablation: Ablation, bound: u64) {
    let failure =
        (0..bound).find_map(|seed| simulate(&Plan::of(seed).without(Some(ablation)), None).err());
    let failure = failure.unwrap_or_else(|| panic!("{} unnoticed in {bound}", ablation.name()));
    println!("{}: seed {}: {}", ablation.name(), failure.plan.source(), failure.what);
}

#[test]
fn a_gap_that_is_applied() {
    check(Ablation::ApplyGaps, 100);
}

#[test]
fn a_dependency_that_is_ignored() {
    check(Ablation::IgnoreDependencies, 50);
}

#[test]
fn an_ordinal_that_is_used_again() {
    check(Ablation::ReuseOrdinal, 200);
}

#[test]
fn frames_that_leave_before_they_are_on_disk() {
    check(Ablation::ShipUnsynced, 300);
}

#[test]
fn a_checkpoint_that_claims_too_much() {
    check(Ablation::CheckpointAhead, 50);
}

#[test]
fn a_portion_of_a_checkpoint_before_its_log() {
    check(Ablation::CheckpointUnsynced, 500);
}

#[test]
fn a_reset_without_cuts() {
    check(Ablation::DropCuts, 100);
}

#[test]
fn an_empty_row_that_goes_too_early() {
    check(Ablation::CollectEarly, 150);
}

#[test]
fn an_acknowledgement_of_what_may_still_be_lost() {
    check(Ablation::AcknowledgeUnsynced, 2500);
}

#[test]
fn a_reply_before_its_write_is_on_disk() {
    check(Ablation::ReplyUnsynced, 250);
}

#[test]
fn remains_of_an_expired_life() {
    check(Ablation::KeepRemains, 100);
}

#[test]
fn an_expired_key_reclaimed_while_writes_are_on_their_way() {
    check(Ablation::ExpireUnsettled, 400);
}
