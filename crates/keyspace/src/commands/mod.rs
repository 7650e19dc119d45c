//! The commands, a file for each family. Every file has a table of its commands and their
//! handlers; a handler reads, decides, writes operations to the stage, and replies.

pub(crate) mod connection;
mod strings;
mod transactions;

use std::borrow::Cow;

use meridian_crdt::{Action, Kind, Object};

use crate::dispatch::{Call, Spec};

/// Redis's error for a command on a key of another type.
pub(crate) const WRONG_TYPE: &str =
    "WRONGTYPE Operation against a key holding the wrong kind of value";
/// Redis's error for text that is no integer.
pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// Redis's error for options that contradict each other.
pub(crate) const SYNTAX: &str = "ERR syntax error";

/// Every command.
pub(crate) fn all() -> impl Iterator<Item = &'static Spec> {
    connection::TABLE.iter().chain(strings::TABLE).chain(transactions::TABLE)
}

impl Call<'_> {
    /// What a reader sees of a key: nothing, or an object of this kind.
    ///
    /// # Errors
    /// [`WRONG_TYPE`] when the key shows another kind.
    pub(crate) fn typed(&self, key: &[u8], kind: Kind) -> Result<Option<&Object>, &'static str> {
        let Some(object) = self.stage.object(key) else {
            return Ok(None);
        };
        match object.visible(self.now) {
            None => Ok(None),
            Some(seen) if seen == kind => Ok(Some(object)),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    /// What a key shows.
    pub(crate) fn visible(&self, key: &[u8]) -> Option<Kind> {
        self.stage.object(key).and_then(|o| o.visible(self.now))
    }

    /// The string under a key.
    ///
    /// # Errors
    /// [`WRONG_TYPE`] when the key shows another kind.
    pub(crate) fn string(&self, key: &[u8]) -> Result<Option<Cow<'_, [u8]>>, &'static str> {
        Ok(self.typed(key, Kind::String)?.and_then(|o| o.string_value(self.now)))
    }

    /// Removes all that a key shows and holds. True if it showed something.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        let seen = self.visible(key).is_some();
        if seen {
            self.stage.write(key, Action::Clear);
        }
        seen
    }
}
