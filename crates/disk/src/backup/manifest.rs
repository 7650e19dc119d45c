//! What a backup says of itself.
//!
//! ```text
//! meridian backup 3 <sha256 of the number, a line's end and the lines below>
//! { … JSON … }
//! ```
//! The first line stays as it is in every later format, so that this build can say that a backup is
//! newer than itself. The number is the format of the directory that was backed up: it covers what
//! the log holds too.

use std::collections::BTreeSet;
use std::path::Path;

use meridian_clock::{MAX_REGIONS, Origin, Time, VersionVector};
use meridian_store::{Identity, LogPosition, StoreError};
use serde::{Deserialize, Serialize};

use super::object::{hex, sha256};
use crate::options::FORMAT;

const TITLE: &str = "meridian backup ";
/// The longest identifier of a backup.
const ID_BYTES_MAX: usize = 64;

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name: when it was taken, in UTC.
    pub id: String,
    /// When it was taken, milliseconds since 1970 by its node's clock.
    pub created_ms: u64,
    /// Version of meridian that took it.
    pub version: String,
    /// Whose data.
    pub owner: Owner,
    /// The checkpoint.
    pub checkpoint: Frozen,
    /// The log, in order and without gaps: from the checkpoint's position or before it to the end.
    pub log: Vec<Piece>,
    /// Where it ends.
    pub end: End,
}

/// Whose data a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The cluster's name.
    pub cluster: String,
    /// The region's name.
    pub region: String,
    /// The region's ordinal.
    pub ordinal: u16,
    /// The cluster's number of partitions.
    pub partitions: u16,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// The log is replayed from here.
    pub position: u64,
    /// No cell of it is newer than the log up to here.
    pub until: u64,
    /// The largest stamp in the log up to there: the checkpoint holds nothing newer.
    pub last: u64,
    /// Which database it is of: files of the same name and database are the same.
    pub database: String,
    /// Its files.
    pub files: Vec<FrozenFile>,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenFile {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub object: Object,
}

/// Whole entries of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// Position of the first.
    pub from: u64,
    /// Position after the last.
    pub to: u64,
    /// The smallest last stamp of a frame in it.
    pub first: u64,
    /// What it holds.
    pub object: Object,
}

/// Bytes in the directory of backups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// Their SHA-256 in hexadecimal.
    pub sha256: String,
    /// How many.
    pub bytes: u64,
}

/// The state at a backup's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The log's position.
    pub position: u64,
    /// The largest stamp that had been seen.
    pub last: u64,
    /// What each partition had seen: ordinals and stamps.
    pub vectors: Vec<Vec<(u16, u64)>>,
    /// Digests by slot, as far as they were taken.
    pub digests: Option<Object>,
}

/// Digests of slots, as they are stored: `slot u16 | digest u64`, little-endian, in order. A slot
/// that is not there has digest zero, which is nothing; one whose digest was not taken has
/// [`UNKNOWN`] set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    slots: Vec<(u16, Option<u64>)>,
}

/// Beyond every slot.
const UNKNOWN: u16 = 1 << 15;

impl Digests {
    /// Of these slots, in order; none for a digest that was not taken.
    pub fn new(slots: impl Iterator<Item = (u16, Option<u64>)>) -> Digests {
        Digests { slots: slots.filter(|(_, digest)| *digest != Some(0)).collect() }
    }

    /// The slots that differ from `now`, among those whose digest was taken.
    pub fn differing(&self, now: impl Iterator<Item = (u16, u64)>) -> Vec<u16> {
        let mut said = self.slots.iter().peekable();
        let differs = |(slot, digest): (u16, u64)| {
            let then = said.next_if(|(said, _)| *said == slot).map_or(Some(0), |(_, then)| *then);
            then.is_some_and(|then| then != digest).then_some(slot)
        };
        now.filter_map(differs).collect()
    }

    /// How many slots' digests were not taken.
    #[must_use]
    pub fn unknown(&self) -> usize {
        self.slots.iter().filter(|(_, digest)| digest.is_none()).count()
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let each = |(slot, digest): &(u16, Option<u64>)| {
            let flag = if digest.is_none() { UNKNOWN } else { 0 };
            let digest = digest.unwrap_or_default().to_le_bytes();
            (slot | flag).to_le_bytes().into_iter().chain(digest).collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(each).collect()
    }

    /// Reads the stored form; none if that is cut short.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Digests> {
        let (records, rest) = bytes.as_chunks::<10>();
        let read = |record: &[u8; 10]| {
            let (slot, digest) = record.split_first_chunk::<2>()?;
            let slot = u16::from_le_bytes(*slot);
            let digest = u64::from_le_bytes(*digest.first_chunk::<8>()?);
            Some((slot & !UNKNOWN, (slot & UNKNOWN == 0).then_some(digest)))
        };
        let slots = records.iter().map(read).collect::<Option<Vec<_>>>()?;
        rest.is_empty().then_some(Digests { slots })
    }
}

