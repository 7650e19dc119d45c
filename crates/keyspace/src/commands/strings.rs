//! Strings: whole values, written by the larger stamp.

use std::borrow::Cow;

use meridian_clock::Time;
use meridian_crdt::{Action, Element, Kind, Object};

use super::{
    WRONG_TYPE, expect, expiry, find, held, numbers,
    set_options::{Base, Of, Options, Ttl, Unit, deadline_ms, future},
    spec::{ALL_KEYS, EVERY_OTHER, ONE_KEY, Spec},
};
use crate::{dispatch::Call, limits::MAX_VALUE_BYTES};

pub(super) static TABLE: &[Spec] = &[
    Spec::read("get", 2, ONE_KEY, get),
    Spec::write("set", -3, ONE_KEY, set),
    Spec::read("mget", -2, ALL_KEYS, mget),
    Spec::write("mset", -3, EVERY_OTHER, mset),
    Spec::write("msetnx", -3, EVERY_OTHER, msetnx),
    Spec::write("setnx", 3, ONE_KEY, setnx),
    Spec::write("setex", 4, ONE_KEY, setex),
    Spec::write("psetex", 4, ONE_KEY, psetex),
    Spec::write("getdel", 2, ONE_KEY, getdel),
    Spec::write("getex", -2, ONE_KEY, getex),
    Spec::write("getset", 3, ONE_KEY, getset),
    Spec::write("append", 3, ONE_KEY, append),
    Spec::read("strlen", 2, ONE_KEY, strlen),
    Spec::read("getrange", 4, ONE_KEY, getrange),
    Spec::read("substr", 4, ONE_KEY, getrange),
    Spec::write("setrange", 4, ONE_KEY, setrange),
];

const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

