//! Session tokens: what a session has written and read, in a form that fits a cookie.
//!
//! A token holds one stamp for each region and partition that the session has touched, and not
//! one for each region alone: a region that has every write of a session must be able to say so
//! after the region that took them has died, when no promise about the other partitions will come
//! from it any more (docs/adr/0014). Where there are too many, the partitions that were touched longest
//! ago fold into one stamp for each region, which then must be there in every partition.
//!
//! On the wire: `m`, a digit for the version, then in base64url (RFC 4648, section 5, no padding)
//! a fingerprint of the cluster, for each origin its newest stamp and the others as what is
//! missing to it, and a checksum. A token is neither secret nor signed: whoever changes one can
//! only make their own session wait.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use meridian_clock::{ClockError, MAX_REGIONS, Origin, Time, VersionVector};
use meridian_codec::{Malformed, Reader, put_varint};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    limits::{MAX_TOKEN_CHARS, MAX_TOKEN_ENTRIES, MAX_TOKEN_PARTITIONS},
    stage::Stage,
};

/// What every token begins with.
const MARK: u8 = b'm';

/// The version that this build makes and reads.
const VERSION: u8 = b'1';

/// Bytes of the checksum at the end.
const CHECKSUM_BYTES: usize = 4;

/// Why a text is no token that this region can use.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// It is not one.
    #[error("not a session token: {0}")]
    Malformed(&'static str),
    /// A newer program made it.
    #[error("session token has version {0}, this node reads version 1")]
    Version(char),
    /// It has been changed on its way.
    #[error("session token is damaged: its checksum does not fit")]
    Damaged,
    /// It was made somewhere else.
    #[error("session token is of another cluster")]
    Foreign,
    /// It names a time that this region does not believe in.
    #[error("session token is from the future: its {0}")]
    Future(#[from] ClockError),
}

impl From<Malformed> for TokenError {
    fn from(error: Malformed) -> TokenError {
        TokenError::Malformed(error.0)
    }
}

/// Names a cluster in its tokens: its name and how its keys are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    fingerprint: u64,
    partitions: u16,
}

impl Scope {
    /// The scope of a cluster.
    #[must_use]
    pub fn new(cluster: &str, partitions: u16) -> Scope {
        let name = [&partitions.to_le_bytes()[..], cluster.as_bytes()].concat();
        Scope { fingerprint: xxh3_64(&name), partitions }
    }
}

/// One thing that a region must have: all that `origin` has stamped up to `time`, in one partition
/// or in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The partition; none: every one.
    pub partition: Option<u16>,
    /// Who stamped.
    pub origin: Origin,
    /// Up to when.
    pub time: Time,
}

/// What a session has written and read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// Must be there in every partition.
    everywhere: VersionVector,
    /// Must be there in one partition; bounded by [`MAX_TOKEN_PARTITIONS`] and
    /// [`MAX_TOKEN_ENTRIES`].
    places: BTreeMap<u16, VersionVector>,
}

impl Token {
    /// Of a session that has done nothing.
    #[must_use]
    pub fn new() -> Token {
        Token::default()
    }

    /// Of a session that may have seen all that a region holds.
    #[must_use]
    pub fn of(stage: &Stage) -> Token {
        let mut token = Token::new();
        for number in 0..stage.partitions() {
            token.observe(number, &stage.partition(number).vector);
        }
        token
    }

    /// The session has seen a partition as `vector` says.
    pub fn observe(&mut self, partition: u16, vector: &VersionVector) {
        let place = self.places.entry(partition).or_default();
        let before = place.iter().count();
        place.join(vector);
        // Mostly the session has been there before, and its token does not grow.
        if place.iter().count() > before || before == 0 {
            self.fold();
        }
    }

    /// The session goes on from another token.
    pub fn join(&mut self, other: &Token) {
        self.everywhere.join(&other.everywhere);
        for (partition, vector) in &other.places {
            self.places.entry(*partition).or_default().join(vector);
        }
        self.fold();
    }

