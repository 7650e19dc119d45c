//! A bundle: several frames of one origin in one partition, shortened, applied as one.
//!
//! Where later operations make earlier ones pointless (rule R7), the earlier ones need not travel.
//! But what is left must be applied whole or not at all: in between, the origin's entry of the
//! vector would claim operations whose effect is not there. So a bundle is a frame like any other
//! (one header, from the stamp before the first to the stamp of the last) whose operations come in
//! groups, each with the vector that *its* author had seen. What an operation covers must not grow
//! by being bundled: a later vector would remove writes that its author never saw.
//!
//! ```text
//! bundle := header (kind 1) | group*
//! group  := count varint | (origin varint, distance varint)* | operations bytes
//! ```
//! The first group's distances say how far its vector lies *below* the header's, the others' how
//! far above the group's before. The last group's vector is the header's.

use meridian_clock::{Time, VersionVector};
use meridian_codec::{Malformed, Reader, put_bytes, put_varint};

use crate::frame::{Frame, FrameHeader, read_origin};

/// Operations that share the vector that their author had seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// What the author had seen of the other origins.
    pub seen: VersionVector,
    /// The operations, as `meridian-crdt` encodes them. The first stamp is counted from the last
    /// one of the group before.
    pub ops: &'a [u8],
}

/// Walks the groups of a frame: one of a plain frame, all of a bundle.
#[derive(Clone, Debug)]
pub struct Groups<'a> {
    header: FrameHeader,
    reader: Reader<'a>,
    is_bundle: bool,
    seen: Option<VersionVector>,
}

impl<'a> Groups<'a> {
    pub(crate) fn of(frame: &Frame<'a>) -> Groups<'a> {
        let reader = Reader::new(frame.ops);
        Groups { header: frame.header.clone(), reader, is_bundle: frame.is_bundle, seen: None }
    }

    /// The next group; none at the end.
    ///
    /// # Errors
    /// [`Malformed`] when there is none where one should be, or its vector is not between the
    /// vector before it and the header's.
    #[allow(clippy::should_implement_trait, reason = "fallible, and borrowing from the frame")]
    pub fn next(&mut self) -> Result<Option<Group<'a>>, Malformed> {
        if !self.is_bundle {
            if self.seen.is_some() {
                return Ok(None);
            }
            self.seen = Some(VersionVector::new());
            let (seen, ops) = (self.header.seen.clone(), self.reader.rest());
            return Ok(Some(Group { seen, ops }));
        }
        if self.reader.is_empty() {
            let ended = self.seen.as_ref() == Some(&self.header.seen);
            return if ended { Ok(None) } else { Err(Malformed("bundle ends before its vector")) };
        }
        let is_first = self.seen.is_none();
        let mut seen = self.seen.take().unwrap_or_else(|| self.header.seen.clone());
        for _ in 0..self.reader.varint()? {
            let origin = read_origin(&mut self.reader)?;
            let (now, distance) = (seen.get(origin).0, self.reader.varint()?);
            let moved =
                if is_first { now.checked_sub(distance) } else { now.checked_add(distance) };
            let moved = Time(moved.ok_or(Malformed("bundle's vector overflows"))?);
            if moved > self.header.seen.get(origin) || origin == self.header.origin {
                return Err(Malformed("bundle's vector contradicts its header"));
            }
            seen.set(origin, moved);
        }
        let ops = self.reader.bytes()?;
        if ops.is_empty() {
            return Err(Malformed("empty group in a bundle"));
        }
        self.seen = Some(seen.clone());
        Ok(Some(Group { seen, ops }))
    }
}

/// Builds a bundle's bytes.
#[derive(Debug)]
pub struct BundleWriter {
    header: FrameHeader,
    seen: Option<VersionVector>,
    out: Vec<u8>,
}

impl BundleWriter {
    /// Begins a bundle. `header` spans all of it, its vector is the last group's.
    #[must_use]
    pub fn new(header: FrameHeader) -> BundleWriter {
        let mut out = Vec::new();
        header.encode_as(true, &mut out);
        BundleWriter { header, seen: None, out }
    }

