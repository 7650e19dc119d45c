//! The commands, a file for each family. Every file has a table of its commands and their
//! handlers; a handler reads, decides, writes operations to the stage, and replies.

mod clients;
mod config;
pub(crate) mod conflict_message;
mod conflicts;
pub(crate) mod connection;
mod counters;
mod expiry;
mod glob;
mod hashes;
mod info;
mod introspection;
mod keys;
mod meridian;
mod numbers;
mod scan;
mod server;
mod set_algebra;
mod set_options;
mod sets;
pub(crate) mod spec;
mod strings;
pub(crate) mod tokens;
mod transactions;
mod transfer;
mod view;

pub(crate) use clients::AboutClients;

use meridian_clock::Time;
use meridian_crdt::{Action, Kind, Object};

use crate::{
    commands::spec::Spec,
    dispatch::{Call, Environment},
    mirror::RESERVED_PREFIX,
    stage::Stage,
};

/// Redis's error for a command on a key of another type.
pub(crate) const WRONG_TYPE: &str =
    "WRONGTYPE Operation against a key holding the wrong kind of value";
/// Redis's error for text that is no integer.
pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// Redis's error for options that contradict each other.
pub(crate) const SYNTAX: &str = "ERR syntax error";

/// All tables, with the group that COMMAND DOCS names.
static FAMILIES: &[(&str, &[Spec])] = &[
    ("string", strings::TABLE),
    ("string", counters::TABLE),
    ("hash", hashes::TABLE),
    ("set", sets::TABLE),
    ("set", set_algebra::TABLE),
    ("generic", keys::TABLE),
    ("generic", expiry::TABLE),
    ("generic", scan::TABLE),
    ("generic", transfer::TABLE),
    ("transactions", transactions::TABLE),
    ("connection", connection::TABLE),
    ("connection", clients::TABLE),
    ("server", introspection::TABLE),
    ("server", config::TABLE),
    ("server", info::TABLE),
    ("server", server::TABLE),
    ("server", meridian::TABLE),
];

/// Every command.
pub(crate) fn all() -> impl Iterator<Item = &'static Spec> {
    FAMILIES.iter().flat_map(|(_, table)| table.iter())
}

/// Why a command must not be queued by MULTI, if it must not.
pub(crate) fn refused_in_transaction(spec: &Spec, args: &[&[u8]]) -> Option<&'static str> {
    let (subcommand, rest) = match spec.name.strip_prefix("meridian") {
        None => return None,
        Some("") => (args.get(1).copied().unwrap_or_default(), args.get(2)),
        Some(name) => (name.trim_start_matches('.').as_bytes(), args.get(1)),
    };
    let follows = || rest.is_some_and(|word| word.eq_ignore_ascii_case(b"follow"));
    match subcommand.to_ascii_lowercase().as_slice() {
        b"await" => Some("ERR MERIDIAN.AWAIT inside MULTI is not allowed"),
        b"conflicts" if follows() => {
            Some("ERR MERIDIAN.CONFLICTS FOLLOW inside MULTI is not allowed")
        }
        _ => None,
    }
}

/// The object under a key as clients may see it: Meridian's own keys do not exist for them.
#[inline]
pub(crate) fn held<'s>(stage: &'s Stage, key: &[u8]) -> Option<&'s Object> {
    if is_hidden(key) { None } else { stage.object(key) }
}

/// Whether clients must not see the key.
#[inline]
pub(crate) fn is_hidden(key: &[u8]) -> bool {
    key.starts_with(RESERVED_PREFIX)
}

/// What a reader finds under a key: nothing, or an object that shows this kind. Counts as a hit
/// or a miss.
///
/// # Errors
/// [`WRONG_TYPE`] when the key shows another kind.
#[inline]
pub(crate) fn find<'s>(
    stage: &'s Stage,
    env: &mut Environment,
    key: &[u8],
    kind: Kind,
    now: Time,
) -> Result<Option<&'s Object>, &'static str> {
    let object = held(stage, key);
    match object.and_then(|o| o.visible(now)) {
        None => {
            env.misses += 1;
            Ok(None)
        }
        Some(seen) => {
            env.hits += 1;
            if seen == kind { Ok(object) } else { Err(WRONG_TYPE) }
        }
    }
}

/// What a writer finds under a key: nothing visible, or an object that shows this kind.
///
/// # Errors
/// [`WRONG_TYPE`] when the key shows another kind.
#[inline]
pub(crate) fn expect(object: &Object, kind: Kind, now: Time) -> Result<(), &'static str> {
    match object.visible(now) {
        Some(seen) if seen != kind => Err(WRONG_TYPE),
        _ => Ok(()),
    }
}

impl Call<'_> {
    /// What a key shows.
    pub(crate) fn visible(&self, key: &[u8]) -> Option<Kind> {
        held(self.stage, key).and_then(|o| o.visible(self.now))
    }

    /// Removes all that a key shows and holds. True if it showed something.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        let now = self.now;
        self.stage.decide(key, |object, _| object.visible(now).map(|_| Action::Clear))
    }

    /// After elements were removed: a key that shows nothing any more leaves no deadline behind.
    pub(crate) fn tidy(&mut self, key: &[u8]) {
        let now = self.now;
        let bare = |o: &Object| !o.deadlines().is_empty() && o.visible(now).is_none();
        if held(self.stage, key).is_some_and(bare) {
            self.stage.write(key, Action::Clear);
        }
    }

    /// Replies what HELP says: a command's subcommands, each with an indented line about it.
    pub(crate) fn help(&mut self, command: &str, lines: &[&str]) {
        self.reply.array(lines.len() + 3);
        self.reply
            .simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
        lines.iter().for_each(|line| self.reply.simple(line));
        self.reply.simple("HELP");
        self.reply.simple("    Print this help.");
    }

    /// Replies Redis's error for a wrong number of arguments.
    pub(crate) fn wrong_arity(&mut self, command: &str) {
        self.reply.error(&format!("ERR wrong number of arguments for '{command}' command"));
    }
}
