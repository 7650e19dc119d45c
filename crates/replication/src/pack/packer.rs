//! From frames to columns, without the increments that a later one supersedes.

use std::collections::BTreeMap;

use meridian_clock::{Dot, Time};
use meridian_codec::{put_bytes, put_signed, put_varint};
use meridian_crdt::{Action, Element, Op, OpReader};
use meridian_store::{Frame, FrameHeader};

use super::COLUMNS;
use super::runs::Runs;
use super::shape::{
    ASSIGN, CLEAR, EXPIRE, FRACTION, FRESH, INCR, KIND_SHIFT, OPENS, REMOVE, SAME_KEY, TTL,
};

/// A key that begins with so many more bytes of the one before than is being assumed changes what is
/// assumed.
const WORTH_A_NEW_SHAPE: usize = 3;

/// Rows of one key that are remembered at a time, so that looking for one stays cheap.
const MAX_LATER_ROWS: usize = 16;

/// Lays frames out in columns.
#[derive(Default)]
pub(super) struct Packer<'a> {
    frames: Vec<u8>,
    times: Vec<u8>,
    vectors: Vec<u8>,
    shapes: Runs,
    gaps: Vec<u8>,
    /// How much of the key before is shared, and how much more there is.
    shared: Runs,
    rests: Runs,
    keys: Vec<u8>,
    names: Vec<u8>,
    lengths: Runs,
    numbers: Vec<u8>,
    values: Vec<u8>,
    verbatim: Vec<u8>,
    previous: Time,
    key: &'a [u8],
    ttl: u64,
}

impl<'a> Packer<'a> {
    /// Adds a frame.
    pub(super) fn frame(&mut self, bytes: &'a [u8]) {
        let Some((header, ops)) = read_frame(bytes) else {
            put_varint(&mut self.frames, 0);
            put_bytes(&mut self.verbatim, bytes);
            return;
        };
        let kept = ops.iter().flatten().count();
        put_varint(&mut self.frames, kept as u64);
        put_varint(&mut self.frames, u64::from(header.partition));
        put_varint(&mut self.frames, u64::from(header.origin.0));
        let others = || header.seen.iter().filter(|(origin, _)| *origin != header.origin);
        put_varint(&mut self.frames, others().count() as u64);
        for (origin, time) in others() {
            put_varint(&mut self.frames, u64::from(origin.0));
            self.vectors.extend_from_slice(&time.0.to_le_bytes());
        }
        put_signed(&mut self.times, header.previous.0.wrapping_sub(self.previous.0) as i64);
        self.previous = header.previous;
        let mut last = header.previous;
        for (dot, op) in ops.iter().flatten() {
            put_varint(&mut self.gaps, dot.time.0 - last.0 - 1);
            last = dot.time;
            self.op(*dot, op);
        }
    }

    fn op(&mut self, dot: Dot, op: &Op<'a>) {
        let is_same = self.key == op.key;
        let mut shape = if is_same { SAME_KEY } else { 0 } | if op.fresh { FRESH } else { 0 };
        if !is_same {
            self.key(op.key);
        }
        match &op.action {
            Action::Assign { element, value, ttl } => {
                shape |= ASSIGN | self.element(*element) | self.ttl(*ttl);
                if !matches!(element, Element::Member(_)) {
                    self.lengths.push(value.len() as u64);
                    self.values.extend_from_slice(value);
                }
            }
            Action::Remove { element } => shape |= REMOVE | self.element(*element),
            Action::Clear => shape |= CLEAR,
            Action::Incr { element, birth, sum } => {
                shape |= INCR | self.element(*element);
                if *birth == dot.time {
                    shape |= OPENS;
                } else {
                    self.keys.extend_from_slice(&birth.0.to_le_bytes());
                }
                put_signed(&mut self.numbers, sum.whole());
                if sum.fraction() > 0 {
                    shape |= FRACTION;
                    put_varint(&mut self.numbers, sum.fraction());
                }
            }
            Action::Expire { deadline } => shape |= EXPIRE | self.ttl(*deadline),
        }
        self.shapes.push(shape);
    }

    fn key(&mut self, key: &'a [u8]) {
        let common = key.iter().zip(self.key).take_while(|(a, b)| a == b).count();
        let (shared, rest) = (self.shared.number, self.rests.number);
        let fits = shared as usize <= common && shared + rest == key.len() as u64;
        let shared = match fits && common < shared as usize + WORTH_A_NEW_SHAPE {
            true => shared as usize,
            false => common,
        };
        self.shared.push(shared as u64);
        self.rests.push((key.len() - shared) as u64);
        self.keys.extend_from_slice(&key[shared..]);
        self.key = key;
    }

    fn element(&mut self, element: Element<'_>) -> u64 {
        match element {
            Element::String => 0,
            Element::Field(name) => {
                put_bytes(&mut self.names, name);
                1 << KIND_SHIFT
            }
            Element::Member(name) => {
                put_bytes(&mut self.names, name);
                2 << KIND_SHIFT
            }
        }
    }

    fn ttl(&mut self, ttl: Time) -> u64 {
        if ttl == Time::MAX {
            return 0;
        }
        let ms = ttl.as_ms();
        put_signed(&mut self.numbers, ms.wrapping_sub(self.ttl) as i64);
        self.ttl = ms;
        TTL
    }

    /// The columns in their order.
    pub(super) fn finish(self) -> [Vec<u8>; COLUMNS] {
        [
            self.frames,
            self.times,
            self.vectors,
            self.shapes.finish(),
            self.gaps,
            self.shared.finish(),
            self.rests.finish(),
            self.keys,
            self.names,
            self.lengths.finish(),
            self.numbers,
            self.values,
            self.verbatim,
        ]
    }
}

/// An operation with its stamp; none in the place of one that is left out.
pub(super) type Kept<'a> = Option<(Dot, Op<'a>)>;

/// The header and the operations of a frame that can be packed.
pub(super) fn read_frame(bytes: &[u8]) -> Option<(FrameHeader, Vec<Kept<'_>>)> {
    let frame = Frame::decode(bytes).ok().filter(|frame| !frame.is_bundle)?;
    let header = frame.header;
    let mut reader = OpReader::new(frame.ops, header.origin, header.previous);
    let mut ops = Vec::new();
    while let Some((dot, op)) = reader.next().ok()? {
        if !op.cuts.is_empty() {
            return None;
        }
        ops.push(Some((dot, op)));
    }
    if ops.is_empty() || reader.last() != header.last {
        return None;
    }
    leave_out(&mut ops);
    Some((header, ops))
}

/// Leaves out increments that a later one of the same row supersedes, unless something else happens to
/// the key in between.
fn leave_out(ops: &mut [Kept<'_>]) {
    let is_incr = |kept: &&Kept<'_>| {
        matches!(kept, Some((_, Op { action: Action::Incr { .. }, fresh: false, .. })))
    };
    if ops.iter().filter(is_incr).count() < 2 {
        return;
    }
    let mut later: BTreeMap<&[u8], Vec<(Element<'_>, Time)>> = BTreeMap::new();
    for kept in ops.iter_mut().rev() {
        let Some((_, op)) = kept else { continue };
        let row = match op.action {
            Action::Incr { element, birth, .. } if !op.fresh => (element, birth),
            _ => {
                later.remove(op.key);
                continue;
            }
        };
        let rows = later.entry(op.key).or_default();
        if rows.contains(&row) {
            *kept = None;
        } else if rows.len() < MAX_LATER_ROWS {
            rows.push(row);
        }
    }
}
