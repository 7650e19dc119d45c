//! Step 3: every region takes writes at any time, also when a link is cut; all agree in the end.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use meridian_chaos::redis_port::Redis;

use crate::story::{Story, median_and_max, time};
use crate::tour::{ALL, AP, EU, Tour, US, check_equal};

/// Sessions that are timed.
const SESSIONS: u32 = 20;
/// Increments of each region.
const INCREMENTS: u32 = 300;
/// Members that are added and removed at once.
const RACES: u32 = 10;
/// Attempts to make two commands overlap.
const ATTEMPTS: u32 = 20;
/// Writes of each side while the link is cut.
const WRITES_APART: u32 = 500;

/// Shares data between regions.
pub fn share(tour: &mut Tour, story: &mut Story) -> Result<()> {
    story.step("Every region takes reads and writes");
    sessions(tour, story)?;
    increments(tour, story)?;
    races(tour, story)?;
    a_cut_link(tour, story)
}

fn sessions(tour: &Tour, story: &mut Story) -> Result<()> {
    let (mut here, mut there) = (tour.redis(US)?, tour.redis(EU)?);
    let mut times = Vec::new();
    for number in 0..SESSIONS {
        let (key, value) = (format!("session:{number}"), format!("{{\"user\":{number}}}"));
        here.call::<()>(&["SET", &key, &value, "EX", "3600"])?;
        times.push(tour.appears(&mut there, &key, &value, Instant::now())?);
    }
    let ttl: i64 = there.call(&["TTL", "session:0"])?;
    ensure!((1..=3600).contains(&ttl), "a session's time to live is {ttl} s in {EU}");
    let (median, max) = median_and_max(times);
    let given =
        format!("one way {}, worst of {SESSIONS} {}", time(tour.one_way(US, EU)), time(max));
    let median = time(median);
    story.holds(&format!("a session written in {US} is read in {EU} {median} later ({given})"));
    story.measured("a write in us-east is read in eu-central", median, given);
    Ok(())
}

fn increments(tour: &Tour, story: &mut Story) -> Result<()> {
    let started = Instant::now();
    let mut threads = Vec::new();
    for name in ALL {
        let mut redis = tour.redis(name)?;
        threads.push(std::thread::spawn(move || -> Result<()> {
            (0..INCREMENTS).try_for_each(|_| redis.call::<()>(&["INCR", "visits"]))
        }));
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread has panicked"))??;
    }
    tour.converge(&ALL, started)?;
    let expected = i64::from(INCREMENTS) * ALL.len() as i64;
    for name in ALL {
        check_equal(
            &format!("visits in {name}"),
            tour.redis(name)?.call(&["GET", "visits"])?,
            expected,
        )?;
    }
    story.holds(&format!("{INCREMENTS} INCR in each region at once make {expected} everywhere"));
    Ok(())
}

fn races(tour: &Tour, story: &mut Story) -> Result<()> {
    let (mut adds, mut removes) = (tour.redis(US)?, tour.redis(EU)?);
    for race in 0..RACES {
        let mut attempt = 0;
        loop {
            attempt += 1;
            ensure!(attempt <= ATTEMPTS, "SADD and SREM did not overlap in {ATTEMPTS} attempts");
            let member = format!("item {race}.{attempt}");
            let (adds_back, removes_back, overlap) = one_race(tour, adds, removes, &member)?;
            (adds, removes) = (adds_back, removes_back);
            if !overlap {
                continue;
            }
            tour.converge(&ALL, Instant::now())?;
            for name in ALL {
                let kept: i64 = tour.redis(name)?.call(&["SISMEMBER", "cart", &member])?;
                check_equal(&format!("SISMEMBER cart {member:?} in {name}"), kept, 1)?;
            }
            break;
        }
    }
    story.holds(&format!("SADD in {US} racing SREM in {EU}: the member stays, {RACES} of {RACES}"));
    Ok(())
}

