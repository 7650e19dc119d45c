//! Batches as they travel between regions that both know how: the same frames, laid out in columns.
//!
//! A frame lists its operations one after the other, each with its kind, its key and its value.
//! What repeats from one operation to the next (the kind, the beginning of the key, the lengths) lies
//! far apart then, and what does not (random values) lies between it: a compressor that looks for
//! repetition finds little, and gives up where the values are random. Here everything of one kind
//! lies together, and what is the same many times over is counted.
//!
//! ```text
//! packed := 0 varint | number varint | (length varint | column)*
//! ```
//! No subscription has the number 0, so it tells a packed batch from a plain one. A row's birth stands
//! behind the key as it is, not as its distance to the increment: the two repeat together.
//!
//! Increments that a later one of the same frame supersedes are left out: rows hold sums, and a frame is
//! applied whole. The frame keeps its ends, so nobody can tell by its stamps (rule R1). Frames whose
//! operations list cuts, and bundles, travel as they are.

use std::collections::BTreeMap;

use meridian_clock::{Dot, MAX_REGIONS, Origin, Time, VersionVector};
use meridian_codec::{Malformed, Reader, put_bytes, put_signed, put_varint};
use meridian_crdt::{Action, Amount, Element, Op, OpReader, encode_op};
use meridian_store::{Frame, FrameHeader};

use crate::limits::MAX_BATCH_BYTES;
use crate::message::Batch;

/// The number that no subscription has.
const PACKED: u64 = 0;

const ASSIGN: u64 = 0;
const REMOVE: u64 = 1;
const CLEAR: u64 = 2;
const INCR: u64 = 3;
const EXPIRE: u64 = 4;
const ACTION_MASK: u64 = 0b111;
const KIND_SHIFT: u64 = 3;
const KIND_MASK: u64 = 0b11;
/// The key is that of the operation before in the batch.
const SAME_KEY: u64 = 1 << 5;
const FRESH: u64 = 1 << 6;
/// A time to live or a deadline follows.
const TTL: u64 = 1 << 7;
const FRACTION: u64 = 1 << 8;
/// The increment opens its row.
const OPENS: u64 = 1 << 9;
const KNOWN_SHAPES: u64 = (1 << 10) - 1;

/// A key that begins with so many more bytes of the one before than is being assumed changes what is
/// assumed.
const WORTH_A_NEW_SHAPE: usize = 3;

/// Frames, times, vectors, shapes, gaps, shared and further lengths of keys, keys, names, lengths of
/// values, numbers, values, frames as they are.
const COLUMNS: usize = 13;

/// Whether a batch is packed.
pub(crate) fn is_packed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&(PACKED as u8))
}

/// Packs frames that answer the subscription `number`.
pub(crate) fn pack(number: u64, frames: &[&[u8]]) -> Vec<u8> {
    answer(number, &pack_columns(frames))
}

/// Columns as a batch that answers the subscription `number`.
pub(crate) fn answer(number: u64, columns: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(columns.len() + 16);
    put_varint(&mut out, PACKED);
    put_varint(&mut out, number);
    out.extend_from_slice(columns);
    out
}

/// The columns of a packed batch: the same for whoever asked for these frames.
pub(crate) fn pack_columns(frames: &[&[u8]]) -> Vec<u8> {
    let mut packer = Packer::default();
    frames.iter().for_each(|frame| packer.frame(frame));
    let columns = packer.finish();
    let bytes: usize = columns.iter().map(Vec::len).sum();
    let mut out = Vec::with_capacity(bytes + 64);
    columns.iter().for_each(|column| put_bytes(&mut out, column));
    out
}

/// The plain form of a packed batch.
///
/// # Errors
/// [`Malformed`] when it is none, or too large as a plain one.
pub(crate) fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.varint()? != PACKED {
        return Err(Malformed("not a packed batch"));
    }
    let mut out = Batch::begin(reader.varint()?);
    let mut unpacker = Unpacker::new(&mut reader)?;
    while let Some(frame) = unpacker.frame(MAX_BATCH_BYTES.saturating_sub(out.len()))? {
        Batch::push(&mut out, &frame);
    }
    unpacker.end()?;
    Ok(out)
}