    /// Adds a group; vectors must not go back.
    pub fn push(&mut self, seen: &VersionVector, ops: &[u8]) {
        let entries: Vec<(u16, u64)> = match &self.seen {
            None => self.header.seen.iter().map(|(o, t)| (o.0, t.0 - seen.get(o).0)).collect(),
            Some(before) => seen.iter().map(|(o, t)| (o.0, t.0 - before.get(o).0)).collect(),
        };
        let changed = || entries.iter().filter(|(o, by)| *by > 0 && *o != self.header.origin.0);
        put_varint(&mut self.out, changed().count() as u64);
        for (origin, by) in changed() {
            put_varint(&mut self.out, u64::from(*origin));
            put_varint(&mut self.out, *by);
        }
        put_bytes(&mut self.out, ops);
        self.seen = Some(seen.clone());
    }

    /// The bundle.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_clock::Origin;
    use proptest::prelude::*;

    fn vector(entries: &[(u16, u64)]) -> VersionVector {
        let mut vector = VersionVector::new();
        for (origin, time) in entries {
            vector.set(Origin(*origin), Time(*time));
        }
        vector
    }

    fn header(seen: VersionVector) -> FrameHeader {
        let (previous, last) = (Time(5), Time(9));
        FrameHeader { partition: 3, origin: Origin(1), previous, last, seen }
    }

    /// The groups, or what is wrong.
    fn groups(bytes: &[u8]) -> Result<Vec<(VersionVector, Vec<u8>)>, Malformed> {
        let frame = Frame::decode(bytes)?;
        let (mut groups, mut found) = (frame.groups(), Vec::new());
        while let Some(group) = groups.next()? {
            found.push((group.seen, group.ops.to_vec()));
        }
        Ok(found)
    }

    #[test]
    fn round_trip() {
        let [first, second, last] =
            [&[(0, 10)][..], &[(0, 12), (2, 7)], &[(0, 12), (2, 90)]].map(vector);
        let mut bundle = BundleWriter::new(header(last.clone()));
        for (seen, ops) in [(&first, "a"), (&second, "bb"), (&last, "c")] {
            bundle.push(seen, ops.as_bytes());
        }
        let bytes = bundle.finish();
        assert_eq!(Frame::decode(&bytes).unwrap().header, header(last.clone()));
        let expected = [(first, b"a".to_vec()), (second, b"bb".to_vec()), (last, b"c".to_vec())];
        assert_eq!(groups(&bytes).unwrap(), expected);
    }

    #[test]
    fn a_plain_frame_is_one_group() {
        let mut bytes = Vec::new();
        header(vector(&[(0, 10)])).encode(&mut bytes);
        bytes.extend_from_slice(b"ops");
        assert_eq!(groups(&bytes).unwrap(), [(vector(&[(0, 10)]), b"ops".to_vec())]);
    }

    #[test]
    fn vectors_beyond_the_header_are_refused() {
        let (small, large) = (vector(&[(0, 10)]), vector(&[(0, 11)]));
        let mut bundle = BundleWriter::new(header(small.clone()));
        bundle.push(&small, b"a");
        bundle.push(&large, b"b");
        assert!(groups(&bundle.finish()).is_err(), "above");
        let mut bundle = BundleWriter::new(header(large));
        bundle.push(&small, b"a");
        assert!(groups(&bundle.finish()).is_err(), "the last is not the header's");
        let mut bundle = BundleWriter::new(header(small.clone()));
        bundle.push(&small, b"");
        assert!(groups(&bundle.finish()).is_err(), "empty");
        assert!(groups(&BundleWriter::new(header(small)).finish()).is_err(), "no group");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut bundle = BundleWriter::new(header(vector(&[(0, 10), (2, 3)]))).finish();
            bundle.extend_from_slice(&bytes);
            let _ = groups(&bundle);
        }
    }
}
