//! Origins that are held: their stamps lie too far in the future.
//!
//! Applying such a frame would drag hybrid time along, here and then everywhere. So nothing more
//! of the origin is asked for until this node's clock has come close, or another look now and
//! then shows that the peer has been put right.

use std::collections::BTreeMap;

use meridian_clock::{Origin, Time};

use crate::limits::{HOLD_LOOK_EVERY_MS, MAX_HELD_ORIGINS};

/// One held origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The stamp that was too far ahead.
    pub stamp: Time,
    /// Since when, on the steady clock.
    pub since_ms: u64,
    /// It is being asked for again, to see whether it still must be held.
    looking: bool,
    look_at_ms: u64,
}

/// The held origins.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    held: BTreeMap<Origin, Held>,
    /// Holds that began since the start.
    pub begun: u64,
}

impl Holds {
    /// A frame of the origin lies too far in the future. True if this is news.
    pub fn hold(&mut self, origin: Origin, stamp: Time, now_ms: u64) -> bool {
        let look_at_ms = now_ms + HOLD_LOOK_EVERY_MS;
        if let Some(held) = self.held.get_mut(&origin) {
            (held.stamp, held.looking, held.look_at_ms) = (stamp, false, look_at_ms);
            return false;
        }
        if self.held.len() == MAX_HELD_ORIGINS {
            return false;
        }
        self.begun += 1;
        let held = Held { stamp, since_ms: now_ms, looking: false, look_at_ms };
        self.held.insert(origin, held);
        true
    }

    /// A frame of the origin has come that is not too far ahead. True if the origin was held and
    /// is no more; false also where it stays held, because the frame was on its way before.
    pub fn admit(&mut self, origin: Origin) -> bool {
        if self.held.get(&origin).is_some_and(|held| held.looking) {
            self.held.remove(&origin);
            return true;
        }
        false
    }

    /// Whether the origin must not be asked for now.
    #[must_use]
    pub fn is_barred(&self, origin: Origin) -> bool {
        self.held.get(&origin).is_some_and(|held| !held.looking)
    }

    /// Lets those be asked for again that the clock has come close to (`bound` is the latest stamp
    /// that would be accepted now), and, now and then, all others.
    pub fn look_again(&mut self, bound: Time, now_ms: u64) {
        for held in self.held.values_mut() {
            held.looking |= held.stamp <= bound || now_ms >= held.look_at_ms;
        }
    }

    /// Nothing of the origin can come any more.
    pub fn forget(&mut self, origin: Origin) {
        self.held.remove(&origin);
    }

    /// The held origins.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, Held)> + '_ {
        self.held.iter().map(|(origin, held)| (*origin, *held))
    }

    /// Nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Origin = Origin(3);

    #[test]
    fn held_once_and_released_by_the_clock() {
        let mut holds = Holds::default();
        assert!(holds.hold(WHO, Time(1_000), 50));
        assert!(!holds.hold(WHO, Time(1_001), 60), "told once");
        assert!(holds.is_barred(WHO) && !holds.is_barred(Origin(4)));
        assert!(!holds.admit(WHO), "what was on its way changes nothing");
        holds.look_again(Time(1_000), 100);
        assert!(holds.is_barred(WHO));
        holds.look_again(Time(1_001), 110);
        assert!(!holds.is_barred(WHO) && !holds.is_empty(), "until a frame has come");
        assert!(holds.admit(WHO));
        assert!(holds.is_empty());
        assert_eq!(holds.begun, 1);
    }

    #[test]
    fn a_peer_that_was_put_right_is_noticed_and_one_that_was_not_stays_held() {
        let mut holds = Holds::default();
        holds.hold(WHO, Time::MAX, 0);
        holds.look_again(Time(5), HOLD_LOOK_EVERY_MS - 1);
        assert!(holds.is_barred(WHO));
        holds.look_again(Time(5), HOLD_LOOK_EVERY_MS);
        assert!(!holds.is_barred(WHO));
        assert!(!holds.hold(WHO, Time::MAX, HOLD_LOOK_EVERY_MS + 80));
        assert!(holds.is_barred(WHO));
        assert_eq!(holds.iter().next().map(|(_, held)| held.since_ms), Some(0));
    }
}
