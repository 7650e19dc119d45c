//! The sending side of one peer: a cursor into the log and a filter.

use std::collections::BTreeSet;

use meridian_clock::{Origin, VersionVector};
use meridian_codec::Malformed;
use meridian_store::{Entries, Frame, LogPosition, RepairPart, StoreError};

use crate::{
    compact::{CompactionAblations, compact},
    limits::{BATCH_TARGET_BYTES, COMPACT_WINDOW_BYTES, PACK_MIN_BYTES, READ_BYTES},
    message::{Batch, Subscribe},
    pack::{answer, pack_columns},
};

/// A position in the log and what the log before it covers: a subscriber that has all of that
/// can be served from there.
#[derive(Clone, Debug)]
pub struct LogMark {
    /// Where.
    pub position: LogPosition,
    /// What every partition had seen there.
    pub vectors: Vec<VersionVector>,
}

/// What was packed last. Peers that stand at the same place and ask for the same are sent the same:
/// it is packed once for all of them.
#[derive(Debug, Default)]
pub struct LastPacked {
    from: LogPosition,
    /// Which of the frames that were read there.
    picked: Vec<usize>,
    /// Their columns, a batch each.
    columns: Vec<Vec<u8>>,
    /// How many batches were packed, and how many sent.
    pub counts: (u64, u64),
}

impl LastPacked {
    fn begin(&mut self, from: LogPosition, picked: Vec<usize>) {
        if (from, &picked) != (self.from, &self.picked) {
            (self.from, self.picked) = (from, picked);
            self.columns.clear();
        }
    }

    /// The columns of the batch `index`.
    fn columns(&mut self, index: usize, frames: &[&[u8]]) -> &[u8] {
        self.counts.1 += 1;
        if index == self.columns.len() {
            self.counts.0 += 1;
            self.columns.push(pack_columns(frames));
        }
        &self.columns[index]
    }
}

/// Feeds one peer from the log. Holds no data: what was not sent is in the log.
#[derive(Clone, Debug, Default)]
pub struct Sender {
    number: u64,
    origins: BTreeSet<Origin>,
    /// What the peer has or has been sent.
    sent: Vec<VersionVector>,
    cursor: LogPosition,
    subscribed: bool,
    /// Bundles are sent when more log than this is lacking.
    compact_beyond: Option<u64>,
    /// The peer understands packed batches.
    packs: bool,
    ablations: CompactionAblations,
    /// Partitions in which the log does not lead on from what the peer has.
    broken: BTreeSet<u16>,
    /// Those of them that the peer has not been told of.
    untold: Vec<u16>,
    /// What the log up to a position, and what went before it, has brought here: to be compared with
    /// what the peer has been sent once the cursor is there.
    covered: Option<(LogPosition, Vec<VersionVector>)>,
}

impl Sender {
    /// A sender without a subscription.
    #[must_use]
    pub fn new() -> Sender {
        Sender::default()
    }

    /// The peer asks. `marks` are in order of position, the first at the log's beginning.
    ///
    /// # Errors
    /// [`Malformed`] when the request does not fit the cluster.
    pub fn subscribe(
        &mut self,
        request: &Subscribe,
        partitions: u16,
        marks: &[LogMark],
    ) -> Result<(), Malformed> {
        self.sent = request.vectors.unpack(partitions)?;
        self.number = request.number;
        self.origins = request.origins.iter().copied().collect();
        let enough = |mark: &&LogMark| self.needs_nothing_before(mark);
        let mark = marks.iter().rev().find(enough).or(marks.first());
        self.cursor = mark.map_or(LogPosition(0), |m| m.position);
        self.subscribed = true;
        self.broken.clear();
        self.untold.clear();
        self.covered = None;
        if let Some(first) = marks.first() {
            let missing = |number: &u16| !self.needs_nothing_in(*number, first);
            let missing: Vec<u16> = (0..partitions).filter(missing).collect();
            missing.into_iter().for_each(|number| self.breaks(number));
        }
        Ok(())
    }

    /// Everything up to `vectors` is in the log before `position`, or has been let go. What the peer
    /// then still lacks when all of the log has been read to it, no log will bring.
    pub fn covers(&mut self, position: LogPosition, vectors: &[VersionVector]) {
        if self.subscribed && self.covered.is_none() {
            self.covered = Some((position, vectors.to_vec()));
        }
        self.compare();
    }

