//! Frames that have arrived and may have to wait.
//!
//! Partitions and origins wait apart from each other: a frame that is held must never stand in
//! the way of the one that it waits for, whichever stream either comes by. When too much waits,
//! the newest is dropped and asked for again once there is room, which cannot deadlock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_clock::{Origin, VersionVector};
use meridian_codec::Malformed;
use meridian_store::{Frame, FrameHeader};

use crate::{
    admission::{Admission, admit},
    limits::MAX_HELD_BYTES,
};

/// What the owner must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboxEvent {
    /// Apply this frame now, before anything else happens.
    Apply(Vec<u8>),
    /// An origin's frames were missed or dropped: subscribe to it again.
    Resubscribe(Origin),
    /// An origin's history has forked: quarantine it and raise the alarm.
    Fork {
        /// Whose history.
        origin: Origin,
        /// In which partition.
        partition: u16,
    },
}

/// Verdicts that are overruled: for tests of the tests only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lenience {
    /// A gap is applied.
    pub gaps: bool,
    /// What should wait is applied.
    pub dependencies: bool,
}

impl Lenience {
    fn soften(self, verdict: Admission) -> Admission {
        match verdict {
            Admission::Gap if self.gaps => Admission::Apply,
            Admission::Wait if self.dependencies => Admission::Apply,
            other => other,
        }
    }
}

/// Frames that wait behind each other, with their headers.
type Queue = VecDeque<(FrameHeader, Vec<u8>)>;

/// What waits, and what was missed.
#[derive(Clone, Debug)]
pub struct Inbox {
    held: BTreeMap<(u16, Origin), Queue>,
    bytes: usize,
    /// The most bytes that may wait.
    limit: usize,
    /// Origins whose frames were dropped: nothing more of them is held until a new subscription.
    missed: BTreeSet<Origin>,
    quarantined: BTreeSet<Origin>,
    /// Frames that were here already.
    pub duplicates: u64,
    /// Frames that had to be asked for again.
    pub gaps: u64,
    /// Frames that were dropped because too much waited; among the gaps as well.
    pub overflows: u64,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox::new()
    }
}

impl Inbox {
    /// An empty inbox that holds up to [`MAX_HELD_BYTES`].
    #[must_use]
    pub fn new() -> Inbox {
        Inbox::with_limit(MAX_HELD_BYTES)
    }

    /// An empty inbox that holds up to so many bytes.
    #[must_use]
    pub fn with_limit(limit: usize) -> Inbox {
        Inbox {
            held: BTreeMap::new(),
            bytes: 0,
            limit,
            missed: BTreeSet::new(),
            quarantined: BTreeSet::new(),
            duplicates: 0,
            gaps: 0,
            overflows: 0,
        }
    }

    /// Takes a frame in. `vector` is what its partition has applied.
    ///
    /// # Errors
    /// [`Malformed`] when it is no frame; the peer that sent it is not to be trusted.
    pub fn offer(
        &mut self,
        bytes: &[u8],
        vector: &VersionVector,
        lenience: Lenience,
    ) -> Result<Option<InboxEvent>, Malformed> {
        let Frame { header, is_bundle, .. } = Frame::decode(bytes)?;
        let (origin, partition) = (header.origin, header.partition);
        if self.quarantined.contains(&origin) {
            return Ok(None);
        }
        let place = (partition, origin);
        if let Some(queue) = self.held.get(&place) {
            // Behind a frame that waits, only its successor may queue.
            let tail = queue.back().map(|(h, _)| h.last);
            if tail == Some(header.previous) {
                return Ok(self.hold(header, bytes));
            }
            if tail.is_some_and(|last| header.last <= last) {
                self.duplicates += 1;
                return Ok(None);
            }
            return Ok(self.miss(origin));
        }
        Ok(match lenience.soften(admit(&header, vector)) {
            Admission::Apply => Some(InboxEvent::Apply(bytes.to_vec())),
            Admission::Duplicate => {
                self.duplicates += 1;
                None
            }
            Admission::Wait => self.hold(header, bytes),
            Admission::Gap => self.miss(origin),
            // A bundle's ends need not be those of what came by another way.
            Admission::Fork if is_bundle => self.miss(origin),
            Admission::Fork => {
                self.quarantined.insert(origin);
                Some(InboxEvent::Fork { origin, partition })
            }
        })
    }

    /// After something was applied in a partition: the next waiting frame that may follow.
    pub fn next(&mut self, partition: u16, vector: &VersionVector) -> Option<InboxEvent> {
        let places: Vec<_> = self
            .held
            .range((partition, Origin(0))..=(partition, Origin(u16::MAX)))
            .map(|(p, _)| *p)
            .collect();
        for place in places {
            while let Some((header, _)) = self.held.get(&place).and_then(VecDeque::front) {
                match admit(header, vector) {
                    Admission::Wait => break,
                    Admission::Apply => return self.pop(place).map(InboxEvent::Apply),
                    Admission::Duplicate => {
                        self.duplicates += 1;
                        self.pop(place);
                    }
                    Admission::Gap | Admission::Fork => {
                        self.drop_queue(place);
                        return self.miss(place.1);
                    }
                }
            }
        }
        None
    }

    /// A new subscription for these origins begins: what they miss will come.
    pub fn resubscribed(&mut self, origins: &[Origin]) {
        for origin in origins {
            self.missed.remove(origin);
        }
    }

    /// Bytes of frames that wait.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Origins whose history forked.
    #[must_use]
    pub fn quarantined(&self) -> &BTreeSet<Origin> {
        &self.quarantined
    }

    fn hold(&mut self, header: FrameHeader, bytes: &[u8]) -> Option<InboxEvent> {
        if self.bytes + bytes.len() > self.limit {
            self.overflows += 1;
            return self.miss(header.origin);
        }
        self.bytes += bytes.len();
        let place = (header.partition, header.origin);
        self.held.entry(place).or_default().push_back((header, bytes.to_vec()));
        None
    }

    fn miss(&mut self, origin: Origin) -> Option<InboxEvent> {
        self.gaps += 1;
        self.missed.insert(origin).then_some(InboxEvent::Resubscribe(origin))
    }

    fn pop(&mut self, place: (u16, Origin)) -> Option<Vec<u8>> {
        let queue = self.held.get_mut(&place)?;
        let (_, bytes) = queue.pop_front()?;
        self.bytes -= bytes.len();
        if queue.is_empty() {
            self.held.remove(&place);
        }
        Some(bytes)
    }

    fn drop_queue(&mut self, place: (u16, Origin)) {
        for (_, bytes) in self.held.remove(&place).unwrap_or_default() {
            self.bytes -= bytes.len();
        }
    }
}
