//! What comes out, and that the document tells of all of it.

use std::collections::{BTreeMap, BTreeSet};

use super::render;
use crate::runtime::admin::sample;

const EXAMPLES: [(&str, &str); 2] = [
    ("alerts.yaml", include_str!("../../../../../../deploy/prometheus/alerts.yaml")),
    ("meridian.json", include_str!("../../../../../../deploy/grafana/meridian.json")),
];
const DOCUMENT: &str = include_str!("../../../../../../docs/metrics.md");

/// A family as its description and its samples show it.
#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    labels: BTreeSet<String>,
}

/// Reads the text as a scraper would, and refuses what one would refuse.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut samples = BTreeSet::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    for line in body.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => {
                assert!(!families.contains_key(*name), "{name} is described twice");
                current = (*name).to_owned();
                families.entry(current.clone()).or_default().help = (*help).to_owned();
            }
            ["#", "TYPE", name, kind] => {
                assert_eq!(*name, current);
                families.entry(current.clone()).or_default().kind = (*kind).to_owned();
            }
            ["#", "UNIT", name, unit] => {
                assert_eq!(*name, current);
                assert!(name.ends_with(unit), "{name} ends in its unit {unit}");
            }
            _ => {
                let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(samples.insert(series.to_owned()), "{series} comes twice");
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                let suffix = name.strip_prefix(current.as_str()).expect("under its family");
                let suffixes = ["", "_total", "_info", "_sum", "_count", "_bucket"];
                assert!(suffixes.contains(&suffix), "{line}");
                let names = labels.split("\",").filter_map(|label| label.split_once('='));
                let family = families.entry(current.clone()).or_default();
                family.labels.extend(names.map(|(name, _)| name.to_owned()));
            }
        }
    }
    families
}

fn value(text: &str, series: &str) -> Option<f64> {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.map(|value| value.parse().unwrap())
}

#[test]
fn a_node_at_work_exports_what_it_counts() {
    let text = render(sample::facts()).unwrap();
    for (series, expected) in [
        ("meridian_executor_up", 1.0),
        ("meridian_commands_total{command=\"get\"}", 3000.0),
        ("meridian_executor_turn_seconds_bucket{le=\"0.0005\"}", 2.0),
        ("meridian_executor_turn_seconds_bucket{le=\"0.001\"}", 3.0),
        ("meridian_log_sync_seconds_bucket{le=\"1.0\"}", 1.0),
        ("meridian_log_sync_seconds_bucket{le=\"+Inf\"}", 2.0),
        ("meridian_log_sync_seconds_count", 2.0),
        ("meridian_log_sync_seconds_sum", 2.0015),
        ("meridian_replication_sent_bytes_total{peer=\"eu-central\"}", 3000.0),
        ("meridian_replication_received_udp_bytes_total{peer=\"eu-central\"}", 8000.0),
        ("meridian_replication_lag_seconds{peer=\"eu-central\"}", 0.045),
        ("meridian_peer_clock_offset_seconds{peer=\"eu-central\"}", -0.012),
        ("meridian_peer_clock_error_seconds{peer=\"eu-central\"}", 0.0405),
        ("meridian_clock_fenced", 0.0),
        ("meridian_clock_fences_total", 1.0),
        ("meridian_origin_held{region=\"ap-southeast\"}", 1.0),
        ("meridian_peer_doubtful{region=\"eu-central\"}", 0.0),
        ("meridian_watermarks_refused_total", 9.0),
        ("meridian_peer_round_trip_seconds{peer=\"eu-central\"}", 0.08025),
        ("meridian_peer_connected{peer=\"ap-southeast\"}", 0.0),
        ("meridian_mesh_refusals_total{peer=\"unknown\",reason=\"untrusted-ca\"}", 3.0),
        ("meridian_frames_total{outcome=\"future\"}", 1.0),
        ("meridian_quarantined{region=\"ap-southeast\"}", 1.0),
        ("meridian_region_state{region=\"ap-southeast\",state=\"down\"}", 1.0),
        ("meridian_region_state{region=\"ap-southeast\",state=\"up\"}", 0.0),
        ("meridian_primary{region=\"us-east\"}", 1.0),
        ("meridian_raft_leader{region=\"eu-central\"}", 1.0),
        ("meridian_health{level=\"degraded\"}", 1.0),
        ("meridian_health{level=\"healthy\"}", 0.0),
        ("meridian_cdc_lag_bytes", 2120.0),
        ("meridian_cdc_lag_seconds", 0.5),
        ("meridian_cdc_state{state=\"streaming\"}", 1.0),
        ("meridian_cdc_tables{state=\"refused\"}", 1.0),
        ("meridian_cdc_mirrored_commit_timestamp_seconds", 1_699_999_999.25),
        ("process_cpu_seconds_total", 12.5),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}");
    }
}

#[test]
fn what_is_not_known_is_described_and_has_no_value() {
    let (known, silent) = (sample::facts(), sample::silent());
    let text = render(silent).unwrap();
    let names = |text: &str| families(text).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&text), names(&render(known).unwrap()));
    assert_eq!(value(&text, "meridian_executor_up"), Some(0.0));
    assert_eq!(value(&text, "meridian_cdc_active"), Some(0.0));
    for series in ["meridian_keys", "meridian_epoch", "meridian_cdc_lag_bytes"] {
        assert_eq!(value(&text, series), None, "{series}");
    }
}

/// A table's row for every family: `name`, type, labels, meaning.
fn rows(families: &BTreeMap<String, Family>) -> Vec<String> {
    let row = |(name, family): (&String, &Family)| {
        let suffix = match family.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels = family.labels.iter().filter(|label| *label != "le").cloned();
        let labels = labels.collect::<Vec<_>>().join(", ");
        format!("| `{name}{suffix}` | {} | {labels} | {} |", family.kind, family.help)
            .replace("|  |", "| |")
    };
    families.iter().map(row).collect()
}

#[test]
fn the_document_tells_of_every_metric() {
    let exported = rows(&families(&render(sample::facts()).unwrap()));
    let told: BTreeSet<&str> = DOCUMENT.lines().filter(|line| line.starts_with("| `")).collect();
    let exported: BTreeSet<&str> = exported.iter().map(String::as_str).collect();
    let missing: Vec<_> = exported.difference(&told).collect();
    let obsolete: Vec<_> = told.difference(&exported).collect();
    assert!(
        missing.is_empty() && obsolete.is_empty(),
        "docs/metrics.md lacks\n{missing:#?}\nand should not have\n{obsolete:#?}"
    );
}

#[test]
fn alerts_and_dashboard_ask_for_what_is_exported() {
    let families = families(&render(sample::facts()).unwrap());
    let exported = |name: &str| {
        families.iter().any(|(family, facts)| {
            let suffixes: &[&str] = match facts.kind.as_str() {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => &[""],
            };
            name.strip_prefix(family.as_str()).is_some_and(|rest| suffixes.contains(&rest))
        })
    };
    for (file, text) in EXAMPLES {
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let asked: BTreeSet<&str> = words
            .filter(|word| word.starts_with("meridian_") || word.starts_with("process_"))
            .collect();
        assert!(asked.len() > 10, "{file}: only {asked:?}");
        let unknown: Vec<_> = asked.into_iter().filter(|name| !exported(name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}
