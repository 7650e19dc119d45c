//! MERIDIAN.CONFLICTS: every concurrent value that a reader does not see, the feed of them, and
//! how one of them becomes the current value.

use meridian_clock::{Dot, Origin, Time};
use meridian_crdt::{Action, Element, Kind, Object, OwnTtl};

use super::{SYNTAX, conflict_message, held, is_hidden, numbers};
use crate::{
    conflicts::{all_losses, kind_of, kinds, newest_of},
    dispatch::{Call, TOO_MUCH, check_writable},
    limits::{COMMAND_SLACK_BYTES, MAX_FOLLOWERS, MAX_RESTORE_REMOVALS},
};

/// How many entries are listed unless COUNT says otherwise.
const DEFAULT_COUNT: usize = 100;

const NO_LOSER: &str = "ERR no such conflict: nothing that lost has this stamp any more";

/// Lists conflicts, of one key or of all; follows them; or restores what lost.
pub(super) fn conflicts(call: &mut Call<'_>, args: &[&[u8]]) {
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    match args {
        [] => list(call, None, None),
        [word] if is(word, "follow") => follow(call, None),
        [word, count, n] if is(word, "follow") && is(count, "count") => follow(call, Some(n)),
        [word] if is(word, "unfollow") => {
            call.client.follows = false;
            call.outcome.follow = Some(false);
            call.reply.ok();
        }
        [word, key, stamp] if is(word, "restore") => restore(call, key, None, stamp),
        [word, key, name, stamp] if is(word, "restore") => restore(call, key, Some(name), stamp),
        [word, n] if is(word, "count") => list(call, None, Some(n)),
        [key] => list(call, Some(key), None),
        [key, word, n] if is(word, "count") => list(call, Some(key), Some(n)),
        _ => call.reply.error(SYNTAX),
    }
}

fn list(call: &mut Call<'_>, key: Option<&[u8]>, count: Option<&[u8]>) {
    match count.map_or(Ok(DEFAULT_COUNT), numbers::count) {
        Ok(count) => list_at_most(call, key, count),
        Err(error) => call.reply.error(error),
    }
}

fn list_at_most(call: &mut Call<'_>, key: Option<&[u8]>, count: usize) {
    let mut found = Vec::new();
    let mut add = |key: &[u8]| {
        let losses = held(call.stage, key).map(all_losses).unwrap_or_default();
        found.extend(losses.into_iter().map(|loss| (Box::<[u8]>::from(key), loss)));
        found.len() < count
    };
    match key {
        Some(key) if !is_hidden(key) => {
            add(key);
        }
        Some(_) => {}
        None => {
            let _ = call.stage.conflicts().keys().all(&mut add);
        }
    }
    found.truncate(count);
    call.reply.array(found.len());
    for (key, loss) in &found {
        conflict_message::entry(&mut call.reply, call.env, key, loss);
    }
}

/// The reply is the list as it is now; messages say what happens to it afterwards.
fn follow(call: &mut Call<'_>, count: Option<&[u8]>) {
    let count = match count.map_or(Ok(DEFAULT_COUNT), numbers::count) {
        Ok(count) => count,
        Err(error) => return call.reply.error(error),
    };
    if !call.client.follows && call.env.followers >= MAX_FOLLOWERS as u64 {
        return call.reply.error("ERR too many clients follow conflicts already");
    }
    call.client.follows = true;
    call.outcome.follow = Some(true);
    list_at_most(call, None, count);
}