fn get(call: &mut Call<'_>) {
    let Some(object) = held(call.stage, call.args[1]) else {
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
    if let [_, key, value] = call.args {
        write_string(call, key, value, Time::MAX);
        return call.reply.ok();
    }
    let options = match Options::parse(&call.args[3..], Of::Set) {
        Ok(options) => options,
        Err(error) => return call.reply.error(error),
    };
    let (key, value) = (call.args[1], call.args[2]);
    // None: the deadline has passed already.
    let given = match options.ttl {
        Ttl::Given(unit, base, text) => match deadline_ms(text, unit, base, call.now, "set") {
            Ok(ms) => Some(future(ms, call.now)),
            Err(error) => return call.reply.error(&error),
        },
        _ => None,
    };
    let object = held(call.stage, key);
    let seen = object.and_then(|o| o.visible(call.now));
    if options.get && seen.is_some_and(|kind| kind != Kind::String) {
        return call.reply.error(WRONG_TYPE);
    }
    let refused = (options.nx && seen.is_some()) || (options.xx && seen.is_none());
    let kept = object.and_then(|o| o.deadline(call.now)).filter(|_| options.ttl == Ttl::Keep);
    match object.and_then(|o| o.string_value(call.now)).filter(|_| options.get) {
        Some(old) => call.reply.bulk(&old),
        None if options.get || refused => call.reply.null(),
        None => call.reply.ok(),
    }
    if refused {
        return;
    }
    match given.unwrap_or(Some(kept.unwrap_or(Time::MAX))) {
        Some(deadline) => write_string(call, key, value, deadline),
        None => {
            call.delete(key);
        }
    }
}

fn mget(call: &mut Call<'_>) {
    call.reply.array(call.args.len() - 1);
    for key in &call.args[1..] {
        match held(call.stage, key).and_then(|o| o.string_value(call.now)) {
            Some(value) => {
                call.env.hits += 1;
                call.reply.bulk(&value);
            }
            None => {
                call.env.misses += 1;
                call.reply.null();
            }
        }
    }
}

fn mset(call: &mut Call<'_>) {
    if call.args.len().is_multiple_of(2) {
        return call.wrong_arity("mset");
    }
    write_all(call);
    call.reply.ok();
}

fn msetnx(call: &mut Call<'_>) {
    if call.args.len().is_multiple_of(2) {
        return call.wrong_arity("msetnx");
    }
    let keys = call.args[1..].iter().step_by(2);
    if keys.into_iter().any(|key| call.visible(key).is_some()) {
        return call.reply.integer(0);
    }
    write_all(call);
    call.reply.integer(1);
}

fn write_all(call: &mut Call<'_>) {
    for pair in call.args[1..].chunks_exact(2) {
        write_string(call, pair[0], pair[1], Time::MAX);
    }
}

fn setnx(call: &mut Call<'_>) {
    let (key, value, now) = (call.args[1], call.args[2], call.now);
    let wrote = call.stage.decide(key, |object, _| {
        let assign = Action::Assign { element: Element::String, value, ttl: Time::MAX };
        object.visible(now).is_none().then_some(assign)
    });
    call.reply.integer(i64::from(wrote));
}

fn setex(call: &mut Call<'_>) {
    set_for(call, Unit::Seconds, "setex");
}

fn psetex(call: &mut Call<'_>) {
    set_for(call, Unit::Milliseconds, "psetex");
}

fn set_for(call: &mut Call<'_>, unit: Unit, command: &str) {
    let ms = match deadline_ms(call.args[2], unit, Base::Now, call.now, command) {
        Ok(ms) => ms,
        Err(error) => return call.reply.error(&error),
    };
    if let Some(deadline) = future(ms, call.now) {
        write_string(call, call.args[1], call.args[3], deadline);
    }
    call.reply.ok();
}

fn getdel(call: &mut Call<'_>) {
    let key = call.args[1];
    if reply_string(call, key) == Some(true) {
        call.delete(key);
    }
}

fn getex(call: &mut Call<'_>) {
    let options = match Options::parse(&call.args[2..], Of::GetEx) {
        Ok(options) => options,
        Err(error) => return call.reply.error(error),
    };
    let key = call.args[1];
    // A key that is not there is told before a time that cannot be.
    match call.visible(key) {
        Some(Kind::String) => {}
        Some(_) => return call.reply.error(WRONG_TYPE),
        None => {
            call.env.misses += 1;
            return call.reply.null();
        }
    }
    let change = match options.ttl {
        Ttl::Given(unit, base, text) => match deadline_ms(text, unit, base, call.now, "getex") {
            Ok(ms) => Some(future(ms, call.now)),
            Err(error) => return call.reply.error(&error),
        },
        Ttl::Persist => Some(Some(Time::MAX)),
        Ttl::Unsaid | Ttl::Keep => None,
    };
    if reply_string(call, key) != Some(true) {
        return;
    }
    match change {
        None => {}
        Some(Some(Time::MAX)) => {
            expiry::persist_key(call, key);
        }
        Some(Some(deadline)) => expiry::set_deadline(call, key, deadline),
        Some(None) => {
            call.delete(key);
        }
    }
}

fn getset(call: &mut Call<'_>) {
    let key = call.args[1];
    if reply_string(call, key).is_some() {
        write_string(call, key, call.args[2], Time::MAX);
    }
}

fn append(call: &mut Call<'_>) {
    let (key, tail) = (call.args[1], call.args[2]);
    rewrite(call, key, |old| {
        if old.len() + tail.len() > MAX_VALUE_BYTES {
            return Err(TOO_LONG);
        }
        Ok(Some([old, tail].concat()))
    });
}

fn setrange(call: &mut Call<'_>) {
    let (key, patch) = (call.args[1], call.args[3]);
    let offset = match numbers::integer(call.args[2]) {
        Ok(offset) => offset,
        Err(error) => return call.reply.error(error),
    };
    let Ok(offset) = usize::try_from(offset) else {
        return call.reply.error("ERR offset is out of range");
    };
    rewrite(call, key, |old| {
        if patch.is_empty() {
            return Ok(None);
        }
        let end = offset.checked_add(patch.len()).filter(|end| *end <= MAX_VALUE_BYTES);
        let end = end.ok_or(TOO_LONG)?;
        let mut new = old.to_vec();
        new.resize(old.len().max(end), 0);
        new[offset..end].copy_from_slice(patch);
        Ok(Some(new))
    });
}

fn strlen(call: &mut Call<'_>) {
    match find(call.stage, call.env, call.args[1], Kind::String, call.now) {
        Ok(object) => call.reply.integer(text_of(object, call.now).len() as i64),
        Err(error) => call.reply.error(error),
    }
}

fn getrange(call: &mut Call<'_>) {
    let bounds = numbers::integer(call.args[2])
        .and_then(|start| numbers::integer(call.args[3]).map(|end| (start, end)));
    let (start, end) = match bounds {
        Ok(bounds) => bounds,
        Err(error) => return call.reply.error(error),
    };
    match find(call.stage, call.env, call.args[1], Kind::String, call.now) {
        Ok(object) => call.reply.bulk(slice(&text_of(object, call.now), start, end)),
        Err(error) => call.reply.error(error),
    }
}

/// The bytes from `start` to `end`, both included; negative ones count from the end.
fn slice(text: &[u8], start: i64, end: i64) -> &[u8] {
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let length = text.len() as i64;
    let place = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    let (start, end) = (place(start), place(end).min(length - 1));
    if start > end { &[] } else { &text[start as usize..=end as usize] }
}

/// Writes a string over whatever the key holds.
#[inline]
pub(super) fn write_string(call: &mut Call<'_>, key: &[u8], value: &[u8], ttl: Time) {
    call.stage.write(key, Action::Assign { element: Element::String, value, ttl });
}

/// Replies the string under the key or null, and whether there was one; none after an error.
fn reply_string(call: &mut Call<'_>, key: &[u8]) -> Option<bool> {
    match find(call.stage, call.env, key, Kind::String, call.now) {
        Err(error) => {
            call.reply.error(error);
            None
        }
        Ok(object) => match object.and_then(|o| o.string_value(call.now)) {
            Some(value) => {
                call.reply.bulk(&value);
                Some(true)
            }
            None => {
                call.reply.null();
                Some(false)
            }
        },
    }
}

/// Writes what `change` makes of the old text, if anything, with the time to live that the key
/// had, and replies the length.
fn rewrite(
    call: &mut Call<'_>,
    key: &[u8],
    change: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, &'static str>,
) {
    let now = call.now;
    let (mut result, mut buffer) = (Ok(0), Vec::new());
    let (out, new) = (&mut result, &mut buffer);
    call.stage.decide(key, move |object, _| {
        let old = text_of(Some(object), now);
        let changed = expect(object, Kind::String, now).and_then(|()| change(&old));
        match changed {
            Ok(Some(text)) => *new = text,
            Ok(None) => {
                *out = Ok(old.len());
                return None;
            }
            Err(error) => {
                *out = Err(error);
                return None;
            }
        }
        *out = Ok(new.len());
        let ttl = object.deadline(now).unwrap_or(Time::MAX);
        Some(Action::Assign { element: Element::String, value: &*new, ttl })
    });
    match result {
        Ok(length) => call.reply.integer(length as i64),
        Err(error) => call.reply.error(error),
    }
}

fn text_of(object: Option<&Object>, now: Time) -> Cow<'_, [u8]> {
    object.and_then(|o| o.string_value(now)).unwrap_or_default()
}
