//! The plan of a seed: every fault is on in some runs and off in others.
//!
//! Groce et al., "Swarm Testing" (2012): a run that has everything on at once hides what one
//! fault alone would show. Limits are tiny, so that short runs reach them.
//!
//! Most runs are small: two or three regions, one key or two, some dozens of commands. What is rare
//! because many things must meet within a short time is found by many short runs rather than by
//! few long ones, and what a small run finds is read at a glance.

use crate::{
    plan::{Family, Fault, MS, Plan, SECOND},
    random::{Random, Stream},
};

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    /// So many runs of a hundred are of this size.
    percent: usize,
    /// How long clients write, in microseconds: from and to.
    active_us: (u64, u64),
    /// About the most commands: more of them take longer and find no more.
    commands: u64,
}

// LARGE has what the others leave.
const SMALL: Size = Size { percent: 70, active_us: (300 * MS, SECOND), commands: 100 };
const MIDDLE: Size = Size { percent: 20, active_us: (400 * MS, 2 * SECOND), commands: 250 };
const LARGE: Size = Size { percent: 10, active_us: (SECOND, 5 * SECOND), commands: 600 };

/// The fewest commands of a small run.
const FEWEST_COMMANDS: u64 = 30;

/// In so many runs of a thousand logs are too short for who is away.
const STARVED: u64 = 200;

/// In so many runs of a thousand repairs compare by tiny sketches.
const SKETCHED: u64 = 300;

/// Of a thousand runs that compare clocks, so many have a region that lies about its own.
const LYING: u64 = 400;

/// And so many have machines that are set back to a copy and not told.
const RELAPSING: u64 = 300;

/// One run in so many has [`MANY`] regions.
const CROWDED_IN: usize = 3000;
/// The most regions that a cluster is made for.
const MANY: u64 = 50;

/// So many runs in a thousand are over QUIC.
const QUIC: u64 = 50;
/// In so many of a thousand runs with a control plane regions come and go.
const MEMBERS: u64 = 150;
/// Clients write for at least so long then, in microseconds: from and to.
const MEMBERS_ACTIVE_US: (u64, u64) = (2 * SECOND, 6 * SECOND);
/// And no link is longer than this, in microseconds one way: leases and votes wait for it.
const MEMBERS_DELAY_US: u64 = 120 * MS;
/// Larger values than this, in bytes, take a congested QUIC too long.
const MAX_QUIC_PADDING: u64 = 30_000;

/// How often each kind of fault is on, in a thousand runs.
const ON: [(Fault, u64); 13] = [
    (Fault::SessionBreak, 350),
    (Fault::Cut, 350),
    (Fault::Isolation, 200),
    (Fault::ProcessCrash, 250),
    (Fault::MachineCrash, 300),
    (Fault::StepCrash, 300),
    (Fault::IoError, 150),
    (Fault::DiskFull, 100),
    (Fault::BitRot, 80),
    (Fault::LyingSync, 80),
    (Fault::Pause, 250),
    (Fault::ClockJump, 250),
    (Fault::Restore, 200),
];

/// The plan of a seed.
pub(crate) fn plan(seed: u64) -> Plan {
    let mut plan = Plan::calm(seed);
    let r = &mut plan.stream(Stream::Plan, 0);
    let is_crowded = r.below(CROWDED_IN) == 0;
    let size = size(r);
    shape(&mut plan, r, size);
    if size == SMALL {
        shrink(&mut plan, r);
    }
    network(&mut plan, r);
    machines(&mut plan, r);
    // None at all in some runs: what fails there is no fault's doing.
    if !r.chance(100) {
        faults(&mut plan, r);
    }
    clients(&mut plan, r, size);
    if size == SMALL {
        hurry(&mut plan, r);
    }
    if is_crowded {
        crowd(&mut plan, r);
    } else {
        more(&mut plan);
        compare(&mut plan);
        members(&mut plan);
        deceive(&mut plan);
    }
    plan
}

fn size(r: &mut Random) -> Size {
    match r.below(100) {
        drawn if drawn < SMALL.percent => SMALL,
        drawn if drawn < SMALL.percent + MIDDLE.percent => MIDDLE,
        _ => LARGE,
    }
}

fn shape(plan: &mut Plan, r: &mut Random, size: Size) {
    plan.set_regions(r.pick(&[2, 3, 3, 3, 3, 3, 4, 4, 5, 6]));
    plan.set_partitions(r.pick(&[1, 2, 4]));
    plan.set_active_us(r.spread(size.active_us.0, size.active_us.1));
    plan.set_durability(r.range(0, 2));
    plan.set_control(u64::from(r.chance(300)));
    plan.set_all_primary(u64::from(r.chance(200)));
    plan.set_inbox_bytes(if r.chance(250) { r.range(100, 2000) } else { 0 });
    plan.set_turn_us(r.spread(2 * MS, 20 * MS));
    plan.set_checkpoint_us(if r.chance(700) { r.spread(20 * MS, SECOND) } else { 0 });
    plan.set_releases(u64::from(r.chance(700)));
    plan.set_retention_bytes(if r.chance(500) { r.spread(500, 20_000) } else { 0 });
    plan.set_look_us(r.spread(80 * MS, 600 * MS));
    plan.set_commits(r.pick(&[0, 200, 1000]));
    plan.set_partial(u64::from(r.chance(400)));
}

