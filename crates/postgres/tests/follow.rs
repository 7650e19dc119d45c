//! Copies and the stream against a real server: the mirror must be what Postgres holds.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Follow, Server, field, has, rows};

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_and_what_comes_after_print_alike() {
    let values = "true, 1.5::float8 / 3, 0.1::float4, 12.50::numeric, E'a\\tb\\nc\\\\d', '', \
                  'ümläut', '\\xdeadbeef'::bytea, '2026-02-03 04:05:06.789+00'::timestamptz, \
                  '1 day 02:03:04'::interval, '{\"a\": [1, null]}'::jsonb, '{1,NULL,3}'::int[], \
                  'ab'::char(5), 12.34::money, NULL";
    let server = Server::start(
        "ALTER DATABASE postgres SET datestyle = 'German';
         ALTER DATABASE postgres SET timezone = 'Asia/Tokyo';
         ALTER DATABASE postgres SET bytea_output = 'escape';
         ALTER DATABASE postgres SET extra_float_digits = -10;
         CREATE TABLE kinds (id int PRIMARY KEY, bool bool, double float8, single float4,
             exact numeric, escapes text, empty text, word text, raw bytea, at timestamptz,
             span interval, doc jsonb, list int[], padded char(5), price money, nothing text,
             twice int GENERATED ALWAYS AS (id * 2) STORED);",
    );
    server.sql(&format!("INSERT INTO kinds VALUES (1, {values})"));
    let mut follow = Follow::new(&server);
    follow.until(|mirror| mirror.position.is_some()).await;
    server.sql(&format!("INSERT INTO kinds VALUES (2, {values})"));
    follow.until(|mirror| has(mirror, "pg:kinds:2")).await;
    let kinds = rows(&follow.mirror, "pg:kinds:");
    let without_id = |key: &str| {
        let mut row = kinds[key].clone();
        row.remove("id").unwrap();
        row
    };
    assert_eq!(without_id("pg:kinds:1"), without_id("pg:kinds:2"));
    let value = |name: &str| kinds["pg:kinds:1"][name].as_str();
    assert_eq!(value("bool"), "t");
    assert_eq!(value("escapes"), "a\tb\nc\\d");
    assert_eq!(value("at"), "2026-02-03 04:05:06.789+00");
    assert_eq!(value("raw"), "\\xdeadbeef");
    assert_eq!(value("padded"), "ab   ");
    assert_eq!(value("empty"), "");
    assert!(!kinds["pg:kinds:1"].contains_key("nothing"));
    assert!(!kinds["pg:kinds:1"].contains_key("twice"), "generated columns are not streamed");
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_change() {
    let server = Server::start(
        "CREATE TABLE products (id int PRIMARY KEY, name text, price int);
         CREATE TABLE items (order_id text, line int, qty int, PRIMARY KEY (order_id, line));
         CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY);
         INSERT INTO products SELECT i, 'p' || i, i FROM generate_series(1, 100) i;
         INSERT INTO items VALUES ('a:b', 1, 1), ('a', 2, 2), ('50%', 3, 3);",
    );
    let mut follow = Follow::new(&server);
    follow.until(|mirror| mirror.position.is_some()).await;
    let products = |server: &Server| {
        server.truth("products", "'pg:products:' || id", &["id", "name", "price"])
    };
    assert_eq!(rows(&follow.mirror, "pg:products:"), products(&server));
    assert_eq!(follow.mirror.rows.len(), 103, "the other schema is not asked for");

    server.sql(
        "INSERT INTO products VALUES (101, 'lamp', NULL);
         UPDATE products SET price = price * 2, name = NULL WHERE id % 3 = 0;
         DELETE FROM products WHERE id % 5 = 0;
         UPDATE products SET id = id + 1000 WHERE id < 10;
         BEGIN; INSERT INTO products VALUES (500); ROLLBACK;
         BEGIN; INSERT INTO products VALUES (501); SAVEPOINT s; INSERT INTO products VALUES (502);
         ROLLBACK TO s; COMMIT;
         UPDATE items SET order_id = 'a', line = 1 WHERE order_id = 'a:b';
         UPDATE items SET qty = 9 WHERE order_id = '50%';",
    );
    follow.catch_up(&server).await;
    assert_eq!(rows(&follow.mirror, "pg:products:"), products(&server));
    let key = "'pg:items:' || replace(replace(order_id, '%', '%25'), ':', '%3A') || ':' || line";
    let items = server.truth("items", key, &["order_id", "line", "qty"]);
    assert_eq!(rows(&follow.mirror, "pg:items:"), items);
    assert!(items.contains_key("pg:items:50%25:3") && items.contains_key("pg:items:a:1"));

    server.sql("TRUNCATE products; INSERT INTO products VALUES (7, 'after', 1)");
    follow.until(|mirror| has(mirror, "pg:products:7")).await;
    assert_eq!(rows(&follow.mirror, "pg:products:"), products(&server));
    assert_eq!(rows(&follow.mirror, "pg:items:"), items);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_that_were_not_touched_stay() {
    let server = Server::start(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, body text);
         ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
         CREATE TABLE whole (LIKE docs INCLUDING ALL);
         ALTER TABLE whole REPLICA IDENTITY FULL;
         INSERT INTO docs SELECT i, 't', repeat('x' || i, 5000) FROM generate_series(1, 4) i;
         INSERT INTO whole SELECT * FROM docs;",
    );
    let mut follow = Follow::new(&server);
    follow.until(|mirror| mirror.position.is_some()).await;
    for table in ["docs", "whole"] {
        server.sql(&format!(
            "UPDATE {table} SET title = 'new' WHERE id = 1;
             UPDATE {table} SET id = 20 WHERE id = 2;
             UPDATE {table} SET id = 30 WHERE id = 3; UPDATE {table} SET id = 31 WHERE id = 30;
             UPDATE {table} SET body = NULL WHERE id = 4;"
        ));
    }
    follow.catch_up(&server).await;
    for table in ["docs", "whole"] {
        let key = format!("'pg:{table}:' || id");
        let truth = server.truth(table, &key, &["id", "title", "body"]);
        assert_eq!(truth.len(), 4);
        assert!(rows(&follow.mirror, &format!("pg:{table}:")) == truth, "{table} differs");
    }
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_moved_is_not_looked_at_before_its_transaction_is_visible() {
    let server = Server::start(
        "CREATE TABLE docs (id int PRIMARY KEY, body text);
         ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
         INSERT INTO docs VALUES (1, repeat('x', 5000)), (2, repeat('y', 5000))",
    );
    let mut follow = Follow::new(&server);
    follow.until(|mirror| mirror.position.is_some()).await;
    // A commit that waits for a standby is streamed, and invisible to others.
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'; SELECT pg_reload_conf()");
    let is_waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    std::thread::scope(|scope| {
        // The row's key is that of another one before: the old row must not be taken for it.
        scope.spawn(|| {
            server.sql("BEGIN; DELETE FROM docs WHERE id = 2; UPDATE docs SET id = 2; COMMIT")
        });
        while server.sql(is_waiting) != "t" {}
        let sent =
            "SELECT bool_and(sent_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication";
        while server.sql(sent) != "t" {}
        server.sql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()");
    });
    follow.until(|mirror| !has(mirror, "pg:docs:1")).await;
    let truth = server.truth("docs", "'pg:docs:' || id", &["id", "body"]);
    assert!(truth["pg:docs:2"]["body"].starts_with('x'));
    assert!(rows(&follow.mirror, "pg:docs:") == truth, "what is mirrored differs");
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_changes_are_followed() {
    let server = Server::start(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text);
                                INSERT INTO t VALUES (1, 'a', 'b')",
    );
    let mut follow = Follow::new(&server);
    follow.until(|mirror| mirror.position.is_some()).await;
    server.sql(
        "ALTER TABLE t ADD c int; UPDATE t SET c = 3;
         ALTER TABLE t DROP a; UPDATE t SET c = 4;
         ALTER TABLE t RENAME b TO d; UPDATE t SET c = 5;
         ALTER TABLE t ALTER c TYPE text USING 'n' || c; INSERT INTO t VALUES (2, 'dd', 'cc')",
    );
    follow.until(|mirror| has(mirror, "pg:t:2")).await;
    let truth = server.truth("t", "'pg:t:' || id", &["id", "d"]);
    let mut mirrored = rows(&follow.mirror, "pg:t:");
    // A rewrite by ALTER TYPE sends no rows: the old row keeps its old value until it is touched.
    assert_eq!(mirrored.get_mut("pg:t:1").unwrap().remove("c").unwrap(), "5");
    assert_eq!(mirrored.get_mut("pg:t:2").unwrap().remove("c").unwrap(), "cc");
    assert_eq!(mirrored, truth);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_key_is_refused_and_comes_in_when_it_gets_one() {
    let server = Server::start(
        "CREATE TABLE good (id int PRIMARY KEY);
         CREATE TABLE keyless (id int NOT NULL, v text);
         CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE by_index (id int NOT NULL, v text);
         CREATE UNIQUE INDEX by_index_id ON by_index (id);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id;
         CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
         INSERT INTO keyless VALUES (1, 'x'), (2, 'y'); INSERT INTO by_index VALUES (5, 'i')",
    );
    let mut follow = Follow::new(&server);
    let status = follow.until_status(|status| status.totals.sessions == 1).await;
    let refused: Vec<&str> = status.refused.keys().map(|name| name.table.as_str()).collect();
    assert_eq!(refused, ["keyless", "late", "nothing"]);
    assert!(status.refused.values().any(|reason| reason.contains("has no primary key")));
    assert!(status.refused.values().any(|reason| reason.contains("REPLICA IDENTITY NOTHING")));
    // The application's own updates of it are not disturbed, and the others go on.
    server.sql("UPDATE keyless SET v = 'z' WHERE id = 2; INSERT INTO good VALUES (1)");
    server.sql("UPDATE by_index SET id = 6");
    follow.until(|mirror| has(mirror, "pg:good:1") && has(mirror, "pg:by_index:6")).await;
    assert!(!has(&follow.mirror, "pg:by_index:5"));
    assert!(rows(&follow.mirror, "pg:keyless:").is_empty());

    server.sql("ALTER TABLE keyless ADD PRIMARY KEY (id)");
    follow.until(|mirror| has(mirror, "pg:keyless:2")).await;
    server.sql("UPDATE keyless SET v = 'followed' WHERE id = 1");
    follow.until(|mirror| field(mirror, "pg:keyless:1", "v").as_deref() == Some("followed")).await;
    assert_eq!(field(&follow.mirror, "pg:keyless:2", "v").as_deref(), Some("z"));
    let status = follow.until_status(|status| !status.refused.is_empty()).await;
    assert_eq!(status.totals.snapshots, 1, "only the table that came in is copied");
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_come_and_go_while_following() {
    let server = Server::start(
        "CREATE TABLE stays (id int PRIMARY KEY, v text);
         CREATE TABLE goes (id int PRIMARY KEY);
         CREATE TABLE keyed (a int NOT NULL, b int NOT NULL, PRIMARY KEY (a));
         INSERT INTO stays VALUES (1, 'x'); INSERT INTO goes VALUES (1);
         INSERT INTO keyed VALUES (1, 10), (2, 20)",
    );
    let mut follow = Follow::new(&server);
    follow.until(|mirror| mirror.position.is_some()).await;
    assert!(has(&follow.mirror, "pg:goes:1") && has(&follow.mirror, "pg:keyed:2"));
    server.sql(
        "CREATE TABLE fresh (id int PRIMARY KEY, v text); INSERT INTO fresh VALUES (1, 'one');
         DROP TABLE goes;
         ALTER TABLE keyed DROP CONSTRAINT keyed_pkey",
    );
    server.sql("ALTER TABLE keyed ADD PRIMARY KEY (b); INSERT INTO keyed VALUES (3, 30)");
    server.sql("ALTER TABLE stays RENAME TO renamed; INSERT INTO renamed VALUES (2, 'y')");
    follow
        .until(|mirror| {
            ["pg:fresh:1", "pg:keyed:30", "pg:renamed:1"].iter().all(|key| has(mirror, key))
                && !has(mirror, "pg:goes:1")
                && !has(mirror, "pg:stays:1")
        })
        .await;
    server.sql("UPDATE fresh SET v = 'two'; DELETE FROM keyed WHERE b = 10");
    server.sql("INSERT INTO renamed VALUES (3, 'z')");
    follow.until(|mirror| has(mirror, "pg:renamed:3") && !has(mirror, "pg:keyed:10")).await;
    let fresh = server.truth("fresh", "'pg:fresh:' || id", &["id", "v"]);
    let keyed = server.truth("keyed", "'pg:keyed:' || b", &["a", "b"]);
    let renamed = server.truth("renamed", "'pg:renamed:' || id", &["id", "v"]);
    let all: common::Rows = fresh.into_iter().chain(keyed).chain(renamed).collect();
    assert_eq!(rows(&follow.mirror, "pg:"), all);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_come_under_their_table() {
    let server = Server::start(
        "CREATE TABLE sales (day int, id int, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
         CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM (0) TO (10);
         CREATE TABLE sales_2 PARTITION OF sales FOR VALUES FROM (10) TO (20);
         INSERT INTO sales VALUES (1, 1, 'a'), (11, 1, 'b')",
    );
    let mut follow = Follow::new(&server);
    follow.until(|mirror| mirror.position.is_some()).await;
    server.sql("UPDATE sales SET v = 'c' WHERE day = 1; UPDATE sales SET day = 12 WHERE day = 1");
    server.sql("INSERT INTO sales VALUES (2, 2, 'd')");
    follow.until(|mirror| has(mirror, "pg:sales:2:2")).await;
    let truth = server.truth("sales", "'pg:sales:' || day || ':' || id", &["day", "id", "v"]);
    assert_eq!(rows(&follow.mirror, "pg:"), truth);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_too_large_to_remember_is_swept_by_a_second_pass() {
    // Few rows with long keys make as many bytes of keys as millions of usual ones.
    let server = Server::start(
        "CREATE TABLE big (part int, id text, PRIMARY KEY (part, id));
         INSERT INTO big SELECT i % 3, 'k:' || i || '%' || repeat('x', 2000)
           FROM generate_series(1, 35000) i",
    );
    const { assert!(35_000 * 2_000 > meridian_cdc::limits::COPY_KEYS_BYTES_MAX) };
    let mut follow = Follow::new(&server);
    // Left over from before, within and around the table.
    let kept = format!("pg:big:0:k%3A3%25{}", "x".repeat(2000));
    for key in [&kept, "pg:big:0:zzz", "pg:big:", "pg:other:1", "pg:zoo:1", "own:1"] {
        follow.mirror.rows.insert(key.to_owned().into(), [("old".into(), "1".into())].into());
    }
    follow.until(|mirror| mirror.position.is_some()).await;
    let mut mirrored = rows(&follow.mirror, "");
    assert!(mirrored.remove("own:1").is_some(), "what is not under pg: is not touched");
    assert_eq!(mirrored.len(), 35_000);
    assert!(mirrored.iter().all(|(key, row)| {
        let id = row["id"].replace('%', "%25").replace(':', "%3A");
        *key == format!("pg:big:{}:{id}", row["part"])
    }));
    assert_eq!(mirrored[&kept].len(), 2, "an old field is gone");
    follow.stop().await;
}
