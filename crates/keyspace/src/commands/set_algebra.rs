//! Union, intersection and difference of sets.

use std::collections::BTreeSet;

use meridian_clock::Time;
use meridian_crdt::{Action, Element, Kind};

use super::{
    SYNTAX, held, numbers,
    spec::{ALL_KEYS, Access, NO_KEYS, Spec},
    view::View,
};
use crate::{
    dispatch::{Call, TOO_MUCH},
    limits::COMMAND_SLACK_BYTES,
    stage::Stage,
};

pub(super) static TABLE: &[Spec] = &[
    Spec::read("sunion", -2, ALL_KEYS, sunion),
    Spec::read("sinter", -2, ALL_KEYS, sinter),
    Spec::read("sdiff", -2, ALL_KEYS, sdiff),
    Spec::write("sunionstore", -3, ALL_KEYS, sunionstore).with_access(Access::WriteFirst),
    Spec::write("sinterstore", -3, ALL_KEYS, sinterstore).with_access(Access::WriteFirst),
    Spec::write("sdiffstore", -3, ALL_KEYS, sdiffstore).with_access(Access::WriteFirst),
    Spec::read("sintercard", -3, NO_KEYS, sintercard),
];

/// What is done with the sets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Algebra {
    Union,
    Intersection,
    Difference,
}

fn sunion(call: &mut Call<'_>) {
    reply(call, Algebra::Union);
}

fn sinter(call: &mut Call<'_>) {
    reply(call, Algebra::Intersection);
}

fn sdiff(call: &mut Call<'_>) {
    reply(call, Algebra::Difference);
}

fn reply(call: &mut Call<'_>, algebra: Algebra) {
    let sets = match sets_of(call.stage, call.now, &call.args[1..]) {
        Ok(sets) => sets,
        Err(error) => return call.reply.error(error),
    };
    let result = combine(&sets, algebra, usize::MAX);
    call.reply.set(result.len());
    result.iter().for_each(|member| call.reply.bulk(member));
}

fn sunionstore(call: &mut Call<'_>) {
    store(call, Algebra::Union);
}

fn sinterstore(call: &mut Call<'_>) {
    store(call, Algebra::Intersection);
}

fn sdiffstore(call: &mut Call<'_>) {
    store(call, Algebra::Difference);
}

fn store(call: &mut Call<'_>, algebra: Algebra) {
    let sets = match sets_of(call.stage, call.now, &call.args[2..]) {
        Ok(sets) => sets,
        Err(error) => return call.reply.error(error),
    };
    // Owned, because the destination may be one of the sources.
    let result: Vec<Box<[u8]>> =
        combine(&sets, algebra, usize::MAX).into_iter().map(Box::from).collect();
    let key = call.args[1];
    let bytes: usize = result.iter().map(|m| m.len() + 8).sum();
    if bytes + COMMAND_SLACK_BYTES > call.stage.room(key) {
        return call.reply.error(TOO_MUCH);
    }
    if held(call.stage, key).is_some() {
        call.stage.write(key, Action::Clear);
    }
    for member in &result {
        let element = Element::Member(member);
        call.stage.write(key, Action::Assign { element, value: b"", ttl: Time::MAX });
    }
    call.reply.integer(result.len() as i64);
}

fn sintercard(call: &mut Call<'_>) {
    let keys = numbers::integer(call.args[1]).ok().filter(|count| *count > 0);
    let Some(keys) = keys.and_then(|count| usize::try_from(count).ok()) else {
        return call.reply.error("ERR numkeys should be greater than 0");
    };
    let Some(options) = call.args.get(2..).and_then(|rest| rest.get(keys..)) else {
        return call.reply.error("ERR Number of keys can't be greater than number of args");
    };
    let mut limit = 0;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let value = options.next().filter(|_| option.eq_ignore_ascii_case(b"limit"));
        let Some(value) = value else {
            return call.reply.error(SYNTAX);
        };
        match numbers::count(value) {
            Ok(value) => limit = value,
            Err(_) => return call.reply.error("ERR LIMIT can't be negative"),
        }
    }
    let sets = match sets_of(call.stage, call.now, &call.args[2..2 + keys]) {
        Ok(sets) => sets,
        Err(error) => return call.reply.error(error),
    };
    let limit = if limit == 0 { usize::MAX } else { limit };
    call.reply.integer(combine(&sets, Algebra::Intersection, limit).len() as i64);
}

/// The sets under the keys, none where there is none.
fn sets_of<'s>(
    stage: &'s Stage,
    now: Time,
    keys: &[&[u8]],
) -> Result<Vec<Option<View<'s>>>, &'static str> {
    let find = |key: &&[u8]| match held(stage, key) {
        None => Ok(None),
        Some(object) => match object.visible(now) {
            None => Ok(None),
            Some(Kind::Set) => Ok(Some(View::of(object, Kind::Set, now))),
            Some(_) => Err(super::WRONG_TYPE),
        },
    };
    keys.iter().map(find).collect()
}

/// The combination, or its first `limit` members.
fn combine<'s>(sets: &[Option<View<'s>>], algebra: Algebra, limit: usize) -> Vec<&'s [u8]> {
    match algebra {
        Algebra::Union => {
            let all: BTreeSet<&[u8]> = sets.iter().flatten().flat_map(View::names).collect();
            all.into_iter().collect()
        }
        Algebra::Intersection => {
            let all: Option<Vec<View<'_>>> = sets.iter().copied().collect();
            let mut all = all.unwrap_or_default();
            // The smallest first: the work is its size.
            all.sort_by_key(View::len);
            let Some((smallest, others)) = all.split_first() else {
                return Vec::new();
            };
            let common = |name: &&[u8]| others.iter().all(|set| set.contains(name));
            smallest.names().filter(common).take(limit).collect()
        }
        Algebra::Difference => {
            let Some((Some(first), others)) = sets.split_first() else {
                return Vec::new();
            };
            let only = |name: &&[u8]| !others.iter().flatten().any(|set| set.contains(name));
            first.names().filter(only).collect()
        }
    }
}