/// A small run is short, with few regions.
fn shrink(plan: &mut Plan, r: &mut Random) {
    plan.set_regions(r.pick(&[2, 2, 3, 3, 3, 4]));
    plan.set_partitions(r.pick(&[1, 1, 1, 2]));
    plan.set_control(u64::from(r.chance(100)));
    plan.set_checkpoint_us(plan.checkpoint_us().min(plan.active_us() / 3));
    plan.set_retention_bytes(plan.retention_bytes().min(r.spread(300, 3000)));
    plan.set_look_us(plan.look_us().min(plan.active_us() / 3));
}

/// And what happens in a small run happens soon, to little.
fn hurry(plan: &mut Plan, r: &mut Random) {
    let active_us = plan.active_us();
    plan.set_delay_us(plan.delay_us().min(active_us / 8));
    plan.set_away_us(plan.away_us().min(active_us / 2));
    plan.set_ttl_ms(plan.ttl_ms().min(active_us / MS));
    plan.set_clients(r.pick(&[1, 1, 1, 2]));
    plan.set_keys(1);
    plan.families.truncate(2);
    plan.set_padding(0);
    let commands = r.range(FEWEST_COMMANDS, SMALL.commands);
    plan.set_think_us(active_us * plan.clients() * plan.regions() / commands);
}

fn network(plan: &mut Plan, r: &mut Random) {
    plan.set_delay_us(r.spread(MS / 2, 250 * MS));
    plan.set_jitter(r.pick(&[0, 100, 1000]));
    plan.set_loss(if r.chance(400) { r.range(1, 300) } else { 0 });
    plan.set_duplicates(if r.chance(300) { r.range(1, 200) } else { 0 });
    plan.set_narrow(u64::from(r.chance(150)));
}

/// From a stream of its own, so that the other seeds' plans are what they were.
fn more(plan: &mut Plan) {
    let r = &mut plan.stream(Stream::Plan, 1);
    let is_quic = r.chance(QUIC) && plan.padding() <= MAX_QUIC_PADDING;
    plan.set_quic(u64::from(is_quic));
    if r.chance(150) {
        plan.set_fence_ms(r.pick(&[50, 250, 1000]));
    }
    plan.set_travel(if r.chance(250) { r.range(20, 200) } else { 0 });
    if plan.fence_ms() > 0 || plan.travel() > 0 {
        // What clocks are compared by allows for no more.
        plan.set_drift_ppm(plan.drift_ppm().min(1000));
    }
    plan.set_compact_bytes(if r.chance(300) { r.spread(100, 5000) } else { 0 });
}

/// A region that lies about its clock; a machine that is set back and not told.
fn deceive(plan: &mut Plan) {
    let r = &mut plan.stream(Stream::Plan, 21);
    let (lies, relapses) = (r.chance(LYING), r.chance(RELAPSING));
    let every_us = r.spread(plan.active_us() / 8, plan.active_us());
    if plan.fence_ms() == 0 || plan.changes_members() {
        return;
    }
    plan.set_liar(u64::from(lies));
    if lies {
        plan.set_clock_jump_us(0);
    }
    if relapses {
        plan.set_relapse_us(every_us);
        plan.set_backup_us(every_us / 2);
        plan.set_partitions(1);
        plan.set_travel(0);
        [
            Plan::set_restore_us,
            Plan::set_bit_rot_us,
            Plan::set_lying_sync_us,
            Plan::set_clock_jump_us,
        ]
        .into_iter()
        .for_each(|set| set(plan, 0));
    }
}

/// Repairs that have to compare, lanes that stand still, one region that writes more than the others:
/// from a stream of its own, so that the other seeds' plans are what they were.
fn compare(plan: &mut Plan) {
    let r = &mut plan.stream(Stream::Plan, 20);
    if r.chance(SKETCHED) {
        plan.set_sketch(r.spread(4, 40));
        plan.set_names(r.spread(3, 24));
    }
    plan.set_stalls(if r.chance(150) { r.range(5, 200) } else { 0 });
    if r.chance(150) {
        // As many commands in all as without.
        let (busy, regions) = (r.range(2, 8), plan.regions());
        plan.set_busy(busy);
        plan.set_think_us(plan.think_us() * (regions + busy - 1) / regions);
    }
}

