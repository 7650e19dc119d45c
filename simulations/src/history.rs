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
}

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
            let absent = self.show(op.key, &before, note.now).is_none();
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
                let delta = units(*sum) - self.sum_before(dot, key, &part, *birth);
                Act::Add { part, birth: *birth, delta }
            }
        }
    }

    /// Frames carry sums; what one increment added is the difference to the one before.
    fn sum_before(&self, dot: Dot, key: &[u8], part: &Part, birth: Time) -> Units {
        let added = self.records(key).filter(|r| r.dot.origin == dot.origin).map(|r| match &r.act {
            Act::Add { part: p, birth: b, delta } if p == part && *b == birth => *delta,
            _ => 0,
        });
        added.sum()
    }

    fn insert(&mut self, key: &[u8], partition: u16, record: Record) -> Result<(), String> {
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
