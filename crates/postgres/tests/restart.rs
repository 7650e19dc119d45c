//! Crashes at any point: nothing is lost, nothing is repeated, gaps are seen.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Follow, Server, field, has, rows};
use meridian_cdc::{Mirror, parse_lsn};
use meridian_postgres::State;
use meridian_postgres::testing::{Options, TestPostgres};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v int, body text);
    ALTER TABLE t ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE log (id int PRIMARY KEY, v int);";

/// A client that goes on writing: inserts, updates with and without the large value, key changes,
/// deletes, and a log that grows by one row a transaction.
fn writer(url: String) -> Writer {
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(async move {
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let mut random = 12345_u32;
        for round in 0_u32.. {
            if *stopped.borrow() {
                break;
            }
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id = (random >> 8) % 40;
            let sql = match (random >> 16) % 6 {
                0 => format!("DELETE FROM t WHERE id = {id}"),
                1 => format!("UPDATE t SET v = {round} WHERE id = {id}"),
                2 => format!(
                    "UPDATE t SET id = id + 1000 WHERE id = {id} AND NOT EXISTS \
                     (SELECT FROM t WHERE id = {})",
                    id + 1000
                ),
                3 => format!("UPDATE t SET v = v + 1 WHERE id BETWEEN {id} AND {}", id + 5),
                _ => format!(
                    "INSERT INTO t VALUES ({id}, {round}, repeat('b{round}', 2000)) \
                     ON CONFLICT (id) DO UPDATE SET v = {round}, body = excluded.body"
                ),
            };
            let log = format!("INSERT INTO log VALUES ({round}, {random})", random = random >> 4);
            client.batch_execute(&format!("BEGIN; {sql}; {log}; COMMIT")).await.unwrap();
        }
    });
    Writer { stop, task }
}

