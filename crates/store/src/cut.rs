//! A log cut at a point in time.
//!
//! Stamps grow along causality: a frame's last stamp is larger than everything that its author had
//! seen. So all frames that are stamped at or before an instant depend on nothing but each other,
//! and replaying just them gives a state that could have been seen. One thing more is kept whole: what
//! the log's own region committed together (a transaction over several partitions) goes in or
//! stays out together.
//!
//! Frames are never split. One that reaches beyond the instant stays out with everything after it
//! of the same origin and partition, and so does whatever had seen it.

use std::collections::BTreeSet;

use meridian_clock::{Origin, Time, VersionVector};
use meridian_codec::Malformed;
use thiserror::Error;

use crate::{ENTRY_HEADER_BYTES, Entry, Frame, LogPosition, RepairPart, encode_entry};

/// Why a log cannot be cut.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CutError {
    /// A frame that is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A frame does not follow on those before it: a part of the log is missing.
    #[error("a frame does not follow on what is before it")]
    OutOfOrder,
}

/// The largest stamp that a part of a log entry brings.
///
/// # Errors
/// [`Malformed`] when it is no frame.
pub fn stamp(bytes: &[u8]) -> Result<Time, Malformed> {
    if RepairPart::is_one(bytes) {
        return Ok(newest(&RepairPart::decode(bytes)?.header.seen));
    }
    Ok(Frame::decode(bytes)?.header.last)
}

fn newest(vector: &VersionVector) -> Time {
    vector.iter().map(|(_, time)| time).max().unwrap_or_default()
}

/// A walk over a log that leaves out what is stamped after an instant.
#[derive(Clone, Debug)]
pub struct Cut {
    me: Origin,
    upto: Time,
    vectors: Vec<VersionVector>,
    /// By partition, whose frames have begun to stay out.
    out: Vec<BTreeSet<Origin>>,
    /// Log was left out unread: what does not follow any more is no damage.
    skipped: bool,
    kept: u64,
    dropped: u64,
}

impl Cut {
    /// A walk over the log of the region `me`, from a position at which `vectors` had been seen.
    /// [`Time::MAX`] leaves nothing out.
    #[must_use]
    pub fn new(me: Origin, upto: Time, vectors: Vec<VersionVector>) -> Cut {
        let out = vec![BTreeSet::new(); vectors.len()];
        Cut { me, upto, vectors, out, skipped: false, kept: 0, dropped: 0 }
    }

    /// Takes the log's next entry. Appends to `log` what is left of it, as an entry that begins at
    /// `start` with all before it durable; false when nothing is left.
    ///
    /// # Errors
    /// [`CutError`]; the walk is over then.
    pub fn entry(
        &mut self,
        entry: &Entry<'_>,
        start: LogPosition,
        log: &mut Vec<u8>,
    ) -> Result<bool, CutError> {
        let mut is_over = false;
        for bytes in entry.frames().filter(|bytes| !RepairPart::is_one(bytes)) {
            let header = Frame::decode(bytes)?.header;
            is_over |= header.origin == self.me && header.last > self.upto;
        }
        let begin = log.len();
        log.resize(begin + ENTRY_HEADER_BYTES, 0);
        for bytes in entry.frames() {
            let takes = if RepairPart::is_one(bytes) {
                self.takes_repair(&RepairPart::decode(bytes)?)?
            } else {
                self.takes(&Frame::decode(bytes)?, is_over)?
            };
            if takes {
                log.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                log.extend_from_slice(bytes);
                self.kept += 1;
            } else {
                self.dropped += 1;
            }
        }
        if log.len() == begin + ENTRY_HEADER_BYTES {
            log.truncate(begin);
            return Ok(false);
        }
        encode_entry(log, begin, start);
        Ok(true)
    }

    /// Says that log was left out which holds nothing at or before the instant.
    pub fn skip(&mut self) {
        self.skipped = true;
    }

    /// What has been seen after the frames that were kept.
    #[must_use]
    pub fn vectors(&self) -> &[VersionVector] {
        &self.vectors
    }

