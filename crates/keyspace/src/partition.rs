//! One partition: the unit of ordering, of version vector and of repair.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_clock::{Dot, Origin, Time, VersionVector};
use meridian_crdt::{ElementKey, Op, Row, encode_op};
use meridian_store::FrameHeader;

/// How far into the queue of empty rows to look for one that may go; a region that is away must
/// not make every look a long one.
const COLLECT_AHEAD: usize = 1024;

/// A partition's vector, the frame that is being filled, and what waits for other regions.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    /// What has been applied here.
    pub vector: VersionVector,
    /// The frame of local operations that the current commit is filling.
    open: OpenFrame,
    /// What each other region is known to have applied.
    known: BTreeMap<Origin, VersionVector>,
    /// Up to when each other region has promised to have sent everything.
    watermark: BTreeMap<Origin, Time>,
    /// Origins that write nothing any more and whose every record is here.
    retired: BTreeSet<Origin>,
    /// Empty counter rows that wait for their origin to have seen the reset.
    residue: VecDeque<Residue>,
}

#[derive(Clone, Debug, Default)]
struct OpenFrame {
    ops: Vec<u8>,
    previous: Time,
    last: Time,
    /// The last operation's key.
    key: Vec<u8>,
}

/// An empty row and what had been seen here when it was emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residue {
    /// The key that holds it.
    pub key: Box<[u8]>,
    /// The element that holds it.
    pub element: ElementKey,
    /// The row's origin.
    pub origin: Origin,
    /// The row's birth.
    pub birth: Time,
    /// The row's newest increment.
    pub last: Time,
    noted: VersionVector,
}

impl Residue {
    /// Whether `row` is still the one that was noted.
    #[must_use]
    pub fn is(&self, row: &Row) -> bool {
        row.origin == self.origin && row.birth == self.birth && row.last == self.last
    }
}

impl Partition {
    /// Adds a local operation to the open frame.
    pub fn push(&mut self, op: &Op<'_>, dot: Dot) {
        if self.open.ops.is_empty() {
            self.open.previous = self.vector.get(dot.origin);
            self.open.last = self.open.previous;
        }
        let start = self.open.ops.len();
        let same = start > 0 && self.open.key == op.key;
        encode_op(&mut self.open.ops, op, dot, (same.then_some(op.key), self.open.last));
        if !same {
            self.open.key.clear();
            self.open.key.extend_from_slice(op.key);
        }
        self.open.last = dot.time;
    }

    /// Bytes of operations in the open frame.
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.open.ops.len()
    }

    /// Appends the open frame, behind its length, and starts a new one. Nothing is appended when
    /// nothing was written.
    pub fn close(&mut self, number: u16, me: Origin, out: &mut Vec<u8>) -> bool {
        if self.open.ops.is_empty() {
            return false;
        }
        let header = FrameHeader {
            partition: number,
            origin: me,
            previous: self.open.previous,
            last: self.open.last,
            seen: self.vector.clone(),
        };
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        header.encode(out);
        out.extend_from_slice(&self.open.ops);
        let length = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self.open.ops.clear();
        self.open.ops.shrink_to(1 << 20);
        true
    }

    /// Learns what a region has applied. Only meaningful if everything that the region had
    /// written by then has been applied here (FIFO), which the caller has checked.
    pub fn learn(&mut self, origin: Origin, vector: &VersionVector) {
        self.known.entry(origin).or_default().join(vector);
    }

    /// Learns that the region writes nothing more at or below `upto`.
    pub fn promise(&mut self, origin: Origin, upto: Time) {
        let mark = self.watermark.entry(origin).or_default();
        *mark = upto.max(*mark);
    }

    /// Learns that nothing of the origin is missing here and nothing new will ever come.
    pub fn retire(&mut self, origin: Origin) {
        self.retired.insert(origin);
    }

    /// Whether nothing stamped at or below `time` can arrive any more from `origins`.
    pub fn is_settled(&self, time: Time, mut origins: impl Iterator<Item = Origin>) -> bool {
        origins.all(|o| {
            self.vector.get(o) > time || self.watermark.get(&o).is_some_and(|mark| *mark > time)
        })
    }

    /// Whether all that the origin stamped up to `upto` is here: it has been applied, or the
    /// origin has promised that nothing more of it comes.
    #[must_use]
    pub fn is_complete(&self, origin: Origin, upto: Time) -> bool {
        self.complete_until(origin) >= upto || self.retired.contains(&origin)
    }

    /// Up to when all that the origin stamped is known to be here.
    #[must_use]
    pub fn complete_until(&self, origin: Origin) -> Time {
        let promised = self.watermark.get(&origin).copied().unwrap_or_default();
        self.vector.get(origin).max(promised)
    }

    /// Notes an empty row, and what had been seen when it was emptied.
    pub fn note(&mut self, key: &[u8], element: ElementKey, row: &Row, seen: &VersionVector) {
        self.residue.push_back(Residue {
            key: key.into(),
            element,
            origin: row.origin,
            birth: row.birth,
            last: row.last,
            noted: seen.clone(),
        });
    }

    /// Forgets the empty rows, to note those that are there anew.
    pub fn forget_residue(&mut self) {
        self.residue.clear();
    }

    /// The next empty row that may go: its origin has seen all that had been seen here when the
    /// row was emptied, so its next increment opens a new row. `early` does not wait for that.
    pub fn collect(&mut self, early: bool) -> Option<Residue> {
        let at = self.residue.iter().take(COLLECT_AHEAD).position(|r| {
            early
                || self.retired.contains(&r.origin)
                || self.known.get(&r.origin).is_some_and(|known| known.dominates(&r.noted))
        })?;
        self.residue.remove(at)
    }

    /// How many empty rows wait.
    #[must_use]
    pub fn residue(&self) -> usize {
        self.residue.len()
    }
}
