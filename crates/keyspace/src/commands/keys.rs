//! Keys of any type: whether they are there, what they are, and that they go.

use meridian_crdt::{Action, Kind, Object};
use meridian_resp::number;

use super::{
    SYNTAX, held, is_hidden,
    spec::{ALL_KEYS, NO_KEYS, ONE_KEY, Spec},
    view::View,
};
use crate::{
    dispatch::{Call, TOO_MUCH},
    limits::{FLUSH_ROOM_BYTES, MAX_COMMIT_BYTES},
    mirror::MIRROR_PREFIX,
    slot::SLOTS,
};

pub(super) static TABLE: &[Spec] = &[
    Spec::write("del", -2, ALL_KEYS, del),
    Spec::write("unlink", -2, ALL_KEYS, del),
    Spec::read("exists", -2, ALL_KEYS, exists),
    Spec::read("touch", -2, ALL_KEYS, exists),
    Spec::read("type", 2, ONE_KEY, type_of),
    Spec::write("flushall", -1, NO_KEYS, flush),
    Spec::write("flushdb", -1, NO_KEYS, flush),
    Spec::read("object", -2, (2, 2, 1), object).with_subcommands(OBJECT),
    Spec::read("memory", -2, NO_KEYS, memory).with_subcommands(MEMORY),
];

const OBJECT: &[(&str, i32)] =
    &[("encoding", 3), ("refcount", 3), ("idletime", 3), ("freq", 3), ("help", 2)];
const MEMORY: &[(&str, i32)] = &[("usage", -3), ("help", 2)];

/// What a key and a cell cost beside their bytes, roughly.
const KEY_OVERHEAD_BYTES: usize = 72;
const CELL_OVERHEAD_BYTES: usize = 56;

fn del(call: &mut Call<'_>) {
    let keys = call.args[1..].iter();
    let gone = keys.filter(|key| call.delete(key)).count();
    call.reply.integer(gone as i64);
}

fn exists(call: &mut Call<'_>) {
    let mut found = 0;
    for key in &call.args[1..] {
        found += i64::from(call.visible(key).is_some());
    }
    let asked = call.args.len() as u64 - 1;
    call.env.hits += found as u64;
    call.env.misses += asked - found as u64;
    call.reply.integer(found);
}

fn type_of(call: &mut Call<'_>) {
    let kind = call.visible(call.args[1]);
    call.reply.simple(kind.map_or("none", Kind::name));
}

/// FLUSHALL: everything that is observed goes; rows of a mirror and Meridian's own keys stay.
fn flush(call: &mut Call<'_>) {
    let mode = call.args.get(1);
    let known = |m: &&[u8]| m.eq_ignore_ascii_case(b"sync") || m.eq_ignore_ascii_case(b"async");
    if call.args.len() > 2 || mode.is_some_and(|m| !known(m)) {
        return call.reply.error(SYNTAX);
    }
    for slot in 0..SLOTS {
        let clears = |(key, object): &(&[u8], &Object)| {
            let stays = key.starts_with(MIRROR_PREFIX) || is_hidden(key);
            !stays && object.visible(call.now).is_some()
        };
        let keys = call.stage.table(slot).iter().filter(clears);
        let keys: Vec<Box<[u8]>> = keys.map(|(key, _)| key.into()).collect();
        for key in &keys {
            if let Err(error) = flush_key(call, key) {
                return call.reply.error(error);
            }
        }
    }
    call.reply.ok();
}

/// Clears one key of many. Outside a transaction the keys need not share a frame.
fn flush_key(call: &mut Call<'_>, key: &[u8]) -> Result<(), &'static str> {
    if call.stage.pending_bytes() > MAX_COMMIT_BYTES {
        return Err("ERR the data set is too large to be flushed at once: a part of it is gone, \
                    repeat the command");
    }
    if call.stage.room(key) < FLUSH_ROOM_BYTES {
        if call.in_transaction {
            return Err(TOO_MUCH);
        }
        call.stage.end_command();
    }
    call.stage.write(key, Action::Clear);
    Ok(())
}

fn object(call: &mut Call<'_>) {
    let subcommand = call.args[1].to_ascii_lowercase();
    if subcommand == b"help" {
        return call.help(
            "OBJECT",
            &[
                "ENCODING <key>",
                "    Return how Redis would hold the value.",
                "FREQ <key>",
                "    Not tracked: this is an error.",
                "IDLETIME <key>",
                "    Not tracked: this is zero for every key.",
                "REFCOUNT <key>",
                "    Return 1 for every key.",
            ],
        );
    }
    let key = call.args[2];
    let found = held(call.stage, key).filter(|o| o.visible(call.now).is_some());
    let Some(object) = found else {
        return call.reply.null();
    };
    match subcommand.as_slice() {
        b"encoding" => {
            let encoding = match object.string_value(call.now) {
                Some(text) if number::parse_integer(&text).is_some() => "int",
                Some(text) if text.len() <= 44 => "embstr",
                Some(_) => "raw",
                None => "hashtable",
            };
            call.reply.bulk(encoding.as_bytes());
        }
        b"freq" => call.reply.error(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please \
             note that when switching between policies at runtime LRU and LFU data will take \
             some time to adjust.",
        ),
        b"idletime" => call.reply.integer(0),
        _ => call.reply.integer(1),
    }
}

fn memory(call: &mut Call<'_>) {
    if call.args[1].eq_ignore_ascii_case(b"help") {
        return call.help(
            "MEMORY",
            &[
                "USAGE <key> [SAMPLES <count>]",
                "    Return an estimate of the bytes that the key takes in memory.",
            ],
        );
    }
    match &call.args[3..] {
        [] => {}
        [word, samples] if word.eq_ignore_ascii_case(b"samples") => {
            if let Err(error) = super::numbers::integer(samples) {
                return call.reply.error(error);
            }
        }
        _ => return call.reply.error(SYNTAX),
    }
    let key = call.args[2];
    let found = held(call.stage, key).filter(|o| o.visible(call.now).is_some());
    let Some(object) = found else {
        return call.reply.null();
    };
    let mut bytes = KEY_OVERHEAD_BYTES + key.len();
    bytes += object.string_value(call.now).map_or(0, |text| text.len());
    for kind in [Kind::Hash, Kind::Set] {
        for (name, value) in View::of(object, kind, call.now).pairs() {
            bytes += name.len() + value.len() + CELL_OVERHEAD_BYTES;
        }
    }
    call.reply.integer(bytes as i64);
}