    /// Frames that were kept, and frames that were not.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.kept, self.dropped)
    }

    /// A repair brought everything up to its vector at once: it cannot be cut inside. What reaches
    /// beyond the instant stays out, with all that came after it of the origins that it brought.
    fn takes_repair(&mut self, part: &RepairPart<'_>) -> Result<bool, CutError> {
        let place = usize::from(part.header.partition);
        let (Some(vector), Some(out)) = (self.vectors.get_mut(place), self.out.get_mut(place))
        else {
            return Err(Malformed("repair of a partition that does not exist").into());
        };
        let seen = &part.header.seen;
        let brings = |o: &Origin| seen.get(*o) > vector.get(*o);
        if newest(seen) > self.upto || out.iter().any(brings) {
            let brought: Vec<Origin> = seen.iter().map(|(o, _)| o).filter(brings).collect();
            out.extend(brought);
            return Ok(false);
        }
        if part.header.last {
            vector.join(seen);
        }
        Ok(true)
    }

    fn takes(&mut self, frame: &Frame<'_>, commit_is_over: bool) -> Result<bool, CutError> {
        let header = &frame.header;
        let (Some(vector), Some(out)) = (
            self.vectors.get_mut(usize::from(header.partition)),
            self.out.get_mut(usize::from(header.partition)),
        ) else {
            return Err(Malformed("frame for a partition that does not exist").into());
        };
        let origin = header.origin;
        if out.contains(&origin) {
            return Ok(false);
        }
        let covered = vector.dominates(&header.seen);
        let over = header.last > self.upto || (commit_is_over && origin == self.me);
        // What does not follow although nothing before it stayed out is missing something.
        let whole = out.is_empty() && !self.skipped;
        let follows = header.previous == vector.get(origin);
        if (!follows || !covered) && whole {
            return Err(CutError::OutOfOrder);
        }
        if over || !covered || !follows {
            out.insert(origin);
            return Ok(false);
        }
        vector.set(origin, header.last);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entries, FrameHeader};

    const ME: Origin = Origin(0);
    const OTHER: Origin = Origin(1);

    /// A frame of `origin` in a partition that follows on `previous` and had seen `seen`.
    fn frame(part: u16, origin: Origin, span: (u64, u64), seen: &[(Origin, u64)]) -> Vec<u8> {
        let mut vector = VersionVector::new();
        seen.iter().for_each(|(origin, time)| vector.set(*origin, Time(*time)));
        let (previous, last) = (Time(span.0), Time(span.1));
        let header = FrameHeader { partition: part, origin, previous, last, seen: vector };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        bytes
    }

    /// Frames by entry: partition, origin, last stamp.
    type Left = Vec<Vec<(u16, u16, u64)>>;

    fn cut(upto: u64, entries: &[&[Vec<u8>]]) -> Result<Left, CutError> {
        let mut cut = Cut::new(ME, Time(upto), vec![VersionVector::new(); 2]);
        let mut log = Vec::new();
        for frames in entries {
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let bytes = crate::conformance::entry(&frames, LogPosition(0));
            let entry = Entries::new(&bytes, LogPosition(0)).next().unwrap();
            let start = LogPosition(log.len() as u64);
            cut.entry(&entry, start, &mut log)?;
        }
        let tell = |bytes: &[u8]| {
            let header = Frame::decode(bytes).unwrap().header;
            (header.partition, header.origin.0, header.last.0)
        };
        let mut walk = Entries::new(&log, LogPosition(0));
        let left = walk.by_ref().map(|e| e.frames().map(tell).collect()).collect();
        assert_eq!(walk.consumed(), log.len(), "what is left is a log");
        Ok(left)
    }

    #[test]
    fn frames_after_the_instant_and_their_successors_stay_out() {
        let log: &[&[Vec<u8>]] = &[
            &[frame(0, ME, (0, 10), &[])],
            &[frame(0, OTHER, (0, 12), &[])],
            &[frame(0, ME, (10, 20), &[(OTHER, 12)])],
            // A slower clock: stamped before the instant, and did not see what is after it.
            &[frame(0, OTHER, (12, 14), &[(ME, 10)])],
        ];
        assert_eq!(cut(15, log).unwrap(), [[(0, 0, 10)], [(0, 1, 12)], [(0, 1, 14)]]);
        assert_eq!(cut(u64::MAX, log).unwrap().len(), 4);
        assert_eq!(cut(9, log).unwrap(), Vec::<Vec<_>>::new());
    }

    #[test]
    fn a_frame_over_the_instant_stays_out_whole() {
        let log: &[&[Vec<u8>]] = &[&[frame(0, ME, (0, 10), &[])], &[frame(0, ME, (10, 30), &[])]];
        for upto in [10, 20, 29] {
            assert_eq!(cut(upto, log).unwrap(), [[(0, 0, 10)]]);
        }
        assert_eq!(cut(30, log).unwrap().len(), 2);
    }

    #[test]
    fn a_commit_over_two_partitions_is_all_or_nothing_and_takes_what_saw_it() {
        let log: &[&[Vec<u8>]] = &[
            &[frame(0, ME, (0, 10), &[]), frame(1, ME, (0, 11), &[])],
            &[frame(0, ME, (10, 20), &[]), frame(1, ME, (11, 21), &[])],
            &[frame(0, OTHER, (0, 5), &[]), frame(1, OTHER, (0, 5), &[])],
            // Its author had seen the half that lies before the instant.
            &[frame(0, OTHER, (5, 20), &[(ME, 20)]), frame(1, OTHER, (5, 19), &[(ME, 11)])],
        ];
        let left = cut(20, log).unwrap();
        assert_eq!(left[0], [(0, 0, 10), (1, 0, 11)]);
        assert_eq!(left[1], [(0, 1, 5), (1, 1, 5)]);
        assert_eq!(left[2], [(1, 1, 19)]);
        assert_eq!(cut(21, log).unwrap().len(), 4);
    }

    #[test]
    fn a_hole_in_the_log_is_no_cut() {
        let gap: &[&[Vec<u8>]] = &[&[frame(0, ME, (0, 10), &[])], &[frame(0, ME, (15, 20), &[])]];
        assert_eq!(cut(u64::MAX, gap), Err(CutError::OutOfOrder));
        let unseen: &[&[Vec<u8>]] = &[&[frame(0, ME, (0, 10), &[(OTHER, 3)])]];
        assert_eq!(cut(u64::MAX, unseen), Err(CutError::OutOfOrder));
        let strange: &[&[Vec<u8>]] = &[&[frame(7, ME, (0, 10), &[])]];
        assert!(matches!(cut(u64::MAX, strange), Err(CutError::Malformed(_))));
        assert!(matches!(cut(5, &[&[b"none".to_vec()]]), Err(CutError::Malformed(_))));
    }
}