impl Owner {
    /// Of a directory.
    #[must_use]
    pub fn of(identity: &Identity) -> Owner {
        Owner {
            cluster: identity.cluster.clone(),
            region: identity.region.clone(),
            ordinal: identity.origin.0,
            partitions: identity.partitions,
        }
    }

    /// As a directory says it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            cluster: self.cluster.clone(),
            region: self.region.clone(),
            origin: Origin(self.ordinal),
            partitions: self.partitions,
        }
    }
}

impl End {
    /// What each partition had seen.
    #[must_use]
    pub fn vectors(&self) -> Vec<VersionVector> {
        let vector = |entries: &Vec<(u16, u64)>| {
            let mut vector = VersionVector::new();
            entries.iter().for_each(|(origin, time)| vector.set(Origin(*origin), Time(*time)));
            vector
        };
        self.vectors.iter().map(vector).collect()
    }

    /// As stored.
    #[must_use]
    pub fn store(vectors: &[VersionVector]) -> Vec<Vec<(u16, u64)>> {
        let entries = |vector: &VersionVector| vector.iter().map(|(o, t)| (o.0, t.0)).collect();
        vectors.iter().map(entries).collect()
    }
}

impl Manifest {
    /// Everything that it names.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        let files = self.checkpoint.files.iter().map(|file| &file.object);
        files.chain(self.log.iter().map(|piece| &piece.object)).chain(&self.end.digests)
    }

    /// How much it holds, whatever of that it shares with others, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let mut seen = BTreeSet::new();
        self.objects().filter(|object| seen.insert(*object)).map(|object| object.bytes).sum()
    }

    /// The largest stamp in its checkpoint.
    #[must_use]
    pub fn checkpoint_last(&self) -> Time {
        Time(self.checkpoint.last)
    }

    /// Ordinals that have written something of it.
    #[must_use]
    pub fn origins(&self) -> BTreeSet<Origin> {
        let all = self.end.vectors.iter().flatten();
        let writers = all.filter(|(_, time)| *time > 0).map(|(origin, _)| Origin(*origin));
        writers.chain([Origin(self.owner.ordinal)]).collect()
    }

    /// Whether it is of the same directory's life as another.
    #[must_use]
    pub fn is_of(&self, owner: &Owner) -> bool {
        self.owner == *owner
    }

    /// The stored form.
    ///
    /// # Errors
    /// None that can happen: the types are plain.
    pub(super) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| StoreError::Refused(format!("manifest of {}: {error}", self.id)))?;
        let body = json + "\n";
        let head = format!("{TITLE}{FORMAT} {}\n", checksum(FORMAT, &body));
        Ok((head + &body).into_bytes())
    }

    /// Reads the stored form of the file at `path`.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a newer format, [`StoreError::Corrupt`] for a damaged one.
    pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Manifest, StoreError> {
        let corrupt = |reason: &str| StoreError::Corrupt {
            file: path.display().to_string(),
            offset: 0,
            reason: reason.to_owned(),
        };
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("not text"))?;
        let (head, body) = text.split_once('\n').ok_or_else(|| corrupt("a line is missing"))?;
        let said = head.strip_prefix(TITLE).and_then(|rest| rest.split_once(' '));
        let (format, sum) = said.ok_or_else(|| corrupt("not a manifest of a backup"))?;
        let format: u32 = format.parse().map_err(|_| corrupt("not a manifest of a backup"))?;
        if format > FORMAT {
            return Err(StoreError::Refused(format!(
                "{} was written by a newer version of meridian: its format is {format}, this \
                 version reads up to {FORMAT}",
                path.display()
            )));
        }
        if sum != checksum(format, body) {
            return Err(corrupt("checksum does not match"));
        }
        let manifest: Manifest =
            serde_json::from_str(body).map_err(|error| corrupt(&error.to_string()))?;
        manifest.check().map_err(corrupt)?;
        Ok(manifest)
    }

    /// A checksum can be right and the contents hostile: names become paths, positions lengths.
    fn check(&self) -> Result<(), &'static str> {
        if !is_id(&self.id) {
            return Err("impossible identifier");
        }
        if usize::from(self.owner.ordinal) >= MAX_REGIONS {
            return Err("impossible ordinal");
        }
        let partitions = self.owner.partitions;
        if !partitions.is_power_of_two() || self.end.vectors.len() != usize::from(partitions) {
            return Err("impossible partitions");
        }
        let ordinals = self.end.vectors.iter().flatten().map(|(origin, _)| *origin);
        if ordinals.max().is_some_and(|most| usize::from(most) >= MAX_REGIONS) {
            return Err("impossible ordinal");
        }
        if !self.checkpoint.files.iter().all(|file| is_file_name(&file.name)) {
            return Err("impossible file name");
        }
        let names: BTreeSet<&str> =
            self.checkpoint.files.iter().map(|file| file.name.as_str()).collect();
        if names.len() != self.checkpoint.files.len() {
            return Err("a file comes twice");
        }
        if !self.objects().all(|object| is_sha256(&object.sha256)) {
            return Err("impossible checksum");
        }
        let mut at = self.log.first().map_or(self.checkpoint.position, |piece| piece.from);
        if at > self.checkpoint.position {
            return Err("the log begins after the checkpoint");
        }
        for piece in &self.log {
            if piece.from != at || piece.to.checked_sub(piece.from) != Some(piece.object.bytes) {
                return Err("the log has a gap");
            }
            at = piece.to;
        }
        let end = self.end.position;
        if at != end || !(self.checkpoint.position..=end).contains(&self.checkpoint.until) {
            return Err("the log does not reach the end");
        }
        Ok(())
    }

    /// From where on the log is there.
    #[must_use]
    pub fn log_start(&self) -> LogPosition {
        LogPosition(self.log.first().map_or(self.checkpoint.position, |piece| piece.from))
    }
}

