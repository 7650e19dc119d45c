//! Walking over keys and elements.
//!
//! SCAN's cursor is a slot: a call returns whole slots, so a key that is there throughout is
//! returned exactly once, whatever happens around it.

use meridian_crdt::Kind;

use super::{
    SYNTAX, glob, is_hidden, numbers,
    spec::{NO_KEYS, Spec},
    view::View,
};
use crate::{dispatch::Call, slot::SLOTS};

pub(super) static TABLE: &[Spec] = &[
    Spec::read("scan", -2, NO_KEYS, scan),
    Spec::read("keys", 2, NO_KEYS, keys),
    Spec::read("dbsize", 1, NO_KEYS, dbsize),
    Spec::read("randomkey", 1, NO_KEYS, randomkey),
];

/// How many keys or elements a call looks at unless COUNT says otherwise, as in Redis.
const DEFAULT_COUNT: usize = 10;

/// MATCH, COUNT and TYPE.
struct Options<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    kind: Option<&'a [u8]>,
}

impl<'a> Options<'a> {
    fn parse(args: &[&'a [u8]], of_keys: bool) -> Result<Options<'a>, &'static str> {
        let mut options = Options { pattern: None, count: DEFAULT_COUNT, kind: None };
        let mut args = args.iter().copied();
        while let Some(name) = args.next() {
            let value = args.next().ok_or(SYNTAX)?;
            match name.to_ascii_lowercase().as_slice() {
                b"count" => {
                    let count = numbers::integer(value)?;
                    let count = usize::try_from(count).ok().filter(|count| *count > 0);
                    options.count = count.ok_or(SYNTAX)?;
                }
                b"match" => options.pattern = Some(value).filter(|pattern| *pattern != b"*"),
                b"type" if of_keys => options.kind = Some(value),
                _ => return Err(SYNTAX),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }

    fn wants_kind(&self, kind: Kind) -> bool {
        self.kind.is_none_or(|wanted| wanted.eq_ignore_ascii_case(kind.name().as_bytes()))
    }
}

fn scan(call: &mut Call<'_>) {
    let cursor = match numbers::cursor(call.args[1]) {
        Ok(cursor) => cursor,
        Err(error) => return call.reply.error(error),
    };
    let options = match Options::parse(&call.args[2..], true) {
        Ok(options) => options,
        Err(error) => return call.reply.error(error),
    };
    let mut slot = u16::try_from(cursor).unwrap_or(SLOTS).min(SLOTS);
    let (mut looked_at, mut found) = (0, Vec::new());
    while slot < SLOTS && looked_at < options.count {
        for (key, object) in call.stage.table(slot).iter() {
            looked_at += 1;
            let kind = object.visible(call.now).filter(|_| !is_hidden(key));
            if kind.is_some_and(|kind| options.wants_kind(kind) && options.wants(key)) {
                found.push(key);
            }
        }
        slot += 1;
    }
    let next = if slot == SLOTS { 0 } else { slot };
    call.reply.array(2);
    call.reply.bulk_integer(i64::from(next));
    call.reply.array(found.len());
    found.iter().for_each(|key| call.reply.bulk(key));
}

/// HSCAN and SSCAN.
pub(super) fn elements(call: &mut Call<'_>, kind: Kind) {
    let cursor = match numbers::cursor(call.args[2]) {
        Ok(cursor) => cursor,
        Err(error) => return call.reply.error(error),
    };
    let found = match View::find(call.stage, call.env, call.args[1], kind, call.now) {
        Ok(found) => found,
        Err(error) => return call.reply.error(error),
    };
    let Some(view) = found else {
        call.reply.array(2);
        call.reply.bulk(b"0");
        return call.reply.array(0);
    };
    let options = match Options::parse(&call.args[3..], false) {
        Ok(options) => options,
        Err(error) => return call.reply.error(error),
    };
    let mut found = Vec::new();
    let next = view.scan(cursor, options.count, |name, value| {
        if options.wants(name) {
            found.push((name, value));
        }
    });
    let values = kind == Kind::Hash;
    call.reply.array(2);
    call.reply.bulk_integer(next as i64);
    call.reply.array(if values { found.len() * 2 } else { found.len() });
    for (name, value) in &found {
        call.reply.bulk(name);
        if values {
            call.reply.bulk(value);
        }
    }
}

fn keys(call: &mut Call<'_>) {
    let pattern = call.args[1];
    let wants = |key: &[u8]| pattern == b"*" || glob::matches(pattern, key);
    let (stage, now) = (&*call.stage, call.now);
    let found: Vec<&[u8]> = stage
        .occupied_slots()
        .flat_map(|slot| stage.table(slot).iter())
        .filter(|(key, object)| !is_hidden(key) && object.visible(now).is_some() && wants(key))
        .map(|(key, _)| key)
        .collect();
    call.reply.array(found.len());
    found.iter().for_each(|key| call.reply.bulk(key));
}

fn dbsize(call: &mut Call<'_>) {
    call.reply.integer(count(call) as i64);
}

/// How many keys there are, those that have expired but not been reclaimed included.
pub(super) fn count(call: &Call<'_>) -> usize {
    call.stage.occupied_slots().map(|slot| call.stage.table(slot).live()).sum()
}

fn randomkey(call: &mut Call<'_>) {
    let count = count(call);
    if count == 0 {
        return call.reply.null();
    }
    let mut at = call.env.random.below(count);
    let (stage, now) = (&*call.stage, call.now);
    let mut start = 0;
    while start < SLOTS && stage.table(start).live() <= at {
        at -= stage.table(start).live();
        start += 1;
    }
    // From the chosen place on, once around, because what was chosen may have expired.
    let chosen = visible_keys(stage, start, now).nth(at);
    let chosen = chosen.or_else(|| {
        (0..SLOTS).find_map(|step| visible_keys(stage, (start + step) % SLOTS, now).next())
    });
    match chosen {
        Some(key) => call.reply.bulk(key),
        None => call.reply.null(),
    }
}

fn visible_keys(
    stage: &crate::stage::Stage,
    slot: u16,
    now: meridian_clock::Time,
) -> impl Iterator<Item = &[u8]> {
    let visible = stage
        .table(slot)
        .iter()
        .filter(move |(key, object)| !is_hidden(key) && object.visible(now).is_some());
    visible.map(|(key, _)| key)
}
