//! RENAME and COPY: a clear and writes, in one record where both keys share a partition.

use meridian_clock::Time;
use meridian_crdt::{Action, Element, Kind, Object};

use super::{
    SYNTAX, held, numbers,
    spec::{Access, Spec, TWO_KEYS},
    view::View,
};
use crate::{
    dispatch::{Call, TOO_MUCH},
    limits::COMMAND_SLACK_BYTES,
};

pub(super) static TABLE: &[Spec] = &[
    Spec::write("rename", 3, TWO_KEYS, rename),
    Spec::write("renamenx", 3, TWO_KEYS, renamenx),
    Spec::write("copy", -3, TWO_KEYS, copy).with_access(Access::WriteLast),
];

const NO_SUCH_KEY: &str = "ERR no such key";

fn rename(call: &mut Call<'_>) {
    let (from, to) = (call.args[1], call.args[2]);
    let Some(content) = Content::of(call, from) else {
        return call.reply.error(NO_SUCH_KEY);
    };
    match rename_to(call, from, to, &content) {
        Ok(()) => call.reply.ok(),
        Err(error) => call.reply.error(error),
    }
}

fn renamenx(call: &mut Call<'_>) {
    let (from, to) = (call.args[1], call.args[2]);
    let Some(content) = Content::of(call, from) else {
        return call.reply.error(NO_SUCH_KEY);
    };
    if call.visible(to).is_some() {
        return call.reply.integer(0);
    }
    match rename_to(call, from, to, &content) {
        Ok(()) => call.reply.integer(1),
        Err(error) => call.reply.error(error),
    }
}

fn rename_to(
    call: &mut Call<'_>,
    from: &[u8],
    to: &[u8],
    content: &Content,
) -> Result<(), &'static str> {
    if from != to {
        content.write(call, to)?;
        call.delete(from);
    }
    Ok(())
}

fn copy(call: &mut Call<'_>) {
    let (from, to) = (call.args[1], call.args[2]);
    let mut replace = false;
    let mut options = call.args[3..].iter();
    while let Some(option) = options.next() {
        if option.eq_ignore_ascii_case(b"replace") {
            replace = true;
            continue;
        }
        let Some(number) = options.next().filter(|_| option.eq_ignore_ascii_case(b"db")) else {
            return call.reply.error(SYNTAX);
        };
        match numbers::integer(number) {
            Ok(0) => {}
            Ok(_) => return call.reply.error("ERR DB index is out of range"),
            Err(error) => return call.reply.error(error),
        }
    }
    if from == to {
        return call.reply.error("ERR source and destination objects are the same");
    }
    let content = Content::of(call, from);
    let Some(content) = content.filter(|_| replace || call.visible(to).is_none()) else {
        return call.reply.integer(0);
    };
    match content.write(call, to) {
        Ok(()) => call.reply.integer(1),
        Err(error) => call.reply.error(error),
    }
}

/// What a reader sees under a key.
struct Content {
    value: Value,
    deadline: Option<Time>,
}

enum Value {
    String(Vec<u8>),
    Hash(Vec<(Box<[u8]>, Vec<u8>)>),
    Set(Vec<Box<[u8]>>),
}

impl Content {
    fn of(call: &Call<'_>, key: &[u8]) -> Option<Content> {
        let object = held(call.stage, key)?;
        let value = Value::of(object, call.now)?;
        Some(Content { value, deadline: object.deadline(call.now) })
    }

    /// Writes the content over whatever the key holds.
    fn write(&self, call: &mut Call<'_>, key: &[u8]) -> Result<(), &'static str> {
        if self.value.bytes() + key.len() + COMMAND_SLACK_BYTES > call.stage.room(key) {
            return Err(TOO_MUCH);
        }
        if held(call.stage, key).is_some() {
            call.stage.write(key, Action::Clear);
        }
        let mut assign = |element, value: &[u8]| {
            call.stage.write(key, Action::Assign { element, value, ttl: Time::MAX });
        };
        match &self.value {
            Value::String(text) => assign(Element::String, text),
            Value::Hash(pairs) => {
                pairs.iter().for_each(|(field, value)| assign(Element::Field(field), value));
            }
            Value::Set(members) => {
                members.iter().for_each(|member| assign(Element::Member(member), b""));
            }
        }
        if let Some(deadline) = self.deadline {
            call.stage.write(key, Action::Expire { deadline });
        }
        Ok(())
    }
}

impl Value {
    fn of(object: &Object, now: Time) -> Option<Value> {
        let view = |kind| View::of(object, kind, now);
        Some(match object.visible(now)? {
            Kind::String => Value::String(object.string_value(now)?.into_owned()),
            Kind::Hash => {
                let pairs = view(Kind::Hash).pairs();
                Value::Hash(pairs.map(|(name, value)| (name.into(), value.into_owned())).collect())
            }
            Kind::Set => Value::Set(view(Kind::Set).names().map(Box::from).collect()),
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Value::String(text) => text.len(),
            Value::Hash(pairs) => pairs.iter().map(|(f, v)| f.len() + v.len() + 16).sum(),
            Value::Set(members) => members.iter().map(|m| m.len() + 8).sum(),
        }
    }
}