/// Regions come, go and are declared dead in some of the runs with a control plane. That takes
/// seconds: who returns is taken for up after two of them, and votes move as slowly.
fn members(plan: &mut Plan) {
    let r = &mut plan.stream(Stream::Plan, 3);
    if !plan.can_change_members() || !r.chance(MEMBERS) {
        return;
    }
    let (from_us, upto_us) = MEMBERS_ACTIVE_US;
    plan.set_active_us(plan.active_us().max(r.spread(from_us, upto_us)));
    plan.set_delay_us(plan.delay_us().min(MEMBERS_DELAY_US));
    let least_us = plan.active_us() * plan.clients() * plan.regions() / MIDDLE.commands;
    plan.set_think_us(plan.think_us().max(least_us));
    let every_us = |r: &mut Random| r.spread(upto_us / 8, upto_us / 2);
    let drawn = [r.chance(600), r.chance(500), r.chance(500)];
    let every_us = drawn.map(|on| (on, every_us(r)));
    let every_us = every_us.map(|(on, every_us)| if on { every_us } else { 0 });
    plan.set_join_us(every_us[0]);
    plan.set_leave_us(every_us[1]);
    plan.set_declare_dead_us(every_us[2]);
}

fn machines(plan: &mut Plan, r: &mut Random) {
    // Beyond sixty seconds ahead a region's frames are held back by the others.
    plan.set_skew_us(match r.below(10) {
        0 => 61 * SECOND,
        1..=3 => 2 * SECOND,
        4..=6 => 100 * MS,
        _ => 0,
    });
    plan.set_drift_ppm(r.pick(&[0, 100, 100, 1000, 20_000]));
    plan.set_sync_us(if r.chance(400) { SECOND } else { 8 * MS });
}

fn faults(plan: &mut Plan, r: &mut Random) {
    let active_us = plan.active_us();
    for (fault, per_mille) in ON {
        let every_us = r.spread(active_us / 12, active_us);
        if r.chance(per_mille)
            && let Some(number) = plan.number_mut(fault.name())
        {
            *number = every_us;
        }
    }
    if r.chance(STARVED) {
        starve(plan, r);
    }
    if plan.restore_us() > 0 || (plan.bit_rot_us() > 0 && r.chance(500)) {
        plan.set_backup_us(r.spread(active_us / 6, active_us));
    }
    plan.set_away_us(r.spread(20 * MS, 2 * SECOND));
    let jump_us = r.spread(50 * MS, 5 * SECOND);
    plan.set_jump_us(if r.chance(100) { 8 * 3600 * SECOND } else { jump_us });
    plan.set_inbound_drops(if r.chance(200) { r.range(5, 150) } else { 0 });
    plan.set_outbound_drops(if r.chance(200) { r.range(5, 150) } else { 0 });
}

/// Logs are let go soon, and regions are alone for longer than they reach: they must be repaired.
fn starve(plan: &mut Plan, r: &mut Random) {
    let active_us = plan.active_us();
    plan.set_releases(1);
    plan.set_retention_bytes(r.spread(100, 1000));
    plan.set_checkpoint_us(r.spread(10 * MS, active_us / 6));
    plan.set_isolation_us(r.spread(active_us / 8, active_us / 2));
}

fn clients(plan: &mut Plan, r: &mut Random, size: Size) {
    let all = Family::ALL.map(|(_, family)| family);
    plan.families = all.into_iter().filter(|_| r.chance(400)).collect();
    if plan.families.is_empty() {
        plan.families.push(r.pick(&all));
    }
    plan.set_clients(r.range(1, 3));
    plan.set_think_us(r.spread(2 * MS, 120 * MS));
    plan.set_keys(r.range(1, 2));
    plan.set_reads(r.pick(&[100, 300, 500]));
    plan.set_ttl_ms(r.spread(30, 4000));
    plan.set_transactions(r.pick(&[0, 100, 300]));
    let most = if r.chance(8) {
        plan.set_padding(r.spread(20_000, 700_000));
        size.commands / 4
    } else {
        size.commands
    };
    let least_us = plan.active_us() * plan.clients() * plan.regions() / most;
    plan.set_think_us(plan.think_us().max(least_us));
}

/// As many regions as a cluster may have, for a short time: each says little, all together much.
fn crowd(plan: &mut Plan, r: &mut Random) {
    plan.set_regions(MANY);
    plan.set_active_us(r.spread(200 * MS, 600 * MS));
    plan.set_partitions(1);
    plan.set_clients(1);
    plan.set_think_us(r.spread(100 * MS, 400 * MS));
    plan.set_control(0);
    plan.set_turn_us(20 * MS);
    plan.set_padding(0);
    plan.set_drift_ppm(100);
    plan.set_delay_us(plan.delay_us().min(80 * MS));
    plan.set_restore_us(0);
}
