//! CONFIG: what clients ask for when they connect, read-only.

use std::collections::BTreeMap;

use super::{glob, spec::Spec};
use crate::{dispatch::Call, limits::MAX_VALUE_BYTES};

pub(super) static TABLE: &[Spec] =
    &[Spec::plain("config", -2, config).with_subcommands(SUBCOMMANDS)];

const SUBCOMMANDS: &[(&str, i32)] =
    &[("get", -3), ("set", -4), ("resetstat", 2), ("rewrite", 2), ("help", 2)];

const HELP: &[&str] = &[
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "RESETSTAT",
    "    Reset statistics reported by the INFO command.",
    "SET <directive> <value>",
    "    Not supported: parameters come from the node's configuration.",
];

fn config(call: &mut Call<'_>) {
    match call.args[1].to_ascii_lowercase().as_slice() {
        b"get" => get(call),
        b"set" => set(call),
        b"resetstat" => {
            call.env.reset_statistics();
            call.reply.ok();
        }
        b"rewrite" => call.reply.error("ERR The server is running without a config file"),
        _ => call.help("CONFIG", HELP),
    }
}

fn parameters(call: &Call<'_>) -> BTreeMap<String, String> {
    let mut parameters: BTreeMap<String, String> = [
        ("appendfsync", call.env.durability.name()),
        ("appendonly", "yes"),
        ("cluster-enabled", "no"),
        ("databases", "1"),
        ("lazyfree-lazy-user-del", "yes"),
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("notify-keyspace-events", ""),
        ("save", ""),
        ("timeout", "0"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    parameters.insert("proto-max-bulk-len".to_owned(), MAX_VALUE_BYTES.to_string());
    parameters.extend(call.env.config.clone());
    parameters
}

fn get(call: &mut Call<'_>) {
    let patterns: Vec<Vec<u8>> = call.args[2..].iter().map(|p| p.to_ascii_lowercase()).collect();
    let wanted = |name: &str| {
        let matches = |pattern: &Vec<u8>| glob::matches(pattern, name.as_bytes());
        patterns.iter().any(matches)
    };
    let parameters = parameters(call);
    let chosen: Vec<_> = parameters.iter().filter(|(name, _)| wanted(name)).collect();
    call.reply.map(chosen.len());
    for (name, value) in chosen {
        call.reply.bulk(name.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
}

fn set(call: &mut Call<'_>) {
    let name = call.args[2];
    let known = parameters(call);
    let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
    let error = match known.get(&lower) {
        None => {
            let head = b"ERR Unknown option or number of arguments for CONFIG SET - '";
            [head.as_slice(), name, b"'"].concat()
        }
        Some(value) if call.args.len() == 4 && value.as_bytes() == call.args[3] => {
            return call.reply.ok();
        }
        Some(_) => format!(
            "ERR CONFIG SET failed (possibly related to argument '{lower}') - it comes from the \
             node's configuration and cannot be changed at run time"
        )
        .into_bytes(),
    };
    call.reply.error_bytes(&error);
}
