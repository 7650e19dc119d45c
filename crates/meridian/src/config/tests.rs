//! The topology file as a whole: what is accepted, what is refused and with which words, and what
//! a node makes of it.

use std::path::Path;

use meridian_cdc::Tables;
use meridian_keyspace::Durability;

use super::*;

const SMALL: &str = "
cluster: shop
regions:
  - {name: us, ordinal: 0, redis: 127.0.0.1:1, mesh: 127.0.0.1:2, admin: 127.0.0.1:3, dns: 127.0.0.1:4}
  - {name: eu, ordinal: 1, redis: 127.0.0.2:1, mesh: 127.0.0.2:2, admin: 127.0.0.2:3, dns: 127.0.0.2:4}
dns:
  zone: shop.test
";

/// Replaces one part of the small topology and expects words in the complaint.
#[track_caller]
fn refused(from: &str, to: &str, words: &[&str]) {
    assert!(SMALL.contains(from), "the small topology has no {from:?}");
    complains(&SMALL.replacen(from, to, 1), words);
}

/// Adds lines to the small topology and expects words in the complaint.
#[track_caller]
fn refused_with(lines: &str, words: &[&str]) {
    complains(&format!("{SMALL}{lines}"), words);
}

#[track_caller]
fn complains(text: &str, words: &[&str]) {
    let error = ClusterFile::parse(text).expect_err("it was accepted");
    let error = format!("{error:#}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

fn node(text: &str, region: &str, overrides: Overrides) -> anyhow::Result<NodeConfig> {
    NodeConfig::resolve(ClusterFile::parse(text).expect("topology"), region, overrides)
}

#[test]
fn the_shipped_topology_is_sound() {
    let file = ClusterFile::parse(EXAMPLE).unwrap();
    assert_eq!(file.names(), ["us-east", "eu-central", "ap-southeast"]);
    assert_eq!((file.partitions, file.dns.ttl_s), (16, 5));
    assert_eq!(file.round_trip_ms("ap-southeast", "us-east"), Some(220));
    assert_eq!(file.largest_round_trip_ms(), 220);
    let config = file.failover_config(1);
    assert_eq!((config.priority, config.voters), (vec![0, 1, 2], vec![2, 1, 0]));
    let topology = file.dns_topology().unwrap();
    assert_eq!(topology.networks[1].order, [1, 0, 2]);
    assert_eq!(topology.regions[&2].addresses, ["127.0.0.3".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn the_shipped_topology_spells_out_defaults_as_they_are() {
    let file = ClusterFile::parse(EXAMPLE).unwrap();
    let small = ClusterFile::parse(SMALL).unwrap();
    assert_eq!(file.storage, small.storage);
    assert_eq!(file.limits, small.limits);
    assert_eq!(file.failover.timing, small.failover.timing);
    assert_eq!((file.dns.names, file.log), (small.dns.names, small.log));
}

#[test]
fn a_file_written_by_the_program_is_read_again() {
    let file = ClusterFile::parse(EXAMPLE).unwrap();
    let text = serde_yaml_ng::to_string(&file).unwrap();
    assert_eq!(ClusterFile::parse(&text).unwrap(), file);
}

#[test]
fn slips_of_form_name_the_field_and_what_would_be_right() {
    refused("cluster: shop", "cluster: shop\nclusters: 3", &["clusters", "expected one of"]);
    refused("ordinal: 0", "ordinal: zero", &["regions[0].ordinal", "u16"]);
    refused("redis: 127.0.0.1:1", "redis: here", &["regions[0].redis", "socket address"]);
    refused("dns: 127.0.0.1:4", "dnss: 127.0.0.1:4", &["dnss", "expected one of"]);
    refused("zone: shop.test", "zones: shop.test", &["dns", "zones", "zone"]);
    refused_with("storage: {log_segment: 5 pounds}", &["storage.log_segment", "64MiB"]);
    refused_with("storage: {appendfsync: no}", &["storage.appendfsync", "always", "everysec"]);
    refused_with("limits: {max_clients: 0}", &["limits.max_clients"]);
    refused_with("limits: {clock_skew_ms: 5}", &["limits.clock_skew_ms", "from 20"]);
    refused_with("limits: {clock_skew_ms: 60000}", &["limits.clock_skew_ms", "30000"]);
}

#[test]
fn contradictions_name_the_field() {
    refused("cluster: shop", "cluster: Shop", &["cluster", "a-z"]);
    refused("cluster: shop", "cluster: shop\npartitions: 12", &["partitions", "power of two"]);
    refused("name: eu", "name: us", &["two are called us"]);
    refused("ordinal: 1", "ordinal: 0", &["ordinal", "us and eu are both 0"]);
    refused("ordinal: 1", "ordinal: 64", &["regions.eu.ordinal", "64"]);
    refused("redis: 127.0.0.2:1", "redis: 127.0.0.1:1", &["regions.eu.redis", "regions.us.redis"]);
    refused("admin: 127.0.0.1:3", "admin: 127.0.0.1:4", &["TCP", "regions.us.admin"]);
    refused("mesh: 127.0.0.1:2", "mesh: 127.0.0.1:4", &["UDP", "regions.us.mesh"]);
    refused("admin: 127.0.0.1:3", "admin: 0.0.0.0:1", &["regions.us.admin", "regions.us.redis"]);
    refused("admin: 127.0.0.1:3", "admin: 127.0.0.1:0", &["regions.us.admin", "port 0"]);
    refused("redis: 127.0.0.1:1", "redis: 0.0.0.0:9", &["regions.us.client_addresses", "needed"]);
    refused("mesh: 127.0.0.1:2", "mesh: 0.0.0.0:9", &["regions.us.mesh_address", "needed"]);
    refused("ordinal: 0", "ordinal: 0, mesh_address: us", &["mesh_address", "host:port"]);
    refused("ordinal: 0", "ordinal: 0, mesh_address: '127.0.0.2:2'", &["mesh_address", "already"]);
    refused("zone: shop.test", "zone: Shop..test", &["dns.zone"]);
    refused("zone: shop.test", "zone: shop.test\n  names: [eu]", &["dns.names", "region"]);
    refused("zone: shop.test", "zone: shop.test\n  ttl_s: 90000", &["dns.ttl_s", "3600"]);
    refused(
        "zone: shop.test",
        "zone: shop.test\n  networks: [{cidr: 10.0.0.0/33, order: [us]}]",
        &["dns.networks.10.0.0.0/33.cidr"],
    );
    refused(
        "zone: shop.test",
        "zone: shop.test\n  networks: [{cidr: 10.0.0.0/8, order: [mars]}]",
        &["dns.networks.10.0.0.0/8.order", "mars", "us, eu"],
    );
    refused_with("failover: {priority: [eu, eu]}", &["failover.priority", "twice"]);
    refused_with("failover: {timing: {lease_ms: 600}}", &["failover", "lease_ms"]);
    refused_with(
        "wan: {round_trips: [{between: [us, eu], ms: 300}]}",
        &["failover.timing.lease_ms", "400 ms", "us would not stay primary", "300 ms"],
    );
    refused_with("wan: {round_trips: [{between: [us, us], ms: 1}]}", &["wan.round_trips", "twice"]);
    refused_with("wan: {round_trips: [{between: [us, eu], ms: 99999}]}", &["99999", "10000"]);
    refused_with("storage: {log_retention: 1KiB}", &["storage.log_retention", "segment"]);
    refused_with("storage: {log_limit: 100MiB}", &["storage.log_limit", "log_retention"]);
    refused_with("replication: {fanout: 0}", &["replication.fanout", "one"]);
    refused_with("replication: {bandwidth: 1KiB}", &["replication.bandwidth", "1KiB", "64KiB"]);
    refused_with("replication: {bandwidth_to: {mars: 1MB}}", &["bandwidth_to", "mars", "us, eu"]);
    refused_with("log: ='", &["log"]);
    refused_with("postgres: {url: 'postgresql://a:geheim@db/shop'}", &["postgres.url", "password"]);
    refused_with("postgres: {url: 'host=db'}", &["postgres.url", "user"]);
    refused_with("postgres: {url: 'user=a host=b', tables: [a.b.c]}", &["a.b.c", "sales.orders"]);
}

#[test]
fn a_password_in_the_url_is_not_repeated() {
    let text = format!("{SMALL}postgres: {{url: 'postgresql://a:geheim@db/shop'}}");
    let error = format!("{:#}", ClusterFile::parse(&text).unwrap_err());
    assert!(!error.contains("geheim"), "{error}");
}

#[test]
fn an_unknown_region_is_told_which_there_are() {
    let error = node(SMALL, "mars", Overrides::default()).unwrap_err().to_string();
    assert!(error.contains("mars") && error.contains("us, eu"), "{error}");
}

#[test]
fn what_is_given_outside_goes_before_the_file() {
    let text = format!("{SMALL}data_dir: /from-file\nlog: warn\nstorage: {{appendfsync: always}}");
    let plain = node(&text, "us", Overrides::default()).unwrap();
    assert_eq!(plain.data_dir(), Path::new("/from-file/us/data"));
    assert_eq!(plain.certificates, Path::new("/from-file/us/certificates"));
    assert_eq!((plain.log.as_str(), plain.durability()), ("warn", Durability::Always));
    assert_eq!(plain.peers[0].address, "127.0.0.2:2");
    let overrides = Overrides {
        data_dir: Some("/from-flag".into()),
        certificates: Some("/certificates".into()),
        appendfsync: Some(AppendFsync::Everysec),
        log: Some("debug".into()),
        peers: vec![("eu".into(), "127.0.0.1:9".into())],
        ..Overrides::default()
    };
    let given = node(&text, "us", overrides).unwrap();
    assert_eq!(given.data_dir(), Path::new("/from-flag/us/data"));
    assert_eq!(given.certificates, Path::new("/certificates"));
    assert_eq!((given.log.as_str(), given.durability()), ("debug", Durability::Everysec));
    assert_eq!(given.peers[0].address, "127.0.0.1:9");
}

#[test]
fn a_peer_must_be_another_region() {
    let with = |name: &str| Overrides {
        peers: vec![(name.into(), "127.0.0.1:9".into())],
        ..Overrides::default()
    };
    assert!(node(SMALL, "us", with("us")).is_err());
    assert!(node(SMALL, "us", with("mars")).is_err());
}

#[test]
fn postgres_is_put_together_from_its_parts() {
    let secret = |text: &str| Some(Secret::new(text).unwrap());
    let url = |file: &str, given: Option<&str>, password: Option<&str>| {
        let overrides = Overrides {
            postgres_url: given.and_then(secret),
            postgres_password: password.and_then(secret),
            ..Overrides::default()
        };
        let config = node(&format!("{SMALL}{file}"), "us", overrides).unwrap();
        config.tailer_config().map(|tailer| tailer.url)
    };
    let file = "postgres: {url: 'postgresql://a@db/shop'}";
    assert_eq!(url("", None, None), None);
    assert_eq!(url(file, None, None).unwrap(), "postgresql://a@db/shop");
    assert_eq!(url(file, None, Some("p&q")).unwrap(), "postgresql://a@db/shop?password=p%26q");
    let words = Some("user=a host=b");
    assert_eq!(url(file, words, Some(r"it's \")).unwrap(), r"user=a host=b password='it\'s \\'");
    let own = Some("postgresql://a:b@db/shop");
    assert_eq!(url("", own, Some("other")).unwrap(), "postgresql://a:b@db/shop");
    let bad =
        Overrides { postgres_url: secret("postgresql://a:geheim@h:x/"), ..Default::default() };
    let error = format!("{:#}", node(SMALL, "us", bad).unwrap_err());
    assert!(error.contains("Postgres") && !error.contains("geheim"), "{error}");
}

#[test]
fn tables_are_all_of_a_schema_or_those_listed() {
    let tables = |rest: &str| {
        let text = format!("{SMALL}postgres: {{url: 'user=a host=b'{rest}}}");
        node(&text, "us", Overrides::default()).unwrap().tailer_config().unwrap().tables
    };
    assert_eq!(tables(""), Tables::Schema("public".into()));
    assert_eq!(tables(", schema: shop"), Tables::Schema("shop".into()));
    let Tables::Listed(listed) = tables(", tables: [orders, sales.items]") else {
        panic!("listed tables are not all tables")
    };
    let names: Vec<String> = listed.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["public.orders", "sales.items"]);
}

#[test]
fn secrets_are_not_in_the_debug_form() {
    let overrides = Overrides {
        password: Some(Secret::new("geheim").unwrap()),
        postgres_url: Some(Secret::new("postgresql://a:geheim@db/shop").unwrap()),
        ..Overrides::default()
    };
    assert!(!format!("{overrides:?}").contains("geheim"));
    let config = node(SMALL, "us", overrides).unwrap();
    assert!(!format!("{config:?}").contains("geheim"));
}

#[test]
fn a_missing_file_is_named() {
    let error = ClusterFile::read(Path::new("/nowhere/regions.yaml")).unwrap_err();
    assert!(format!("{error:#}").contains("/nowhere/regions.yaml"));
}