    /// The newest stamp.
    #[must_use]
    pub fn newest(&self) -> Time {
        self.needs().map(|need| need.time).max().unwrap_or_default()
    }

    /// All that a region must have.
    pub fn needs(&self) -> impl Iterator<Item = Need> + '_ {
        let places = self.places.iter().flat_map(|(partition, vector)| {
            vector
                .iter()
                .filter(|(origin, time)| *time > self.everywhere.get(*origin))
                .map(|(origin, time)| Need { partition: Some(*partition), origin, time })
        });
        let everywhere = self.everywhere.iter();
        places.chain(everywhere.map(|(origin, time)| Need { partition: None, origin, time }))
    }

    /// Keeps the token within its limits.
    fn fold(&mut self) {
        let entries = |places: &BTreeMap<u16, VersionVector>| {
            places.values().map(|vector| vector.iter().count()).sum::<usize>()
        };
        while self.places.len() > MAX_TOKEN_PARTITIONS || entries(&self.places) > MAX_TOKEN_ENTRIES
        {
            let newest = |vector: &VersionVector| vector.iter().map(|(_, time)| time).max();
            let oldest = self.places.iter().min_by_key(|(_, vector)| newest(vector));
            let Some(oldest) = oldest.map(|(partition, _)| *partition) else { return };
            let Some(vector) = self.places.remove(&oldest) else { return };
            self.everywhere.join(&vector);
        }
    }

    /// The token as text.
    #[must_use]
    pub fn encode(&self, scope: Scope) -> String {
        let mut origins: BTreeMap<Origin, Vec<(u16, Time)>> = BTreeMap::new();
        for need in self.needs() {
            let entries = origins.entry(need.origin).or_default();
            entries.extend(need.partition.map(|partition| (partition, need.time)));
        }
        let mut body = scope.fingerprint.to_le_bytes().to_vec();
        put_varint(&mut body, origins.len() as u64);
        for (origin, entries) in origins {
            let floor = self.everywhere.get(origin);
            let newest = entries.iter().map(|(_, time)| *time).fold(floor, Time::max);
            put_varint(&mut body, u64::from(origin.0));
            body.extend_from_slice(&newest.0.to_le_bytes());
            // Zero says that there is none.
            let missing = if floor == Time::ZERO { 0 } else { newest.0 - floor.0 + 1 };
            put_varint(&mut body, missing);
            put_varint(&mut body, entries.len() as u64);
            for (partition, time) in entries {
                put_varint(&mut body, u64::from(partition));
                put_varint(&mut body, newest.0 - time.0);
            }
        }
        body.extend_from_slice(&checksum(&body));
        let mut text = String::from_utf8_lossy(&[MARK, VERSION]).into_owned();
        URL_SAFE_NO_PAD.encode_string(&body, &mut text);
        text
    }

    /// Reads a token that somebody presents.
    ///
    /// # Errors
    /// [`TokenError`]; whether its time can be believed is [`Token::check`]'s to say.
    pub fn decode(text: &[u8], scope: Scope) -> Result<Token, TokenError> {
        if text.len() > MAX_TOKEN_CHARS {
            return Err(TokenError::Malformed("too long"));
        }
        let text = match text {
            [MARK, VERSION, rest @ ..] => rest,
            [MARK, version @ b'0'..=b'9', ..] => {
                return Err(TokenError::Version(char::from(*version)));
            }
            _ => return Err(TokenError::Malformed("it does not begin as one")),
        };
        let bytes = URL_SAFE_NO_PAD.decode(text);
        let bytes = bytes.map_err(|_| TokenError::Malformed("characters that cannot be"))?;
        let (body, sum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(TokenError::Malformed("it is too short"))?;
        if *sum != checksum(body) {
            return Err(TokenError::Damaged);
        }
        let mut reader = Reader::new(body);
        if reader.u64()? != scope.fingerprint {
            return Err(TokenError::Foreign);
        }
        let token = Token::read(&mut reader, scope)?;
        if !reader.is_empty() {
            return Err(TokenError::Malformed("bytes behind its end"));
        }
        Ok(token)
    }

    fn read(reader: &mut Reader<'_>, scope: Scope) -> Result<Token, TokenError> {
        let mut token = Token::new();
        let (mut entries, origins) = (0, reader.varint()?);
        for _ in 0..origins {
            let origin = u16::try_from(reader.varint()?).ok();
            let origin = origin.filter(|o| usize::from(*o) < MAX_REGIONS);
            let origin = Origin(origin.ok_or(TokenError::Malformed("ordinal too large"))?);
            let newest = reader.u64()?;
            let before = |missing: u64| {
                let time = newest.checked_sub(missing).filter(|time| *time > 0);
                time.map(Time).ok_or(TokenError::Malformed("stamp before all time"))
            };
            if let Some(missing) = reader.varint()?.checked_sub(1) {
                token.everywhere.raise(origin, before(missing)?);
            }
            for _ in 0..reader.varint()? {
                entries += 1;
                let partition = u16::try_from(reader.varint()?).ok();
                let partition = partition.filter(|p| *p < scope.partitions);
                let partition = partition.ok_or(TokenError::Malformed("no such partition"))?;
                let time = before(reader.varint()?)?;
                token.places.entry(partition).or_default().raise(origin, time);
                if entries > MAX_TOKEN_ENTRIES || token.places.len() > MAX_TOKEN_PARTITIONS {
                    return Err(TokenError::Malformed("too many stamps"));
                }
            }
        }
        Ok(token)
    }

    /// Checks that nobody is asked to wait for a time that the region's clock does not believe in.
    ///
    /// # Errors
    /// [`TokenError::Future`].
    pub fn check(&self, stage: &Stage) -> Result<(), TokenError> {
        Ok(stage.clock().check(self.newest())?)
    }

    /// The first thing that the region does not have; none: it covers the token.
    #[must_use]
    pub fn missing(&self, stage: &Stage) -> Option<Need> {
        self.needs().find(|need| !need.is_met(stage))
    }

    /// How far the region is behind the token: for each origin that something is missing of, in
    /// how many partitions, and by how many milliseconds at most.
    #[must_use]
    pub fn lag(&self, stage: &Stage) -> BTreeMap<Origin, (usize, u64)> {
        let mut lag: BTreeMap<Origin, (usize, u64)> = BTreeMap::new();
        for need in self.needs() {
            for partition in need.unmet(stage) {
                let have = stage.partition(partition).complete_until(need.origin);
                let behind_ms = if have == Time::ZERO {
                    0
                } else {
                    need.time.as_ms().saturating_sub(have.as_ms()).max(1)
                };
                let (partitions, ms) = lag.entry(need.origin).or_default();
                *partitions += 1;
                *ms = behind_ms.max(*ms);
            }
        }
        lag
    }
}

