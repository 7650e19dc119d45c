//! Feeds every peer from the log, and says which part of the log nobody needs any more.

use std::collections::BTreeMap;

use meridian_clock::{Origin, VersionVector};
use meridian_codec::Malformed;
use meridian_replication::{
    BUNDLE_SINCE, CompactionAblations, LastPacked, LogMark, PACKED_SINCE, PROTOCOL_OLDEST, Sender,
    Subscribe,
    limits::{COMPACT_BEYOND_BYTES, MAX_LOG_MARKS},
};
use meridian_store::{LogPosition, StoreError};

use crate::wire::PeerMessage;

/// The senders of a region and what they need to know of its log.
#[derive(Debug)]
pub struct Shipper {
    partitions: u16,
    marks: Vec<LogMark>,
    senders: BTreeMap<Origin, (u64, Sender)>,
    /// What each configured peer has acknowledged; nothing, until it says so.
    acknowledged: BTreeMap<Origin, Vec<VersionVector>>,
    /// The newest protocol that each peer speaks, as it said last.
    spoken: BTreeMap<Origin, u16>,
    /// A peer that lacks more log than this is sent bundles.
    compact_beyond: u64,
    ablations: CompactionAblations,
    packed: LastPacked,
}

impl Shipper {
    /// A shipper over a log with these marks, the first at its beginning.
    #[must_use]
    pub fn new(partitions: u16, marks: Vec<LogMark>, peers: &[Origin]) -> Shipper {
        let nothing = vec![VersionVector::new(); usize::from(partitions)];
        let acknowledged = peers.iter().map(|p| (*p, nothing.clone())).collect();
        Shipper {
            partitions,
            marks,
            senders: BTreeMap::new(),
            spoken: BTreeMap::new(),
            compact_beyond: COMPACT_BEYOND_BYTES,
            ablations: CompactionAblations::default(),
            packed: LastPacked::default(),
            acknowledged,
        }
    }

    /// A peer asks for frames.
    ///
    /// # Errors
    /// [`Malformed`] when the request does not fit the cluster.
    pub fn subscribe(
        &mut self,
        peer: Origin,
        session: u64,
        request: &Subscribe,
    ) -> Result<(), Malformed> {
        let (current, sender) = self.senders.entry(peer).or_default();
        *current = session;
        sender.subscribe(request, self.partitions, &self.marks)
    }

    /// Sends bundles to peers that lack more than so many bytes of log.
    pub fn compact_beyond(&mut self, bytes: u64) {
        self.compact_beyond = bytes;
    }

    /// Switches rules of compaction off, for tests of the tests.
    pub fn ablate(&mut self, ablations: CompactionAblations) {
        self.ablations = ablations;
    }

    /// A peer has greeted: the newest protocol that it speaks.
    pub fn greeted(&mut self, peer: Origin, newest: u16) {
        self.spoken.insert(peer, newest);
    }

    /// Whether a peer understands what a protocol brought.
    #[must_use]
    pub fn understands(&self, peer: Origin, since: u16) -> bool {
        self.spoken.get(&peer).is_some_and(|newest| *newest >= since)
    }

    /// Changes who the peers are. The log is kept for a new one from now on; for one that is gone
    /// it is kept no longer.
    pub fn set_peers(&mut self, peers: &[Origin]) {
        self.acknowledged.retain(|peer, _| peers.contains(peer));
        self.senders.retain(|peer, _| peers.contains(peer));
        self.spoken.retain(|peer, _| peers.contains(peer));
        let nothing = vec![VersionVector::new(); usize::from(self.partitions)];
        for peer in peers {
            self.acknowledged.entry(*peer).or_insert_with(|| nothing.clone());
        }
    }

    /// A peer's session is over.
    pub fn peer_down(&mut self, peer: Origin, session: u64) {
        if self.senders.get(&peer).is_some_and(|(current, _)| *current == session) {
            self.senders.remove(&peer);
        }
    }

    /// Peers with a session, and whether there is log to read for them up to `durable`.
    pub fn sessions(&self, durable: LogPosition) -> impl Iterator<Item = (Origin, u64, bool)> {
        self.senders.iter().map(move |(p, (session, s))| (*p, *session, s.has_work(durable)))
    }

