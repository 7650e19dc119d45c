//! What regions say to each other: control messages through `bincode`, batches of frames by hand.

use std::collections::BTreeMap;

use meridian_clock::{ClockNote, Origin};
use meridian_codec::{Malformed, control};
use meridian_replication::{
    CLOCK_SINCE, Hello, MOVED_SINCE, PROTOCOL_OLDEST, REPAIR_SINCE, Subscribe, Watermark,
    limits::MAX_BATCH_BYTES, repair::RepairMessage,
};
use serde::{Deserialize, Serialize};

use crate::limits::PIECE_BYTES;

/// A message of the control lane. The order of the kinds never changes; new ones come last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// The first message of a session, both ways.
    Hello(Hello),
    /// Asks for frames.
    Subscribe(Subscribe),
    /// Acknowledges and promises.
    Watermark(Watermark),
    /// A message of the control group.
    Raft(Vec<u8>),
    /// To a subscriber: my log does not lead on from where you stand.
    Behind {
        /// The subscription that cannot be served.
        number: u64,
        /// In which partitions.
        partitions: Vec<u16>,
    },
    /// State repair.
    Repair(RepairMessage),
    /// What time it is at the sender, and when the receiver had asked.
    Clock(ClockNote),
    /// The agreed state as the sender knows it, so that a region that was away finds new ones.
    Members(Vec<u8>),
    /// In place of a watermark: what has moved since the one before in the session.
    Moved(Moved),
}

/// What a watermark tells beyond the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The digest of the one before: what follows on another one means nothing.
    pub after: u64,
    /// Partition, ordinal and time of what has moved.
    pub entries: Vec<(u16, u16, u64)>,
    /// See [`Watermark::now`].
    pub now: u64,
    /// See [`Watermark::physical_ms`].
    pub physical_ms: u64,
}

impl PeerMessage {
    /// Whether the message may wait behind everything else.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        matches!(self, PeerMessage::Repair(message) if message.is_answer())
    }

    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        control::encode(self)
    }

    /// Reads a message. None if it is of a kind that this build does not know: a newer peer may
    /// say such things, and they are skipped.
    ///
    /// # Errors
    /// [`Malformed`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Option<PeerMessage>, Malformed> {
        let kind = *bytes.first().ok_or(Malformed("empty control message"))?;
        if (KINDS..=KIND_MAX).contains(&kind) && bytes.len() <= control::MAX_CONTROL_BYTES {
            return Ok(None);
        }
        control::decode(bytes).map(Some)
    }

    /// The protocol that brought the kind: a peer that speaks an older one is not sent it.
    #[must_use]
    pub fn since(&self) -> u16 {
        // A new kind also counts in KINDS, and in the test that encodes one of every kind.
        match self {
            PeerMessage::Hello(_)
            | PeerMessage::Subscribe(_)
            | PeerMessage::Watermark(_)
            | PeerMessage::Raft(_) => PROTOCOL_OLDEST,
            PeerMessage::Behind { .. } | PeerMessage::Repair(_) | PeerMessage::Members(_) => {
                REPAIR_SINCE
            }
            PeerMessage::Clock(_) => CLOCK_SINCE,
            PeerMessage::Moved(_) => MOVED_SINCE,
        }
    }
}

/// How many kinds of messages this build knows.
const KINDS: u8 = 9;

/// The largest kind that takes one byte (bincode's variable-length integers).
const KIND_MAX: u8 = 250;

/// The batch goes on in the next piece.
const MORE: u8 = 1;
/// A batch begins. One that was begun before is given up: the sender's subscription changed.
const FIRST: u8 = 2;
const KNOWN: u8 = MORE | FIRST;

/// Cuts a batch into pieces that fit a message of the transport.
#[must_use]
pub fn pieces(batch: &[u8]) -> Vec<Vec<u8>> {
    let count = batch.len().div_ceil(PIECE_BYTES).max(1);
    let piece = |index: usize| {
        let from = index * PIECE_BYTES;
        let upto = batch.len().min(from + PIECE_BYTES);
        let mut out = Vec::with_capacity(1 + upto - from);
        let first = if index == 0 { FIRST } else { 0 };
        out.push(first | if index + 1 == count { 0 } else { MORE });
        out.extend_from_slice(&batch[from..upto]);
        out
    };
    (0..count).map(piece).collect()
}

/// Puts pieces together again, for each peer.
#[derive(Clone, Debug, Default)]
pub struct Assembler {
    partial: BTreeMap<Origin, Vec<u8>>,
}

