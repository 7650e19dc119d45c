//! From columns to frames.

use meridian_clock::{Dot, MAX_REGIONS, Origin, Time, VersionVector};
use meridian_codec::{Malformed, Reader};
use meridian_crdt::{Action, Amount, Element, Op, encode_op};
use meridian_store::FrameHeader;

use super::runs::RunReader;
use super::shape::{
    ACTION_MASK, ASSIGN, CLEAR, EXPIRE, FRACTION, FRESH, INCR, KIND_MASK, KIND_SHIFT, KNOWN_SHAPES,
    OPENS, REMOVE, SAME_KEY, TTL,
};

/// Reads columns back into frames, and trusts none of their numbers.
pub(super) struct Unpacker<'a> {
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
    /// Finds the columns.
    pub(super) fn new(reader: &mut Reader<'a>) -> Result<Unpacker<'a>, Malformed> {
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
    pub(super) fn frame(&mut self, room: usize) -> Result<Option<Vec<u8>>, Malformed> {
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

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), Malformed> {
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
