//! Watermarks as they travel within one session: whole at first and now and then, in between only
//! what has moved since the one before. With fifty regions one has some 800 entries, ten times a second
//! to each of the others, and few of them move.
//!
//! Nothing is taken for granted of the way: each one that tells what has moved names the one before by
//! its digest, and one that does not follow on what was heard is passed over.

use meridian_codec::Malformed;
use meridian_replication::Watermark;

use crate::{
    limits::WATERMARK_WHOLE_EVERY,
    wire::{Moved, PeerMessage},
};

/// The side that sends: one for each session.
#[derive(Clone, Debug, Default)]
pub struct Teller {
    /// The last one, and how many had followed the whole one by then.
    told: Option<(Watermark, u64)>,
}

impl Teller {
    /// What to send for a watermark.
    pub fn tell(&mut self, watermark: Watermark) -> PeerMessage {
        if let Some((last, number)) = &self.told
            && *number + 1 < WATERMARK_WHOLE_EVERY
            && let Some(entries) = watermark.vectors.moved_since(&last.vectors)
        {
            let (after, number) = (last.digest(), number + 1);
            let Watermark { now, physical_ms, .. } = watermark;
            self.told = Some((watermark, number));
            return PeerMessage::Moved(Moved { after, entries, now, physical_ms });
        }
        self.told = Some((watermark.clone(), 0));
        PeerMessage::Watermark(watermark)
    }

    /// The last one was not sent: the next one is whole.
    pub fn lost(&mut self) {
        self.told = None;
    }
}

/// The side that hears: one for each session.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    heard: Option<Watermark>,
}

impl Listener {
    /// The message with whole watermarks only; none in place of one that does not follow on what was
    /// heard.
    ///
    /// # Errors
    /// [`Malformed`] when what has moved is in no vector.
    pub fn hear(&mut self, message: PeerMessage) -> Result<Option<PeerMessage>, Malformed> {
        match message {
            PeerMessage::Watermark(watermark) => {
                self.heard = Some(watermark.clone());
                Ok(Some(PeerMessage::Watermark(watermark)))
            }
            PeerMessage::Moved(moved) => {
                let follows = |last: &&mut Watermark| last.digest() == moved.after;
                let Some(last) = self.heard.as_mut().filter(follows) else { return Ok(None) };
                last.vectors.advance(&moved.entries)?;
                (last.now, last.physical_ms) = (moved.now, moved.physical_ms);
                Ok(Some(PeerMessage::Watermark(last.clone())))
            }
            message => Ok(Some(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_clock::{Origin, Time, VersionVector};
    use meridian_replication::Vectors;
    use proptest::prelude::*;

    fn watermark(vectors: &[VersionVector], now: u64) -> Watermark {
        Watermark { vectors: Vectors::pack(vectors), now, physical_ms: now + 1 }
    }

    #[test]
    fn what_has_moved_is_all_that_travels() {
        let mut vectors = vec![VersionVector::new(); 16];
        for vector in &mut vectors {
            (0..50).for_each(|origin| vector.set(Origin(origin), Time(u64::MAX / 3)));
        }
        let (mut teller, mut listener) = (Teller::default(), Listener::default());
        let whole = teller.tell(watermark(&vectors, 1));
        vectors[3].set(Origin(7), Time(u64::MAX / 2));
        let moved = teller.tell(watermark(&vectors, 2));
        let bytes = [&whole, &moved].map(|message| message.encode().len());
        assert!(bytes[0] > 8000 && bytes[1] < 50, "{bytes:?}");
        assert_eq!(listener.hear(moved.clone()), Ok(None), "there was nothing before");
        assert_eq!(listener.hear(whole.clone()), Ok(Some(whole)));
        let heard = PeerMessage::Watermark(watermark(&vectors, 2));
        assert_eq!(listener.hear(moved.clone()), Ok(Some(heard)));
        assert_eq!(listener.hear(moved), Ok(None), "twice");
    }

    #[test]
    fn a_vector_that_shrinks_and_one_after_a_loss_travel_whole() {
        let mut vector = VersionVector::new();
        vector.set(Origin(1), Time(5));
        let mut teller = Teller::default();
        teller.tell(watermark(&[vector.clone()], 1));
        let shrunk = watermark(&[VersionVector::new()], 2);
        assert_eq!(teller.tell(shrunk.clone()), PeerMessage::Watermark(shrunk.clone()));
        assert!(matches!(teller.tell(shrunk.clone()), PeerMessage::Moved(_)));
        teller.lost();
        assert_eq!(teller.tell(shrunk.clone()), PeerMessage::Watermark(shrunk));
    }

    #[test]
    fn what_no_vector_has_is_refused() {
        for entries in [vec![(1, 0, 9)], vec![(0, u16::MAX, 9)], vec![(0, 0, 9), (7, 0, 9)]] {
            let (mut listener, whole) =
                (Listener::default(), watermark(&[VersionVector::new()], 1));
            let after = whole.digest();
            listener.hear(PeerMessage::Watermark(whole)).unwrap();
            let moved = Moved { after, entries, now: 2, physical_ms: 3 };
            assert!(listener.hear(PeerMessage::Moved(moved)).is_err());
        }
    }

    #[test]
    fn after_a_loss_the_next_whole_one_is_heard() {
        let (mut teller, mut listener) = (Teller::default(), Listener::default());
        let vectors = [VersionVector::new()];
        let mut hears = |now: u64| {
            let message = teller.tell(watermark(&vectors, now));
            now != 3 && listener.hear(message).expect("well-formed").is_some()
        };
        let heard: Vec<u64> = (0..=WATERMARK_WHOLE_EVERY).filter(|now| hears(*now)).collect();
        assert_eq!(heard, [0, 1, 2, WATERMARK_WHOLE_EVERY]);
    }

    proptest! {
        #[test]
        fn whatever_is_lost_nothing_wrong_is_heard(
            steps in prop::collection::vec((0..4usize, 0..5u16, 1..9u64, 0..4u8), 1..200)
        ) {
            let (mut teller, mut listener) = (Teller::default(), Listener::default());
            let mut vectors = vec![VersionVector::new(); 4];
            for (partition, origin, by, luck) in &steps {
                // Time may stand still.
                let now = 1;
                let time = vectors[*partition].get(Origin(*origin));
                vectors[*partition].set(Origin(*origin), Time(time.0 + by));
                let message = teller.tell(watermark(&vectors, now));
                if *luck == 0 {
                    continue;
                }
                if let Some(message) = listener.hear(message).expect("well-formed") {
                    let expected = PeerMessage::Watermark(watermark(&vectors, now));
                    prop_assert_eq!(message, expected);
                }
            }
        }
    }
}