/// Makes a value that lost the current one, as a write of this moment.
fn restore(call: &mut Call<'_>, key: &[u8], name: Option<&[u8]>, stamp: &[u8]) {
    let Some(stamp) = parse_stamp(stamp) else {
        return call.reply.error("ERR not a stamp: MERIDIAN.CONFLICTS lists them as time@ordinal");
    };
    if let Some(why) = &call.env.refuse_writes {
        return call.reply.error(why);
    }
    if let Err(error) = check_writable(key) {
        return call.reply.error_bytes(&error);
    }
    let found = held(call.stage, key).ok_or(NO_LOSER);
    let plan = found.and_then(|object| Plan::new(object, name, stamp, call.now));
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return call.reply.error(error),
    };
    if plan.bytes() + COMMAND_SLACK_BYTES > call.stage.room(key) {
        return call.reply.error(TOO_MUCH);
    }
    if plan.hides_string {
        call.stage.write(key, Action::Remove { element: Element::String });
    }
    for name in &plan.hiding_fields {
        call.stage.write(key, Action::Remove { element: Element::Field(name) });
    }
    if let Some((value, ttl)) = &plan.value {
        let element = match name {
            None => Element::String,
            Some(name) => Element::Field(name),
        };
        call.stage.write(key, Action::Assign { element, value, ttl: *ttl });
    }
    call.reply.ok();
}

/// What a restore comes to.
#[derive(Debug, Default)]
struct Plan {
    /// The value to write over the one that won; none when only its type is hidden.
    value: Option<(Box<[u8]>, Time)>,
    /// The string hides the type, and goes.
    hides_string: bool,
    /// The hash hides the type, and its fields go.
    hiding_fields: Vec<Box<[u8]>>,
}

impl Plan {
    fn new(
        object: &Object,
        name: Option<&[u8]>,
        stamp: Dot,
        now: Time,
    ) -> Result<Plan, &'static str> {
        let elements = match name {
            None => vec![Element::String],
            Some(name) => vec![Element::Field(name), Element::Member(name)],
        };
        let mut current = false;
        for element in elements {
            let Some(cell) = object.cell(element) else { continue };
            let shown = newest_of(cell) == Some(stamp);
            let winner = cell.winner().map(|reg| reg.dot);
            let loser = cell.regs().find(|reg| reg.dot == stamp && Some(stamp) != winner);
            let loser = loser.filter(|_| Object::is_conflict(element, cell));
            let hidden = kinds(object).next().is_some_and(|kind| kind != kind_of(element));
            if loser.is_none() && !(shown && hidden) {
                current |= shown;
                continue;
            }
            let dead_until = match element {
                Element::String => Time::ZERO,
                _ => object.dead_until(now),
            };
            let own = loser.map(meridian_crdt::Reg::own_ttl);
            if stamp.time <= dead_until || matches!(own, Some(OwnTtl::At(at)) if at <= now) {
                return Err("ERR what lost has expired");
            }
            let ttl = match own {
                Some(OwnTtl::At(at)) => at,
                Some(OwnTtl::Superseded) => object.deadline(now).unwrap_or(Time::MAX),
                Some(OwnTtl::Never) | None => Time::MAX,
            };
            let value = loser.map(|reg| (reg.value.clone(), ttl));
            return Plan { value, ..Plan::default() }.uncover(object, kind_of(element));
        }
        Err(if current { "ERR this value is the current one" } else { NO_LOSER })
    }

    /// Adds the removal of what hides a type.
    fn uncover(mut self, object: &Object, kind: Kind) -> Result<Plan, &'static str> {
        for hiding in kinds(object).take_while(|hiding| *hiding != kind) {
            match hiding {
                Kind::String => self.hides_string = true,
                _ => self.hiding_fields.extend(object.hash().iter().map(|(name, _)| name.into())),
            }
        }
        if self.hiding_fields.len() > MAX_RESTORE_REMOVALS {
            return Err("ERR the hash that hides it has too many fields to remove at once");
        }
        Ok(self)
    }

    /// About how many bytes it writes.
    fn bytes(&self) -> usize {
        let names = self.hiding_fields.iter().map(|name| name.len() + FIELD_BYTES);
        names.sum::<usize>() + self.value.as_ref().map_or(0, |(value, _)| value.len())
    }
}

/// What the removal of a field takes beside its name.
const FIELD_BYTES: usize = 64;

fn parse_stamp(text: &[u8]) -> Option<Dot> {
    let (time, origin) = std::str::from_utf8(text).ok()?.split_once('@')?;
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    (digits(time) && digits(origin)).then_some(())?;
    Some(Dot::new(Time(time.parse().ok()?), Origin(origin.parse().ok()?)))
}
