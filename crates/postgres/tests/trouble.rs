//! What is wrong is said in words that can be acted on.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Follow, Server};
use meridian_cdc::{Mirror, Position, TableName, Tables};
use meridian_postgres::testing::{Options, TestPostgres};
use meridian_postgres::{State, Tailer, TailerConfig};
use tokio::sync::{mpsc, watch};

/// The error that a tailer shows.
async fn trouble(config: TailerConfig, mirror: Mirror) -> (String, State) {
    let mut follow = Follow::start(config, mirror);
    let status = follow.until_status(|status| status.last_error.is_some()).await;
    follow.stop().await;
    (status.last_error.unwrap(), status.state)
}

#[track_caller]
fn check(error: &str, expect: &[&str]) {
    for part in expect {
        assert!(error.contains(part), "{error:?} does not contain {part:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting() {
    let server = Server::start(
        "CREATE ROLE plain LOGIN; CREATE TABLE t (id int PRIMARY KEY);
         CREATE ROLE tailer LOGIN REPLICATION PASSWORD 'secret'",
    );
    let port = server.postgres.port();
    let at = |url: String| trouble(TailerConfig::new(url), Mirror::default());
    let socket = server.postgres.url();

    let (error, _) = at(format!("postgresql://postgres:wrong@127.0.0.1:{port}/postgres")).await;
    check(&error, &["password authentication failed for user \"postgres\"", "28P01"]);
    assert!(!error.contains("wrong"));
    let (error, _) = at(format!("postgresql://postgres@127.0.0.1:{port}/postgres")).await;
    check(&error, &["password"]);
    let (error, _) = at(socket.replace("dbname=postgres", "dbname=missing")).await;
    check(&error, &["database \"missing\" does not exist", "3D000"]);
    let (error, _) = at(socket.replace("user=postgres", "user=plain")).await;
    check(&error, &["role plain may not replicate", "ALTER ROLE"]);
    let (error, _) = at("host=127.0.0.1 port=1 user=a".into()).await;
    check(&error, &["127.0.0.1:1", "cannot be reached"]);

    // The right password, over TCP with SCRAM; but this role may neither create nor read.
    let tailer = format!("postgresql://tailer:secret@127.0.0.1:{port}/postgres");
    let (error, _) = at(tailer.clone()).await;
    check(&error, &["permission denied", "42501"]);
    server.sql("CREATE PUBLICATION meridian FOR TABLE t; INSERT INTO t VALUES (1)");
    let mut follow = Follow::start(TailerConfig::new(tailer), Mirror::default());
    let status = follow.until_status(|status| status.totals.sessions == 1).await;
    check(&status.refused[&TableName::new("public", "t")], &["grant SELECT"]);
    server.sql("GRANT SELECT ON t TO tailer");
    follow.until(|mirror| common::has(mirror, "pg:t:1")).await;
    follow.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_set_up() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { wal_level: "replica".into(), ..Options::default() };
    let postgres = TestPostgres::start_with(directory.path(), &options).unwrap();
    let (error, _) = trouble(TailerConfig::new(postgres.url()), Mirror::default()).await;
    check(&error, &["wal_level is replica", "wal_level = logical", "restart"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_touched_is_refused() {
    let server = Server::start(
        "CREATE TABLE t (id int PRIMARY KEY);
         SELECT pg_create_logical_replication_slot('foreign_plugin', 'test_decoding');
         SELECT pg_create_physical_replication_slot('physical');
         CREATE PUBLICATION inserts FOR TABLE t WITH (publish = 'insert');
         CREATE PUBLICATION taken FOR TABLE t;
         COMMENT ON PUBLICATION taken IS 'meridian slot=other'",
    );
    let with = |change: &dyn Fn(&mut TailerConfig)| {
        let mut config = server.config();
        change(&mut config);
        trouble(config, Mirror::default())
    };
    let (error, state) = with(&|config| config.slot = "foreign_plugin".into()).await;
    check(&error, &["plug-in test_decoding", "choose another name"]);
    assert_eq!(state, State::Refused);
    let (error, _) = with(&|config| config.slot = "physical".into()).await;
    check(&error, &["physical"]);
    let (error, _) = with(&|config| config.publication = "inserts".into()).await;
    check(&error, &["does not publish all of insert, update, delete and truncate"]);
    let (error, _) = with(&|config| config.publication = "taken".into()).await;
    check(&error, &["publication taken serves slot other"]);
    let slots = server
        .sql("SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots");
    assert_eq!(slots, "foreign_plugin physical", "nothing was created or dropped");

    let position = Some(Position { system_id: 1, timeline: 1, lsn: 1 });
    let other = Mirror { position, ..Mirror::default() };
    let (error, state) = trouble(server.config(), other).await;
    check(&error, &["another cluster"]);
    assert_eq!(state, State::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_by_name() {
    let server = Server::start(
        "CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY);
         CREATE TABLE skipped (id int PRIMARY KEY); CREATE TABLE hidden (id int PRIMARY KEY);
         ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
         INSERT INTO sales.orders VALUES (1); INSERT INTO hidden VALUES (1);
         CREATE ROLE tailer LOGIN REPLICATION; GRANT pg_read_all_data TO tailer;
         CREATE PUBLICATION meridian FOR ALL TABLES",
    );
    let url = server.postgres.url().replace("user=postgres", "user=tailer");
    let listed = ["sales.orders", "hidden", "missing"].map(|name| TableName::parse(name).unwrap());
    let config = TailerConfig { tables: Tables::Listed(listed.into()), ..TailerConfig::new(url) };
    let mut follow = Follow::start(config, Mirror::default());
    let status = follow.until_status(|status| status.totals.sessions == 1).await;
    check(&status.refused[&TableName::new("public", "missing")], &["does not exist"]);
    check(&status.refused[&TableName::new("public", "hidden")], &["row-level security"]);
    server.sql("INSERT INTO skipped VALUES (1); INSERT INTO hidden VALUES (2)");
    server.sql("INSERT INTO sales.orders VALUES (2)");
    follow.until(|mirror| common::has(mirror, "pg:sales.orders:2")).await;
    let keys: Vec<_> = common::rows(&follow.mirror, "").into_keys().collect();
    assert_eq!(keys, ["pg:sales.orders:1", "pg:sales.orders:2"]);
    follow.stop().await;
}

#[tokio::test]
async fn configurations_that_cannot_be() {
    let error = |config: TailerConfig| {
        let (sender, _) = mpsc::channel(1);
        let (_, durable) = watch::channel(0);
        Tailer::spawn(config, None, sender, durable).err().unwrap().to_string()
    };
    let good = TailerConfig::new("host=h user=u");
    check(&error(TailerConfig { slot: "a b".into(), ..good.clone() }), &["slot name \"a b\""]);
    check(&error(TailerConfig { publication: "x'".into(), ..good }), &["publication name"]);
    check(&error(TailerConfig::new("host=h user=u sslmode=require")), &["TLS"]);
    check(&error(TailerConfig::new("postgresql://u:geheim@h:port/")), &["cannot be read"]);
}
