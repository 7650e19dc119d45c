//! Events in the order of virtual time.

use std::collections::BTreeMap;

/// What will happen, and when. Events of one moment happen in the order in which they were added.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    events: BTreeMap<(u64, u64), E>,
    added: u64,
}

impl<E> Queue<E> {
    pub fn new() -> Queue<E> {
        Queue { events: BTreeMap::new(), added: 0 }
    }

    /// Adds an event for a moment, in microseconds.
    pub fn add(&mut self, at_us: u64, event: E) {
        self.added += 1;
        self.events.insert((at_us, self.added), event);
    }

    /// Takes the next event and its moment.
    pub fn next(&mut self) -> Option<((u64, u64), E)> {
        self.events.pop_first()
    }

    /// Puts a taken event back for a later moment, before all that were added after it.
    pub fn postpone(&mut self, at_us: u64, number: u64, event: E) {
        self.events.insert((at_us, number), event);
    }
}
