//! Every operation that was ever in a log, as far as somebody may still know it.

use std::collections::{BTreeMap, VecDeque};

use meridian_clock::{Dot, Origin, Time, VersionVector};
use meridian_crdt::{Action, Amount, Element, OpReader};
use meridian_store::{Frame, FrameHeader};

use crate::spec::{self, Act, ONE, Part, Record, Shown, Units};

/// When a command ran that wrote up to a stamp.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    /// The stamp of its last operation.
    pub upto: Time,
    /// The author's hybrid time before it.
    pub now: Time,
    /// No client asked for it.
    pub swept: bool,
}

/// The operations by key.
#[derive(Debug, Default)]
pub(crate) struct History {
    keys: BTreeMap<Vec<u8>, (u16, Vec<Record>)>,
    /// Commands whose operations are not in a log yet, by partition and author.
    notes: BTreeMap<(u16, Origin), VecDeque<Note>>,
    /// By partition: what each origin has written last.
    pub written: BTreeMap<u16, VersionVector>,
    pub operations: u64,
    /// Who wrote a value that was written once.
    values: BTreeMap<Vec<u8>, Dot>,
}

/// A key's operations are looked through for needless ones when there are so many.
const PRUNE_FROM: usize = 32;

impl History {
    /// A command has run; its operations will be in the next commit.
    pub fn note(&mut self, partition: u16, author: Origin, note: Note) {
        self.notes.entry((partition, author)).or_default().push_back(note);
    }

    /// The author has died: what it had not committed never was.
    pub fn forget_notes(&mut self, author: Origin) {
        self.notes.retain(|(_, origin), _| *origin != author);
    }

    /// A frame is in its author's log.
    pub fn learn(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let FrameHeader { partition, origin, previous, .. } = frame.header;
        let mut reader = OpReader::new(frame.ops, origin, previous);
        while let Some((dot, op)) = reader.next().map_err(|e| e.to_string())? {
            let note = self.note_of(partition, dot);
            let note = note.ok_or_else(|| format!("nobody asked for operation {dot}"))?;
            let mut before = frame.header.seen.clone();
            before.set(origin, Time(dot.time.0 - 1));
            let absent = !spec::shows(self.records(op.key), &before, note.now);
            let act = self.act_of(dot, op.key, &op.action);
            let seen = frame.header.seen.clone();
            let record = Record { dot, seen, act, absent, swept: note.swept };
            self.insert(op.key, partition, record)?;
            self.written.entry(partition).or_default().raise(origin, dot.time);
        }
        Ok(())
    }

    /// The author has lost what it wrote after `vectors` and nobody else has it. Returns what.
    pub fn forget(&mut self, author: Origin, vectors: &[VersionVector]) -> Vec<(u16, Dot)> {
        self.forget_notes(author);
        let mut lost = Vec::new();
        for (partition, records) in self.keys.values_mut() {
            let kept = vectors[usize::from(*partition)].get(author);
            records.retain(|r| {
                let keep = r.dot.origin != author || r.dot.time <= kept;
                if !keep {
                    lost.push((*partition, r.dot));
                }
                keep
            });
        }
        for (partition, written) in &mut self.written {
            let kept = vectors[usize::from(*partition)].get(author);
            written.set(author, written.get(author).min(kept));
        }
        lost
    }

    /// What a key must show.
    pub fn show(&self, key: &[u8], seen: &VersionVector, now: Time) -> Option<Shown> {
        spec::show(self.records(key), seen, now)
    }

    /// What a key would show if nothing had ever been reclaimed.
    pub fn show_unswept(&self, key: &[u8], seen: &VersionVector, now: Time) -> Option<Shown> {
        spec::show(self.records(key).filter(|r| !r.swept), seen, now)
    }

    /// Who wrote a value.
    pub fn writer(&self, value: &[u8]) -> Option<Dot> {
        self.values.get(value).copied()
    }

