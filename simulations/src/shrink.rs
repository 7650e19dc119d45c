//! Makes a failing plan small: fewer faults, fewer strikes, fewer regions, fewer keys, less time.
//!
//! Greedy, in the order in which a person would like to be rid of things; what is dropped stays
//! dropped if the smaller plan fails as well. Since every strike, link, region and client draws
//! from a stream of its own, what is left happens much as before.

use std::collections::BTreeSet;

use crate::{
    Failure, Plan,
    plan::{Fault, MS, NUMBERS, Strike},
    simulate,
};

/// Runs that shrinking takes at most.
const MAX_RUNS: usize = 600;

/// The smallest failure that was found.
#[must_use]
pub fn shrink(failure: Failure) -> Failure {
    let mut shrinker = Shrinker { best: failure, runs: 0 };
    loop {
        let before = shrinker.best.plan.clone();
        shrinker.drop_faults();
        shrinker.drop_strikes();
        shrinker.drop_regions();
        shrinker.drop_keys();
        shrinker.calm_numbers();
        shrinker.shorten();
        if shrinker.best.plan == before || shrinker.runs >= MAX_RUNS {
            return shrinker.best;
        }
    }
}

struct Shrinker {
    best: Failure,
    runs: usize,
}

impl Shrinker {
    /// Keeps a smaller plan if it fails.
    fn attempt(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.best.plan.clone();
        change(&mut plan);
        if plan == self.best.plan || self.runs >= MAX_RUNS {
            return false;
        }
        self.runs += 1;
        match simulate(&plan, None) {
            Ok(_) => false,
            Err(failure) => {
                self.best = *failure;
                true
            }
        }
    }

    fn drop_faults(&mut self) {
        for (name, fault) in Fault::ALL {
            self.attempt(|plan| {
                plan.number_mut(name).into_iter().for_each(|every| *every = 0);
                plan.skipped.retain(|(other, _)| *other != fault);
            });
        }
    }

    /// Halves first, then quarters, as delta debugging does (Zeller, "Yesterday, my program
    /// worked", 1999).
    fn drop_strikes(&mut self) {
        let mut part = self.best.strikes.len();
        while part > 0 {
            let mut from = 0;
            loop {
                let struck: Vec<Strike> = self.best.strikes.clone();
                let Some(some) = struck.get(from..struck.len().min(from + part)) else { break };
                let some: BTreeSet<Strike> = some.iter().copied().collect();
                if some.is_empty() {
                    break;
                }
                if !self.attempt(|plan| plan.skipped.extend(some)) {
                    from += part;
                }
                if self.runs >= MAX_RUNS {
                    return;
                }
            }
            part /= 2;
        }
    }

    fn drop_regions(&mut self) {
        for regions in 2..self.best.plan.regions() {
            if self.attempt(|plan| plan.set_regions(regions)) {
                return;
            }
        }
    }

    fn drop_keys(&mut self) {
        for family in self.best.plan.families.clone() {
            self.attempt(|plan| {
                if plan.families.len() > 1 {
                    plan.families.retain(|other| *other != family);
                }
            });
        }
        self.attempt(|plan| plan.set_keys(1));
        self.attempt(|plan| plan.set_clients(1));
        self.attempt(|plan| plan.set_think_us(plan.think_us() * 2));
    }

    fn calm_numbers(&mut self) {
        let kept = ["seed", "regions", "active", "keys", "clients", "think"];
        for (name, calm) in NUMBERS.into_iter().filter(|(name, _)| !kept.contains(name)) {
            self.attempt(|plan| plan.number_mut(name).into_iter().for_each(|n| *n = calm));
        }
    }

    fn shorten(&mut self) {
        let failed_us = self.best.at_us;
        self.attempt(|plan| plan.set_active_us(plan.active_us().min(failed_us.max(MS))));
        while self.attempt(|plan| plan.set_active_us((plan.active_us() * 3 / 4).max(MS))) {}
    }
}