    fn compare(&mut self) {
        let Some((_, vectors)) = self.covered.take_if(|(at, _)| *at <= self.cursor) else {
            return;
        };
        for (number, (covered, sent)) in (0..).zip(vectors.iter().zip(&self.sent.clone())) {
            if self.origins.iter().any(|o| covered.get(*o) > sent.get(*o)) {
                self.breaks(number);
            }
        }
    }

    /// Partitions in which the peer has less than the log begins with: it must be repaired. Each
    /// is told once a subscription.
    pub fn take_broken(&mut self) -> Option<(u64, Vec<u16>)> {
        let partitions = std::mem::take(&mut self.untold);
        (!partitions.is_empty()).then_some((self.number, partitions))
    }

    /// The log before `position` may go, because the peer has all of it: it got the rest by
    /// another way.
    pub fn skip_to(&mut self, position: LogPosition) {
        self.cursor = self.cursor.max(position);
    }

    /// The log between the cursor and `position` cannot be read any more: what was in it for the
    /// peer is not known, so it is repaired in every partition.
    pub fn lose_to(&mut self, position: LogPosition) {
        self.cursor = self.cursor.max(position);
        (0..self.sent.len() as u16).for_each(|number| self.breaks(number));
    }

    /// The session is over.
    pub fn reset(&mut self) {
        *self = Sender::default();
    }

    /// Where the cursor stands.
    #[must_use]
    pub fn cursor(&self) -> LogPosition {
        self.cursor
    }

    /// Whether there is a subscription and log to read for it, up to `durable`.
    #[must_use]
    pub fn has_work(&self, durable: LogPosition) -> bool {
        self.subscribed && self.cursor < durable
    }

    /// The peer understands bundles: it is sent them when it lacks more than `beyond` bytes of log.
    /// `None`: it is not.
    pub fn compact_beyond(&mut self, beyond: Option<u64>) {
        self.compact_beyond = beyond;
    }

    /// Whether the peer understands packed batches.
    pub fn pack(&mut self, packs: bool) {
        self.packs = packs;
    }

    /// Switches rules of compaction off, for tests of the tests.
    pub fn ablate(&mut self, ablations: CompactionAblations) {
        self.ablations = ablations;
    }

    /// The next batches, none if there is nothing to send. Nothing beyond `durable` is looked at
    /// (rule R6). `last` is shared by all senders over this log.
    ///
    /// # Errors
    /// What `read` failed with, or corruption that it did not notice.
    pub fn next(
        &mut self,
        durable: LogPosition,
        last: &mut LastPacked,
        mut read: impl FnMut(LogPosition, usize) -> Result<Vec<u8>, StoreError>,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        if !self.has_work(durable) {
            return Ok(Vec::new());
        }
        if self.compact_beyond.is_some_and(|beyond| durable.0 - self.cursor.0 > beyond) {
            return self.next_compacted(durable, read);
        }
        let bytes = read(self.cursor, READ_BYTES)?;
        let (from, mut frames, mut picked) = (self.cursor, Vec::new(), Vec::new());
        let mut index = 0;
        for entry in Entries::new(&bytes, self.cursor) {
            if entry.end > durable {
                break;
            }
            self.cursor = entry.end;
            for frame in entry.frames() {
                index += 1;
                if RepairPart::is_one(frame) {
                    self.pass(frame)?;
                } else if self.wants(frame)? {
                    frames.push(frame);
                    picked.push(index);
                }
            }
        }
        self.compare();
        last.begin(from, picked);
        Ok(self.batches(&frames, last))
    }

