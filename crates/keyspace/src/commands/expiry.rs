//! Times to live. A deadline is replicated once and judged by every region; expiry itself costs
//! the others nothing.

use meridian_clock::Time;
use meridian_crdt::{Action, Cell, Element, ElementKey, Object};

use super::{
    held, numbers,
    set_options::{Base, Unit, future, invalid_expire},
    spec::{ONE_KEY, Spec},
};
use crate::dispatch::Call;

pub(super) static TABLE: &[Spec] = &[
    Spec::write("expire", -3, ONE_KEY, |c| expire(c, Unit::Seconds, Base::Now, "expire")),
    Spec::write("pexpire", -3, ONE_KEY, |c| expire(c, Unit::Milliseconds, Base::Now, "pexpire")),
    Spec::write("expireat", -3, ONE_KEY, |c| expire(c, Unit::Seconds, Base::Epoch, "expireat")),
    Spec::write("pexpireat", -3, ONE_KEY, |c| {
        expire(c, Unit::Milliseconds, Base::Epoch, "pexpireat");
    }),
    Spec::read("ttl", 2, ONE_KEY, |c| time_left(c, Unit::Seconds, Base::Now)),
    Spec::read("pttl", 2, ONE_KEY, |c| time_left(c, Unit::Milliseconds, Base::Now)),
    Spec::read("expiretime", 2, ONE_KEY, |c| time_left(c, Unit::Seconds, Base::Epoch)),
    Spec::read("pexpiretime", 2, ONE_KEY, |c| time_left(c, Unit::Milliseconds, Base::Epoch)),
    Spec::write("persist", 2, ONE_KEY, persist),
];

/// When EXPIRE may change a deadline.
#[derive(Clone, Copy, Default)]
struct Conditions {
    /// Only if there is none.
    nx: bool,
    /// Only if there is one.
    xx: bool,
    /// Only to a later one; none counts as never.
    gt: bool,
    /// Only to an earlier one; none counts as never.
    lt: bool,
}

impl Conditions {
    fn parse(args: &[&[u8]]) -> Result<Conditions, Vec<u8>> {
        let mut conditions = Conditions::default();
        for arg in args {
            match arg.to_ascii_lowercase().as_slice() {
                b"nx" => conditions.nx = true,
                b"xx" => conditions.xx = true,
                b"gt" => conditions.gt = true,
                b"lt" => conditions.lt = true,
                _ => return Err([b"ERR Unsupported option ", *arg].concat()),
            }
        }
        let Conditions { nx, xx, gt, lt } = conditions;
        let error = if nx && (xx || gt || lt) {
            "ERR NX and XX, GT or LT options at the same time are not compatible"
        } else if gt && lt {
            "ERR GT and LT options at the same time are not compatible"
        } else {
            return Ok(conditions);
        };
        Err(error.into())
    }

    /// Both times in milliseconds since 1970.
    fn allow(self, current: Option<i64>, wanted: i64) -> bool {
        match current {
            Some(current) => {
                !(self.nx || (self.gt && wanted <= current) || (self.lt && wanted >= current))
            }
            None => !(self.xx || self.gt),
        }
    }
}

fn expire(call: &mut Call<'_>, unit: Unit, base: Base, command: &str) {
    let conditions = match Conditions::parse(&call.args[3..]) {
        Ok(conditions) => conditions,
        Err(error) => return call.reply.error_bytes(&error),
    };
    let value = match numbers::integer(call.args[2]) {
        Ok(value) => value,
        Err(error) => return call.reply.error(error),
    };
    let ms = if unit == Unit::Seconds { value.checked_mul(1000) } else { Some(value) };
    let from = if base == Base::Now { call.now.as_ms() as i64 } else { 0 };
    let Some(ms) = ms.and_then(|ms| ms.checked_add(from)) else {
        return call.reply.error(&invalid_expire(command));
    };
    let key = call.args[1];
    let found = held(call.stage, key).filter(|o| o.visible(call.now).is_some());
    let Some(object) = found else {
        return call.reply.integer(0);
    };
    let current = object.deadline(call.now).map(|at| at.as_ms() as i64);
    if !conditions.allow(current, ms) {
        return call.reply.integer(0);
    }
    match u64::try_from(ms).ok().and_then(|ms| future(ms, call.now)) {
        Some(deadline) => set_deadline(call, key, deadline),
        None => {
            call.delete(key);
        }
    }
    call.reply.integer(1);
}

fn persist(call: &mut Call<'_>) {
    let had = persist_key(call, call.args[1]);
    call.reply.integer(i64::from(had));
}

/// Takes a key's deadline away; false if it had none.
pub(super) fn persist_key(call: &mut Call<'_>, key: &[u8]) -> bool {
    let had = held(call.stage, key).and_then(|o| o.deadline(call.now)).is_some();
    if had {
        set_deadline(call, key, Time::MAX);
    }
    had
}

/// Gives a visible key a deadline in place of what it has.
pub(super) fn set_deadline(call: &mut Call<'_>, key: &[u8], deadline: Time) {
    bury(call, key);
    call.stage.write(key, Action::Expire { deadline });
}

/// A deadline that has passed keeps what it killed dead. Where a key is visible all the same
/// (part of it was written later), the dead parts must go before the deadline is superseded, or
/// they would come back.
fn bury(call: &mut Call<'_>, key: &[u8]) {
    let now = call.now;
    let Some(object) = held(call.stage, key).filter(|o| o.has_remains(now)) else {
        return;
    };
    let mut dead = Vec::new();
    object.each(|element, cell| {
        if let Some(rest) = what_stays(object, element, cell, now) {
            dead.push((ElementKey::of(element), rest));
        }
    });
    // In an order that does not depend on the key's history, so that a region that was rebuilt
    // writes what it would have written.
    dead.sort();
    for (place, rest) in &dead {
        let Some(element) = place.element() else { continue };
        let action = match rest {
            Some(value) => Action::Assign { element, value, ttl: Time::MAX },
            None => Action::Remove { element },
        };
        call.stage.write(key, action);
    }
}

/// For a cell that is dead in whole or in part: the value that is still visible, or none.
fn what_stays(
    object: &Object,
    element: Element<'_>,
    cell: &Cell,
    now: Time,
) -> Option<Option<Vec<u8>>> {
    let dead_until = match element {
        Element::String => object.string_dead_until(now),
        Element::Field(_) | Element::Member(_) => object.dead_until(now),
    };
    let dead = cell.winner().is_some_and(|reg| reg.dot.time <= dead_until)
        || cell.rows().iter().any(|row| row.is_live() && row.last <= dead_until);
    dead.then(|| cell.value(dead_until).map(std::borrow::Cow::into_owned))
}

fn time_left(call: &mut Call<'_>, unit: Unit, base: Base) {
    let object = held(call.stage, call.args[1]).filter(|o| o.visible(call.now).is_some());
    let Some(object) = object else {
        call.env.misses += 1;
        return call.reply.integer(-2);
    };
    call.env.hits += 1;
    let Some(deadline) = object.deadline(call.now) else {
        return call.reply.integer(-1);
    };
    let from = if base == Base::Now { call.now.as_ms() } else { 0 };
    let ms = deadline.as_ms().saturating_sub(from);
    let value = if unit == Unit::Seconds { (ms + 500) / 1000 } else { ms };
    call.reply.integer(value as i64);
}
