//! The log's unit: one commit. Checksummed, and found again after a hole.
//!
//! ```text
//! entry := magic u32 | length u32 | crc32 u32 (of all that follows) | durable u64 | frames
//! frames := (length u32 | frame)*
//! ```
//! `durable` is the position up to which the log was known to be on disk when the entry was
//! written. It tells a torn tail from corruption: a bad entry at a position that some later
//! entry calls durable was once whole, so starting without it would lose acknowledged writes.

use meridian_codec::Malformed;

use crate::{LogPosition, frame::MAX_FRAME_BYTES};

/// Bytes in front of an entry's frames.
pub const ENTRY_HEADER_BYTES: usize = 20;

/// The largest entry. Commits are bounded well below it, but for one command that touches all
/// keys, such as FLUSHALL.
pub const MAX_ENTRY_BYTES: usize = 2 << 30;

const MAGIC: u32 = 0x314e_444d; // "MDN1"
const CRC_FROM: usize = 12;

/// One commit as found in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where the entry begins.
    pub start: LogPosition,
    /// Where the next one begins.
    pub end: LogPosition,
    /// What was durable when it was written.
    pub durable: LogPosition,
    frames: &'a [u8],
}

impl<'a> Entry<'a> {
    /// The frames' bytes, in order.
    pub fn frames(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.frames;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (frame, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(frame)
        })
    }
}

/// Completes an entry in place: `out` holds [`ENTRY_HEADER_BYTES`] of room from `start` on,
/// then the frames, each behind its length.
pub fn encode_entry(out: &mut [u8], start: usize, durable: LogPosition) {
    let length = (out.len() - start) as u32;
    let entry = &mut out[start..];
    entry[..4].copy_from_slice(&MAGIC.to_le_bytes());
    entry[4..8].copy_from_slice(&length.to_le_bytes());
    entry[CRC_FROM..ENTRY_HEADER_BYTES].copy_from_slice(&durable.0.to_le_bytes());
    let crc = crc32fast::hash(&entry[CRC_FROM..]);
    entry[8..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
}

/// Walks the entries in `bytes`, which begin at position `base`. Stops at the first that is not
/// whole and sound.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    base: LogPosition,
    at: usize,
}

impl<'a> Entries<'a> {
    /// A walk from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8], base: LogPosition) -> Entries<'a> {
        Entries { bytes, base, at: 0 }
    }

    /// How many bytes were walked over.
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let rest = &self.bytes[self.at..];
        let length = check_entry(rest).ok()?;
        let start = LogPosition(self.base.0 + self.at as u64);
        self.at += length;
        let durable = u64::from_le_bytes(rest[CRC_FROM..ENTRY_HEADER_BYTES].try_into().ok()?);
        Some(Entry {
            start,
            end: LogPosition(start.0 + length as u64),
            durable: LogPosition(durable),
            frames: &rest[ENTRY_HEADER_BYTES..length],
        })
    }
}

/// How a scan of a whole log file ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// Every byte belongs to a sound entry.
    Clean,
    /// From this offset on nothing counts: it was never durable. It may be cut off.
    TornTail {
        /// Offset of the first byte that does not count.
        offset: usize,
        /// What was wrong there.
        reason: Malformed,
    },
    /// An entry that was durable is damaged. The log must not be used.
    Corrupt {
        /// Offset of the damaged entry.
        offset: usize,
        /// What is wrong with it.
        reason: Malformed,
    },
}

/// Visits every sound entry of a log file and judges its end. `durable_at_least` is what is
/// known from elsewhere (the checkpoint, a following segment) to have been durable.
pub fn scan_entries<'a>(
    bytes: &'a [u8],
    base: LogPosition,
    durable_at_least: LogPosition,
    mut visit: impl FnMut(&Entry<'a>),
) -> ScanEnd {
    let mut entries = Entries::new(bytes, base);
    let mut durable = durable_at_least;
    for entry in entries.by_ref() {
        durable = durable.max(entry.durable);
        visit(&entry);
    }
    let offset = entries.consumed();
    if offset == bytes.len() {
        return ScanEnd::Clean;
    }
    let reason = check_entry(&bytes[offset..]).err().unwrap_or(Malformed("log entry"));
    let durable = durable.max(durable_said_after(&bytes[offset..]));
    if LogPosition(base.0 + offset as u64) < durable {
        return ScanEnd::Corrupt { offset, reason };
    }
    ScanEnd::TornTail { offset, reason }
}

