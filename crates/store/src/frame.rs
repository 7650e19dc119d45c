//! A frame: consecutive operations of one origin in one partition, applied whole or not at all.
//!
//! Its header vector does two jobs: it is what must have been delivered before the frame, and it
//! is the causal context of every operation in it.

use meridian_clock::{MAX_REGIONS, Origin, Time, VersionVector};
use meridian_codec::{Malformed, Reader, put_varint};

use crate::bundle::Groups;

/// The largest frame, header included, in bytes. Frames are usually closed far below; this is
/// what one command with the largest values may need, since a command is never split.
pub const MAX_FRAME_BYTES: usize = 72 << 20;

/// Who, where, after what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The partition that all operations belong to.
    pub partition: u16,
    /// The region that wrote them.
    pub origin: Origin,
    /// Stamp of the origin's operation before this frame, in this partition (rule R1).
    pub previous: Time,
    /// Stamp of the last operation in the frame.
    pub last: Time,
    /// What the author had seen of the other origins.
    pub seen: VersionVector,
}

/// A header and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub header: FrameHeader,
    /// Whether it is several frames shortened to one; then its operations come in groups.
    pub is_bundle: bool,
    /// What follows the header: the operations as `meridian-crdt` encodes them, or the groups.
    pub ops: &'a [u8],
}

/// Above the partition's bits in the first number of a frame: a bundle.
const BUNDLE: u64 = 1 << 16;

impl FrameHeader {
    /// Appends the header of a plain frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_as(false, out);
    }

    pub(crate) fn encode_as(&self, is_bundle: bool, out: &mut Vec<u8>) {
        let kind = if is_bundle { BUNDLE } else { 0 };
        put_varint(out, u64::from(self.partition) | kind);
        put_varint(out, u64::from(self.origin.0));
        out.extend_from_slice(&self.previous.0.to_le_bytes());
        put_varint(out, self.last.0 - self.previous.0);
        let others = || self.seen.iter().filter(|(origin, _)| *origin != self.origin);
        put_varint(out, others().count() as u64);
        for (origin, time) in others() {
            put_varint(out, u64::from(origin.0));
            out.extend_from_slice(&time.0.to_le_bytes());
        }
    }
}

impl<'a> Frame<'a> {
    /// Reads a frame that fills `bytes`. The operations are not looked at.
    ///
    /// # Errors
    /// [`Malformed`] when the header is not one.
    pub fn decode(bytes: &'a [u8]) -> Result<Frame<'a>, Malformed> {
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(Malformed("frame too large"));
        }
        let mut reader = Reader::new(bytes);
        let first = reader.varint()?;
        let is_bundle = first & BUNDLE != 0;
        let partition =
            u16::try_from(first & !BUNDLE).map_err(|_| Malformed("unknown kind of frame"))?;
        let origin = read_origin(&mut reader)?;
        let previous = Time(reader.u64()?);
        let last = previous.0.checked_add(reader.varint()?);
        let last = Time(last.ok_or(Malformed("stamp overflows"))?);
        let count = reader.varint()?;
        let mut seen = VersionVector::new();
        for _ in 0..count {
            let other = read_origin(&mut reader)?;
            seen.set(other, Time(reader.u64()?));
        }
        if last == previous || seen.get(origin) > Time::ZERO {
            return Err(Malformed("frame header contradicts itself"));
        }
        let header = FrameHeader { partition, origin, previous, last, seen };
        Ok(Frame { header, is_bundle, ops: reader.rest() })
    }

    /// Its operations, with what their author had seen.
    #[must_use]
    pub fn groups(&self) -> Groups<'a> {
        Groups::of(self)
    }
}

pub(crate) fn read_u16(reader: &mut Reader<'_>) -> Result<u16, Malformed> {
    u16::try_from(reader.varint()?).map_err(|_| Malformed("number beyond 16 bits"))
}

pub(crate) fn read_origin(reader: &mut Reader<'_>) -> Result<Origin, Malformed> {
    let origin = Origin(read_u16(reader)?);
    if origin.index() >= MAX_REGIONS {
        return Err(Malformed("ordinal too large"));
    }
    Ok(origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_trip() {
        let mut seen = VersionVector::new();
        seen.set(Origin(0), Time(77));
        seen.set(Origin(2), Time(u64::MAX));
        let header = FrameHeader {
            partition: 15,
            origin: Origin(1),
            previous: Time(5),
            last: Time(9),
            seen,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        bytes.extend_from_slice(b"ops");
        assert_eq!(Frame::decode(&bytes), Ok(Frame { header, is_bundle: false, ops: b"ops" }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Frame::decode(&bytes);
        }
    }
}