    /// What peers must be told: in these partitions the log does not lead on from where they stand.
    /// Peers that speak an older protocol get nothing from before, and nothing is said to them.
    pub fn take_messages(&mut self) -> Vec<(Origin, u64, PeerMessage)> {
        let spoken = &self.spoken;
        let broken = |(peer, (session, sender)): (&Origin, &mut (u64, Sender))| {
            let (number, partitions) = sender.take_broken()?;
            let message = PeerMessage::Behind { number, partitions };
            let understood = spoken.get(peer).is_none_or(|newest| message.since() <= *newest);
            understood.then_some((*peer, *session, message))
        };
        self.senders.iter_mut().filter_map(broken).collect()
    }

    /// This region says something to a peer, while its log is durable up to `position`. What it
    /// acknowledges in a watermark is in the log before that, or has been let go: whoever lacks it
    /// when all of the log has been read will not get it from there.
    pub fn said(&mut self, message: &PeerMessage, position: LogPosition) {
        let PeerMessage::Watermark(watermark) = message else { return };
        if let Ok(vectors) = watermark.vectors.unpack(self.partitions) {
            self.senders.values_mut().for_each(|(_, sender)| sender.covers(position, &vectors));
        }
    }

    /// Bytes of log between a peer's cursor and `end`.
    #[must_use]
    pub fn backlog(&self, peer: Origin, end: LogPosition) -> u64 {
        let cursor = self.senders.get(&peer).map_or(end, |(_, sender)| sender.cursor());
        end.0.saturating_sub(cursor.0)
    }

    /// The next batches for a peer; nothing beyond `durable` is looked at.
    ///
    /// # Errors
    /// What reading the log failed with.
    pub fn next(
        &mut self,
        peer: Origin,
        durable: LogPosition,
        read: impl FnMut(LogPosition, usize) -> Result<Vec<u8>, StoreError>,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let spoken = self.spoken.get(&peer).copied().unwrap_or(PROTOCOL_OLDEST);
        match self.senders.get_mut(&peer) {
            Some((_, sender)) => {
                let bundles = spoken >= BUNDLE_SINCE;
                sender.compact_beyond(bundles.then_some(self.compact_beyond));
                sender.pack(spoken >= PACKED_SINCE);
                sender.ablate(self.ablations);
                sender.next(durable, &mut self.packed, read)
            }
            None => Ok(Vec::new()),
        }
    }

    /// Log that a peer needs cannot be read: `next` says where it can be read again behind the
    /// cursor that it is given. The peer is told to have its state repaired.
    pub fn lose(&mut self, peer: Origin, next: impl FnOnce(LogPosition) -> LogPosition) {
        if let Some((_, sender)) = self.senders.get_mut(&peer) {
            sender.lose_to(next(sender.cursor()));
        }
    }