    /// Frames as batches of the size that is aimed at.
    fn batches(&self, frames: &[&[u8]], last: &mut LastPacked) -> Vec<Vec<u8>> {
        let (mut batches, mut rest, mut packed) = (Vec::new(), frames, 0);
        while let Some(first) = rest.first() {
            let mut bytes = first.len();
            let fits = |frame: &&&[u8]| {
                bytes += frame.len();
                bytes <= BATCH_TARGET_BYTES
            };
            let count = 1 + rest[1..].iter().take_while(fits).count();
            let (some, others) = rest.split_at(count);
            let bytes: usize = some.iter().map(|frame| frame.len()).sum();
            // In little there is nothing to gain, and what is large is one large command.
            if self.packs && (PACK_MIN_BYTES..=BATCH_TARGET_BYTES).contains(&bytes) {
                batches.push(answer(self.number, last.columns(packed, some)));
                packed += 1;
            } else {
                let mut batch = Batch::begin(self.number);
                some.iter().for_each(|frame| Batch::push(&mut batch, frame));
                batches.push(batch);
            }
            rest = others;
        }
        batches
    }

    /// The same for a peer that is far behind: a window of the log, compacted by key.
    fn next_compacted(
        &mut self,
        durable: LogPosition,
        mut read: impl FnMut(LogPosition, usize) -> Result<Vec<u8>, StoreError>,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let had = self.sent.clone();
        let (mut frames, mut total) = (Vec::new(), 0);
        while self.cursor < durable && total < COMPACT_WINDOW_BYTES {
            let bytes = read(self.cursor, READ_BYTES)?;
            let before = self.cursor;
            for entry in Entries::new(&bytes, self.cursor) {
                if entry.end > durable {
                    break;
                }
                self.cursor = entry.end;
                for frame in entry.frames() {
                    if RepairPart::is_one(frame) {
                        self.pass(frame)?;
                    } else if self.wants(frame)? {
                        total += frame.len();
                        frames.push(frame.to_vec());
                    }
                }
            }
            if self.cursor == before {
                break;
            }
        }
        let has = |number: u16| had.get(usize::from(number)).cloned().unwrap_or_default();
        let frames = compact(frames.iter().map(Vec::as_slice), has, self.ablations);
        let frames = frames.map_err(|reason| self.corrupt(&reason))?;
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        // Compacted for this peer alone.
        Ok(self.batches(&frames, &mut LastPacked::default()))
    }

    /// Whether the peer asked for the frame and has not been sent it; notes it as sent.
    fn wants(&mut self, bytes: &[u8]) -> Result<bool, StoreError> {
        let frame = Frame::decode(bytes).map_err(|e| self.corrupt(&e))?;
        let header = frame.header;
        if !self.origins.contains(&header.origin) {
            return Ok(false);
        }
        let sent = self.sent.get_mut(usize::from(header.partition));
        let sent = sent.ok_or(StoreError::Checkpoint("partition out of range in log".into()))?;
        let have = sent.get(header.origin);
        if header.last <= have || self.broken.contains(&header.partition) {
            return Ok(false);
        }
        if header.previous > have {
            // The log begins later, or a repair stands where the frames between would.
            self.breaks(header.partition);
            return Ok(false);
        }
        if frame.is_bundle && (header.previous < have || self.compact_beyond.is_none()) {
            // The peer stands inside of it, or does not know what it is.
            self.breaks(header.partition);
            return Ok(false);
        }
        sent.set(header.origin, header.last);
        Ok(true)
    }

    /// A repair stands in the log. What it brought is in no frame of this log, and other frames may
    /// depend on it: a peer that has less of what it asks for must be repaired as well.
    fn pass(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let repair = RepairPart::decode(bytes).map_err(|e| self.corrupt(&e))?.header;
        let Some(sent) = self.sent.get(usize::from(repair.partition)) else { return Ok(()) };
        let is_short = self.origins.iter().any(|o| repair.seen.get(*o) > sent.get(*o));
        if repair.last && is_short {
            self.breaks(repair.partition);
        }
        Ok(())
    }

    fn corrupt(&self, reason: &dyn std::fmt::Display) -> StoreError {
        let (offset, reason) = (self.cursor.0, reason.to_string());
        StoreError::Corrupt { file: "log".into(), offset, reason }
    }

    fn breaks(&mut self, number: u16) {
        if self.broken.insert(number) {
            self.untold.push(number);
        }
    }

    fn needs_nothing_before(&self, mark: &LogMark) -> bool {
        (0..self.sent.len() as u16).all(|number| self.needs_nothing_in(number, mark))
    }

