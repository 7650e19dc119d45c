//! Which protocol two regions speak: the newest that both know.
//!
//! A [`Hello`](crate::Hello) carries the newest version that its sender speaks; each side takes the
//! smaller of the two and refuses if that is older than it can. A build of version 1 knows no such
//! rule and ends the session with whoever names another version than its own. It has then told its
//! own, so in the next session it is greeted with that. When it is upgraded, its first greeting
//! says so, and it is greeted again.

use std::collections::BTreeMap;

use meridian_clock::Origin;

/// The oldest protocol that this build speaks.
pub const PROTOCOL_OLDEST: u16 = 1;

/// The newest protocol that this build speaks.
///
/// 1. Hello, Subscribe, Watermark, Raft.
/// 2. Behind, Repair, Clock, Members; frames that are bundles. Messages of a kind that is not known
///    are skipped, so that later versions may add some.
/// 3. Packed batches; watermarks that tell what has moved.
/// 4. Repairs that compare slot by slot.
pub const PROTOCOL_NEWEST: u16 = 4;

/// The protocol that brought state repair.
pub const REPAIR_SINCE: u16 = 2;

/// The protocol that brought bundles.
pub const BUNDLE_SINCE: u16 = 2;

/// The protocol that brought packed batches.
pub const PACKED_SINCE: u16 = 3;

/// The protocol that brought watermarks that tell what has moved.
pub const MOVED_SINCE: u16 = 3;

/// The protocol that brought repairs which compare slot by slot.
pub const SLOT_SUMS_SINCE: u16 = 4;

/// The protocol that brought questions about the time.
pub const CLOCK_SINCE: u16 = 2;

/// What is spoken here, and what is known of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    oldest: u16,
    newest: u16,
    known: BTreeMap<Origin, u16>,
}

impl Default for Versions {
    fn default() -> Self {
        Versions::between(PROTOCOL_OLDEST, PROTOCOL_NEWEST)
    }
}

impl Versions {
    /// Speaks the versions from `oldest` to `newest`.
    #[must_use]
    pub fn between(oldest: u16, newest: u16) -> Versions {
        Versions { oldest, newest, known: BTreeMap::new() }
    }

    /// The version to greet a peer with.
    #[must_use]
    pub fn greeting(&self, peer: Origin) -> u16 {
        self.known.get(&peer).map_or(self.newest, |theirs| self.newest.min(*theirs))
    }

    /// The peer speaks up to `theirs`: the version to speak with it.
    ///
    /// # Errors
    /// A text for the log of both sides when it is too old.
    pub fn agree(&mut self, peer: Origin, theirs: u16) -> Result<u16, String> {
        if theirs < self.oldest {
            let oldest = self.oldest;
            return Err(format!("peer speaks protocol {theirs}; {oldest} is needed: upgrade it"));
        }
        self.known.insert(peer, theirs);
        Ok(theirs.min(self.newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Origin = Origin(1);

    #[test]
    fn the_smaller_of_both_newest_is_spoken_if_it_is_not_too_old() {
        let check = |theirs| Versions::between(3, 5).agree(PEER, theirs);
        assert_eq!([check(3), check(4), check(5), check(9)], [Ok(3), Ok(4), Ok(5), Ok(5)]);
        assert!(check(2).unwrap_err().contains("upgrade"));
    }

    #[test]
    fn who_is_known_to_be_older_is_greeted_in_its_version() {
        let mut versions = Versions::between(1, 2);
        assert_eq!(versions.greeting(PEER), 2);
        versions.agree(PEER, 1).unwrap();
        assert_eq!(versions.greeting(PEER), 1);
        assert_eq!(versions.greeting(Origin(2)), 2, "the others have nothing to do with it");
        versions.agree(PEER, 7).unwrap();
        assert_eq!(versions.greeting(PEER), 2, "it was upgraded");
    }
}
