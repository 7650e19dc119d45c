//! MERIDIAN: what this server can say that Redis has no words for. Every subcommand is also
//! spelled with a dot, `MERIDIAN.DIGEST`.

use super::{
    SYNTAX, conflicts,
    spec::{NO_KEYS, Spec},
    tokens,
};
use crate::{dispatch::Call, slot::SLOTS, table::object_digest};

pub(super) static TABLE: &[Spec] = &[
    Spec::read("meridian", -2, NO_KEYS, meridian).with_subcommands(SUBCOMMANDS),
    Spec::read("meridian.digest", -1, NO_KEYS, |call| digest(call, &call.args[1..])),
    Spec::read("meridian.conflicts", -1, NO_KEYS, |call| {
        conflicts::conflicts(call, &call.args[1..]);
    }),
    Spec::plain("meridian.regions", 1, regions),
    Spec::plain("meridian.token", -1, |call| tokens::token(call, &call.args[1..])),
    Spec::plain("meridian.await", -2, |call| tokens::wait(call, &call.args[1..])),
    Spec::plain("meridian.help", 1, help),
];

const SUBCOMMANDS: &[(&str, i32)] =
    &[("await", -3), ("conflicts", -2), ("digest", -2), ("regions", 2), ("token", -2), ("help", 2)];

const HELP: &[&str] = &[
    "AWAIT <token> [<timeout-ms>]",
    "    Reply OK once this region has all that the token covers, else -STALE with what is missing",
    "    after the timeout (1000 ms unless given, 0 to 60000; 0 only looks).",
    "CONFLICTS [<key>] [COUNT <n>]",
    "    List the values that lost to a concurrent write and what they lost to.",
    "CONFLICTS FOLLOW [COUNT <n>]",
    "    Return the list (100 entries unless COUNT says otherwise), then send a message for every",
    "    loss that begins or ends: pushes in RESP3, arrays in RESP2.",
    "CONFLICTS UNFOLLOW",
    "    Send no more of them.",
    "CONFLICTS RESTORE <key> [<field>] <stamp>",
    "    Make the value that lost, or the hidden type that it belongs to, the current one.",
    "DIGEST",
    "    Return a digest of all data: equal in regions that hold the same.",
    "DIGEST SLOTS",
    "    Return the digest of every slot that holds something.",
    "DIGEST PREFIX <prefix>",
    "    Return the digest of the keys that begin so, and their number.",
    "DIGEST KEY <key>",
    "    Return the digest of one key.",
    "REGIONS",
    "    List the regions of the cluster.",
    "TOKEN",
    "    Return a token that covers what this connection has written and read so far.",
    "TOKEN FORGET",
    "    Begin anew: tokens cover what the connection writes and reads from now on.",
    "TOKEN ATTRIBUTE ON|OFF",
    "    Put the token in front of every reply to a write, as a RESP3 attribute.",
];

fn meridian(call: &mut Call<'_>) {
    let rest = &call.args[2..];
    match call.args[1].to_ascii_lowercase().as_slice() {
        b"digest" => digest(call, rest),
        b"conflicts" => conflicts::conflicts(call, rest),
        b"regions" => regions(call),
        b"token" => tokens::token(call, rest),
        b"await" => tokens::wait(call, rest),
        _ => help(call),
    }
}

fn help(call: &mut Call<'_>) {
    call.help("MERIDIAN", HELP);
}

/// Meridian's own keys take part: they are replicated.
fn digest(call: &mut Call<'_>, args: &[&[u8]]) {
    match args {
        [] => {
            let digests = (0..SLOTS).map(|slot| call.stage.slot_digest(slot));
            let sum = digests.fold(0u64, u64::wrapping_add);
            call.reply.bulk(hex(sum).as_bytes());
        }
        [word] if word.eq_ignore_ascii_case(b"slots") => {
            let digests = (0..SLOTS).map(|slot| (slot, call.stage.slot_digest(slot)));
            let digests: Vec<(u16, u64)> = digests.filter(|(_, digest)| *digest != 0).collect();
            call.reply.array(digests.len());
            for (slot, digest) in digests {
                call.reply.array(2);
                call.reply.integer(i64::from(slot));
                call.reply.bulk(hex(digest).as_bytes());
            }
        }
        [word, prefix] if word.eq_ignore_ascii_case(b"prefix") => {
            let all = call.stage.occupied_slots().flat_map(|slot| call.stage.table(slot).iter());
            let of = all.filter(|(key, _)| key.starts_with(prefix));
            let (sum, count) = of.fold((0u64, 0i64), |(sum, count), (key, object)| {
                (sum.wrapping_add(object_digest(key, object)), count + 1)
            });
            call.reply.array(2);
            call.reply.bulk(hex(sum).as_bytes());
            call.reply.integer(count);
        }
        [word, key] if word.eq_ignore_ascii_case(b"key") => {
            let digest = call.stage.object(key).map_or(0, |object| object_digest(key, object));
            call.reply.bulk(hex(digest).as_bytes());
        }
        _ => call.reply.error(SYNTAX),
    }
}

fn hex(digest: u64) -> String {
    format!("{digest:016x}")
}

fn regions(call: &mut Call<'_>) {
    let env = &*call.env;
    call.reply.array(env.regions.len());
    for (origin, name) in &env.regions {
        call.reply.map(3);
        call.reply.bulk(b"name");
        call.reply.bulk(name.as_bytes());
        call.reply.bulk(b"ordinal");
        call.reply.integer(i64::from(origin.0));
        call.reply.bulk(b"here");
        call.reply.integer(i64::from(*origin == call.stage.me()));
    }
}