/// Where the next sound entry begins in bytes that do not begin with one.
#[must_use]
pub fn next_entry(bytes: &[u8]) -> Option<usize> {
    let magic = MAGIC.to_le_bytes();
    let begins = |at: &usize| bytes[*at..].starts_with(&magic);
    (1..bytes.len()).filter(begins).find(|at| check_entry(&bytes[*at..]).is_ok())
}

/// The largest durable position that any sound entry somewhere in `bytes` speaks of.
fn durable_said_after(bytes: &[u8]) -> LogPosition {
    let (mut at, mut durable) = (1, LogPosition(0));
    while at + ENTRY_HEADER_BYTES <= bytes.len() {
        if bytes[at..at + 4] != MAGIC.to_le_bytes() {
            at += 1;
            continue;
        }
        match Entries::new(&bytes[at..], LogPosition(0)).next() {
            Some(entry) => {
                durable = durable.max(entry.durable);
                at += entry.end.0 as usize;
            }
            None => at += 1,
        }
    }
    durable
}

fn check_entry(bytes: &[u8]) -> Result<usize, Malformed> {
    if bytes.len() < ENTRY_HEADER_BYTES {
        return Err(Malformed("log ends inside an entry's header"));
    }
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if word(0) != MAGIC {
        return Err(Malformed("no log entry begins here"));
    }
    let length = word(4) as usize;
    if !(ENTRY_HEADER_BYTES..=MAX_ENTRY_BYTES).contains(&length) {
        return Err(Malformed("impossible entry length"));
    }
    if length > bytes.len() {
        return Err(Malformed("log ends inside an entry"));
    }
    if crc32fast::hash(&bytes[CRC_FROM..length]) != word(8) {
        return Err(Malformed("checksum does not match"));
    }
    check_frames(&bytes[ENTRY_HEADER_BYTES..length])?;
    Ok(length)
}

fn check_frames(mut rest: &[u8]) -> Result<(), Malformed> {
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_FRAME_BYTES || length > after.len() {
            return Err(Malformed("frame length beyond its entry"));
        }
        rest = &after[length..];
    }
    if rest.is_empty() { Ok(()) } else { Err(Malformed("bytes left after the last frame")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(frames: &[&[u8]], durable: u64) -> Vec<u8> {
        let mut out = vec![0; ENTRY_HEADER_BYTES];
        for frame in frames {
            out.extend_from_slice(&(frame.len() as u32).to_le_bytes());
            out.extend_from_slice(frame);
        }
        encode_entry(&mut out, 0, LogPosition(durable));
        out
    }

    fn check(bytes: &[u8], known: u64) -> (Vec<Vec<u8>>, ScanEnd) {
        let mut frames = Vec::new();
        let end = scan_entries(bytes, LogPosition(0), LogPosition(known), |e| {
            frames.extend(e.frames().map(<[u8]>::to_vec));
        });
        (frames, end)
    }

    #[test]
    fn a_torn_tail_is_told_from_corruption() {
        let first = entry(&[b"one", b"two"], 0);
        let second = entry(&[b"three"], first.len() as u64);
        let log = [first.clone(), second.clone()].concat();
        assert_eq!(check(&log, 0).1, ScanEnd::Clean);

        let torn = &log[..log.len() - 1];
        let (frames, end) = check(torn, 0);
        assert_eq!(frames, [b"one".to_vec(), b"two".to_vec()]);
        assert!(matches!(end, ScanEnd::TornTail { offset, .. } if offset == first.len()));

        let mut damaged = log.clone();
        damaged[ENTRY_HEADER_BYTES + 5] ^= 1;
        assert!(matches!(check(&damaged, 0).1, ScanEnd::Corrupt { offset: 0, .. }));

        let known = log.len() as u64;
        assert!(matches!(check(torn, known).1, ScanEnd::Corrupt { .. }));
    }

    proptest! {
        #[test]
        fn any_single_flip_is_noticed(at in 0usize..80, bit in 0u8..8) {
            let log = [entry(&[b"hello", b"world"], 0), entry(&[b"again"], 38)].concat();
            prop_assume!(at < log.len());
            let mut flipped = log.clone();
            flipped[at] ^= 1 << bit;
            prop_assert_ne!(check(&flipped, 0).1, ScanEnd::Clean);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&bytes, 0);
        }
    }
}