/// Both commands at once; whether neither region can have seen the other's in time. Where nothing
/// delays the regions, they are cut off from each other for as long as it takes.
fn one_race(
    tour: &Tour,
    mut adds: Redis,
    mut removes: Redis,
    member: &str,
) -> Result<(Redis, Redis, bool)> {
    adds.call::<()>(&["SADD", "cart", member])?;
    tour.converge(&ALL, Instant::now())?;
    let one_way = tour.one_way(US, EU);
    let is_instant = one_way.is_zero();
    if is_instant {
        tour.cluster.isolate(US)?;
    }
    let started = Instant::now();
    let gate = Arc::new(Barrier::new(2));
    let other_gate = Arc::clone(&gate);
    let remove = member.to_owned();
    let thread = std::thread::spawn(move || {
        other_gate.wait();
        removes.call::<i64>(&["SREM", "cart", &remove]).map(|removed| (removes, removed))
    });
    gate.wait();
    adds.call::<()>(&["SADD", "cart", member])?;
    let (removes, removed) = thread.join().map_err(|_| anyhow!("a thread has panicked"))??;
    let took = started.elapsed();
    check_equal("members removed", removed, 1)?;
    if is_instant {
        tour.cluster.heal()?;
    }
    Ok((adds, removes, is_instant || took < one_way))
}

fn a_cut_link(tour: &Tour, story: &mut Story) -> Result<()> {
    tour.cluster.cut(US, EU)?;
    let (mut us, mut eu) = (tour.redis(US)?, tour.redis(EU)?);
    let mut longest = Duration::ZERO;
    for number in 0..WRITES_APART {
        let mut sides = [("us", &mut us), ("eu", &mut eu)];
        // Each side is the later one half of the time.
        sides.rotate_left(number as usize % 2);
        for (side, redis) in sides {
            let started = Instant::now();
            let text = number.to_string();
            redis.call::<()>(&["SET", &format!("apart:{side}:{text}"), side])?;
            redis.call::<()>(&["SET", &format!("contested:{text}"), side])?;
            redis.call::<()>(&["HINCRBY", "totals", side, "1"])?;
            redis.call::<()>(&["SADD", "sides", &format!("{side} {text}")])?;
            longest = longest.max(started.elapsed());
        }
    }
    let writes = WRITES_APART * 8;
    let longest = time(longest);
    story.holds(&format!(
        "{US} – {EU} is cut; both go on: {writes} writes, none took longer than {longest}"
    ));
    through_the_third(tour, story, &mut us, &mut eu)?;
    let healed = Instant::now();
    tour.cluster.heal()?;
    let (took, digest) = tour.converge(&ALL, healed)?;
    let took = time(took);
    story.holds(&format!("healed; all digests are {} after {took}", short(&digest)));
    story.measured(
        "link healed to equal digests",
        took,
        format!("{writes} writes were made apart"),
    );
    check_contents(tour, story)
}

/// What one side writes reaches the other by way of the third region, as long as that sees both.
fn through_the_third(tour: &Tour, story: &mut Story, us: &mut Redis, eu: &mut Redis) -> Result<()> {
    us.call::<()>(&["SET", "detour", "taken"])?;
    let took = tour.appears(eu, "detour", "taken", Instant::now());
    let took = time(took.with_context(|| format!("by way of {AP}, with {US} – {EU} cut"))?);
    let one_way = tour.one_way(US, AP) + tour.one_way(AP, EU);
    let given = format!("one way {}", time(one_way));
    story.holds(&format!("meanwhile writes reach {EU} through {AP}: {took} ({given})"));
    story.measured("a write by way of a third region", took, given);
    Ok(())
}

fn check_contents(tour: &Tour, story: &mut Story) -> Result<()> {
    let mut contested = Vec::new();
    for name in ALL {
        let mut redis = tour.redis(name)?;
        let members: u32 = redis.call(&["SCARD", "sides"])?;
        check_equal(&format!("SCARD sides in {name}"), members, 2 * WRITES_APART)?;
        for side in ["us", "eu"] {
            let total: u32 = redis.call(&["HGET", "totals", side])?;
            check_equal(&format!("HGET totals {side} in {name}"), total, WRITES_APART)?;
            let keys: Vec<String> =
                (0..WRITES_APART).map(|n| format!("apart:{side}:{n}")).collect();
            let kept = redis.values(&keys)?.into_iter().flatten().filter(|v| v == side).count();
            check_equal(&format!("keys of {side} in {name}"), kept, keys.len())?;
        }
        let keys: Vec<String> = (0..WRITES_APART).map(|n| format!("contested:{n}")).collect();
        contested.push(redis.values(&keys)?);
    }
    let is_one = contested.iter().all(|values| *values == contested[0]);
    ensure!(is_one, "keys written on both sides differ between regions");
    let eu = contested[0].iter().flatten().filter(|value| *value == "eu").count();
    let us = contested[0].iter().flatten().filter(|value| *value == "us").count();
    check_equal("contested keys with a value", us + eu, WRITES_APART as usize)?;
    story.holds(&format!(
        "nothing is lost; contested keys read the same everywhere ({us} us, {eu} eu)"
    ));
    Ok(())
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
