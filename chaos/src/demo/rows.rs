//! Step 2: rows of a real Postgres are read in every region.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use meridian_chaos::source::Source;
use meridian_chaos::{patience, shop};

use crate::story::{Story, median_and_max, time};
use crate::tour::{ALL, AP, Tour, US};

/// How long the first copy of all tables may take.
const COPY_WITHIN: Duration = Duration::from_secs(60);

/// How long one change may take to be read on the other side of the earth.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// Changes that are timed.
const CHANGES: usize = 20;

/// Takes the snapshot and follows.
pub fn follow(tour: &mut Tour, story: &mut Story) -> Result<()> {
    story.step("A Postgres primary for us-east: its rows are read everywhere");
    let start = tour.postgres_start.take().context("Postgres was not started")?;
    let started = start.join().map_err(|_| anyhow::anyhow!("starting Postgres has panicked"))?;
    let (postgres, took) = started?;
    story.say(&format!("Postgres is up on port {} after {}", postgres.port(), time(took)));
    tour.postgres = Some(postgres);
    snapshot(tour, story)?;
    changes(tour, story)?;
    transaction(tour, story)?;
    mirror_is_read_only(tour, story)
}

/// Every region holds exactly the rows of Postgres.
pub fn check_rows(tour: &Tour, regions: &[&str]) -> Result<usize> {
    let source = Source::connect(&tour.shop_url)?;
    let postgres = shop::in_postgres(&source)?;
    for name in regions {
        let mut redis = tour.redis(name)?;
        let mut last = Ok(());
        let equal = patience::until("the mirror to hold what Postgres holds", COPY_WITHIN, || {
            last = shop::check_equal(&postgres, &shop::in_mirror(&mut redis)?, name);
            Ok(last.is_ok().then_some(()))
        });
        last?;
        equal?;
    }
    Ok(postgres.len())
}

fn snapshot(tour: &Tour, story: &mut Story) -> Result<()> {
    let started = Instant::now();
    let source = Source::connect(&tour.shop_url)?;
    let expected = shop::in_postgres(&source)?.len() as u64;
    let mut far = tour.redis(AP)?;
    // Counted before anything is compared, which costs more.
    patience::until("the first copy of the shop", COPY_WITHIN, || {
        let copied = tour.status(US)?["cdc"]["rows_copied"].as_u64().unwrap_or_default();
        let keys: u64 = far.call(&["DBSIZE"])?;
        Ok((copied >= expected && keys >= expected).then_some(()))
    })?;
    let took = time(started.elapsed());
    let rows = check_rows(tour, &ALL)?;
    story.holds(&format!("{rows} rows of 4 tables are equal, value by value, in all regions"));
    story.measured(&format!("{rows} rows copied, in {AP}"), took, "from a consistent snapshot");
    Ok(())
}

fn changes(tour: &Tour, story: &mut Story) -> Result<()> {
    let source = Source::connect(&tour.shop_url)?;
    let mut far = tour.redis(AP)?;
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let price = format!("{}.99", 1000 + number);
        source.execute(&format!("UPDATE products SET price = {price} WHERE product_id = 7"))?;
        let committed = Instant::now();
        let what = format!("the price {price}");
        times.push(patience::time_until(&what, CHANGE_WITHIN, committed, || {
            let found: Option<String> = far.call(&["HGET", "pg:products:7", "price"])?;
            Ok(found.as_deref() == Some(price.as_str()))
        })?);
    }
    let (median, max) = median_and_max(times);
    let one_way = tour.one_way(US, AP);
    let (median, max) = (time(median), time(max));
    let given = format!("one way {}, worst of {CHANGES} {max}", time(one_way));
    story
        .holds(&format!("UPDATE in Postgres, HGET pg:products:7 in {AP} {median} later ({given})"));
    story.measured("commit in Postgres to hash in ap-southeast", median, given);
    Ok(())
}

/// All kinds of changes in one transaction, under a key of two columns too.
fn transaction(tour: &Tour, story: &mut Story) -> Result<()> {
    let source = Source::connect(&tour.shop_url)?;
    source.execute(
        "BEGIN;
         INSERT INTO orders VALUES (900001, 5, now(), false, 'ring: twice %');
         INSERT INTO order_items VALUES (900001, 1, 7, 2, 10.50), (900001, 2, 8, 1, 99.00);
         DELETE FROM order_items WHERE order_id BETWEEN 100 AND 200;
         UPDATE order_items SET line = line + 10 WHERE order_id = 300;
         UPDATE customers SET phone = NULL, name = name || ' jr.' WHERE customer_id % 10 = 0;
         COMMIT",
    )?;
    let rows = check_rows(tour, &ALL)?;
    story.holds(&format!(
        "a transaction of inserts, updates (of a key, to NULL) and deletes: all {rows} rows equal"
    ));
    Ok(())
}

fn mirror_is_read_only(tour: &Tour, story: &mut Story) -> Result<()> {
    let refused = tour.redis(US)?.try_call::<i64>(&["HSET", "pg:products:7", "price", "0"]);
    match refused {
        Err(error) if error.code() == Some("READONLY") => {
            story.holds("a write to a mirrored row is refused");
            Ok(())
        }
        other => anyhow::bail!("HSET on a mirrored row: {other:?}, expected READONLY"),
    }
}