    /// Drops operations that can matter to nobody: all regions have, and will always have, both
    /// them and one that supersedes them.
    pub fn prune(&mut self, stable: &[VersionVector]) {
        for (partition, records) in self.keys.values_mut() {
            if records.len() < PRUNE_FROM {
                continue;
            }
            let stable = &stable[usize::from(*partition)];
            let keep: Vec<bool> = (0..records.len())
                .map(|at| {
                    let (record, later) = (&records[at], &records[at + 1..]);
                    let continues = |r: &Record| continues(record, r);
                    !stable.covers(record.dot)
                        || (matches!(record.act, Act::Add { .. }) && !later.iter().any(continues))
                        || !later.iter().any(|o| stable.covers(o.dot) && o.supersedes(record))
                })
                .collect();
            let mut keep = keep.into_iter();
            records.retain(|_| keep.next().unwrap_or(true));
        }
    }

    /// A key's operations.
    pub fn records(&self, key: &[u8]) -> impl Iterator<Item = &Record> {
        self.keys.get(key).into_iter().flat_map(|(_, records)| records)
    }

    /// Everything that was written, by key.
    pub fn keys(&self) -> impl Iterator<Item = (&[u8], u16, &[Record])> {
        self.keys.iter().map(|(key, (partition, r))| (key.as_slice(), *partition, r.as_slice()))
    }

    fn note_of(&mut self, partition: u16, dot: Dot) -> Option<Note> {
        let notes = self.notes.get_mut(&(partition, dot.origin))?;
        while notes.front().is_some_and(|note| note.upto < dot.time) {
            notes.pop_front();
        }
        notes.front().copied()
    }

    fn act_of(&self, dot: Dot, key: &[u8], action: &Action<'_>) -> Act {
        match action {
            Action::Assign { element, value, ttl } => {
                Act::Assign { part: part(*element), value: value.to_vec(), ttl: *ttl }
            }
            Action::Remove { element } => Act::Remove { part: part(*element) },
            Action::Clear => Act::Clear,
            Action::Expire { deadline } => Act::Expire { deadline: *deadline },
            Action::Incr { element, birth, sum } => {
                let part = part(*element);
                let sum = units(*sum);
                let delta = sum - self.sum_before(dot, key, &part, *birth);
                Act::Add { part, birth: *birth, delta, sum }
            }
        }
    }

    /// Frames carry sums; what one increment added is the difference to the one before.
    fn sum_before(&self, dot: Dot, key: &[u8], part: &Part, birth: Time) -> Units {
        let own = self.records(key).filter(|r| r.dot.origin == dot.origin);
        let sums = own.filter_map(|r| match &r.act {
            Act::Add { part: p, birth: b, sum, .. } if p == part && *b == birth => Some(*sum),
            _ => None,
        });
        sums.last().unwrap_or_default()
    }

    fn insert(&mut self, key: &[u8], partition: u16, record: Record) -> Result<(), String> {
        if let Act::Assign { value, .. } = &record.act {
            self.values.insert(value.clone(), record.dot);
        }
        let (_, records) = self.keys.entry(key.to_vec()).or_insert((partition, Vec::new()));
        match records.binary_search_by_key(&record.dot, |r| r.dot) {
            Ok(_) => Err(format!("stamp {} is used twice", record.dot)),
            Err(at) => {
                records.insert(at, record);
                self.operations += 1;
                Ok(())
            }
        }
    }
}

/// Whether `next` is a later increment of the same author to the same part.
fn continues(record: &Record, next: &Record) -> bool {
    let part = |r: &Record| match &r.act {
        Act::Add { part, .. } => Some(part.clone()),
        _ => None,
    };
    next.dot.origin == record.dot.origin && part(next) == part(record)
}

fn part(element: Element<'_>) -> Part {
    match element {
        Element::String => Part::String,
        Element::Field(name) => Part::Field(name.to_vec()),
        Element::Member(name) => Part::Member(name.to_vec()),
    }
}

fn units(amount: Amount) -> Units {
    Units::from(amount.whole()) * ONE + Units::from(amount.fraction())
}
