//! INFO: the sections that clients and monitoring read.

use std::fmt::Write as _;

use super::{connection::REDIS_VERSION, scan, spec::Spec};
use crate::dispatch::Call;

pub(super) static TABLE: &[Spec] = &[Spec::plain("info", -1, info)];

/// A section's title and its lines.
type Section = (String, Vec<(String, String)>);

/// Sections that are shown only when asked for.
const ON_REQUEST: &[&str] = &["commandstats"];

fn info(call: &mut Call<'_>) {
    let asked: Vec<Vec<u8>> = call.args[1..].iter().map(|a| a.to_ascii_lowercase()).collect();
    let has = |word: &str| asked.iter().any(|a| a == word.as_bytes());
    let everything = has("all") || has("everything");
    let defaults = asked.is_empty() || has("default");
    let mut text = String::new();
    for (title, lines) in sections(call) {
        let name = title.to_ascii_lowercase();
        let default = defaults && !ON_REQUEST.contains(&name.as_str());
        if !(everything || default || has(&name)) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "# {title}\r\n");
        for (name, value) in lines {
            let _ = write!(text, "{name}:{value}\r\n");
        }
    }
    call.reply.verbatim(*b"txt", text.as_bytes());
}

fn sections(call: &Call<'_>) -> Vec<Section> {
    let mut sections = vec![
        server(call),
        clients(call),
        memory(),
        persistence(call),
        stats(call),
        replication(call),
        section("CPU", &[]),
        command_stats(call),
        section("Cluster", &[("cluster_enabled", &"0")]),
        keyspace(call),
        meridian(call),
    ];
    // What the node adds: more lines of a section (which win over ours), or whole sections.
    for (name, lines) in &call.env.info {
        let known = sections.iter_mut().find(|(title, _)| title.eq_ignore_ascii_case(name));
        let Some((_, known)) = known else {
            sections.push((name.clone(), lines.clone()));
            continue;
        };
        known.retain(|(name, _)| lines.iter().all(|(other, _)| other != name));
        known.extend(lines.iter().cloned());
    }
    sections
}

fn section(title: &str, lines: &[(&str, &dyn std::fmt::Display)]) -> Section {
    let lines = lines.iter().map(|(name, value)| ((*name).to_owned(), value.to_string()));
    (title.to_owned(), lines.collect())
}

fn server(call: &Call<'_>) -> Section {
    let uptime = call.now.as_ms().saturating_sub(call.env.started_ms) / 1000;
    section(
        "Server",
        &[
            ("redis_version", &REDIS_VERSION),
            ("redis_mode", &"standalone"),
            ("meridian_version", &env!("CARGO_PKG_VERSION")),
            ("arch_bits", &usize::BITS),
            ("server_time_usec", &call.stage.clock().physical().as_us()),
            ("uptime_in_seconds", &uptime),
            ("uptime_in_days", &(uptime / 86_400)),
        ],
    )
}

fn clients(call: &Call<'_>) -> Section {
    section(
        "Clients",
        &[
            ("connected_clients", &call.env.connected),
            ("blocked_clients", &call.env.waiting),
            ("tracking_clients", &0),
        ],
    )
}

fn memory() -> Section {
    section("Memory", &[("maxmemory", &0), ("maxmemory_policy", &"noeviction")])
}

fn persistence(call: &Call<'_>) -> Section {
    section(
        "Persistence",
        &[
            ("loading", &0),
            ("aof_enabled", &1),
            ("appendfsync", &call.env.durability.name()),
            ("writes_refused", &u8::from(call.env.refuse_writes.is_some())),
        ],
    )
}

fn stats(call: &Call<'_>) -> Section {
    let env = &*call.env;
    section(
        "Stats",
        &[
            ("total_connections_received", &env.connections_received),
            ("total_commands_processed", &env.commands_processed),
            ("keyspace_hits", &env.hits),
            ("keyspace_misses", &env.misses),
            ("operations_applied", &call.stage.ops_applied()),
        ],
    )
}

fn replication(call: &Call<'_>) -> Section {
    let regions = call.env.regions.values().cloned().collect::<Vec<_>>().join(",");
    section("Replication", &[("role", &"master"), ("connected_slaves", &0), ("regions", &regions)])
}

fn command_stats(call: &Call<'_>) -> Section {
    let line = |(name, calls)| (format!("cmdstat_{name}"), format!("calls={calls}"));
    ("Commandstats".to_owned(), call.env.calls().map(line).collect())
}

fn keyspace(call: &Call<'_>) -> Section {
    // An average of zero means "not known", in Redis too.
    let line = format!("keys={},avg_ttl=0", scan::count(call));
    if scan::count(call) == 0 {
        return section("Keyspace", &[]);
    }
    section("Keyspace", &[("db0", &line)])
}

fn meridian(call: &Call<'_>) -> Section {
    let conflicts = call.stage.conflicts().len();
    section(
        "Meridian",
        &[
            ("cluster", &call.env.cluster),
            ("region", &call.env.region),
            ("ordinal", &call.stage.me()),
            ("primary", &u8::from(call.env.primary)),
            ("partitions", &call.stage.partitions()),
            ("conflict_keys", &conflicts),
        ],
    )
}
