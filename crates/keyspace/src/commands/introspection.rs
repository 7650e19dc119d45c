//! COMMAND: what the command table says of itself.

use meridian_resp::Writer;

use super::{
    FAMILIES, SYNTAX, all, glob, numbers,
    spec::{Access, Spec},
};
use crate::dispatch::Call;

pub(super) static TABLE: &[Spec] =
    &[Spec::plain("command", -1, command).with_subcommands(SUBCOMMANDS)];

const SUBCOMMANDS: &[(&str, i32)] =
    &[("count", 2), ("info", -2), ("docs", -2), ("list", -2), ("getkeys", -4), ("help", 2)];

const HELP: &[&str] = &[
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands in this server.",
    "DOCS [<command-name> ...]",
    "    Return a summary and the group of the commands.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "LIST [FILTERBY (ACLCAT <cat>|PATTERN <pattern>|MODULE <name>)]",
    "    Return the names of the commands.",
];

fn command(call: &mut Call<'_>) {
    let Some(subcommand) = call.args.get(1) else {
        return info(call, &[]);
    };
    match subcommand.to_ascii_lowercase().as_slice() {
        b"count" => call.reply.integer(all().count() as i64),
        b"info" => info(call, &call.args[2..]),
        b"docs" => docs(call),
        b"list" => list(call),
        b"getkeys" => getkeys(call),
        _ => call.help("COMMAND", HELP),
    }
}

fn find(name: &[u8]) -> Option<&'static Spec> {
    all().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

fn info(call: &mut Call<'_>, names: &[&[u8]]) {
    if names.is_empty() {
        call.reply.array(all().count());
        all().for_each(|spec| describe(&mut call.reply, spec));
        return;
    }
    call.reply.array(names.len());
    for name in names {
        match find(name) {
            Some(spec) => describe(&mut call.reply, spec),
            None => call.reply.null_array(),
        }
    }
}

/// Name, arity, flags, first key, last key, step, categories, tips, key specifications,
/// subcommands: Redis 7's ten columns, of which the last three stay empty.
fn describe(reply: &mut Writer<'_>, spec: &Spec) {
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    reply.integer(i64::from(spec.arity));
    let flags = flags_of(spec);
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    let (first, last, step) = spec.keys;
    for number in [first, last, step] {
        reply.integer(i64::from(number));
    }
    let categories = categories_of(spec);
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(&format!("@{category}")));
    (0..3).for_each(|_| reply.array(0));
}

fn flags_of(spec: &Spec) -> Vec<&'static str> {
    let mut flags = Vec::new();
    match spec.access {
        Access::Read => flags.push("readonly"),
        Access::None => {}
        Access::Write | Access::WriteFirst | Access::WriteLast => flags.push("write"),
    }
    if matches!(spec.name, "auth" | "hello" | "quit" | "reset") {
        flags.push("no_auth");
    }
    if spec.name == "sintercard" {
        flags.push("movablekeys");
    }
    flags
}

fn categories_of(spec: &Spec) -> Vec<&'static str> {
    let category = match group_of(spec) {
        "generic" => "keyspace",
        "transactions" => "transaction",
        "server" => "admin",
        other => other,
    };
    let mut categories = vec![category];
    match spec.access {
        Access::Read => categories.push("read"),
        Access::None => {}
        Access::Write | Access::WriteFirst | Access::WriteLast => categories.push("write"),
    }
    categories
}

fn group_of(spec: &Spec) -> &'static str {
    let holds = |table: &[Spec]| table.iter().any(|row| row.name == spec.name);
    FAMILIES.iter().find(|(_, table)| holds(table)).map_or("generic", |(group, _)| group)
}

fn summary_of(spec: &Spec) -> &'static str {
    match spec.name {
        "meridian" => "Groups Meridian's own commands; see MERIDIAN HELP.",
        "meridian.digest" => "Returns a digest of all data, of every slot or of one key.",
        "meridian.conflicts" => {
            "Lists, follows or restores the values that lost to a concurrent write."
        }
        "meridian.token" => "Returns a token that covers what the connection has written and read.",
        "meridian.await" => "Waits until this region has all that a token covers.",
        "meridian.regions" => "Lists the regions of the cluster.",
        "meridian.help" => "Explains Meridian's own commands.",
        _ => "Behaves as in Redis 7 within a region.",
    }
}

fn docs(call: &mut Call<'_>) {
    let names = &call.args[2..];
    let chosen: Vec<&Spec> = if names.is_empty() {
        all().collect()
    } else {
        names.iter().filter_map(|name| find(name)).collect()
    };
    call.reply.map(chosen.len());
    for spec in chosen {
        call.reply.bulk(spec.name.as_bytes());
        call.reply.map(2);
        call.reply.bulk(b"summary");
        call.reply.bulk(summary_of(spec).as_bytes());
        call.reply.bulk(b"group");
        call.reply.bulk(group_of(spec).as_bytes());
    }
}

fn list(call: &mut Call<'_>) {
    let names: Vec<&str> = match &call.args[2..] {
        [] => all().map(|spec| spec.name).collect(),
        [word, by, value] if word.eq_ignore_ascii_case(b"filterby") => {
            let chosen: fn(&Spec, &[u8]) -> bool = match by.to_ascii_lowercase().as_slice() {
                b"pattern" => |spec, value| glob::matches(value, spec.name.as_bytes()),
                b"aclcat" => |spec, value| {
                    let same = |c: &&str| c.as_bytes().eq_ignore_ascii_case(value);
                    categories_of(spec).iter().any(same)
                },
                b"module" => |_, _| false,
                _ => return call.reply.error(SYNTAX),
            };
            all().filter(|spec| chosen(spec, value)).map(|spec| spec.name).collect()
        }
        _ => return call.reply.error(SYNTAX),
    };
    call.reply.array(names.len());
    names.iter().for_each(|name| call.reply.bulk(name.as_bytes()));
}

fn getkeys(call: &mut Call<'_>) {
    let args = &call.args[2..];
    let Some(spec) = find(args[0]) else {
        return call.reply.error("ERR Invalid command specified");
    };
    if !spec.accepts(args.len()) {
        return call.reply.error("ERR Invalid number of arguments specified for command");
    }
    let keys: Vec<&[u8]> = if spec.name == "sintercard" {
        let count = numbers::integer(args[1]).ok().and_then(|count| usize::try_from(count).ok());
        match count.and_then(|count| args[2..].get(..count)) {
            Some(keys) => keys.to_vec(),
            None => return call.reply.error("ERR Invalid arguments specified for command"),
        }
    } else {
        spec.keys_of(args).collect()
    };
    if keys.is_empty() {
        return call.reply.error("ERR The command has no key arguments");
    }
    call.reply.array(keys.len());
    keys.iter().for_each(|key| call.reply.bulk(key));
}
