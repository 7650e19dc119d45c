//! What a state repair puts into the log: elements as another region holds them, and what that
//! region had seen. A repair is one or more parts in one log entry, so that it is applied whole or
//! not at all; the last part moves the partition's vector.
//!
//! ```text
//! part := varint 0xFFFF | version u8 | flags u8 | partition varint | vector | element*
//! vector := entries varint, (origin varint, time u64)*
//! element := key bytes | element bytes | present u8 | [value bytes]
//! ```
//! A frame begins with its partition, and none is numbered 0xFFFF: that tells the two apart.

use meridian_clock::{Origin, Time, VersionVector};
use meridian_codec::{Malformed, Reader, put_bytes, put_varint};

use crate::frame::{MAX_FRAME_BYTES, read_origin, read_u16};

const MARK: u64 = 0xFFFF;
const VERSION: u8 = 1;

const FLAG_LAST: u8 = 1;
const FLAG_UNION: u8 = 1 << 1;
const KNOWN_FLAGS: u8 = FLAG_LAST | FLAG_UNION;

/// The head of one part of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairHeader {
    /// The partition that is repaired.
    pub partition: u16,
    /// What the region that the elements come from had seen of it.
    pub seen: VersionVector,
    /// The last part: the vector moves.
    pub last: bool,
    /// The two sides had seen the same and yet differed: what either holds stays.
    pub union: bool,
}

/// One element of a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairElement<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Which element of it, as `meridian-crdt`'s `ElementKey` encodes it.
    pub element: &'a [u8],
    /// What the other region holds, stored form; none if it holds nothing.
    pub value: Option<&'a [u8]>,
}

/// One part of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairPart<'a> {
    /// The head.
    pub header: RepairHeader,
    elements: &'a [u8],
}

impl RepairHeader {
    /// Appends the head; elements follow by [`RepairElement::encode`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, MARK);
        out.push(VERSION);
        out.push(u8::from(self.last) * FLAG_LAST + u8::from(self.union) * FLAG_UNION);
        put_varint(out, u64::from(self.partition));
        put_varint(out, self.seen.iter().count() as u64);
        for (origin, time) in self.seen.iter() {
            put_varint(out, u64::from(origin.0));
            out.extend_from_slice(&time.0.to_le_bytes());
        }
    }
}

impl<'a> RepairElement<'a> {
    /// Appends the element.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.key);
        put_bytes(out, self.element);
        out.push(u8::from(self.value.is_some()));
        if let Some(value) = self.value {
            put_bytes(out, value);
        }
    }

    /// Reads an element off the front.
    ///
    /// # Errors
    /// [`Malformed`] when there is none.
    pub fn read(reader: &mut Reader<'a>) -> Result<RepairElement<'a>, Malformed> {
        let (key, element) = (reader.bytes()?, reader.bytes()?);
        let value = match reader.u8()? {
            0 => None,
            1 => Some(reader.bytes()?),
            _ => return Err(Malformed("element of a repair is neither there nor absent")),
        };
        Ok(RepairElement { key, element, value })
    }
}

impl<'a> RepairPart<'a> {
    /// Whether what a log entry holds is a part of a repair, and not a frame.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        Reader::new(bytes).varint() == Ok(MARK)
    }

    /// Reads the head. The elements are looked at by [`RepairPart::elements`].
    ///
    /// # Errors
    /// [`Malformed`] when the head is not one, or of a newer version.
    pub fn decode(bytes: &'a [u8]) -> Result<RepairPart<'a>, Malformed> {
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(Malformed("part of a repair is too large"));
        }
        let mut reader = Reader::new(bytes);
        if reader.varint()? != MARK {
            return Err(Malformed("no part of a repair"));
        }
        if reader.u8()? != VERSION {
            return Err(Malformed("repair written by a newer version of meridian"));
        }
        let flags = reader.u8()?;
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Malformed("part of a repair has unknown flags"));
        }
        let partition = read_u16(&mut reader)?;
        let mut seen = VersionVector::new();
        for _ in 0..reader.varint()? {
            let origin: Origin = read_origin(&mut reader)?;
            seen.set(origin, Time(reader.u64()?));
        }
        let (last, union) = (flags & FLAG_LAST != 0, flags & FLAG_UNION != 0);
        let header = RepairHeader { partition, seen, last, union };
        Ok(RepairPart { header, elements: reader.rest() })
    }

    /// The elements in order.
    pub fn elements(&self) -> impl Iterator<Item = Result<RepairElement<'a>, Malformed>> + use<'a> {
        let mut reader = Reader::new(self.elements);
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || reader.is_empty() {
                return None;
            }
            let element = RepairElement::read(&mut reader);
            failed = element.is_err();
            Some(element)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Frame;
    use proptest::prelude::*;

    #[test]
    fn round_trip_and_never_taken_for_a_frame_that_applies() {
        let mut seen = VersionVector::new();
        seen.set(Origin(3), Time(77));
        let header = RepairHeader { partition: 5, seen, last: true, union: false };
        let elements = [
            RepairElement { key: b"k", element: b"\x01", value: Some(b"value") },
            RepairElement { key: b"", element: b"\x02f", value: None },
        ];
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        elements.iter().for_each(|e| e.encode(&mut bytes));
        assert!(RepairPart::is_one(&bytes));
        let part = RepairPart::decode(&bytes).unwrap();
        assert_eq!(part.header, header);
        assert_eq!(part.elements().collect::<Result<Vec<_>, _>>().unwrap(), elements);
        let frame = Frame::decode(&bytes);
        assert!(frame.is_err() || frame.unwrap().header.partition == u16::MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let marked = [&[0xff, 0xff, 0x03, 1, 0][..], &bytes].concat();
            for bytes in [&bytes, &marked] {
                if let Ok(part) = RepairPart::decode(bytes) {
                    let _ = part.elements().count();
                }
            }
        }
    }
}
