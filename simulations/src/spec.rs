//! What a key must show, said once more and differently: from the set of all operations.
//!
//! Nothing here merges and nothing depends on order. An operation counts if no other operation
//! that counts here had seen it and took it away; everything else follows. It is slow, naive and
//! shares no code with what it judges, the encoding of operations aside.

use std::collections::{BTreeMap, BTreeSet};

use meridian_clock::{Dot, Origin, Time, VersionVector};

/// Units of one whole number in [`Units`]: seventeen decimals.
pub(crate) const ONE: i128 = 100_000_000_000_000_000;

/// A decimal number in units of 10^-17.
pub(crate) type Units = i128;

/// A part of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    String,
    Field(Vec<u8>),
    Member(Vec<u8>),
}

/// What an operation was meant to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Assign {
        part: Part,
        value: Vec<u8>,
        ttl: Time,
    },
    Remove {
        part: Part,
    },
    Clear,
    /// Adds this much. The birth names the run of increments that this one continues; the sum is
    /// what the run comes to with it.
    Add {
        part: Part,
        birth: Time,
        delta: Units,
        sum: Units,
    },
    Expire {
        deadline: Time,
    },
}

/// One operation and what its author had seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub dot: Dot,
    /// What the author had seen of the other origins.
    pub seen: VersionVector,
    pub act: Act,
    /// The author's clients saw no such key: this begins a new life of it.
    pub absent: bool,
    /// No client asked for it: an expired key was reclaimed.
    pub swept: bool,
}

impl Record {
    /// Whether the author had seen the operation of `dot`.
    pub fn had_seen(&self, dot: Dot) -> bool {
        if dot.origin == self.dot.origin { dot.time < self.dot.time } else { self.seen.covers(dot) }
    }

    /// Whether this operation takes away all that the other one did and took away, wherever both
    /// have been applied: its author had seen the other, and so all that the other had seen.
    pub fn supersedes(&self, other: &Record) -> bool {
        let covers = match &other.act {
            _ if self.ends_key() => true,
            _ if other.ends_key() => false,
            Act::Assign { part, .. } | Act::Remove { part } | Act::Add { part, .. } => {
                self.ends(part)
            }
            Act::Expire { .. } => matches!(self.act, Act::Expire { .. }),
            Act::Clear => false,
        };
        covers && self.had_seen(other.dot)
    }

    fn ends_key(&self) -> bool {
        let replaces = matches!(&self.act, Act::Clear | Act::Assign { part: Part::String, .. });
        self.absent || replaces
    }

    fn ends(&self, part: &Part) -> bool {
        let this = match &self.act {
            Act::Assign { part, .. } | Act::Remove { part } => Some(part),
            _ => None,
        };
        self.ends_key() || this == Some(part)
    }
}

/// What a reader sees under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    String(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
}

/// What a reader sees, and until when, in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub content: Content,
    pub deadline_ms: Option<u64>,
}

impl Content {
    /// The parts that show something, whatever their values.
    pub fn parts(&self) -> BTreeSet<Part> {
        match self {
            Content::String(_) => BTreeSet::from([Part::String]),
            Content::Hash(fields) => fields.keys().cloned().map(Part::Field).collect(),
            Content::Set(members) => members.iter().cloned().map(Part::Member).collect(),
        }
    }
}

/// What a key shows at `now` where exactly the operations that `seen` covers have been applied.
pub(crate) fn show<'r>(
    records: impl Iterator<Item = &'r Record>,
    seen: &VersionVector,
    now: Time,
) -> Option<Shown> {
    let key = Key::of(records, seen);
    let string = key.string_deadline();
    let dead = passed(string, now);
    if let Some(value) = key.value(&Part::String, dead) {
        return Some(shown(Content::String(value), string, now));
    }
    let deadline = key.deadline();
    let dead = passed(deadline, now);
    let (mut fields, mut members) = (BTreeMap::new(), BTreeSet::new());
    for part in key.parts() {
        match (part, key.value(part, dead)) {
            (Part::Field(name), Some(value)) => {
                fields.insert(name.clone(), value);
            }
            (Part::Member(name), Some(_)) => {
                members.insert(name.clone());
            }
            _ => {}
        }
    }
    if !fields.is_empty() {
        return Some(shown(Content::Hash(fields), deadline, now));
    }
    (!members.is_empty()).then(|| shown(Content::Set(members), deadline, now))
}

