//! MERIDIAN.CONFLICTS: every concurrent value that a reader does not see.

use meridian_clock::Dot;
use meridian_crdt::{Element, Object, Reg};

use super::{SYNTAX, is_hidden, numbers};
use crate::dispatch::Call;

/// How many entries are listed unless COUNT says otherwise.
const DEFAULT_COUNT: usize = 100;

const LARGER_STAMP: &str = "larger stamp wins";
const TYPE_ORDER: &str = "string before hash before set";

/// One value that lost.
struct Conflict {
    key: Box<[u8]>,
    element: String,
    name: Box<[u8]>,
    value: Box<[u8]>,
    loser: Dot,
    winner: Dot,
    rule: &'static str,
}

/// Lists conflicts: of one key, or of all keys at which one was noted.
pub(super) fn conflicts(call: &mut Call<'_>, args: &[&[u8]]) {
    let (key, count) = match args {
        [] => (None, None),
        [key] => (Some(*key), None),
        [word, count] if word.eq_ignore_ascii_case(b"count") => (None, Some(*count)),
        [key, word, count] if word.eq_ignore_ascii_case(b"count") => (Some(*key), Some(*count)),
        _ => return call.reply.error(SYNTAX),
    };
    let count = match count.map_or(Ok(DEFAULT_COUNT), numbers::count) {
        Ok(count) => count,
        Err(error) => return call.reply.error(error),
    };
    let keys: Vec<Box<[u8]>> = match key {
        Some(key) => vec![key.into()],
        None => call.stage.conflict_keys().map(Box::from).collect(),
    };
    let mut found = Vec::new();
    for key in keys.iter().filter(|key| !is_hidden(key)) {
        let before = found.len();
        if let Some(object) = call.stage.object(key) {
            conflicts_of(key, object, &mut found);
        }
        if found.len() == before {
            call.stage.forget_conflict(key);
        }
        if found.len() >= count {
            break;
        }
    }
    found.truncate(count);
    call.reply.array(found.len());
    found.iter().for_each(|conflict| reply(call, conflict));
}

fn conflicts_of(key: &[u8], object: &Object, found: &mut Vec<Conflict>) {
    object.each(|element, cell| {
        let Some(winner) = cell.winner().filter(|_| Object::is_conflict(element, cell)) else {
            return;
        };
        for loser in cell.regs().filter(|reg| reg.dot != winner.dot) {
            found.push(Conflict::new(key, element, loser, winner.dot, LARGER_STAMP));
        }
    });
    if object.has_mixed_types() {
        hidden_types(key, object, found);
    }
}

/// Values of the types that a reader does not see.
fn hidden_types(key: &[u8], object: &Object, found: &mut Vec<Conflict>) {
    let mut first: Option<(u8, Dot)> = None;
    object.each(|element, cell| {
        let Some(reg) = cell.winner() else { return };
        let rank = match element {
            Element::String => 0,
            Element::Field(_) => 1,
            Element::Member(_) => 2,
        };
        // Visited in the order of the types: the first one is what shows.
        let (shown, winner) = first.get_or_insert((rank, reg.dot));
        if *shown == rank {
            *winner = reg.dot.max(*winner);
        } else {
            found.push(Conflict::new(key, element, reg, *winner, TYPE_ORDER));
        }
    });
}

impl Conflict {
    fn new(
        key: &[u8],
        element: Element<'_>,
        loser: &Reg,
        winner: Dot,
        rule: &'static str,
    ) -> Conflict {
        let (kind, name) = match element {
            Element::String => ("string", &[][..]),
            Element::Field(name) => ("field", name),
            Element::Member(name) => ("member", name),
        };
        Conflict {
            key: key.into(),
            element: kind.to_owned(),
            name: name.into(),
            value: loser.value.clone(),
            loser: loser.dot,
            winner,
            rule,
        }
    }
}

fn reply(call: &mut Call<'_>, conflict: &Conflict) {
    let (loser, winner) = (conflict.loser, conflict.winner);
    let (region, winner_region) =
        (call.env.region_name(loser.origin), call.env.region_name(winner.origin));
    let reply = &mut call.reply;
    reply.map(9);
    reply.bulk(b"key");
    reply.bulk(&conflict.key);
    reply.bulk(b"element");
    reply.bulk(conflict.element.as_bytes());
    reply.bulk(b"name");
    reply.bulk(&conflict.name);
    reply.bulk(b"value");
    reply.bulk(&conflict.value);
    reply.bulk(b"time_ms");
    reply.integer(loser.time.as_ms() as i64);
    reply.bulk(b"region");
    reply.bulk(region.as_bytes());
    reply.bulk(b"winner_time_ms");
    reply.integer(winner.time.as_ms() as i64);
    reply.bulk(b"winner_region");
    reply.bulk(winner_region.as_bytes());
    reply.bulk(b"rule");
    reply.bulk(conflict.rule.as_bytes());
}