/// Numbers that stay the same for long: twice the number, and one more if how often it is repeated
/// follows.
#[derive(Default)]
struct Runs {
    out: Vec<u8>,
    number: u64,
    run: u64,
}

impl Runs {
    /// Numbers lie below 2⁶³: they are lengths, or small.
    fn push(&mut self, number: u64) {
        if self.run > 0 && self.number != number {
            self.flush();
        }
        self.number = number;
        self.run += 1;
    }

    fn flush(&mut self) {
        if self.run > 0 {
            put_varint(&mut self.out, self.number << 1 | u64::from(self.run > 1));
        }
        if self.run > 1 {
            put_varint(&mut self.out, self.run - 2);
        }
        self.run = 0;
    }

    fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.out
    }
}

#[derive(Default)]
struct Packer<'a> {
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
    fn frame(&mut self, bytes: &'a [u8]) {
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

    fn finish(self) -> [Vec<u8>; COLUMNS] {
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
type Kept<'a> = Option<(Dot, Op<'a>)>;

/// The header and the operations of a frame that can be packed.
fn read_frame(bytes: &[u8]) -> Option<(FrameHeader, Vec<Kept<'_>>)> {
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

/// Rows of one key that are remembered at a time, so that looking for one stays cheap.
const MAX_LATER_ROWS: usize = 16;

/// Reads what [`Runs`] wrote.
struct RunReader<'a> {
    reader: Reader<'a>,
    number: u64,
    run: u64,
}

impl<'a> RunReader<'a> {
    fn new(reader: Reader<'a>) -> RunReader<'a> {
        RunReader { reader, number: 0, run: 0 }
    }

    fn next(&mut self) -> Result<u64, Malformed> {
        if self.run > 0 {
            self.run -= 1;
            return Ok(self.number);
        }
        let number = self.reader.varint()?;
        self.number = number >> 1;
        if number & 1 == 1 {
            self.run = self.reader.varint()?.checked_add(1).ok_or(Malformed("endless run"))?;
        }
        Ok(self.number)
    }

    fn is_empty(&self) -> bool {
        self.run == 0 && self.reader.is_empty()
    }
}

struct Unpacker<'a> {
    frames: Reader<'a>,
    times: Reader<'a>,
    vectors: Reader<'a>,
    shapes: RunReader<'a>,
    gaps: Reader<'a>,
    shared: RunReader<'a>,
    rests: RunReader<'a>,
    keys: Reader<'a>,
    names: Reader<'a>,
    lengths: RunReader<'a>,
    numbers: Reader<'a>,
    values: Reader<'a>,
    verbatim: Reader<'a>,
    previous: Time,
    key: Vec<u8>,
    ttl: u64,
}

impl<'a> Unpacker<'a> {
    fn new(reader: &mut Reader<'a>) -> Result<Unpacker<'a>, Malformed> {
        let mut column = || reader.bytes().map(Reader::new);
        let unpacker = Unpacker {
            frames: column()?,
            times: column()?,
            vectors: column()?,
            shapes: RunReader::new(column()?),
            gaps: column()?,
            shared: RunReader::new(column()?),
            rests: RunReader::new(column()?),
            keys: column()?,
            names: column()?,
            lengths: RunReader::new(column()?),
            numbers: column()?,
            values: column()?,
            verbatim: column()?,
            previous: Time::ZERO,
            key: Vec::new(),
            ttl: 0,
        };
        if reader.is_empty() { Ok(unpacker) } else { Err(Malformed("bytes after a packed batch")) }
    }

    /// The next frame, in at most about `room` bytes; none at the end.
    fn frame(&mut self, room: usize) -> Result<Option<Vec<u8>>, Malformed> {
        if self.frames.is_empty() {
            return Ok(None);
        }
        let too_large = Malformed("packed batch is too large");
        let count = self.frames.varint()?;
        if count == 0 {
            let bytes = self.verbatim.bytes()?;
            return if bytes.len() <= room { Ok(Some(bytes.to_vec())) } else { Err(too_large) };
        }
        let mut header = self.header()?;
        let (mut ops, mut last) = (Vec::new(), header.previous);
        for index in 0..count {
            let time = last.0.checked_add(1).and_then(|t| t.checked_add(self.gaps.varint().ok()?));
            let dot =
                Dot::new(Time(time.ok_or(Malformed("stamp in a packed batch"))?), header.origin);
            let shape = self.shapes.next()?;
            if shape & SAME_KEY == 0 {
                self.next_key()?;
            }
            let (action, fresh) = (self.action(shape, dot)?, shape & FRESH != 0);
            let op = Op { key: &self.key, action, fresh, cuts: Vec::new() };
            let is_same = index > 0 && shape & SAME_KEY != 0;
            encode_op(&mut ops, &op, dot, (is_same.then_some(&self.key[..]), last));
            if ops.len() > room {
                return Err(too_large);
            }
            last = dot.time;
        }
        header.last = last;
        let mut out = Vec::with_capacity(ops.len() + 64);
        header.encode(&mut out);
        out.extend_from_slice(&ops);
        Ok(Some(out))
    }

    /// Without its last stamp.
    fn header(&mut self) -> Result<FrameHeader, Malformed> {
        let number = |reader: &mut Reader<'_>| {
            u16::try_from(reader.varint()?).map_err(|_| Malformed("number beyond 16 bits"))
        };
        let partition = number(&mut self.frames)?;
        let origin = Origin(number(&mut self.frames)?);
        let others = self.frames.varint()?;
        if others > MAX_REGIONS as u64 || origin.index() >= MAX_REGIONS {
            return Err(Malformed("ordinal too large"));
        }
        let mut seen = VersionVector::new();
        for _ in 0..others {
            let other = Origin(number(&mut self.frames)?);
            if other.index() >= MAX_REGIONS || other == origin {
                return Err(Malformed("vector of a packed frame"));
            }
            seen.set(other, Time(self.vectors.u64()?));
        }
        self.previous = Time(self.previous.0.wrapping_add(self.times.signed()? as u64));
        let (previous, last) = (self.previous, self.previous);
        Ok(FrameHeader { partition, origin, previous, last, seen })
    }

    fn next_key(&mut self) -> Result<(), Malformed> {
        let (shared, rest) = (self.shared.next()?, self.rests.next()?);
        if shared > self.key.len() as u64 {
            return Err(Malformed("key shares more than there is"));
        }
        let rest = usize::try_from(rest).map_err(|_| Malformed("key too long"))?;
        self.key.truncate(shared as usize);
        self.key.extend_from_slice(self.keys.take(rest)?);
        Ok(())
    }

    fn action(&mut self, shape: u64, dot: Dot) -> Result<Action<'a>, Malformed> {
        let (code, kind) = (shape & ACTION_MASK, shape >> KIND_SHIFT & KIND_MASK);
        if shape & !KNOWN_SHAPES != 0 || (matches!(code, CLEAR | EXPIRE) && kind != 0) {
            return Err(Malformed("unknown shape of an operation"));
        }
        let element = match kind {
            0 => Element::String,
            1 => Element::Field(self.names.bytes()?),
            2 => Element::Member(self.names.bytes()?),
            _ => return Err(Malformed("unknown element kind")),
        };
        Ok(match code {
            ASSIGN => {
                let ttl = self.next_ttl(shape)?;
                let mut value = &[][..];
                if kind != 2 {
                    let length = usize::try_from(self.lengths.next()?)
                        .map_err(|_| Malformed("value length"))?;
                    value = self.values.take(length)?;
                }
                Action::Assign { element, value, ttl }
            }
            REMOVE => Action::Remove { element },
            CLEAR => Action::Clear,
            INCR => {
                let opens = shape & OPENS != 0;
                let birth = if opens { dot.time } else { Time(self.keys.u64()?) };
                let whole = self.numbers.signed()?;
                let fraction = if shape & FRACTION != 0 { self.numbers.varint()? } else { 0 };
                let sum = Amount::from_parts(whole, fraction);
                let sum = sum.ok_or(Malformed("fraction of one or more"))?;
                if birth > dot.time {
                    return Err(Malformed("row born after its increment"));
                }
                Action::Incr { element, birth, sum }
            }
            EXPIRE => Action::Expire { deadline: self.next_ttl(shape)? },
            _ => return Err(Malformed("unknown action")),
        })
    }

    fn next_ttl(&mut self, shape: u64) -> Result<Time, Malformed> {
        if shape & TTL == 0 {
            return Ok(Time::MAX);
        }
        self.ttl = self.ttl.wrapping_add(self.numbers.signed()? as u64);
        Ok(Time::from_ms(self.ttl).max(Time(1)))
    }

    fn end(&self) -> Result<(), Malformed> {
        let readers = [
            &self.frames,
            &self.times,
            &self.vectors,
            &self.gaps,
            &self.keys,
            &self.names,
            &self.numbers,
            &self.values,
            &self.verbatim,
        ];
        let runs = [&self.shapes, &self.shared, &self.rests, &self.lengths];
        let is_over = readers.iter().all(|r| r.is_empty()) && runs.iter().all(|r| r.is_empty());
        if is_over { Ok(()) } else { Err(Malformed("packed batch holds more than its frames")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crdt::Cut;
    use proptest::prelude::*;

    const ME: Origin = Origin(2);

    /// A frame of operations, each so far behind the one before.
    fn frame(previous: u64, ops: &[(u64, Op<'_>)]) -> Vec<u8> {
        let (mut bytes, mut key, mut last) = (Vec::new(), None, Time(previous));
        for (gap, op) in ops {
            let dot = Dot::new(Time(last.0 + 1 + gap), ME);
            encode_op(&mut bytes, op, dot, (key, last));
            (key, last) = (Some(op.key), dot.time);
        }
        let mut seen = VersionVector::new();
        seen.set(Origin(0), Time(previous / 2 + 1));
        let (partition, previous) = (7, Time(previous));
        let mut out = Vec::new();
        FrameHeader { partition, origin: ME, previous, last, seen }.encode(&mut out);
        out.extend_from_slice(&bytes);
        out
    }

    fn round_trip(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let packed = Batch::packed(9, &frames);
        let plain = Batch::plain(&packed).expect("what was packed");
        let batch = Batch::decode(&plain).expect("a plain batch");
        assert_eq!(batch.number, 9);
        batch.frames.into_iter().map(<[u8]>::to_vec).collect()
    }

    fn incr(key: &[u8], birth: u64, sum: i64) -> Op<'_> {
        let (element, sum) = (Element::String, Amount::from_int(sum));
        Op::new(key, Action::Incr { element, birth: Time(birth), sum })
    }

    #[test]
    fn what_cannot_be_packed_travels_as_it_is() {
        let cut = Cut {
            element: Element::String,
            origin: Origin(0),
            birth: Time(1),
            last: Time(2),
            sum: Amount::ZERO,
        };
        let with_cuts = Op { cuts: vec![cut], ..Op::new(b"k", Action::Clear) };
        let plain = frame(100, &[(0, incr(b"a", 101, 1))]);
        let frames = [plain.clone(), b"no frame".to_vec(), frame(100, &[(3, with_cuts)]), plain];
        assert_eq!(round_trip(&frames), frames);
    }

    #[test]
    fn of_the_increments_of_a_row_the_last_one_travels() {
        let expire = Op::new(b"n", Action::Expire { deadline: Time::MAX });
        let ops = [
            (0, incr(b"n", 1001, 1)),
            (0, incr(b"other", 5, 1)),
            (4, incr(b"n", 1001, 2)),
            (0, expire.clone()),
            (0, incr(b"n", 1001, 3)),
            (9, incr(b"n", 1001, 4)),
            (0, incr(b"n", 200, 1)),
        ];
        let kept = [
            (1, incr(b"other", 5, 1)),
            (4, incr(b"n", 1001, 2)),
            (0, expire),
            (10, incr(b"n", 1001, 4)),
            (0, incr(b"n", 200, 1)),
        ];
        assert_eq!(round_trip(&[frame(1000, &ops)]), [frame(1000, &kept)]);
    }

    #[test]
    fn a_hot_counter_costs_next_to_nothing() {
        let ops: Vec<_> = (0..500).map(|n| (0, incr(b"hits:0000000001", 7, n))).collect();
        let frame = frame(1 << 40, &ops);
        assert!(Batch::packed(1, &[&frame]).len() < 100);
    }

    #[test]
    fn keys_that_begin_alike_cost_what_they_differ_in() {
        let keys: Vec<Vec<u8>> = (1..1000u64)
            .map(|n| format!("user:{:010}", n * 2_654_435_761 % 9_999_999_967).into())
            .collect();
        let set = |key: &'_ Vec<u8>| {
            let action =
                Action::Assign { element: Element::String, value: &[1; 128], ttl: Time::MAX };
            frame(1 << 40, &[(15, Op::new(key, action))])
        };
        let frames: Vec<Vec<u8>> = keys.iter().map(set).collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        // The stamps, vectors and headers of frames with one operation each.
        let header = 22;
        assert!(Batch::packed(1, &frames).len() <= 999 * (10 + 128 + header));
    }

    #[test]
    fn what_would_unpack_to_too_much_is_refused() {
        // Sixteen million times the same key without any bytes of its own.
        let key = vec![b'k'; 1 << 16];
        let set = Op::new(&key, Action::Clear);
        let small = frame(100, &[(0, set.clone()), (0, set)]);
        let mut packer = Packer::default();
        packer.frame(&small);
        let mut columns = packer.finish();
        let operations = 1 << 24;
        let [frames, _, _, shapes, gaps, shared, rests, ..] = &mut columns;
        *frames = Vec::new();
        [operations, 7, 2, 1, 0].iter().for_each(|n| put_varint(frames, *n));
        let runs = |numbers: &[(u64, u64)]| {
            let mut runs = Runs::default();
            for (number, run) in numbers {
                (0..*run).for_each(|_| runs.push(*number));
            }
            runs.finish()
        };
        *shapes = runs(&[(CLEAR, operations)]);
        *gaps = vec![0; operations as usize];
        *shared = runs(&[(0, 1), (1 << 16, operations - 1)]);
        *rests = runs(&[(1 << 16, 1), (0, operations - 1)]);
        let mut bytes = vec![0, 1];
        columns.iter().for_each(|column| put_bytes(&mut bytes, column));
        assert_eq!(Batch::plain(&bytes), Err(Malformed("packed batch is too large")));
    }

    /// What protocol 3 sends, byte for byte: whoever changes it needs another protocol.
    #[test]
    fn the_layout_is_that_of_protocol_3() {
        let value = Action::Assign { element: Element::Field(b"f"), value: b"v", ttl: Time::MAX };
        let ops = [
            (2, incr(b"user:1", 990, 7)),
            (0, Op::new(b"user:2", value)),
            (0, Op::new(b"user:2", Action::Expire { deadline: Time::from_ms(5) })),
        ];
        let frame = frame(1000, &ops);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let packed = Batch::packed(9, &[&frame]);
        assert_eq!(hex(&packed), PROTOCOL_3);
    }

    const PROTOCOL_3: &str = "000905030702010002d00f08f501000000000000040610c8020302000002000a02\
        0c020f757365723a31de03000000000000320201660102020e0a017600";

    fn any_op() -> impl Strategy<Value = (u64, (u8, u8, u8, u64, bool))> {
        let gap = prop_oneof![Just(0u64), 0..200u64, any::<u32>().prop_map(u64::from)];
        (gap, (0..7u8, 0..9u8, 0..4u8, any::<u64>(), any::<bool>()))
    }

    fn make<'a>(
        (kind, key, name, number, flag): (u8, u8, u8, u64, bool),
        keys: &'a [Vec<u8>],
    ) -> Op<'a> {
        let names: [&[u8]; 4] = [b"", b"f", b"field", b"another"];
        let element = match name {
            0 | 1 => Element::String,
            2 => Element::Field(names[usize::from(key % 4)]),
            _ => Element::Member(names[usize::from(key % 4)]),
        };
        let ttl = if flag { Time::from_ms(number % (1 << 42) + 1) } else { Time::MAX };
        let key = &keys[usize::from(key)][..];
        let value = if matches!(element, Element::Member(_)) { &[][..] } else { key };
        let action = match kind {
            0 | 1 => Action::Assign { element, value, ttl },
            2 => Action::Remove { element },
            3 => Action::Clear,
            4 => Action::Expire { deadline: ttl },
            _ => {
                let fraction = if number % 3 == 0 { number % 1000 } else { 0 };
                let sum = Amount::from_parts(number as i64 >> 1, fraction).expect("a fraction");
                // Rows that differ, so that none is left out.
                Action::Incr { element, birth: Time(number % 100), sum }
            }
        };
        Op { fresh: flag && kind == 1, ..Op::new(key, action) }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            frames in prop::collection::vec(
                (1000..1u64 << 50, prop::collection::vec(any_op(), 1..40)), 0..8,
            )
        ) {
            let keys: Vec<Vec<u8>> =
                ["", "a", "user:1", "user:22", "user:23", "user:3", "users", "b", "user:1:long"]
                    .iter().map(|key| key.as_bytes().to_vec()).collect();
            let frames: Vec<Vec<u8>> = frames.iter().map(|(previous, ops)| {
                let ops: Vec<_> = ops.iter().map(|(gap, op)| (*gap, make(*op, &keys))).collect();
                frame(*previous, &ops)
            }).collect();
            // Leaving out is told by the other tests; here a frame is compared with what is left.
            let expected: Vec<Vec<u8>> = frames.iter().map(|bytes| {
                let (header, ops) = read_frame(bytes).expect("a frame");
                let (mut out, mut key, mut last) = (Vec::new(), None, header.previous);
                header.encode(&mut out);
                for (dot, op) in ops.iter().flatten() {
                    encode_op(&mut out, op, *dot, (key, last));
                    (key, last) = (Some(op.key), dot.time);
                }
                out
            }).collect();
            prop_assert_eq!(round_trip(&frames), expected);
        }

        #[test]
        fn damaged_batches_never_panic(
            ops in prop::collection::vec(any_op(), 1..20),
            damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6),
            cut in any::<u16>(),
        ) {
            let keys: Vec<Vec<u8>> = (0..9u8).map(|n| vec![n; usize::from(n)]).collect();
            let ops: Vec<_> = ops.iter().map(|(gap, op)| (*gap, make(*op, &keys))).collect();
            let frame = frame(1 << 40, &ops);
            let mut bytes = Batch::packed(1, &[&frame, &frame]);
            for (at, value) in damage {
                let at = usize::from(at) % bytes.len();
                bytes[at] = value;
            }
            bytes[0] = 0;
            let _ = Batch::plain(&bytes);
            let upto = usize::from(cut) % bytes.len();
            prop_assert!(upto == 0 || Batch::plain(&bytes[..upto]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let packed = [&[0][..], &bytes].concat();
            let _ = Batch::plain(&packed);
        }
    }
}
