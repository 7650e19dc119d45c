//! Hashes: every field is a cell of its own, so that writes to different fields never conflict.

use meridian_clock::Time;
use meridian_crdt::{Action, Element, Kind};
use meridian_resp::Protocol;

use super::{
    SYNTAX,
    counters::{count_decimal, count_in},
    expect,
    numbers::{self, NotAnAmount},
    scan,
    spec::{ONE_KEY, Spec},
    view::View,
};
use crate::dispatch::Call;

pub(super) static TABLE: &[Spec] = &[
    Spec::write("hset", -4, ONE_KEY, hset),
    Spec::write("hmset", -4, ONE_KEY, hmset),
    Spec::write("hsetnx", 4, ONE_KEY, hsetnx),
    Spec::read("hget", 3, ONE_KEY, hget),
    Spec::read("hmget", -3, ONE_KEY, hmget),
    Spec::read("hgetall", 2, ONE_KEY, hgetall),
    Spec::write("hdel", -3, ONE_KEY, hdel),
    Spec::read("hexists", 3, ONE_KEY, hexists),
    Spec::read("hlen", 2, ONE_KEY, hlen),
    Spec::read("hkeys", 2, ONE_KEY, hkeys),
    Spec::read("hvals", 2, ONE_KEY, hvals),
    Spec::read("hstrlen", 3, ONE_KEY, hstrlen),
    Spec::write("hincrby", 4, ONE_KEY, hincrby),
    Spec::write("hincrbyfloat", 4, ONE_KEY, hincrbyfloat),
    Spec::read("hscan", -3, ONE_KEY, hscan),
    Spec::read("hrandfield", -2, ONE_KEY, hrandfield),
];

fn hset(call: &mut Call<'_>) {
    if !call.args.len().is_multiple_of(2) {
        return call.wrong_arity("hset");
    }
    match set_fields(call) {
        Ok(added) => call.reply.integer(added),
        Err(error) => call.reply.error(error),
    }
}

fn hmset(call: &mut Call<'_>) {
    if !call.args.len().is_multiple_of(2) {
        return call.wrong_arity("hmset");
    }
    match set_fields(call) {
        Ok(_) => call.reply.ok(),
        Err(error) => call.reply.error(error),
    }
}

/// Sets the fields among the arguments and says how many of them are new.
fn set_fields(call: &mut Call<'_>) -> Result<i64, &'static str> {
    let mut added = 0;
    for pair in call.args[2..].chunks_exact(2) {
        added += i64::from(set_field(call, pair[0], pair[1], true)?);
    }
    Ok(added)
}

/// Sets one field, if it is new or `replace` allows it. True if it is new.
fn set_field(
    call: &mut Call<'_>,
    field: &[u8],
    value: &[u8],
    replace: bool,
) -> Result<bool, &'static str> {
    let now = call.now;
    let mut result = Ok(false);
    let out = &mut result;
    call.stage.decide(call.args[1], move |object, _| {
        *out = expect(object, Kind::Hash, now)
            .map(|()| !View::of(object, Kind::Hash, now).contains(field));
        let writes = matches!(*out, Ok(new) if new || replace);
        let element = Element::Field(field);
        writes.then_some(Action::Assign { element, value, ttl: Time::MAX })
    });
    result
}

fn hsetnx(call: &mut Call<'_>) {
    match set_field(call, call.args[2], call.args[3], false) {
        Ok(new) => call.reply.integer(i64::from(new)),
        Err(error) => call.reply.error(error),
    }
}

fn hget(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
        Ok(hash) => match hash.and_then(|h| h.get(call.args[2])) {
            Some(value) => call.reply.bulk(&value),
            None => call.reply.null(),
        },
        Err(error) => call.reply.error(error),
    }
}

fn hmget(call: &mut Call<'_>) {
    let hash = match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
        Ok(hash) => hash,
        Err(error) => return call.reply.error(error),
    };
    call.reply.array(call.args.len() - 2);
    for field in &call.args[2..] {
        match hash.and_then(|h| h.get(field)) {
            Some(value) => call.reply.bulk(&value),
            None => call.reply.null(),
        }
    }
}

fn hgetall(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
        Ok(Some(hash)) => {
            call.reply.map(hash.len());
            for (field, value) in hash.pairs() {
                call.reply.bulk(field);
                call.reply.bulk(&value);
            }
        }
        Ok(None) => call.reply.map(0),
        Err(error) => call.reply.error(error),
    }
}