struct Writer {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Ends the writer. Until here it has written all the time.
    async fn stop(self) {
        assert!(!self.task.is_finished());
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

fn check(server: &Server, mirror: &Mirror) {
    let truth = server.truth("t", "'pg:t:' || id", &["id", "v", "body"]);
    assert!(truth.len() > 10);
    let mirrored = rows(mirror, "pg:t:");
    for key in truth.keys().chain(mirrored.keys()) {
        let short = |rows: &common::Rows| format!("{:.300}", format!("{:?}", rows.get(key)));
        assert!(
            truth.get(key) == mirrored.get(key),
            "{key} is {} instead of {}",
            short(&mirrored),
            short(&truth)
        );
    }
    let log = server.truth("log", "'pg:log:' || id", &["id", "v"]);
    assert_eq!(rows(mirror, "pg:log:"), log);
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_while_a_writer_goes_on() {
    let server = Server::start(TABLES);
    let writer = writer(server.postgres.url());
    let mut mirror = Mirror::default();
    for crash in 0..8 {
        let resumes = mirror.position.is_some();
        let mut follow = Follow::start(server.config(), mirror);
        // Some batches are stored, some only handed on, some stored but never acknowledged.
        for count in 0..3 + crash * 2 {
            let batch = follow.next().await;
            if count % 4 == 3 {
                follow.mirror.apply(&batch);
            } else {
                follow.apply(&batch);
            }
            // What Postgres was told is never ahead of what was stored.
            let acknowledged = follow.handle.status().borrow().acknowledged_lsn;
            if let Some(position) = follow.mirror.position {
                assert!(acknowledged <= position.lsn);
            }
        }
        let snapshots = follow.handle.status().borrow().totals.snapshots;
        assert_eq!(snapshots, u64::from(!resumes), "a copy because of a crash");
        mirror = follow.stop().await;
    }
    writer.stop().await;
    let mut follow = Follow::start(server.config(), mirror);
    follow.catch_up(&server).await;
    check(&server, &follow.mirror);
    let status = follow.handle.status().borrow().clone();
    assert_eq!(status.totals.snapshots, 0, "{:?}", status.snapshot_reason);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_while_a_writer_goes_on() {
    let server = Server::start(TABLES);
    let writer = writer(server.postgres.url());
    let mut follow = Follow::new(&server);
    for sessions in 1..8 {
        follow.until_status(|status| status.totals.sessions == sessions).await;
        for _ in 0..sessions * 2 {
            let batch = follow.next().await;
            follow.apply(&batch);
        }
        // By turns the stream and the SQL connection beside it.
        let which = if sessions % 2 == 0 { "meridian" } else { "walsender" };
        server.sql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE '{which}' IN \
             (CASE backend_type WHEN 'walsender' THEN 'walsender' ELSE application_name END)"
        ));
    }
    follow.until_status(|status| status.totals.sessions == 8).await;
    writer.stop().await;
    follow.catch_up(&server).await;
    check(&server, &follow.mirror);
    let status = follow.handle.status().borrow().clone();
    assert_eq!(status.totals.snapshots, 1, "{:?}", status.snapshot_reason);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_come_in_while_they_are_written_to() {
    let server = Server::start("CREATE TABLE first (id int PRIMARY KEY)");
    let mut follow = Follow::new(&server);
    follow.until_status(|status| status.state == State::Streaming).await;
    server.sql(TABLES);
    let writer = writer(server.postgres.url());
    follow.until_status(|status| status.captured.len() == 3).await;
    follow.until_status(|status| status.state == State::Streaming).await;
    follow.catch_up(&server).await;
    // Its key changes: copied once more.
    server.sql(
        "BEGIN; ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id, v);
                COMMIT; CREATE UNIQUE INDEX ON t (id)",
    );
    writer.task.abort(); // The key change may have broken its session's statement.
    let with_v = |mirror: &Mirror| {
        let keys = rows(mirror, "pg:t:").into_keys();
        keys.into_iter().any(|key| key.matches(':').count() == 3)
    };
    follow.until(with_v).await;
    follow.catch_up(&server).await;
    let truth = server.truth("t", "'pg:t:' || id || ':' || v", &["id", "v", "body"]);
    assert!(rows(&follow.mirror, "pg:t:") == truth, "the rows differ");
    let log = server.truth("log", "'pg:log:' || id", &["id", "v"]);
    assert_eq!(rows(&follow.mirror, "pg:log:"), log);
    let status = follow.handle.status().borrow().clone();
    assert_eq!(status.totals.snapshots, 1, "{:?}", status.snapshot_reason);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_followed() {
    let server = Server::start(TABLES);
    let second = tempfile::tempdir().unwrap();
    let standby = server.postgres.standby(second.path()).unwrap();
    let mut config = server.config();
    let ports = format!("{},{}", standby.port(), server.postgres.port());
    config.url = format!(
        "host=127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres password={}",
        meridian_postgres::testing::PASSWORD
    );
    let mut follow = Follow::start(config, Mirror::default());
    let status = follow.until_status(|status| status.totals.sessions == 1).await;
    assert!(status.server.ends_with(&server.postgres.port().to_string()), "not the standby");
    server.sql("INSERT INTO log VALUES (1, 1); SELECT pg_switch_wal()");
    follow.until(|mirror| has(mirror, "pg:log:1")).await;
    let lsn = server.sql("SELECT pg_current_wal_flush_lsn()");
    server.sql(&format!(
        "CREATE PROCEDURE replayed() LANGUAGE plpgsql AS $$ BEGIN
             WHILE NOT EXISTS (SELECT FROM pg_stat_replication WHERE replay_lsn >= '{lsn}')
             LOOP PERFORM pg_stat_clear_snapshot(); END LOOP; END $$; CALL replayed()"
    ));
    server.postgres.kill().unwrap();
    standby.psql("SELECT pg_promote()").unwrap();
    standby.psql("INSERT INTO log VALUES (2, 2)").unwrap();
    // The tailer may copy the tables before the second row is there: then it comes by the stream.
    let promoted = |mirror: &Mirror| mirror.position.is_some_and(|at| at.timeline == 2);
    follow.until(|mirror| promoted(mirror) && has(mirror, "pg:log:2")).await;
    assert!(has(&follow.mirror, "pg:log:1"));
    // Postgres 15 does not carry slots over: the tables are copied anew, and that is said.
    let status = follow.until_status(|status| status.totals.sessions == 2).await;
    assert_eq!(status.snapshot_reason.as_deref(), Some("the replication slot is gone"));
    // The old position in the new history, read from the server.
    let mirror = follow.stop().await;
    let old = meridian_cdc::Position { timeline: 1, ..mirror.position.unwrap() };
    let config = meridian_postgres::TailerConfig::new(standby.url());
    let mut follow = Follow::start(config, Mirror { position: Some(old), ..mirror });
    let status = follow.until_status(|status| status.totals.sessions == 1).await;
    let reason = status.snapshot_reason.unwrap();
    assert!(reason.contains("applied changes were lost in the promotion"), "{reason}");
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_copy_begins_again() {
    let server = Server::start(TABLES);
    server.sql("INSERT INTO log SELECT i, i FROM generate_series(1, 60000) i");
    let mut follow = Follow::new(&server);
    for _ in 0..3 {
        let batch = follow.next().await;
        assert_eq!(batch.position, None, "no position before the copy is complete");
        follow.apply(&batch);
    }
    let half = follow.stop().await;
    assert!(!half.rows.is_empty() && half.position.is_none());
    server.sql("DELETE FROM log WHERE id < 100; INSERT INTO log VALUES (0, 0)");
    let mut follow = Follow::start(server.config(), half);
    follow.until(|mirror| mirror.position.is_some()).await;
    let log = server.truth("log", "'pg:log:' || id", &["id", "v"]);
    assert_eq!(rows(&follow.mirror, "pg:"), log);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_transaction_moves_the_position_at_its_end_only() {
    let server = Server::start(TABLES);
    let mut follow = Follow::new(&server);
    follow.until(|mirror| mirror.position.is_some()).await;
    let before = follow.mirror.position;
    server.sql(
        "BEGIN; INSERT INTO log SELECT i, i FROM generate_series(1, 20000) i;
         DELETE FROM log WHERE id % 2 = 0; COMMIT",
    );
    // The first parts arrive and the process dies.
    let mut parts = 0;
    while parts < 3 {
        let batch = follow.next().await;
        if batch.changes.is_empty() {
            continue; // An idle position from before the transaction.
        }
        assert_eq!(batch.position, None);
        follow.mirror.apply(&batch);
        parts += 1;
    }
    let mirror = follow.stop().await;
    assert_eq!(mirror.position, before);
    let mut follow = Follow::start(server.config(), mirror);
    follow.until(|mirror| mirror.position != before && !has(mirror, "pg:log:20000")).await;
    follow.catch_up(&server).await;
    let log = server.truth("log", "'pg:log:' || id", &["id", "v"]);
    assert_eq!(log.len(), 10000);
    assert_eq!(rows(&follow.mirror, "pg:"), log);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_before_it_is_durable() {
    let server = Server::start(TABLES);
    let mut follow = Follow::new(&server);
    follow.until_status(|status| status.totals.sessions == 1).await;
    let position = follow.mirror.position.unwrap();
    server.sql("INSERT INTO log VALUES (1, 1)");
    loop {
        let batch = follow.next().await;
        follow.mirror.apply(&batch); // Stored in memory, not durable.
        if has(&follow.mirror, "pg:log:1") {
            break;
        }
        // An idle position from before; acknowledging it is fine.
        follow.durable.send_replace(follow.mirror.position.unwrap().lsn);
    }
    let end = follow.mirror.position.unwrap().lsn;
    // The server asks for a status and takes what it is told; it was told several times by now.
    let mut status = follow.handle.status();
    for _ in 0..30 {
        status.changed().await.unwrap();
        assert!(status.borrow().acknowledged_lsn < end);
    }
    let confirmed = "SELECT confirmed_flush_lsn FROM pg_replication_slots";
    assert!(parse_lsn(&server.sql(confirmed)).unwrap() < end);
    follow.durable.send_replace(end);
    status.wait_for(|status| status.acknowledged_lsn >= end).await.unwrap();
    assert!(end > position.lsn);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_ahead_or_gone_means_a_new_copy() {
    let server = Server::start(TABLES);
    server.sql("INSERT INTO log VALUES (1, 1), (2, 2)");
    let mut follow = Follow::new(&server);
    follow.until(|mirror| mirror.position.is_some()).await;
    let mirror = follow.stop().await;
    server.sql("INSERT INTO log VALUES (3, 3); DELETE FROM log WHERE id = 1");
    // Someone else acknowledged on this slot.
    let advance = "SELECT pg_replication_slot_advance('meridian', pg_current_wal_flush_lsn())";
    server.sql(advance);
    let mut follow = Follow::start(server.config(), mirror);
    let status = follow.until_status(|status| status.totals.sessions == 1).await;
    let reason = status.snapshot_reason.unwrap();
    assert!(reason.contains("past the stored"), "{reason}");
    follow.until(|mirror| has(mirror, "pg:log:3") && !has(mirror, "pg:log:1")).await;
    let mirror = follow.stop().await;

    server.sql("SELECT pg_drop_replication_slot('meridian'); INSERT INTO log VALUES (4, 4)");
    let mut follow = Follow::start(server.config(), mirror);
    let status = follow.until_status(|status| status.totals.sessions == 1).await;
    assert_eq!(status.snapshot_reason.as_deref(), Some("the replication slot is gone"));
    follow.until(|mirror| has(mirror, "pg:log:4")).await;
    let log = server.truth("log", "'pg:log:' || id", &["id", "v"]);
    assert_eq!(rows(&follow.mirror, "pg:"), log);
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_held_is_waited_for() {
    let server = Server::start(TABLES);
    let mut first = Follow::new(&server);
    first.until_status(|status| status.state == State::Streaming).await;
    let mut second = Follow::start(server.config(), first.mirror.clone());
    let held = |text: &Option<String>| {
        text.as_deref().is_some_and(|text| text.contains("held by another process"))
    };
    second.until_status(|status| held(&status.last_error)).await;
    first.stop().await;
    second.until_status(|status| status.state == State::Streaming).await;
    server.sql("INSERT INTO log VALUES (1, 1)");
    second.until(|mirror| has(mirror, "pg:log:1")).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_found_again() {
    let server = Server::start(TABLES);
    let mut follow = Follow::new(&server);
    follow.until_status(|status| status.state == State::Streaming).await;
    let port = server.postgres.port();
    server.sql("INSERT INTO log VALUES (1, 1)");
    let Server { postgres, directory } = server;
    postgres.kill().unwrap();
    follow.until_status(|status| status.totals.failures > 0).await;
    let options = Options { port: Some(port), ..Default::default() };
    let postgres = TestPostgres::start_with(directory.path(), &options).unwrap();
    let server = Server { postgres, directory };
    server.sql("INSERT INTO log VALUES (2, 2)");
    follow.until(|mirror| has(mirror, "pg:log:2")).await;
    assert!(has(&follow.mirror, "pg:log:1"));
    let status = follow.until_status(|status| status.totals.sessions == 2).await;
    assert_eq!(status.totals.snapshots, 1);
    // An orderly shutdown waits until everything is sent, stored and acknowledged.
    server.sql("INSERT INTO log VALUES (3, 3)");
    let stopping = tokio::task::spawn_blocking(|| server.postgres.stop());
    let failures = status.totals.failures;
    follow.until_status(|status| status.totals.failures > failures).await;
    follow.until(|mirror| has(mirror, "pg:log:3")).await;
    stopping.await.unwrap().unwrap();
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_does_not_hold_the_log() {
    let server = Server::start(TABLES);
    server.sql("CREATE DATABASE other");
    let mut follow = Follow::new(&server);
    follow.until_status(|status| status.state == State::Streaming).await;
    // Only tables that nobody follows are busy.
    server.sql(
        "\\c other\nCREATE TABLE noise AS SELECT repeat('x', 100) FROM generate_series(1, 9999)",
    );
    follow.catch_up(&server).await;
    let target = follow.mirror.position.unwrap().lsn;
    follow.until_status(|status| status.acknowledged_lsn >= target).await;
    assert_eq!(field(&follow.mirror, "pg:log:1", "v"), None);
    follow.stop().await;
}
