//! Sets: every member is a cell of its own. An add survives a concurrent remove, so SADD writes
//! also what is there already.

use meridian_clock::Time;
use meridian_crdt::{Action, Element, Kind};

use super::{
    SYNTAX, expect, numbers, scan,
    spec::{ONE_KEY, Spec, TWO_KEYS},
    view::View,
};
use crate::{
    dispatch::{Call, TOO_MUCH},
    limits::COMMAND_SLACK_BYTES,
};

pub(super) static TABLE: &[Spec] = &[
    Spec::write("sadd", -3, ONE_KEY, sadd),
    Spec::write("srem", -3, ONE_KEY, srem),
    Spec::read("sismember", 3, ONE_KEY, sismember),
    Spec::read("smismember", -3, ONE_KEY, smismember),
    Spec::read("smembers", 2, ONE_KEY, smembers),
    Spec::read("scard", 2, ONE_KEY, scard),
    Spec::write("spop", -2, ONE_KEY, spop),
    Spec::read("srandmember", -2, ONE_KEY, srandmember),
    Spec::read("sscan", -3, ONE_KEY, sscan),
    Spec::write("smove", 4, TWO_KEYS, smove),
];

fn sadd(call: &mut Call<'_>) {
    let mut added = 0;
    for member in &call.args[2..] {
        match add(call, call.args[1], member) {
            Ok(new) => added += i64::from(new),
            Err(error) => return call.reply.error(error),
        }
    }
    call.reply.integer(added);
}

/// Adds a member; true if it is new.
fn add(call: &mut Call<'_>, key: &[u8], member: &[u8]) -> Result<bool, &'static str> {
    let now = call.now;
    let mut result = Ok(false);
    let out = &mut result;
    call.stage.decide(key, move |object, _| {
        *out = expect(object, Kind::Set, now)
            .map(|()| !View::of(object, Kind::Set, now).contains(member));
        let element = Element::Member(member);
        out.is_ok().then_some(Action::Assign { element, value: b"", ttl: Time::MAX })
    });
    result
}

/// Removes a member; true if it was there.
fn remove(call: &mut Call<'_>, key: &[u8], member: &[u8]) -> Result<bool, &'static str> {
    let now = call.now;
    let mut result = Ok(false);
    let out = &mut result;
    call.stage.decide(key, move |object, _| {
        *out = expect(object, Kind::Set, now)
            .map(|()| View::of(object, Kind::Set, now).contains(member));
        let element = Element::Member(member);
        matches!(*out, Ok(true)).then_some(Action::Remove { element })
    });
    result
}

fn srem(call: &mut Call<'_>) {
    let key = call.args[1];
    let mut removed = 0;
    for member in &call.args[2..] {
        match remove(call, key, member) {
            Ok(there) => removed += i64::from(there),
            Err(error) => return call.reply.error(error),
        }
    }
    if removed > 0 {
        call.tidy(key);
    }
    call.reply.integer(removed);
}

fn sismember(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Set, call.now) {
        Ok(set) => {
            let there = set.is_some_and(|s| s.contains(call.args[2]));
            call.reply.integer(i64::from(there));
        }
        Err(error) => call.reply.error(error),
    }
}

fn smismember(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Set, call.now) {
        Ok(set) => {
            call.reply.array(call.args.len() - 2);
            for member in &call.args[2..] {
                let there = set.is_some_and(|s| s.contains(member));
                call.reply.integer(i64::from(there));
            }
        }
        Err(error) => call.reply.error(error),
    }
}

fn smembers(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Set, call.now) {
        Ok(Some(set)) => {
            call.reply.set(set.len());
            set.names().for_each(|member| call.reply.bulk(member));
        }
        Ok(None) => call.reply.set(0),
        Err(error) => call.reply.error(error),
    }
}

fn scard(call: &mut Call<'_>) {
    match View::find(call.stage, call.env, call.args[1], Kind::Set, call.now) {
        Ok(set) => call.reply.integer(set.map_or(0, |s| s.len()) as i64),
        Err(error) => call.reply.error(error),
    }
}

fn spop(call: &mut Call<'_>) {
    let key = call.args[1];
    let count = match call.args {
        [_, _] => None,
        [_, _, count] => match numbers::count(count) {
            Ok(count) => Some(count),
            Err(error) => return call.reply.error(error),
        },
        _ => return call.reply.error(SYNTAX),
    };
    let set = match View::find(call.stage, call.env, key, Kind::Set, call.now) {
        Ok(set) => set,
        Err(error) => return call.reply.error(error),
    };
    let (Some(set), wanted) = (set, count.unwrap_or(1)) else {
        return if count.is_some() { call.reply.set(0) } else { call.reply.null() };
    };
    let all = wanted >= set.len();
    let picked: Vec<Box<[u8]>> = match count {
        None => set.pick(&mut call.env.random).into_iter().map(Box::from).collect(),
        Some(count) => {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            set.picks(count, &mut call.env.random).into_iter().map(Box::from).collect()
        }
    };
    let bytes: usize = picked.iter().map(|m| m.len() + 8).sum();
    if !all && bytes + COMMAND_SLACK_BYTES > call.stage.room(key) {
        return call.reply.error(TOO_MUCH);
    }
    if count.is_some() {
        call.reply.set(picked.len());
    }
    picked.iter().for_each(|member| call.reply.bulk(member));
    if all {
        call.stage.write(key, Action::Clear);
        return;
    }
    for member in &picked {
        call.stage.write(key, Action::Remove { element: Element::Member(member) });
    }
}

fn srandmember(call: &mut Call<'_>) {
    let count = match call.args {
        [_, _] => None,
        [_, _, count] => match numbers::picks(count) {
            Ok(count) => Some(count),
            Err(error) => return call.reply.error(error),
        },
        _ => return call.reply.error(SYNTAX),
    };
    let set = match View::find(call.stage, call.env, call.args[1], Kind::Set, call.now) {
        Ok(set) => set,
        Err(error) => return call.reply.error(error),
    };
    match (set, count) {
        (None, None) => call.reply.null(),
        (None, Some(_)) => call.reply.array(0),
        (Some(set), None) => match set.pick(&mut call.env.random) {
            Some(member) => call.reply.bulk(member),
            None => call.reply.null(),
        },
        (Some(set), Some(count)) => {
            let picked = set.picks(count, &mut call.env.random);
            call.reply.array(picked.len());
            picked.iter().for_each(|member| call.reply.bulk(member));
        }
    }
}

fn sscan(call: &mut Call<'_>) {
    scan::elements(call, Kind::Set);
}

fn smove(call: &mut Call<'_>) {
    let (from, to, member) = (call.args[1], call.args[2], call.args[3]);
    let moved = match smove_checked(call, from, to, member) {
        Ok(moved) => moved,
        Err(error) => return call.reply.error(error),
    };
    call.reply.integer(i64::from(moved));
}

fn smove_checked(
    call: &mut Call<'_>,
    from: &[u8],
    to: &[u8],
    member: &[u8],
) -> Result<bool, &'static str> {
    let (stage, now) = (&*call.stage, call.now);
    let Some(set) = View::find(stage, call.env, from, Kind::Set, now)? else {
        return Ok(false);
    };
    View::find(stage, call.env, to, Kind::Set, now)?;
    if from == to {
        return Ok(set.contains(member));
    }
    if !remove(call, from, member)? {
        return Ok(false);
    }
    call.tidy(from);
    add(call, to, member)?;
    Ok(true)
}
