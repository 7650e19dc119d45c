//! Events in the order of virtual time.

use std::{cmp::Reverse, collections::BinaryHeap};

/// What will happen, and when. Events of one moment happen in the order in which they were added.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    /// Moment, number, and where the event is kept: events are large and do not move about.
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<E>>,
    /// Places of `events` that hold none.
    free: Vec<usize>,
    added: u64,
}

impl<E> Queue<E> {
    pub fn new() -> Queue<E> {
        Queue { order: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), added: 0 }
    }

    /// Adds an event for a moment, in microseconds.
    pub fn add(&mut self, at_us: u64, event: E) {
        self.added += 1;
        self.postpone(at_us, self.added, event);
    }

    /// Takes the next event and its moment.
    pub fn next(&mut self) -> Option<((u64, u64), E)> {
        let Reverse((at_us, number, place)) = self.order.pop()?;
        let event = self.events.get_mut(place)?.take()?;
        self.free.push(place);
        Some(((at_us, number), event))
    }

    /// Puts a taken event back for a later moment, before all that were added after it.
    pub fn postpone(&mut self, at_us: u64, number: u64, event: E) {
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.order.push(Reverse((at_us, number, place)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_moment_and_then_as_they_were_added() {
        let mut queue = Queue::new();
        for (at_us, name) in [(5, "c"), (1, "a"), (5, "d"), (2, "b"), (9, "e")] {
            queue.add(at_us, name);
        }
        let mut order = String::new();
        let ((_, number), first) = queue.next().expect("there are five");
        queue.postpone(5, number, first);
        queue.add(5, "f");
        while let Some((_, event)) = queue.next() {
            order += event;
        }
        assert_eq!(order, "bcadfe", "what was put back goes before what was added after it");
    }
}
