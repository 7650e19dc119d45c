//! Step 5: the region comes back from its directory and catches up.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use meridian_chaos::{load, patience};

use crate::disaster::Aftermath;
use crate::rows::check_rows;
use crate::story::{Story, time};
use crate::tour::{ALL, EU, Tour, US};

/// How long the region may take to answer, to catch up, and to be used again.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Starts us-east again.
pub fn return_home(tour: &mut Tour, story: &mut Story, before: &Aftermath) -> Result<()> {
    story.step("us-east restarts from its directory");
    let started = Instant::now();
    tour.cluster.act(US, "start")?;
    let address = tour.region(US)?.redis;
    patience::until("us-east to answer", BACK_WITHIN, || {
        let redis = meridian_chaos::redis_port::Redis::connect_within(
            address,
            meridian_chaos::limits::CLIENT_TIMEOUT,
        );
        Ok(redis.and_then(|mut redis| redis.try_call::<String>(&["PING"])).ok())
    })?;
    let answers = time(started.elapsed());
    let (took, _) = tour.converge(&ALL, started)?;
    let took = time(took);
    story.holds(&format!("it answers after {answers}; digests are equal after {took}"));
    story.measured("restart to answering", answers, "");
    story.measured("restart to equal digests", took, "caught up in both directions");
    check_acknowledged(tour, story, before)?;
    back_in_use(tour, story, started)?;
    let rows = check_rows(tour, &ALL)?;
    story.holds(&format!("all {rows} rows equal Postgres in all regions"));
    let (_, digest) = tour.converge(&ALL, started)?;
    story.holds(&format!("all digests are {}", digest.get(..12).unwrap_or(&digest)));
    Ok(())
}

/// A killed process loses nothing that it had acknowledged: it was in the log.
fn check_acknowledged(tour: &Tour, story: &mut Story, before: &Aftermath) -> Result<()> {
    let acknowledged = &before.record.acknowledged;
    for name in ALL {
        let missing = load::missing(&mut tour.redis(name)?, acknowledged)?;
        ensure!(
            missing.is_empty(),
            "{name} lacks {} acknowledged writes, such as {:?}",
            missing.len(),
            missing.first().map(|number| load::key(*number))
        );
    }
    let count = acknowledged.len();
    story.holds(&format!("all {count} acknowledged writes are in all regions"));
    story.measured("acknowledged writes lost, after the return", "0", format!("of {count}"));
    Ok(())
}

fn back_in_use(tour: &Tour, story: &mut Story, started: Instant) -> Result<()> {
    let home = tour.region(US)?.client_address;
    let dns = patience::time_until("DNS answers to return", BACK_WITHIN, started, || {
        let answers = ALL.map(|server| tour.answer_for_us_clients(server));
        let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(answers.iter().all(|answer| *answer == [home]))
    })?;
    let dns = time(dns);
    story.holds(&format!("DNS sends the clients of {US} home again after {dns}"));
    story.measured("restart to DNS answer back", dns, "healthy and caught up for 2 s");
    let primary = patience::time_until("the primary role to return", BACK_WITHIN, started, || {
        Ok(tour.status(US)?["is_primary"] == true && tour.status(EU)?["is_primary"] == false)
    })?;
    let primary = time(primary);
    story.holds(&format!("{US} has the primary role again after {primary}"));
    story.measured("restart to primary role back", primary, "up for 3 s");
    Ok(())
}