    fn needs_nothing_in(&self, number: u16, mark: &LogMark) -> bool {
        let place = usize::from(number);
        match (self.sent.get(place), mark.vectors.get(place)) {
            (Some(sent), Some(covered)) => {
                self.origins.iter().all(|o| covered.get(*o) <= sent.get(*o))
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vectors;
    use meridian_clock::{Dot, Time};
    use meridian_crdt::{Action, Element, Op, encode_op};
    use meridian_store::{FrameHeader, MemoryStorage, RepairHeader, Storage, conformance};

    /// What a sender says of the log's partition to a peer that has so much of origin 1.
    fn check(has: u64, asks: u16) -> Option<(u64, Vec<u16>)> {
        let (mut seen, mut vector) = (VersionVector::new(), VersionVector::new());
        seen.set(Origin(1), Time(7));
        vector.set(Origin(1), Time(has));
        let mut repair = Vec::new();
        RepairHeader { partition: 0, seen, last: true, union: false }.encode(&mut repair);
        let mut log = MemoryStorage::new();
        let end = log.append(&conformance::entry(&[&repair], LogPosition(0))).expect("appended");
        let marks = [LogMark { position: LogPosition(0), vectors: vec![VersionVector::new()] }];
        let vectors = Vectors::pack(&[vector]);
        let request = Subscribe { number: 3, origins: vec![Origin(asks)], vectors };
        let mut sender = Sender::new();
        sender.subscribe(&request, 1, &marks).expect("fits");
        let batches = sender
            .next(end, &mut LastPacked::default(), |from, max| log.read(from, max))
            .expect("is read");
        assert!(batches.is_empty(), "a repair is nobody's frame");
        sender.take_broken()
    }

    #[test]
    fn who_asks_for_the_same_is_sent_the_same_packed_once() {
        let mut log = MemoryStorage::new();
        let frames: Vec<Vec<u8>> = (0..40).map(|n| frame(1 + (n % 2) as u16, 1 + n / 2)).collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let end = log.append(&conformance::entry(&frames, LogPosition(0))).expect("appended");
        let marks = [LogMark { position: LogPosition(0), vectors: vec![VersionVector::new()] }];
        let mut last = LastPacked::default();
        let mut sent = |number, origins: &[u16]| {
            let origins = origins.iter().map(|o| Origin(*o)).collect();
            let vectors = Vectors::pack(&[VersionVector::new()]);
            let mut sender = Sender::new();
            sender.subscribe(&Subscribe { number, origins, vectors }, 1, &marks).expect("fits");
            sender.pack(true);
            let read = |from, max| log.read(from, max);
            let batches = sender.next(end, &mut last, read).expect("is read");
            let plain = Batch::plain(&batches[0]).expect("was packed").into_owned();
            let batch = Batch::decode(&plain).expect("a batch");
            assert_eq!((batch.number, batches.len()), (number, 1));
            (batch.frames.iter().map(|f| f.to_vec()).collect::<Vec<_>>(), last.counts)
        };
        let both = sent(7, &[1, 2]);
        assert_eq!(both, (frames.iter().map(|f| f.to_vec()).collect(), (1, 1)));
        assert_eq!(sent(8, &[1, 2]), (both.0, (1, 2)), "with its own number");
        let (of_one, counts) = sent(9, &[2]);
        assert_eq!((of_one.len(), counts), (20, (2, 3)), "asked for something else");
    }

    /// The frame with which an origin writes for the `count`th time.
    fn frame(origin: u16, count: u64) -> Vec<u8> {
        let action = Action::Assign { element: Element::String, value: b"v", ttl: Time::MAX };
        let (previous, last) = (Time(count - 1), Time(count));
        let (partition, seen, origin) = (0, VersionVector::new(), Origin(origin));
        let mut out = Vec::new();
        FrameHeader { partition, origin, previous, last, seen }.encode(&mut out);
        encode_op(&mut out, &Op::new(b"k", action), Dot::new(last, origin), (None, previous));
        out
    }

    #[test]
    fn what_came_by_a_repair_is_in_no_frame_of_the_log() {
        assert_eq!(check(6, 1), Some((3, vec![0])), "lacks something that only the repair brought");
        assert_eq!(check(0, 1), Some((3, vec![0])), "has nothing");
        assert_eq!(check(7, 1), None, "has it all");
        assert_eq!(check(0, 2), None, "asks for somebody else's");
    }
}
