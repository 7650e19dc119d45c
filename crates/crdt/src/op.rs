//! Operations: what a command comes down to, and what travels between regions.

use meridian_clock::{Dot, Origin, Time, VersionVector};

use crate::Amount;

/// Which part of an object an operation touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element<'a> {
    /// The string itself.
    String,
    /// A hash's field.
    Field(&'a [u8]),
    /// A set's member.
    Member(&'a [u8]),
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Writes a value over everything that was observed in the element.
    Assign {
        /// The element that is written.
        element: Element<'a>,
        /// Its new value; empty for a member.
        value: &'a [u8],
        /// For a string: when the value expires ([`Time::MAX`]: never).
        ttl: Time,
    },
    /// Removes what was observed of one element.
    Remove {
        /// The element that is removed.
        element: Element<'a>,
    },
    /// Removes all that was observed under the key, of every type, and its deadlines.
    Clear,
    /// Raises the author's row of a counter.
    Incr {
        /// The element that counts.
        element: Element<'a>,
        /// Stamp of the increment that opened the row.
        birth: Time,
        /// Sum of the author's increments since then, this one included.
        sum: Amount,
    },
    /// Sets the key's deadline over those that were observed ([`Time::MAX`]: PERSIST).
    Expire {
        /// When the key expires.
        deadline: Time,
    },
}

/// Where a counter row stood when the author reset it. Needed where the row has grown
/// concurrently: only what the author had seen goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut<'a> {
    /// The element that holds the row.
    pub element: Element<'a>,
    /// Whose row.
    pub origin: Origin,
    /// Which row of that origin.
    pub birth: Time,
    /// The newest increment that the author had seen.
    pub last: Time,
    /// The sum at that increment.
    pub sum: Amount,
}

/// One operation on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What happens to it.
    pub action: Action<'a>,
    /// The author saw no such key: whatever is left of an earlier, expired life goes first.
    pub fresh: bool,
    /// Counter rows that the author reset.
    pub cuts: Vec<Cut<'a>>,
}

impl<'a> Op<'a> {
    /// An operation without cuts on a key that was alive.
    #[must_use]
    pub fn new(key: &'a [u8], action: Action<'a>) -> Op<'a> {
        Op { key, action, fresh: false, cuts: Vec::new() }
    }
}

/// What the author of an operation had seen: everything that its frame's vector covers of the
/// other origins, and all of its own earlier operations.
#[derive(Clone, Copy, Debug)]
pub struct Context<'v> {
    /// The frame's header vector.
    pub seen: &'v VersionVector,
    /// The operation's own dot.
    pub dot: Dot,
}

impl Context<'_> {
    /// Whether the author had seen `dot`.
    #[must_use]
    #[inline]
    pub fn covers(&self, dot: Dot) -> bool {
        if dot.origin == self.dot.origin { dot.time < self.dot.time } else { self.seen.covers(dot) }
    }
}
