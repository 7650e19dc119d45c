//! What a region's log holds of its own writes, and what of it the cluster has never got, as the
//! Redis commands that would write it again.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use meridian_clock::{Origin, Time, VersionVector};
use meridian_crdt::{Action, Amount, Element, OpReader};
use meridian_keyspace::{MIRROR_PREFIX, RESERVED_PREFIX};
use meridian_store::{Entries, Frame, LogPosition, StoreError};

/// How much of the log is read at a time, in bytes.
const READ_BYTES: usize = 4 << 20;
/// Units of an amount's fraction in one whole: 10^17 (see `Amount`).
const FRACTION_UNITS: i128 = 100_000_000_000_000_000;

/// A write that the cluster does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place among all own operations of the log.
    pub number: u64,
    /// When it was written.
    pub time: Time,
    /// The command that writes it again; `None` for an increment whose row began before the log.
    pub command: Option<Vec<Vec<u8>>>,
    /// The key.
    pub key: Vec<u8>,
}

/// Walks a log and hands out what the cluster does not have.
pub struct Scan<'a> {
    origin: Origin,
    cluster: &'a [VersionVector],
    /// Sums of this origin's counter rows, as far as was seen.
    sums: BTreeMap<(Vec<u8>, Vec<u8>, Time), Amount>,
    number: u64,
}