/// Whether a key shows anything at `now` where exactly the operations that `seen` covers have been
/// applied: as [`show`] says, for the price of the first part that does.
pub(crate) fn shows<'r>(
    records: impl Iterator<Item = &'r Record>,
    seen: &VersionVector,
    now: Time,
) -> bool {
    let key = Key::of(records, seen);
    if key.counted.is_empty() {
        return false;
    }
    if key.shows(&Part::String, passed(key.string_deadline(), now)) {
        return true;
    }
    let dead = passed(key.deadline(), now);
    key.parts().into_iter().filter(|part| **part != Part::String).any(|part| key.shows(part, dead))
}

fn shown(content: Content, deadline: Option<Time>, now: Time) -> Shown {
    let deadline = deadline.filter(|at| *at > now && *at < Time::MAX);
    Shown { content, deadline_ms: deadline.map(Time::as_ms) }
}

/// What was written at or before this is dead.
fn passed(deadline: Option<Time>, now: Time) -> Time {
    deadline.filter(|at| *at <= now).unwrap_or_default()
}

struct Key<'r> {
    counted: Vec<&'r Record>,
    /// Those that take something away, the newest first: it is more likely one of them.
    enders: Vec<&'r Record>,
}

impl<'r> Key<'r> {
    fn of(records: impl Iterator<Item = &'r Record>, seen: &VersionVector) -> Key<'r> {
        let counted: Vec<&Record> = records.filter(|r| seen.covers(r.dot)).collect();
        let takes =
            |r: &&&Record| r.absent || !matches!(r.act, Act::Add { .. } | Act::Expire { .. });
        let enders = counted.iter().rev().filter(takes).copied().collect();
        Key { counted, enders }
    }

    fn parts(&self) -> Vec<&'r Part> {
        let part = |r: &&'r Record| match &r.act {
            Act::Assign { part, .. } | Act::Add { part, .. } => Some(part),
            _ => None,
        };
        let mut parts: Vec<&Part> = self.counted.iter().filter_map(part).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    }

    /// Nobody who had seen it has written or removed the part since.
    fn stands(&self, record: &Record, part: &Part) -> bool {
        !self.enders.iter().any(|o| o.had_seen(record.dot) && o.ends(part))
    }

    /// Whether the part has a value.
    fn shows(&self, part: &Part, dead: Time) -> bool {
        self.winner(part).is_some_and(|(dot, ..)| dot.time > dead)
            || self.runs(part).iter().any(|(last, _)| *last > dead)
    }

    /// The written value with the largest dot of those that stand.
    fn winner(&self, part: &Part) -> Option<(Dot, &Vec<u8>, Time)> {
        let written = self.counted.iter().filter_map(|r| match &r.act {
            Act::Assign { part: p, value, ttl } if p == part && self.stands(r, part) => {
                Some((r.dot, value, *ttl))
            }
            _ => None,
        });
        written.max_by_key(|(dot, ..)| *dot)
    }

    /// By origin: when the newest run of increments was last continued, and what of it stands.
    fn runs(&self, part: &Part) -> Vec<(Time, Units)> {
        let mut runs: BTreeMap<Origin, (Time, Time, Units)> = BTreeMap::new();
        for record in &self.counted {
            let Act::Add { part: p, birth, delta, .. } = &record.act else { continue };
            if p != part {
                continue;
            }
            let run = runs.entry(record.dot.origin).or_default();
            if *birth > run.0 {
                *run = (*birth, Time::ZERO, 0);
            }
            if *birth == run.0 && self.stands(record, part) {
                run.1 = run.1.max(record.dot.time);
                run.2 += delta;
            }
        }
        runs.into_values().filter(|run| run.1 > Time::ZERO).map(|run| (run.1, run.2)).collect()
    }

    fn value(&self, part: &Part, dead: Time) -> Option<Vec<u8>> {
        let winner = self.winner(part).filter(|(dot, ..)| dot.time > dead);
        let mut runs = self.runs(part);
        runs.retain(|(last, _)| *last > dead);
        let added: Units = runs.iter().map(|(_, sum)| sum).sum();
        match winner {
            Some((_, value, _)) if runs.is_empty() => Some(value.clone()),
            Some((_, value, _)) => match parse(value) {
                Some(start) => Some(print(start + added)),
                None => Some(value.clone()),
            },
            None if runs.is_empty() => None,
            None => Some(print(added)),
        }
    }

    /// The longest of the deadlines that nobody who had seen them has replaced.
    fn deadline(&self) -> Option<Time> {
        let is_expire = |r: &Record| matches!(r.act, Act::Expire { .. });
        let replaced = |r: &Record| {
            self.counted.iter().rev().any(|o| o.had_seen(r.dot) && (o.ends_key() || is_expire(o)))
        };
        let deadlines = self.counted.iter().filter_map(|r| match r.act {
            Act::Expire { deadline } if !replaced(r) => Some(deadline),
            _ => None,
        });
        deadlines.max()
    }

    /// A string lives as long as its SET said, until an EXPIRE that saw it says otherwise.
    fn string_deadline(&self) -> Option<Time> {
        let Some((dot, _, ttl)) = self.winner(&Part::String) else {
            return self.deadline();
        };
        let retimed =
            self.counted.iter().any(|o| o.had_seen(dot) && matches!(o.act, Act::Expire { .. }));
        match ttl {
            _ if retimed => self.deadline(),
            Time::MAX => None,
            ttl => Some(ttl),
        }
    }
}