fn hdel(call: &mut Call<'_>) {
    let (key, now) = (call.args[1], call.now);
    let mut removed = 0;
    for field in &call.args[2..] {
        let mut checked = Ok(());
        let out = &mut checked;
        // An emptied hash may uncover a set that was written concurrently.
        let first = removed == 0;
        let gone = call.stage.decide(key, move |object, _| {
            *out = if first { expect(object, Kind::Hash, now) } else { Ok(()) };
            let there = out.is_ok() && View::of(object, Kind::Hash, now).contains(field);
            there.then_some(Action::Remove { element: Element::Field(field) })
        });
        if let Err(error) = checked {
            return call.reply.error(error);
        }
        removed += i64::from(gone);
    }
    if removed > 0 {
        call.tidy(key);
    }
    call.reply.integer(removed);
}

fn hexists(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
        Ok(hash) => {
            let there = hash.is_some_and(|h| h.contains(call.args[2]));
            call.reply.integer(i64::from(there));
        }
        Err(error) => call.reply.error(error),
    }
}

fn hlen(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
        Ok(hash) => call.reply.integer(hash.map_or(0, |h| h.len()) as i64),
        Err(error) => call.reply.error(error),
    }
}

fn hkeys(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
        Ok(Some(hash)) => {
            call.reply.array(hash.len());
            hash.names().for_each(|field| call.reply.bulk(field));
        }
        Ok(None) => call.reply.array(0),
        Err(error) => call.reply.error(error),
    }
}

fn hvals(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
        Ok(Some(hash)) => {
            call.reply.array(hash.len());
            hash.pairs().for_each(|(_, value)| call.reply.bulk(&value));
        }
        Ok(None) => call.reply.array(0),
        Err(error) => call.reply.error(error),
    }
}

fn hstrlen(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
        Ok(hash) => {
            let value = hash.and_then(|h| h.get(call.args[2]));
            call.reply.integer(value.map_or(0, |v| v.len()) as i64);
        }
        Err(error) => call.reply.error(error),
    }
}

fn hincrby(call: &mut Call<'_>) {
    match numbers::integer(call.args[3]) {
        Ok(delta) => {
            let field = Element::Field(call.args[2]);
            count_in(call, field, delta, "ERR hash value is not an integer");
        }
        Err(error) => call.reply.error(error),
    }
}

fn hincrbyfloat(call: &mut Call<'_>) {
    match numbers::amount(call.args[3]) {
        Ok(delta) => {
            let field = Element::Field(call.args[2]);
            count_decimal(call, field, delta, "ERR hash value is not a float");
        }
        Err(NotAnAmount::Text) => call.reply.error("ERR value is not a valid float"),
        Err(NotAnAmount::Infinite) => call.reply.error("ERR value is NaN or Infinity"),
    }
}

fn hscan(call: &mut Call<'_>) {
    scan::elements(call, Kind::Hash);
}

fn hrandfield(call: &mut Call<'_>) {
    let Some(count) = call.args.get(2) else {
        return match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
            Ok(hash) => match hash.and_then(|h| h.pick(&mut call.env.random)) {
                Some(field) => call.reply.bulk(field),
                None => call.reply.null(),
            },
            Err(error) => call.reply.error(error),
        };
    };
    let count = match numbers::picks(count) {
        Ok(count) => count,
        Err(error) => return call.reply.error(error),
    };
    let with_values = match &call.args[3..] {
        [] => false,
        [word] if word.eq_ignore_ascii_case(b"withvalues") => true,
        _ => return call.reply.error(SYNTAX),
    };
    let hash = match View::find(call.stage, call.env, call.args[1], Kind::Hash, call.now) {
        Ok(Some(hash)) => hash,
        Ok(None) => return call.reply.array(0),
        Err(error) => return call.reply.error(error),
    };
    let fields = hash.picks(count, &mut call.env.random);
    let nested = with_values && call.reply.proto == Protocol::Resp3;
    let flat = with_values && !nested;
    call.reply.array(if flat { fields.len() * 2 } else { fields.len() });
    for field in &fields {
        if nested {
            call.reply.array(2);
        }
        call.reply.bulk(field);
        if with_values {
            call.reply.bulk(&hash.get(field).unwrap_or_default());
        }
    }
}
