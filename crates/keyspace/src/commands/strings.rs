//! Strings: whole values, written by the larger stamp.

use meridian_clock::Time;
use meridian_crdt::{Action, Element, Kind};

use super::{SYNTAX, WRONG_TYPE};
use crate::dispatch::{Access, Call, Spec};

pub(super) static TABLE: &[Spec] = &[
    Spec { name: "get", arity: 2, access: Access::Read, keys: (1, 1, 1), run: get },
    Spec { name: "set", arity: -3, access: Access::Write, keys: (1, 1, 1), run: set },
];

fn get(call: &mut Call<'_>) {
    let Some(object) = call.stage.object(call.args[1]) else {
        call.env.misses += 1;
        return call.reply.null();
    };
    // The common case first: one look at the string answers both type and value.
    if let Some(value) = object.string_value(call.now) {
        call.env.hits += 1;
        return call.reply.bulk(&value);
    }
    match object.visible(call.now) {
        None => {
            call.env.misses += 1;
            call.reply.null();
        }
        Some(_) => call.reply.error(WRONG_TYPE),
    }
}

fn set(call: &mut Call<'_>) {
    if call.args.len() > 3 {
        return call.reply.error(SYNTAX);
    }
    write_string(call, call.args[1], call.args[2], Time::MAX);
    call.reply.ok();
}

/// Writes a string over whatever the key shows.
pub(super) fn write_string(call: &mut Call<'_>, key: &[u8], value: &[u8], ttl: Time) {
    if call.visible(key).is_some_and(|kind| kind != Kind::String) {
        call.stage.write(key, Action::Clear);
    }
    call.stage.write(key, Action::Assign { element: Element::String, value, ttl });
}