    /// The log has grown to a position at which every partition had seen this.
    pub fn mark(&mut self, position: LogPosition, vectors: Vec<VersionVector>) {
        if self.marks.last().is_none_or(|m| m.position < position) {
            self.marks.push(LogMark { position, vectors });
        }
        if self.marks.len() > MAX_LOG_MARKS {
            // Every other one will do; the first must stay.
            let mut index = 0;
            self.marks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    /// A peer has durably applied this.
    pub fn acknowledge(&mut self, peer: Origin, vectors: Vec<VersionVector>) {
        // The last word of a region that is gone must not bring it back.
        if let Some(known) = self.acknowledged.get_mut(&peer) {
            *known = vectors;
        }
    }

    /// Up to where the log may go: the checkpoint (at `checkpoint`) covers it, and every configured
    /// peer has acknowledged it, or it lies before `must`: whoever still needs that is repaired.
    /// Forgets the marks below, and no sender looks back behind it.
    pub fn release(&mut self, checkpoint: LogPosition, must: LogPosition) -> LogPosition {
        let has = |vectors: &Vec<VersionVector>, mark: &LogMark| {
            mark.vectors.iter().zip(vectors).all(|(m, v)| v.dominates(m))
        };
        let needless = |mark: &LogMark| {
            mark.position <= checkpoint
                && (mark.position <= must || self.acknowledged.values().all(|v| has(v, mark)))
        };
        let Some(at) = self.marks.iter().rposition(needless) else {
            return self.marks.first().map_or(LogPosition(0), |m| m.position);
        };
        let position = self.marks[at].position;
        self.marks.drain(..at);
        self.senders.values_mut().for_each(|(_, sender)| sender.skip_to(position));
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_clock::Time;
    use meridian_replication::Vectors;

    #[test]
    fn the_log_waits_for_members_only() {
        let (stays, dies, writer) = (Origin(1), Origin(2), Origin(0));
        let mut vector = VersionVector::new();
        vector.set(writer, Time(9));
        let first = LogMark { position: LogPosition(0), vectors: vec![VersionVector::new()] };
        let mut shipper = Shipper::new(1, vec![first], &[stays, dies]);
        shipper.mark(LogPosition(100), vec![vector.clone()]);
        shipper.acknowledge(stays, vec![vector.clone()]);
        assert_eq!(
            shipper.release(LogPosition(100), LogPosition(0)),
            LogPosition(0),
            "one has said nothing"
        );
        shipper.set_peers(&[stays]);
        shipper.acknowledge(dies, vec![VersionVector::new()]);
        assert_eq!(shipper.release(LogPosition(100), LogPosition(0)), LogPosition(100));
        shipper.set_peers(&[stays, Origin(3)]);
        shipper.mark(LogPosition(200), vec![vector.clone()]);
        assert_eq!(
            shipper.release(LogPosition(200), LogPosition(0)),
            LogPosition(100),
            "it waits for the new one"
        );
        shipper.acknowledge(Origin(3), vec![vector]);
        assert_eq!(shipper.release(LogPosition(200), LogPosition(0)), LogPosition(200));
    }

    #[test]
    fn a_peer_whose_log_has_rotted_is_told_to_be_repaired_and_is_not_stuck() {
        let (peer, writer) = (Origin(1), Origin(2));
        let first = LogMark { position: LogPosition(0), vectors: vec![VersionVector::new(); 2] };
        let mut shipper = Shipper::new(2, vec![first], &[peer]);
        let vectors = Vectors::pack(&[VersionVector::new(), VersionVector::new()]);
        let request = Subscribe { number: 4, origins: vec![writer], vectors };
        shipper.subscribe(peer, 7, &request).unwrap();
        assert!(shipper.take_messages().is_empty());
        let rot = |_, _| {
            let (file, reason) = ("a.seg".to_owned(), "rot".to_owned());
            Err(StoreError::Corrupt { file, offset: 9, reason })
        };
        assert!(shipper.next(peer, LogPosition(200), rot).is_err());
        shipper.lose(peer, |cursor| LogPosition(cursor.0 + 150));
        let told = shipper.take_messages();
        let behind = PeerMessage::Behind { number: 4, partitions: vec![0, 1] };
        assert_eq!(told, [(peer, 7, behind)]);
        let mut read_from = None;
        let read = |from, _| {
            read_from = Some(from);
            Ok(Vec::new())
        };
        shipper.next(peer, LogPosition(200), read).unwrap();
        assert_eq!(read_from, Some(LogPosition(150)), "goes on behind the rot");
    }

    #[test]
    fn no_sender_looks_behind_what_was_released() {
        let (peer, writer) = (Origin(1), Origin(2));
        let mut vector = VersionVector::new();
        vector.set(writer, Time(9));
        let first = LogMark { position: LogPosition(0), vectors: vec![VersionVector::new()] };
        let mut shipper = Shipper::new(1, vec![first], &[peer]);
        let vectors = Vectors::pack(&[VersionVector::new()]);
        let request = Subscribe { number: 1, origins: vec![writer], vectors };
        shipper.subscribe(peer, 7, &request).unwrap();
        shipper.mark(LogPosition(100), vec![vector.clone()]);
        // The peer got it all from somebody else and says so.
        shipper.acknowledge(peer, vec![vector]);
        assert_eq!(shipper.release(LogPosition(100), LogPosition(0)), LogPosition(100));
        let mut read_from = None;
        let read = |from, _| {
            read_from = Some(from);
            Ok(Vec::new())
        };
        assert_eq!(shipper.next(peer, LogPosition(200), read).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(read_from, Some(LogPosition(100)));
    }
}
