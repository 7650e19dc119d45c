//! What is on the wire: packets ordered by the instant at which they arrive. Pure, so that order,
//! bounds and due times are tested without sockets or clocks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::limits::PACKET_COST_MIN;

/// Packets in flight, released in order of due time; equal times keep the order of insertion.
///
/// Bounded in bytes, like the buffers of the routers that it stands for.
#[derive(Debug)]
pub struct Schedule<T> {
    heap: BinaryHeap<Reverse<InFlight<T>>>,
    /// Breaks ties, so that packets that are due together leave in the order in which they came.
    next_sequence: u64,
    bytes: usize,
    bytes_max: usize,
}

/// The schedule holds as many bytes as it may: the packet is dropped, as a full router drops it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl<T> Schedule<T> {
    /// An empty schedule that holds at most `bytes_max` bytes of payload.
    pub fn new(bytes_max: usize) -> Self {
        Schedule { heap: BinaryHeap::new(), next_sequence: 0, bytes: 0, bytes_max }
    }

    /// Adds a packet of `size` bytes that is due at `due` (microseconds).
    pub fn push(&mut self, due: u64, size: usize, item: T) -> Result<(), Full> {
        // A packet costs at least a slot, so that empty datagrams cannot grow the heap for ever.
        let size = size.max(PACKET_COST_MIN);
        if self.bytes + size > self.bytes_max {
            return Err(Full);
        }
        self.bytes += size;
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.heap.push(Reverse(InFlight { due, sequence, size, item }));
        Ok(())
    }

    /// The next packet that is due at `now` (microseconds), with its due time.
    pub fn pop_due(&mut self, now: u64) -> Option<(u64, T)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(packet) = self.heap.pop()?;
        self.bytes -= packet.size;
        Some((packet.due, packet.item))
    }

    /// When the earliest packet is due (microseconds).
    pub fn next_due(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(packet)| packet.due)
    }

    /// Bytes in flight.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[derive(Debug)]
struct InFlight<T> {
    due: u64,
    sequence: u64,
    size: usize,
    item: T,
}

impl<T> PartialEq for InFlight<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.sequence) == (other.due, other.sequence)
    }
}

impl<T> Eq for InFlight<T> {}

impl<T> PartialOrd for InFlight<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for InFlight<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.sequence).cmp(&(other.due, other.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_by_due_time_and_keeps_order_among_equals() {
        let mut schedule = Schedule::new(1 << 20);
        for (due, item) in [(30, 'c'), (10, 'a'), (30, 'd'), (20, 'b')] {
            schedule.push(due, 100, item).expect("room");
        }
        assert_eq!(schedule.next_due(), Some(10));
        assert_eq!(schedule.pop_due(9), None);
        let released: Vec<_> =
            std::iter::from_fn(|| schedule.pop_due(30)).map(|(_, item)| item).collect();
        assert_eq!(released, ['a', 'b', 'c', 'd']);
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn is_bounded_and_frees_what_it_releases() {
        let mut schedule = Schedule::new(1000);
        assert_eq!(schedule.push(1, 600, ()), Ok(()));
        assert_eq!(schedule.push(1, 600, ()), Err(Full));
        assert_eq!(schedule.bytes(), 600);
        assert_eq!(schedule.pop_due(1), Some((1, ())));
        assert_eq!(schedule.bytes(), 0);
        assert_eq!(schedule.push(2, 600, ()), Ok(()));
    }

    #[test]
    fn empty_packets_are_bounded_too() {
        let mut schedule = Schedule::new(1000);
        let accepted = (0..1000).filter(|_| schedule.push(1, 0, ()).is_ok()).count();
        assert_eq!(accepted, 1000 / PACKET_COST_MIN);
    }
}