impl Assembler {
    /// Takes a piece; gives the batch when it is complete.
    ///
    /// # Errors
    /// [`Malformed`] when the batch grows beyond its limit or a piece is none.
    pub fn push(&mut self, peer: Origin, piece: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        let (flag, bytes) = piece.split_first().ok_or(Malformed("empty piece"))?;
        if flag & !KNOWN != 0 {
            return Err(Malformed("unknown kind of piece"));
        }
        if flag & FIRST != 0 {
            self.partial.insert(peer, Vec::new());
        }
        let partial = self.partial.get_mut(&peer).ok_or(Malformed("piece of no batch"))?;
        if partial.len() + bytes.len() > MAX_BATCH_BYTES {
            self.partial.remove(&peer);
            return Err(Malformed("batch too large"));
        }
        partial.extend_from_slice(bytes);
        if flag & MORE != 0 {
            return Ok(None);
        }
        Ok(self.partial.remove(&peer))
    }

    /// The session is over: what was begun is forgotten.
    pub fn forget(&mut self, peer: Origin) {
        self.partial.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_clock::VersionVector;
    use meridian_replication::Vectors;

    /// One of every kind, in the order of the wire.
    fn every_kind() -> Vec<PeerMessage> {
        let vectors = Vectors::pack(&[VersionVector::new()]);
        let (cluster, origin) = ("shop".into(), Origin(1));
        vec![
            PeerMessage::Hello(Hello { version: 2, cluster, origin, partitions: 1 }),
            PeerMessage::Subscribe(Subscribe {
                number: 1,
                origins: vec![origin],
                vectors: vectors.clone(),
            }),
            PeerMessage::Watermark(Watermark { vectors, now: 1, physical_ms: 2 }),
            PeerMessage::Raft(vec![1]),
            PeerMessage::Behind { number: 1, partitions: vec![0] },
            PeerMessage::Repair(RepairMessage::Close { number: 1 }),
            PeerMessage::Clock(ClockNote { number: 1, physical_us: 2, answers: Some((3, 4)) }),
            PeerMessage::Members(vec![1]),
            PeerMessage::Moved(Moved {
                after: 1,
                entries: vec![(1, 2, 3)],
                now: 4,
                physical_ms: 5,
            }),
        ]
    }

    #[test]
    fn kinds_are_numbered_as_they_are_encoded() {
        let kinds = every_kind();
        assert_eq!(kinds.len(), usize::from(KINDS));
        for (number, message) in kinds.into_iter().enumerate() {
            let bytes = message.encode();
            assert_eq!(usize::from(bytes[0]), number);
            assert_eq!(PeerMessage::decode(&bytes), Ok(Some(message)));
        }
    }

    #[test]
    fn what_is_not_known_is_skipped_and_what_is_wrong_is_not() {
        assert_eq!(PeerMessage::decode(&[KINDS, 1, 2, 3]), Ok(None));
        assert_eq!(PeerMessage::decode(&[KIND_MAX]), Ok(None));
        let too_long = vec![KINDS; control::MAX_CONTROL_BYTES + 1];
        for wrong in [&[][..], &[0], &[251, 0, 1], &[3, 9], &too_long] {
            assert!(PeerMessage::decode(wrong).is_err(), "{:?}", &wrong[..wrong.len().min(4)]);
        }
    }

    #[test]
    fn pieces_come_together_again() {
        for length in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let batch: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut assembler = Assembler::default();
            let whole: Vec<Vec<u8>> = pieces(&batch)
                .iter()
                .filter_map(|p| assembler.push(Origin(1), p).unwrap())
                .collect();
            assert_eq!(whole, [batch]);
        }
        assert!(Assembler::default().push(Origin(1), &[]).is_err());
        assert!(Assembler::default().push(Origin(1), &[0, 9]).is_err(), "no batch has begun");
        assert!(Assembler::default().push(Origin(1), &[9, 9]).is_err());
    }

    #[test]
    fn a_batch_that_is_given_up_does_not_spoil_the_next() {
        let (long, short) = (vec![1; 2 * PIECE_BYTES], vec![2; 3]);
        let mut assembler = Assembler::default();
        assert_eq!(assembler.push(Origin(1), &pieces(&long)[0]).unwrap(), None);
        assert_eq!(assembler.push(Origin(1), &pieces(&short)[0]).unwrap(), Some(short));
    }
}
