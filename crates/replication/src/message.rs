//! What peers say to each other, apart from the frames themselves.

use std::borrow::Cow;

use meridian_clock::{MAX_REGIONS, Origin, Time, VersionVector};
use meridian_codec::{Malformed, Reader, put_bytes, put_varint};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{limits::MAX_BATCH_BYTES, pack};

/// One vector a partition, as it travels: ordinals and times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vectors(Vec<Vec<(u16, u64)>>);

impl Vectors {
    /// From one vector a partition.
    #[must_use]
    pub fn pack(vectors: &[VersionVector]) -> Vectors {
        let pack = |v: &VersionVector| v.iter().map(|(o, t)| (o.0, t.0)).collect();
        Vectors(vectors.iter().map(pack).collect())
    }

    /// What has moved since `before`: partition, ordinal, time. None if that cannot be told so, since
    /// something is not there any more.
    #[must_use]
    pub fn moved_since(&self, before: &Vectors) -> Option<Vec<(u16, u16, u64)>> {
        if self.0.len() != before.0.len() {
            return None;
        }
        let mut moved = Vec::new();
        for (partition, (now, then)) in (0..).zip(self.0.iter().zip(&before.0)) {
            let time_of = |list: &[(u16, u64)], ordinal: u16| {
                list.iter().find(|(o, _)| *o == ordinal).map(|(_, time)| *time)
            };
            if now.len() < then.len() || then.iter().any(|(o, _)| time_of(now, *o).is_none()) {
                return None;
            }
            let news = now.iter().filter(|(o, time)| time_of(then, *o) != Some(*time));
            moved.extend(news.map(|(ordinal, time)| (partition, *ordinal, *time)));
        }
        Some(moved)
    }

    /// Moves entries, as [`Vectors::moved_since`] tells them.
    ///
    /// # Errors
    /// [`Malformed`] for a partition that is not there or an ordinal that is too large; some entries
    /// may have been moved then.
    pub fn advance(&mut self, entries: &[(u16, u16, u64)]) -> Result<(), Malformed> {
        for (partition, ordinal, time) in entries {
            let list = self.0.get_mut(usize::from(*partition));
            let list = list.ok_or(Malformed("entry of a partition that is not there"))?;
            if usize::from(*ordinal) >= MAX_REGIONS {
                return Err(Malformed("ordinal too large"));
            }
            // In order of ordinals, as vectors are packed.
            match list.binary_search_by_key(ordinal, |(o, _)| *o) {
                Ok(at) => list[at].1 = *time,
                Err(at) if list.len() < MAX_REGIONS => list.insert(at, (*ordinal, *time)),
                Err(_) => return Err(Malformed("more entries than there are ordinals")),
            }
        }
        Ok(())
    }

    /// Back to one vector a partition.
    ///
    /// # Errors
    /// [`Malformed`] when there are not `partitions` of them or an ordinal is too large.
    pub fn unpack(&self, partitions: u16) -> Result<Vec<VersionVector>, Malformed> {
        if self.0.len() != usize::from(partitions) {
            return Err(Malformed("not one vector for each partition"));
        }
        self.0.iter().map(|v| unpack_vector(v)).collect()
    }
}

fn unpack_vector(entries: &[(u16, u64)]) -> Result<VersionVector, Malformed> {
    let mut vector = VersionVector::new();
    for (ordinal, time) in entries {
        if usize::from(*ordinal) >= MAX_REGIONS {
            return Err(Malformed("ordinal too large"));
        }
        vector.set(Origin(*ordinal), Time(*time));
    }
    Ok(vector)
}

/// The first message of a session. Its layout stays as it is in every version: it is read before
/// a version is agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol that the sender speaks.
    pub version: u16,
    /// The cluster's name.
    pub cluster: String,
    /// The sender's ordinal.
    pub origin: Origin,
    /// The cluster's number of partitions.
    pub partitions: u16,
}

impl Hello {
    /// Whether two nodes may exchange frames, whatever their versions; else why not.
    ///
    /// # Errors
    /// A text for the log of both sides.
    pub fn check(&self, mine: &Hello) -> Result<(), String> {
        if self.cluster != mine.cluster {
            return Err(format!("peer is of cluster {:?}, not {:?}", self.cluster, mine.cluster));
        }
        if self.partitions != mine.partitions {
            let (theirs, ours) = (self.partitions, mine.partitions);
            return Err(format!("peer has {theirs} partitions, not {ours}"));
        }
        if self.origin == mine.origin {
            return Err(format!("peer claims this region's own ordinal {}", self.origin));
        }
        Ok(())
    }
}

/// "Send me these origins' frames, from here on." Replaces the subscription before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// Counts the subscriptions of a session; frames carry it back.
    pub number: u64,
    /// Whose frames.
    pub origins: Vec<Origin>,
    /// What the subscriber has.
    pub vectors: Vectors,
}

/// What the sender has durably applied, and a promise that it writes nothing more at or below
/// `now`. It acknowledges what it covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Durable, by partition.
    pub vectors: Vectors,
    /// The sender's hybrid time.
    pub now: u64,
    /// The sender's physical clock, in milliseconds since 1970.
    pub physical_ms: u64,
}

impl Watermark {
    /// Tells it from the others of a session.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, self.now);
        for list in &self.vectors.0 {
            put_varint(&mut bytes, list.len() as u64);
            for (ordinal, time) in list {
                put_varint(&mut bytes, u64::from(*ordinal));
                bytes.extend_from_slice(&time.to_le_bytes());
            }
        }
        xxh3_64(&bytes)
    }
}

/// Frames in log order, as one message of the live lane: `number | (length | frame)*`, or the same
/// packed, which [`Batch::plain`] undoes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The subscription that they answer.
    pub number: u64,
    /// The frames.
    pub frames: Vec<&'a [u8]>,
}

impl<'a> Batch<'a> {
    /// Begins an encoded batch.
    #[must_use]
    pub fn begin(number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, number);
        out
    }

    /// Adds a frame to an encoded batch.
    pub fn push(out: &mut Vec<u8>, frame: &[u8]) {
        put_bytes(out, frame);
    }

    /// All of these frames, packed: for peers that speak [`crate::PACKED_SINCE`].
    #[must_use]
    pub fn packed(number: u64, frames: &[&[u8]]) -> Vec<u8> {
        pack::pack(number, frames)
    }

    /// The plain form of a batch, which [`Batch::decode`] reads.
    ///
    /// # Errors
    /// [`Malformed`] when it is packed and cannot be read, or would become too large.
    pub fn plain(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
        if pack::is_packed(bytes) {
            return pack::unpack(bytes).map(Cow::Owned);
        }
        Ok(Cow::Borrowed(bytes))
    }

    /// Reads a plain batch.
    ///
    /// # Errors
    /// [`Malformed`] when it is none or too large.
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>, Malformed> {
        if bytes.len() > MAX_BATCH_BYTES {
            return Err(Malformed("batch too large"));
        }
        let mut reader = Reader::new(bytes);
        let number = reader.varint()?;
        let mut frames = Vec::new();
        while !reader.is_empty() {
            frames.push(reader.bytes()?);
        }
        Ok(Batch { number, frames })
    }
}