/// Whether this can name a backup.
pub(super) fn is_id(id: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(sound) && !id.starts_with('.')
}

fn is_file_name(name: &str) -> bool {
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(sound) && !name.starts_with('.')
}

/// Covers the number too: one that a flipped bit made an older one is damage.
fn checksum(format: u32, body: &str) -> String {
    hex(&sha256(format!("{format}\n{body}").as_bytes()))
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn object(seed: u8, bytes: u64) -> Object {
        Object { sha256: hex(&sha256(&[seed])), bytes }
    }

    pub fn manifest(id: &str) -> Manifest {
        Manifest {
            id: id.to_owned(),
            created_ms: 1_700_000_000_000,
            version: "0.1.0".to_owned(),
            owner: Owner {
                cluster: "shop".to_owned(),
                region: "us-east".to_owned(),
                ordinal: 0,
                partitions: 1,
            },
            checkpoint: Frozen {
                position: 100,
                until: 150,
                last: 40,
                database: "one".to_owned(),
                files: vec![FrozenFile { name: "000007.sst".to_owned(), object: object(1, 9) }],
            },
            log: vec![
                Piece { from: 50, to: 120, first: 5, object: object(2, 70) },
                Piece { from: 120, to: 200, first: 30, object: object(3, 80) },
            ],
            end: End { position: 200, last: 60, vectors: vec![vec![(0, 60)]], digests: None },
        }
    }

    fn decode(bytes: &[u8]) -> Result<Manifest, StoreError> {
        Manifest::decode(bytes, Path::new("m.backup"))
    }

    #[test]
    fn what_is_written_is_read() {
        let manifest = manifest("20231114-221320-000");
        assert_eq!(decode(&manifest.encode().unwrap()).unwrap(), manifest);
        assert_eq!(Digests::decode(&[0; 11]), None);
    }

    #[test]
    fn only_digests_that_were_taken_are_compared() {
        let then = [(0, Some(7)), (1, Some(0)), (2, None), (16_383, Some(u64::MAX))];
        let digests = Digests::decode(&Digests::new(then.into_iter()).encode()).unwrap();
        let differing = |now: [u64; 4]| digests.differing([0, 1, 2, 16_383].into_iter().zip(now));
        assert_eq!(differing([7, 0, 99, u64::MAX]), Vec::<u16>::new());
        assert_eq!(differing([8, 1, 99, 0]), [0, 1, 16_383]);
        assert_eq!(digests.unknown(), 1);
    }

    #[test]
    fn no_flipped_byte_goes_unnoticed() {
        let bytes = manifest("a").encode().unwrap();
        for index in 0..bytes.len() {
            for bit in [0, 5] {
                let mut flipped = bytes.clone();
                flipped[index] ^= 1 << bit;
                assert!(decode(&flipped).is_err(), "byte {index}, bit {bit}");
            }
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let text = String::from_utf8(manifest("a").encode().unwrap()).unwrap();
        let newer =
            text.replacen(&format!("backup {FORMAT} "), &format!("backup {} ", FORMAT + 1), 1);
        let error = decode(newer.as_bytes()).unwrap_err();
        assert!(matches!(&error, StoreError::Refused(why) if why.contains("newer")), "{error}");
    }

    #[test]
    fn what_would_lead_astray_is_refused_although_its_checksum_is_right() {
        let harms: [fn(&mut Manifest); 10] = [
            |m| m.id = "../../etc/passwd".to_owned(),
            |m| m.checkpoint.files[0].name = "../CURRENT".to_owned(),
            |m| m.checkpoint.files[0].object.sha256 = "../../../x".to_owned(),
            |m| m.owner.ordinal = 64,
            |m| m.owner.partitions = 2,
            |m| m.end.vectors[0].push((999, 1)),
            |m| m.log[1].from = 121,
            |m| m.log[1].to = 110,
            |m| m.checkpoint.position = 20,
            |m| m.checkpoint.until = 300,
        ];
        for (number, harm) in harms.into_iter().enumerate() {
            let mut manifest = manifest("a");
            harm(&mut manifest);
            let error = decode(&manifest.encode().unwrap());
            assert!(matches!(error, Err(StoreError::Corrupt { .. })), "harm {number}");
        }
    }
}
