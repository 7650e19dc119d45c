//! Seeded simulation of whole clusters around the production core.
//!
//! [`simulate`] runs one seed: several regions, each composed of the parts that the daemon runs
//! (`recover`, `DataNode` with its engine, `Shipper`, `CheckpointRun`, `Control`), clients that
//! speak Redis to them, a network that delays, loses, doubles, reorders and cuts, and machines
//! that die. Time is virtual and one scheduler owns it. Judges compare what regions show with a
//! declarative specification over the set of all operations, with another library's sets in
//! lockstep, and with what clients were promised.

mod ablation;
mod client;
mod clocks;
mod control_log;
mod disk;
mod history;
mod judge;
mod lockstep;
mod network;
mod observe;
mod outcome;
mod plan;
mod queue;
mod quic;
mod random;
mod region;
mod shrink;
mod spec;
mod swarm;
mod trace;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use ablation::Ablation;
pub use outcome::{Counts, Failure, Report};
pub use plan::Plan;
pub use quic::limits as quic_limits;
pub use shrink::shrink;

/// Runs a plan. `sink` takes a line for everything that happens.
///
/// # Errors
/// [`Failure`]: a judge found something, or the code under test panicked.
pub fn simulate(plan: &Plan, sink: Option<fn(&str)>) -> Result<Report, Box<Failure>> {
    let fail = |what| {
        let failure =
            Failure { plan: plan.clone(), at_us: 0, what, tail: Vec::new(), strikes: Vec::new() };
        Err(Box::new(failure))
    };
    let run = || match world::World::new(plan.clone(), sink) {
        Ok(world) => world.run(),
        Err(what) => fail(what),
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        fail(format!("panicked: {}", text.unwrap_or_default()))
    })
}
