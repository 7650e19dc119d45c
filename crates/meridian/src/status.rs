//! `meridian status`: what every region says of itself, side by side.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::cli::StatusArgs;
use crate::config::ClusterFile;
use crate::http;

/// How long a region may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What a region answered.
struct Told {
    name: String,
    /// Its status, or why there is none.
    status: Result<Value>,
}

/// Asks every region and prints what they say.
///
/// # Errors
/// When no region answers.
pub fn run(args: &StatusArgs) -> Result<()> {
    let (cluster, _) = ClusterFile::open(args.cluster.config.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the I/O runtime")?;
    let told = runtime.block_on(async {
        let mut told = ask_all(in_the_file(&cluster)).await;
        // Regions that have joined since the file was written.
        let others = not_in_the_file(&told);
        told.extend(ask_all(others).await);
        told
    });
    let mut out = std::io::stdout().lock();
    if args.json {
        let all: Map<String, Value> = told.iter().map(as_json).collect();
        writeln!(out, "{}", Value::Object(all))?;
    } else {
        out.write_all(table(&told).as_bytes())?;
    }
    out.flush()?;
    ensure!(told.iter().any(|told| told.status.is_ok()), "no region answers");
    Ok(())
}

/// The regions of the topology file, and where they are asked.
fn in_the_file(cluster: &ClusterFile) -> Vec<(String, SocketAddr)> {
    let regions = cluster.regions.iter();
    regions.map(|r| (r.name.clone(), r.operator_address(r.admin))).collect()
}

/// Live members that were not asked yet, by the newest word of those that were.
fn not_in_the_file(told: &[Told]) -> Vec<(String, SocketAddr)> {
    let members = members(told).into_iter().flatten();
    let live =
        members.filter(|m| matches!(word(&m["status"]).as_str(), "joining" | "active" | "leaving"));
    let found = live.filter_map(|m| Some((word(&m["name"]), m["admin"].as_str()?.parse().ok()?)));
    found.filter(|(name, _)| !told.iter().any(|told| told.name == *name)).collect()
}

/// The list of members of the answer with the highest epoch.
fn members(told: &[Told]) -> Option<&Vec<Value>> {
    let answers = told.iter().filter_map(|told| told.status.as_ref().ok());
    answers.max_by_key(|status| status["epoch"].as_u64())?["members"].as_array()
}

async fn ask_all(regions: Vec<(String, SocketAddr)>) -> Vec<Told> {
    let ask = |(name, admin)| (name, tokio::spawn(ask(admin)));
    let asked: Vec<_> = regions.into_iter().map(ask).collect();
    let mut told = Vec::new();
    for (name, answer) in asked {
        let status = answer.await.context("a task").and_then(|status| status);
        told.push(Told { name, status });
    }
    told
}

async fn ask(admin: SocketAddr) -> Result<Value> {
    let answer = http::get(admin, "/status", ANSWER_WITHIN).await?;
    ensure!(answer.status == 200, "http://{admin}/status: code {}", answer.status);
    serde_json::from_str(&answer.body).with_context(|| format!("http://{admin}/status"))
}

fn as_json(told: &Told) -> (String, Value) {
    let value = match &told.status {
        Ok(status) => status.clone(),
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    (told.name.clone(), value)
}

/// A row for each region, for each pair, for each repair that is under way and for each member,
/// then what is not well.
fn table(told: &[Told]) -> String {
    let mut regions = vec![
        ["region", "health", "state", "primary", "epoch", "keys", "cdc", "version"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut pairs =
        vec![["from", "to", "connected", "rtt", "lag", "behind"].map(str::to_owned).to_vec()];
    let heading = ["repairs", "from", "partition", "phase", "elements", "of", "bytes", "left"];
    let mut repairs = vec![heading.map(str::to_owned).to_vec()];
    let mut complaints = Vec::new();
    for Told { name, status } in told {
        match status {
            Ok(status) => {
                regions.push(region_row(name, status));
                pairs.extend(pair_rows(name, status));
                repairs.extend(repair_rows(name, status));
                let reasons = status["health"]["reasons"].as_array().into_iter().flatten();
                complaints
                    .extend(reasons.filter_map(Value::as_str).map(|r| format!("{name}: {r}")));
            }
            Err(error) => {
                let mut row = vec![name.clone(), "no answer".to_owned()];
                row.resize(regions[0].len(), "-".to_owned());
                regions.push(row);
                complaints.push(format!("{name}: {error:#}"));
            }
        }
    }
    let mut text = columns(&regions);
    if pairs.len() > 1 {
        text.push('\n');
        text.push_str(&columns(&pairs));
    }
    if repairs.len() > 1 {
        text.push('\n');
        text.push_str(&columns(&repairs));
    }
    if let Some(members) = members(told) {
        let heading = ["member", "ordinal", "status", "votes", "redis", "mesh"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        let fields = ["name", "origin", "status", "votes", "redis", "mesh"];
        rows.extend(members.iter().map(|m| fields.map(|field| word(&m[field])).to_vec()));
        text.push('\n');
        text.push_str(&columns(&rows));
    }
    if !complaints.is_empty() {
        text.push('\n');
        complaints.iter().for_each(|line| text.push_str(&format!("{line}\n")));
    }
    text
}

fn region_row(name: &str, status: &Value) -> Vec<String> {
    let cdc = match (&status["cdc"]["state"], &status["cdc"]["lsn"]) {
        (Value::String(state), Value::String(lsn)) => format!("{state} {lsn}"),
        (state, _) => word(state),
    };
    vec![
        name.to_owned(),
        word(&status["health"]["level"]),
        word(&status["regions"][name]["state"]),
        word(&status["primary"]),
        word(&status["epoch"]),
        word(&status["keys"]),
        cdc,
        word(&status["version"]),
    ]
}

fn pair_rows(name: &str, status: &Value) -> Vec<Vec<String>> {
    let peers = status["peers"].as_object().into_iter().flatten();
    let row = |(peer, facts): (&String, &Value)| {
        vec![
            name.to_owned(),
            peer.clone(),
            word(&facts["connected"]),
            figure(&facts["rtt_ms"], "ms"),
            figure(&facts["lag_ms"], "ms"),
            figure(&facts["backlog_bytes"], "B"),
        ]
    };
    peers.map(row).collect()
}

/// State repairs under way in a region, then how many partitions wait for theirs.
fn repair_rows(name: &str, status: &Value) -> Vec<Vec<String>> {
    let under_way = status["repairs"]["under_way"].as_array().into_iter().flatten();
    let row = |repair: &Value| {
        let left = repair["left_ms"].as_u64().map(|ms| json!(ms as f64 / 1_000.0));
        vec![
            name.to_owned(),
            word(&repair["from"]),
            word(&repair["partition"]),
            word(&repair["phase"]),
            word(&repair["elements"]),
            word(&repair["elements_expected"]),
            word(&repair["bytes"]),
            figure(&left.unwrap_or_default(), "s"),
        ]
    };
    let mut rows: Vec<Vec<String>> = under_way.map(row).collect();
    let outstanding = status["repairs"]["outstanding"].as_u64().unwrap_or(0);
    let waiting = outstanding.saturating_sub(rows.len() as u64);
    if waiting > 0 {
        rows.push(vec![name.to_owned(), "-".to_owned(), format!("{waiting} more")]);
    }
    rows
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    }
}

fn figure(value: &Value, unit: &str) -> String {
    match (value.as_u64(), value.as_f64()) {
        (Some(whole), _) => format!("{whole} {unit}"),
        (None, Some(number)) => format!("{number:.1} {unit}"),
        (None, None) => "-".to_owned(),
    }
}

/// Aligns rows under their heading.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_stand_side_by_side() {
        let status = json!({
            "version": "0.1.0", "epoch": 4, "primary": "us", "keys": 12,
            "regions": {"us": {"state": "up"}},
            "health": {"level": "degraded", "reasons": ["fsync is slow"]},
            "peers": {"eu": {"connected": true, "rtt_ms": 80.25, "lag_ms": 3, "backlog_bytes": 0}},
            "cdc": {"state": "streaming", "lsn": "0/16"},
            "repairs": {"outstanding": 8, "under_way": [
                {"partition": 3, "from": "eu", "phase": "fetching", "elements": 120,
                 "elements_expected": 480, "bytes": 9600, "for_ms": 500, "left_ms": 1500}
            ]},
            "members": [
                {"name": "us", "origin": 0, "status": "active", "votes": true,
                 "redis": "10.0.0.1:7379", "mesh": "us:7400", "admin": "10.0.0.1:7500"},
                {"name": "ap", "origin": 3, "status": "joining", "votes": false,
                 "redis": "10.0.0.4:7379", "mesh": "ap:7400", "admin": "10.0.0.4:7500"},
                {"name": "old", "origin": 2, "status": "dead", "votes": false,
                 "mesh": "old:7400", "admin": "10.0.0.3:7500"}
            ]
        });
        let told = [
            Told { name: "us".into(), status: Ok(status) },
            Told { name: "eu".into(), status: Err(anyhow::anyhow!("refused")) },
        ];
        assert_eq!(not_in_the_file(&told), [("ap".to_owned(), ([10, 0, 0, 4], 7500).into())]);
        assert_eq!(
            table(&told),
            "region  health     state  primary  epoch  keys  cdc             version\n\
             us      degraded   up     us       4      12    streaming 0/16  0.1.0\n\
             eu      no answer  -      -        -      -     -               -\n\
             \n\
             from  to  connected  rtt      lag   behind\n\
             us    eu  yes        80.2 ms  3 ms  0 B\n\
             \n\
             repairs  from  partition  phase     elements  of   bytes  left\n\
             us       eu    3          fetching  120       480  9600   1.5 s\n\
             us       -     7 more\n\
             \n\
             member  ordinal  status   votes  redis          mesh\n\
             us      0        active   yes    10.0.0.1:7379  us:7400\n\
             ap      3        joining  no     10.0.0.4:7379  ap:7400\n\
             old     2        dead     no     -              old:7400\n\
             \n\
             us: fsync is slow\n\
             eu: refused\n"
        );
    }

    #[test]
    fn what_a_region_does_not_say_is_a_dash() {
        let told = [Told { name: "us".into(), status: Ok(json!({})) }];
        assert_eq!(
            table(&told).lines().nth(1),
            Some("us      -       -      -        -      -     -    -")
        );
    }
}