impl Need {
    /// Whether the region has it.
    #[must_use]
    pub fn is_met(&self, stage: &Stage) -> bool {
        self.unmet(stage).next().is_none()
    }

    /// The partitions that lack it.
    fn unmet(self, stage: &Stage) -> impl Iterator<Item = u16> + '_ {
        let range = self.partition.map_or(0..stage.partitions(), |p| p..p + 1);
        range.filter(move |number| {
            let part = stage.partition(*number);
            // Own stamps are never missing: nothing is stamped at or below the present any more.
            let own = self.origin == stage.me() && self.time <= stage.now();
            // That an origin is retired says that nothing more of it comes, not that all of it came:
            // what only a dead region had is missing. Of a partition that the session may never
            // have touched it is all that anybody can say.
            let is_here = match self.partition {
                Some(_) => part.complete_until(self.origin) >= self.time,
                None => part.is_complete(self.origin, self.time),
            };
            !own && !is_here
        })
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    (xxh3_64(body) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARTITIONS: u16 = 256;

    fn scope() -> Scope {
        Scope::new("shop", PARTITIONS)
    }

    /// Partitions that a session has seen, one after the other.
    fn sights(partitions: u16, origins: u16) -> impl Strategy<Value = Vec<(u16, Vec<(u16, u64)>)>> {
        let stamp = prop_oneof![1..=u64::MAX, (1u64..5000).prop_map(|t| (1 << 62) + t)];
        let vector = prop::collection::vec((0..origins, stamp), 1..8);
        prop::collection::vec((0..partitions, vector), 0..80)
    }

    fn token_of(sights: &[(u16, Vec<(u16, u64)>)]) -> Token {
        let mut token = Token::new();
        for (partition, entries) in sights {
            let mut vector = VersionVector::new();
            entries.iter().for_each(|(o, t)| vector.raise(Origin(*o), Time(*t)));
            token.observe(*partition, &vector);
        }
        token
    }

    /// What the token asks of one partition and origin.
    fn asked(token: &Token, partition: u16, origin: u16) -> Time {
        let here = |need: &Need| need.partition.is_none_or(|p| p == partition);
        let needs = token.needs().filter(|n| here(n) && n.origin == Origin(origin));
        needs.map(|n| n.time).max().unwrap_or_default()
    }

    fn check_text(token: &Token) -> Result<(), TestCaseError> {
        let text = token.encode(scope());
        prop_assert!(text.len() <= MAX_TOKEN_CHARS);
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
        let read = Token::decode(text.as_bytes(), scope()).expect("a token");
        prop_assert!(read.needs().eq(token.needs()));
        prop_assert_eq!(read.encode(scope()), text);
        Ok(())
    }

    proptest! {
        #[test]
        fn a_token_survives_its_text_and_asks_for_all_that_was_seen(
            seen in sights(20, 7), far in sights(PARTITIONS, MAX_REGIONS as u16),
        ) {
            let (near, far_token) = (token_of(&seen), token_of(&far));
            let mut joined = near.clone();
            joined.join(&far_token);
            for token in [&near, &far_token, &joined] {
                check_text(token)?;
            }
            for (partition, entries) in seen.iter().chain(&far) {
                for (origin, time) in entries {
                    prop_assert!(asked(&joined, *partition, *origin) >= Time(*time));
                }
            }
        }

        #[test]
        fn few_partitions_are_asked_for_exactly(seen in sights(8, 3)) {
            let token = token_of(&seen);
            for partition in 0..8 {
                for origin in 0..3 {
                    let times = seen.iter().filter(|(p, _)| *p == partition);
                    let times = times.flat_map(|(_, v)| v).filter(|(o, _)| *o == origin);
                    let newest = times.map(|(_, t)| *t).max().unwrap_or(0);
                    prop_assert_eq!(asked(&token, partition, origin), Time(newest));
                }
            }
        }

        #[test]
        fn a_token_of_correct_form_is_read_without_harm(mut body: Vec<u8>) {
            let mut bytes = scope().fingerprint.to_le_bytes().to_vec();
            bytes.append(&mut body);
            bytes.extend_from_slice(&checksum(&bytes));
            let text = format!("m1{}", URL_SAFE_NO_PAD.encode(&bytes));
            if let Ok(token) = Token::decode(text.as_bytes(), scope()) {
                check_text(&token)?;
            }
        }
    }

    #[test]
    fn a_usual_token_is_short() {
        let now = Time::from_ms(1_700_000_000_000);
        let size = |partitions: u16, regions: u16| {
            let mut token = Token::new();
            for p in 0..partitions {
                let mut vector = VersionVector::new();
                for o in 0..regions {
                    let ago_ms = u64::from(p) * 97 + u64::from(o) * 13;
                    vector.raise(Origin(o), Time(now.0 - Time::from_ms(ago_ms).0));
                }
                token.observe(p, &vector);
            }
            token.encode(scope()).len()
        };
        assert_eq!([size(1, 1), size(1, 3), size(16, 3), size(16, 7)], [37, 72, 432, 981]);
    }
}
