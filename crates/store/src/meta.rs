//! What the checkpoint says about itself: whose it is and what it covers.

use meridian_clock::{MAX_REGIONS, Origin, Time, VersionVector};
use meridian_codec::{Malformed, Reader, put_bytes, put_varint};

use crate::LogPosition;

/// The format that this build writes. A newer build reads older ones; an older build refuses a
/// newer one.
const FORMAT: u64 = 1;

/// Whose data a directory holds. Fixed when the directory is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The region's name.
    pub region: String,
    /// The region's ordinal.
    pub origin: Origin,
    /// The cluster's number of partitions.
    pub partitions: u16,
}

/// The checkpoint's own record, written in the same batch as the cells that complete it
/// (rule R8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Whose data.
    pub identity: Identity,
    /// Replay the log from here.
    pub position: LogPosition,
    /// What each partition had seen at that position.
    pub vectors: Vec<VersionVector>,
}

impl Meta {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, FORMAT);
        put_bytes(&mut out, self.identity.cluster.as_bytes());
        put_bytes(&mut out, self.identity.region.as_bytes());
        put_varint(&mut out, u64::from(self.identity.origin.0));
        put_varint(&mut out, u64::from(self.identity.partitions));
        put_varint(&mut out, self.position.0);
        for vector in &self.vectors {
            put_varint(&mut out, vector.iter().count() as u64);
            for (origin, time) in vector.iter() {
                put_varint(&mut out, u64::from(origin.0));
                out.extend_from_slice(&time.0.to_le_bytes());
            }
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`Malformed`] when it is damaged or of a newer format.
    pub fn decode(bytes: &[u8]) -> Result<Meta, Malformed> {
        let (body, crc) =
            bytes.split_last_chunk::<4>().ok_or(Malformed("short checkpoint record"))?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(Malformed("checkpoint record's checksum does not match"));
        }
        let mut reader = Reader::new(body);
        match reader.varint()? {
            0 => return Err(Malformed("checkpoint record of no format")),
            1..=FORMAT => {}
            _ => return Err(Malformed("checkpoint written by a newer version of meridian")),
        }
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("name is not UTF-8"))
        };
        let (cluster, region) = (text(reader.bytes()?)?, text(reader.bytes()?)?);
        let origin = read_origin(&mut reader)?;
        let partitions = u16::try_from(reader.varint()?)
            .map_err(|_| Malformed("impossible number of partitions"))?;
        let position = LogPosition(reader.varint()?);
        let vectors =
            (0..partitions).map(|_| read_vector(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        let identity = Identity { cluster, region, origin, partitions };
        Ok(Meta { identity, position, vectors })
    }
}

fn read_origin(reader: &mut Reader<'_>) -> Result<Origin, Malformed> {
    let ordinal = u16::try_from(reader.varint()?).map_err(|_| Malformed("ordinal too large"))?;
    if usize::from(ordinal) >= MAX_REGIONS {
        return Err(Malformed("ordinal too large"));
    }
    Ok(Origin(ordinal))
}

fn read_vector(reader: &mut Reader<'_>) -> Result<VersionVector, Malformed> {
    let mut vector = VersionVector::new();
    for _ in 0..reader.varint()? {
        let origin = read_origin(reader)?;
        vector.set(origin, Time(reader.u64()?));
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let check = |format: u64| {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, format);
            let crc = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            Meta::decode(&bytes).unwrap_err().to_string()
        };
        assert!(check(FORMAT + 1).contains("newer version"));
        assert!(!check(FORMAT).contains("newer version"), "cut short");
        assert!(check(0).contains("no format"));
    }

    #[test]
    fn round_trip_and_damage() {
        let mut vector = VersionVector::new();
        vector.set(Origin(1), Time(99));
        let identity = Identity {
            cluster: "shop".into(),
            region: "us-east".into(),
            origin: Origin(1),
            partitions: 2,
        };
        let meta = Meta {
            identity,
            position: LogPosition(7),
            vectors: vec![vector, VersionVector::new()],
        };
        let mut bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Ok(meta));
        bytes[3] ^= 1;
        assert!(Meta::decode(&bytes).is_err());
    }
}
