//! Step 4: a region is killed under load. The others go on, and agree on who takes over.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meridian_chaos::load::{self, Client, Load, Record};
use meridian_chaos::patience;
use meridian_chaos::redis_port::Redis;
use meridian_chaos::source::Pump;

use crate::story::{Story, time};
use crate::tour::{AP, EU, Tour, US};

/// Writes that are acknowledged before the blow falls.
const WRITES_BEFORE: usize = 2_000;
/// How long that may take.
const LOAD_WITHIN: Duration = Duration::from_secs(30);
/// How long the others may take to take over.
const TAKE_OVER_WITHIN: Duration = Duration::from_secs(30);
/// Writers to the region that dies.
const WRITERS: usize = 2;
/// The product whose stock grows by commit after commit.
const PUMPED: &str = "pg:products:1";

/// What the next step has to compare with.
pub struct Aftermath {
    /// What was acknowledged and what was seen.
    pub record: Record,
}

/// What was seen to change, and when.
#[derive(Default)]
struct TakeOver {
    dns: Option<Duration>,
    primary: Option<Duration>,
    rows: Option<Duration>,
}

/// Kills us-east.
pub fn strike(tour: &mut Tour, story: &mut Story) -> Result<Aftermath> {
    story.step("us-east is killed (SIGKILL) under write load");
    let home = tour.region(US)?.client_address;
    tour.settle()?;
    story.say(&format!("{}   says {home}", tour.dig(EU)?));
    let others = [tour.region(EU)?.redis, tour.region(AP)?.redis];
    let load = Load::start(tour.region(US)?.redis, &others, WRITERS)?;
    let roaming = Client::start("roaming", vec![tour.region(US)?.redis, others[0]]);
    let local = [EU, AP].map(|name| Ok((name, tour.region(name)?.redis)));
    let local = local.into_iter().collect::<Result<Vec<_>>>()?;
    let local: Vec<_> = local
        .into_iter()
        .map(|(name, address)| (name, Client::start(&format!("local:{name}"), vec![address])))
        .collect();
    let pump = Pump::start(&tour.shop_url, |n| {
        format!("UPDATE products SET stock = {n} WHERE product_id = 1")
    })?;
    patience::until("enough writes", LOAD_WITHIN, || {
        Ok((load.acknowledged() >= WRITES_BEFORE).then_some(()))
    })?;

    let killed = Instant::now();
    tour.cluster.act(US, "kill")?;
    let seen = watch(tour, killed, &pump)?;

    let commits = pump.stop()?;
    let record = load.stop()?;
    let roamed = roaming.stop()?;
    tell_roaming(story, &roamed, killed)?;
    for (name, client) in local {
        let writes = client.stop()?;
        let gap = time(load::longest_gap(&writes, killed));
        let count = writes.iter().filter(|(when, _)| *when >= killed).count();
        ensure!(count > 0, "{name} took no writes after the blow");
        story.holds(&format!("{name} went on: {count} writes, longest pause {gap}"));
        story.measured(&format!("longest pause of writers in {name}"), gap, "");
    }
    tell_take_over(story, &seen, commits.len())?;
    check_replicated(tour, story, &record)?;
    Ok(Aftermath { record })
}

/// Looks at everything that has to change, in turn, until all of it has.
fn watch(tour: &Tour, killed: Instant, pump: &Pump) -> Result<TakeOver> {
    let next = tour.region(EU)?.client_address;
    let mut redis = tour.redis(EU)?;
    let mut seen = TakeOver::default();
    // A number that was committed after the blow: more than were committed at that time.
    let first_later = pump.commits() + 1;
    let waited = patience::until("the others to take over", TAKE_OVER_WITHIN, || {
        if seen.dns.is_none() {
            let servers = [EU, AP].map(|server| tour.answer_for_us_clients(server));
            if servers.into_iter().collect::<Result<Vec<_>>>()?.iter().all(|a| *a == [next]) {
                seen.dns = Some(killed.elapsed());
            }
        }
        if seen.primary.is_none() && tour.status(EU)?["is_primary"] == true {
            seen.primary = Some(killed.elapsed());
        }
        if seen.rows.is_none() && stock(&mut redis)? >= first_later {
            seen.rows = Some(killed.elapsed());
        }
        Ok((seen.dns.is_some() && seen.primary.is_some() && seen.rows.is_some()).then_some(()))
    });
    waited.with_context(|| {
        let has = |what: Option<Duration>| what.map_or_else(|| "no".to_owned(), time);
        let (dns, primary) = (has(seen.dns), has(seen.primary));
        format!("DNS moved: {dns}; primary moved: {primary}; rows: {}", has(seen.rows))
    })?;
    Ok(seen)
}

fn stock(redis: &mut Redis) -> Result<usize> {
    let stock: Option<String> = redis.call(&["HGET", PUMPED, "stock"])?;
    Ok(stock.and_then(|text| text.parse().ok()).unwrap_or(0))
}

fn tell_roaming(story: &mut Story, roamed: &[(Instant, usize)], killed: Instant) -> Result<()> {
    let moved = roamed.iter().find(|(when, endpoint)| *when > killed && *endpoint == 1);
    let (when, _) = moved.with_context(|| format!("the client of {US} never wrote to {EU}"))?;
    let took = time(*when - killed);
    story.holds(&format!("a client with two endpoints writes to {EU} {took} after the kill"));
    story.measured("kill to first write elsewhere", took, "a client with two endpoints");
    Ok(())
}

fn tell_take_over(story: &mut Story, seen: &TakeOver, commits: usize) -> Result<()> {
    let took = |what: Option<Duration>| what.map(time).context("not seen");
    let (dns, primary, rows) = (took(seen.dns)?, took(seen.primary)?, took(seen.rows)?);
    story.holds(&format!("DNS sends the clients of {US} to {EU} after {dns}"));
    story.measured("kill to DNS answer moved", dns, "both remaining servers");
    story.holds(&format!("{EU} has the primary role after {primary}"));
    story.measured("kill to primary role moved", primary, "");
    story.holds(&format!("rows committed after the kill are read in {EU} after {rows}"));
    story.measured(
        "kill to Postgres rows flowing again",
        rows,
        format!("{commits} commits meanwhile"),
    );
    Ok(())
}

/// What was acknowledged and seen elsewhere is still there.
fn check_replicated(tour: &Tour, story: &mut Story, record: &Record) -> Result<()> {
    tour.converge(&[EU, AP], Instant::now())?;
    let (acknowledged, replicated) = (record.acknowledged.len(), record.replicated.len());
    ensure!(replicated > 0, "no write was seen elsewhere before the blow");
    for name in [EU, AP] {
        let missing = load::missing(&mut tour.redis(name)?, &record.replicated)?;
        ensure!(
            missing.is_empty(),
            "{name} lacks {} writes that were acknowledged and replicated, such as {:?}",
            missing.len(),
            missing.first().map(|number| load::key(*number))
        );
    }
    let in_flight = acknowledged - replicated;
    story.holds(&format!(
        "{acknowledged} writes were acknowledged, {replicated} of them replicated: none is missing"
    ));
    story.say(&format!("{in_flight} were on their way; they are on the disk of {US}"));
    story.measured("acknowledged and replicated writes lost", "0", format!("of {replicated}"));
    Ok(())
}
