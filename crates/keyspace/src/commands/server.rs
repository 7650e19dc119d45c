//! Commands about the server that are neither its configuration nor its figures.

use super::spec::Spec;
use crate::dispatch::Call;

pub(super) static TABLE: &[Spec] = &[
    Spec::plain("time", 1, time),
    Spec::plain("role", 1, role),
    Spec::plain("wait", 3, wait),
    Spec::plain("replicaof", 3, replicaof),
    Spec::plain("slaveof", 3, replicaof),
    Spec::plain("slowlog", -2, slowlog).with_subcommands(SLOWLOG),
    Spec::plain("latency", -2, latency).with_subcommands(LATENCY),
];

const SLOWLOG: &[(&str, i32)] = &[("get", -2), ("len", 2), ("reset", 2), ("help", 2)];
const LATENCY: &[(&str, i32)] = &[("latest", 2), ("reset", -2), ("help", 2)];

fn time(call: &mut Call<'_>) {
    let us = call.stage.clock().physical().as_us();
    call.reply.array(2);
    call.reply.bulk((us / 1_000_000).to_string().as_bytes());
    call.reply.bulk((us % 1_000_000).to_string().as_bytes());
}

/// A region is a master without replicas: the other regions are its equals.
fn role(call: &mut Call<'_>) {
    call.reply.array(3);
    call.reply.bulk(b"master");
    call.reply.integer(call.stage.ops_applied() as i64);
    call.reply.array(0);
}

fn wait(call: &mut Call<'_>) {
    call.reply.error(
        "ERR WAIT is not supported: regions replicate to each other without replicas to wait for",
    );
}

fn replicaof(call: &mut Call<'_>) {
    call.reply.error(
        "ERR REPLICAOF is not supported: every region takes writes, and the topology file says \
         which regions there are",
    );
}

/// No slow commands are recorded.
fn slowlog(call: &mut Call<'_>) {
    match call.args[1].to_ascii_lowercase().as_slice() {
        b"get" => call.reply.array(0),
        b"len" => call.reply.integer(0),
        b"reset" => call.reply.ok(),
        _ => call.help(
            "SLOWLOG",
            &["GET [<count>], LEN, RESET", "    Slow commands are not recorded: always empty."],
        ),
    }
}

/// No latency events are recorded.
fn latency(call: &mut Call<'_>) {
    match call.args[1].to_ascii_lowercase().as_slice() {
        b"latest" => call.reply.array(0),
        b"reset" => call.reply.integer(0),
        _ => call.help(
            "LATENCY",
            &["LATEST, RESET", "    Latency events are not recorded: always empty."],
        ),
    }
}