/// A plain decimal number; none for other text.
fn parse(text: &[u8]) -> Option<Units> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let whole: Units = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let padded: String = fraction.chars().chain(std::iter::repeat('0')).take(17).collect();
    let units = whole.checked_mul(ONE)? + padded.parse::<Units>().ok()?;
    Some(if negative { -units } else { units })
}

/// The shortest decimal text.
fn print(units: Units) -> Vec<u8> {
    let sign = if units < 0 { "-" } else { "" };
    let (whole, fraction) = (units.abs() / ONE, units.abs() % ONE);
    let fraction = format!("{fraction:017}");
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(time: u64, origin: u16, seen: &[(u16, u64)], act: Act) -> Record {
        let mut vector = VersionVector::new();
        for (origin, time) in seen {
            vector.set(Origin(*origin), Time(*time));
        }
        let dot = Dot::new(Time(time), Origin(origin));
        Record { dot, seen: vector, act, absent: false, swept: false }
    }

    fn set(value: &[u8]) -> Act {
        Act::Assign { part: Part::String, value: value.into(), ttl: Time::MAX }
    }

    fn add(birth: u64, delta: i128) -> Act {
        Act::Add { part: Part::String, birth: Time(birth), delta: delta * ONE, sum: 0 }
    }

    fn check(records: &[Record], expected: Option<&[u8]>) {
        let mut all = VersionVector::new();
        records.iter().for_each(|r| all.raise(r.dot.origin, r.dot.time));
        let shown = show(records.iter(), &all, Time(1000)).map(|s| s.content);
        assert_eq!(shows(records.iter(), &all, Time(1000)), shown.is_some());
        assert_eq!(shown, expected.map(|v| Content::String(v.into())));
    }

    #[test]
    fn rows_of_the_table_of_semantics() {
        let a = record(1, 0, &[], set(b"a"));
        let b = record(2, 1, &[], set(b"b"));
        check(&[a.clone(), b.clone()], Some(b"b"));
        check(&[a.clone(), record(9, 1, &[], Act::Clear)], Some(b"a"));
        check(&[a.clone(), record(9, 1, &[(0, 1)], Act::Clear)], None);
        check(&[record(5, 0, &[], set(b"10")), record(6, 1, &[], add(6, 3))], Some(b"13"));
        check(&[record(6, 1, &[], add(6, 3)), record(7, 0, &[(1, 6)], set(b"10"))], Some(b"10"));
        let grown = [record(6, 1, &[], add(6, 3)), record(8, 1, &[], add(6, 4))];
        let reset = record(7, 0, &[(1, 6)], Act::Clear);
        check(&[&grown[..], &[reset]].concat(), Some(b"4"));
    }

    #[test]
    fn numbers_are_printed_as_short_as_they_can_be() {
        for text in ["0", "-3", "10.5", "-0.25", "7.00000000000000001"] {
            assert_eq!(parse(text.as_bytes()).map(print).as_deref(), Some(text.as_bytes()));
        }
        assert_eq!(parse(b"v1-2"), None);
    }
}