impl<'a> Scan<'a> {
    /// A scan for the writes of `origin` beyond what the cluster has, by partition.
    #[must_use]
    pub fn new(origin: Origin, cluster: &'a [VersionVector]) -> Scan<'a> {
        Scan { origin, cluster, sums: BTreeMap::new(), number: 0 }
    }

    /// Walks the log from `start` to `end`.
    ///
    /// # Errors
    /// When the log cannot be read, or what `found` fails with.
    pub fn run(
        &mut self,
        (start, end): (LogPosition, LogPosition),
        read: impl Fn(LogPosition, usize) -> Result<Vec<u8>, StoreError>,
        mut found: impl FnMut(Record) -> Result<()>,
    ) -> Result<()> {
        let mut position = start;
        while position < end {
            let bytes = read(position, READ_BYTES).context("reading the log")?;
            let before = position;
            for entry in Entries::new(&bytes, position) {
                for frame in entry.frames() {
                    self.frame(frame, &mut found)?;
                }
                position = entry.end;
            }
            if position == before {
                return Err(StoreError::NotHeld(position)).context("reading the log");
            }
        }
        Ok(())
    }

    fn frame(&mut self, bytes: &[u8], found: &mut impl FnMut(Record) -> Result<()>) -> Result<()> {
        let frame = Frame::decode(bytes).context("a frame of the log")?;
        let header = &frame.header;
        if header.origin != self.origin {
            return Ok(());
        }
        let partition = usize::from(header.partition);
        let have = self.cluster.get(partition).map_or(Time::ZERO, |v| v.get(header.origin));
        let mut ops = OpReader::new(frame.ops, header.origin, header.previous);
        while let Some((dot, op)) = ops.next().context("an operation of the log")? {
            self.number += 1;
            let command = self.command(op.key, &op.action, dot.time);
            let is_internal = op.key.starts_with(RESERVED_PREFIX)
                || op.key.starts_with(MIRROR_PREFIX)
                || op.key.starts_with(meridian_keyspace::CHECK_PREFIX);
            if dot.time > have && !is_internal {
                let (number, key) = (self.number, op.key.to_vec());
                found(Record { number, time: dot.time, command, key })?;
            }
        }
        Ok(())
    }

    /// The command that does it again, as a new write.
    fn command(&mut self, key: &[u8], action: &Action<'_>, time: Time) -> Option<Vec<Vec<u8>>> {
        let words = |parts: &[&[u8]]| Some(parts.iter().map(|part| part.to_vec()).collect());
        match action {
            Action::Assign { element: Element::String, value, ttl } if *ttl < Time::MAX => {
                words(&[b"SET", key, value, b"PXAT", ttl.as_ms().to_string().as_bytes()])
            }
            Action::Assign { element: Element::String, value, .. } => words(&[b"SET", key, value]),
            Action::Assign { element: Element::Field(field), value, .. } => {
                words(&[b"HSET", key, field, value])
            }
            Action::Assign { element: Element::Member(member), .. } => {
                words(&[b"SADD", key, member])
            }
            Action::Remove { element: Element::String } | Action::Clear => words(&[b"DEL", key]),
            Action::Remove { element: Element::Field(field) } => words(&[b"HDEL", key, field]),
            Action::Remove { element: Element::Member(member) } => words(&[b"SREM", key, member]),
            Action::Expire { deadline } if *deadline == Time::MAX => words(&[b"PERSIST", key]),
            Action::Expire { deadline } => {
                words(&[b"PEXPIREAT", key, deadline.as_ms().to_string().as_bytes()])
            }
            Action::Incr { element, birth, sum } => {
                let by = self.increment(key, *element, *birth, *sum, time)?;
                let is_whole = !by.contains('.');
                match (element, is_whole) {
                    (Element::Field(field), true) => {
                        words(&[b"HINCRBY", key, field, by.as_bytes()])
                    }
                    (Element::Field(field), false) => {
                        words(&[b"HINCRBYFLOAT", key, field, by.as_bytes()])
                    }
                    (_, true) => words(&[b"INCRBY", key, by.as_bytes()]),
                    (_, false) => words(&[b"INCRBYFLOAT", key, by.as_bytes()]),
                }
            }
        }
    }

    /// By how much one increment raised its row; `None` if the row began before the log does.
    fn increment(
        &mut self,
        key: &[u8],
        element: Element<'_>,
        birth: Time,
        sum: Amount,
        time: Time,
    ) -> Option<String> {
        let name = match element {
            Element::String => Vec::new(),
            Element::Field(name) => [b"f", name].concat(),
            Element::Member(name) => [b"m", name].concat(),
        };
        let before = self.sums.insert((key.to_vec(), name, birth), sum);
        let before = match before {
            Some(before) => units(before),
            None if birth == time => 0,
            None => return None,
        };
        Some(decimal(units(sum).checked_sub(before)?))
    }
}

/// An amount in units of its last fraction digit.
fn units(amount: Amount) -> i128 {
    i128::from(amount.whole()) * FRACTION_UNITS + i128::from(amount.fraction())
}

/// Units as a decimal number.
fn decimal(units: i128) -> String {
    let sign = if units < 0 { "-" } else { "" };
    let (whole, fraction) = (units.abs() / FRACTION_UNITS, units.abs() % FRACTION_UNITS);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let digits = format!("{fraction:017}");
    format!("{sign}{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_clock::Dot;
    use meridian_crdt::{Op, encode_op};
    use meridian_store::{ENTRY_HEADER_BYTES, FrameHeader, encode_entry};

    /// A log of one frame of origin 2 in partition 0, whose operations are stamped 1, 2, 3 …
    fn log(actions: &[(&[u8], Action<'_>)]) -> Vec<u8> {
        let mut frame = Vec::new();
        let header = FrameHeader {
            partition: 0,
            origin: Origin(2),
            previous: Time(0),
            last: Time(actions.len() as u64),
            seen: VersionVector::new(),
        };
        header.encode(&mut frame);
        for (number, (key, action)) in (1..).zip(actions) {
            let dot = Dot::new(Time(number), Origin(2));
            let op = Op::new(key, action.clone());
            encode_op(&mut frame, &op, dot, (None, Time(number - 1)));
        }
        let mut out = vec![0; ENTRY_HEADER_BYTES];
        out.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        out.extend_from_slice(&frame);
        encode_entry(&mut out, 0, LogPosition(0));
        out
    }

    fn scan(origin: u16, have: u64, actions: &[(&[u8], Action<'_>)]) -> Vec<(u64, String)> {
        let bytes = log(actions);
        let mut vector = VersionVector::new();
        vector.set(Origin(2), Time(have));
        let (vectors, mut found) = ([vector], Vec::new());
        let end = LogPosition(bytes.len() as u64);
        let read = |from: LogPosition, _| Ok(bytes[from.0 as usize..].to_vec());
        let mut scan = Scan::new(Origin(origin), &vectors);
        let take = |record: Record| {
            let words = record.command.map(|words| words.join(&b' '));
            let text = words.map_or("?".to_owned(), |w| String::from_utf8(w).unwrap());
            found.push((record.number, text));
            Ok(())
        };
        scan.run((LogPosition(0), end), read, take).unwrap();
        found
    }

    fn incr(birth: u64, sum: &str) -> Action<'static> {
        let sum = Amount::parse(sum.as_bytes()).unwrap();
        Action::Incr { element: Element::String, birth: Time(birth), sum }
    }

    #[test]
    fn every_kind_of_write_becomes_a_command() {
        let never = Time::MAX;
        let at = Time::from_ms(1_700_000_000_000);
        let found = scan(
            2,
            0,
            &[
                (b"a", Action::Assign { element: Element::String, value: b"1", ttl: never }),
                (b"a", Action::Assign { element: Element::String, value: b"2", ttl: at }),
                (b"h", Action::Assign { element: Element::Field(b"f"), value: b"v", ttl: never }),
                (b"s", Action::Assign { element: Element::Member(b"m"), value: b"", ttl: never }),
                (b"h", Action::Remove { element: Element::Field(b"f") }),
                (b"s", Action::Remove { element: Element::Member(b"m") }),
                (b"a", Action::Clear),
                (b"a", Action::Expire { deadline: at }),
                (b"a", Action::Expire { deadline: never }),
                (b"pg:t:1", Action::Clear),
                (b"\0meridian:x", Action::Clear),
            ],
        );
        let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "SET a 1",
                "SET a 2 PXAT 1700000000000",
                "HSET h f v",
                "SADD s m",
                "HDEL h f",
                "SREM s m",
                "DEL a",
                "PEXPIREAT a 1700000000000",
                "PERSIST a"
            ]
        );
    }

    #[test]
    fn only_what_the_cluster_lacks_and_only_ones_own() {
        let set = |value: &'static [u8]| Action::Assign {
            element: Element::String,
            value,
            ttl: Time::MAX,
        };
        let writes = [(&b"k"[..], set(b"1")), (&b"k"[..], set(b"2")), (&b"k"[..], set(b"3"))];
        assert_eq!(scan(2, 2, &writes), [(3, "SET k 3".to_owned())]);
        assert_eq!(scan(2, 3, &writes), []);
        assert_eq!(scan(1, 0, &writes), []);
    }

    #[test]
    fn increments_are_differences_of_sums() {
        let counts = [
            (&b"n"[..], incr(1, "5")),
            (&b"n"[..], incr(1, "7.25")),
            (&b"n"[..], incr(1, "-3")),
            (&b"old"[..], incr(2, "9")),
            (&b"old"[..], incr(2, "10")),
        ];
        let expected =
            ["INCRBY n 5", "INCRBYFLOAT n 2.25", "INCRBYFLOAT n -10.25", "?", "INCRBY old 1"];
        let texts: Vec<String> = scan(2, 0, &counts).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, expected, "the row of `old` began before the log");
        assert_eq!(scan(2, 1, &counts)[0].1, "INCRBYFLOAT n 2.25", "the first one is there");
    }
}
