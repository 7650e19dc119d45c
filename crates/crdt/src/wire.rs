//! Operations as bytes: the payload of a frame, laid out by hand because it is the hot path and
//! what the WAN carries.
//!
//! ```text
//! op   := head [flags] [gap varint] [key] [name] body [cuts]
//! head := action (bits 0-2) | element kind (bits 3-4) | same key as before (5) | flags follow (7)
//! body := assign: value bytes [ttl varint ms]   incr: age varint, sum   expire: varint ms
//! ```
//! Stamps are implicit: each operation's is the one before plus one plus the gap. Deadlines
//! travel in milliseconds, an increment's birth as its distance to its own stamp.

use meridian_clock::{Dot, Origin, Time};
use meridian_codec::{Malformed, Reader, put_bytes, put_signed, put_varint};

use crate::{
    Amount,
    op::{Action, Cut, Element, Op},
};

/// The most counter rows that one operation may list as reset.
pub const MAX_CUTS: usize = 1 << 20;

const ASSIGN: u8 = 0;
const REMOVE: u8 = 1;
const CLEAR: u8 = 2;
const INCR: u8 = 3;
const EXPIRE: u8 = 4;
const ACTION_MASK: u8 = 0b111;
const ELEMENT_SHIFT: u8 = 3;
const ELEMENT_MASK: u8 = 0b11;
const SAME_KEY: u8 = 1 << 5;
const HAS_FLAGS: u8 = 1 << 7;

const FLAG_FRESH: u8 = 1;
const FLAG_GAP: u8 = 1 << 1;
const FLAG_TTL: u8 = 1 << 2;
const FLAG_CUTS: u8 = 1 << 3;
const FLAG_FRACTION: u8 = 1 << 4;
const KNOWN_FLAGS: u8 = FLAG_FRESH | FLAG_GAP | FLAG_TTL | FLAG_CUTS | FLAG_FRACTION;

/// Appends an operation stamped `dot`; `previous` is the operation before it in the same frame:
/// its key and stamp, or none and the stamp before the frame's first.
pub fn encode_op(out: &mut Vec<u8>, op: &Op<'_>, dot: Dot, previous: (Option<&[u8]>, Time)) {
    let same_key = previous.0 == Some(op.key);
    let gap = dot.time.0 - previous.1.0 - 1;
    let (code, element, flags) = describe(op, gap);
    let kind = match element {
        Element::String => 0,
        Element::Field(_) => 1,
        Element::Member(_) => 2,
    };
    let mut head = code | (kind << ELEMENT_SHIFT);
    head |= if same_key { SAME_KEY } else { 0 };
    head |= if flags != 0 { HAS_FLAGS } else { 0 };
    out.push(head);
    if flags != 0 {
        out.push(flags);
    }
    if gap > 0 {
        put_varint(out, gap);
    }
    if !same_key {
        put_bytes(out, op.key);
    }
    put_name(out, element);
    put_body(out, op, dot, flags);
    if !op.cuts.is_empty() {
        put_cuts(out, &op.cuts);
    }
}

fn describe<'a>(op: &Op<'a>, gap: u64) -> (u8, Element<'a>, u8) {
    let mut flags = if op.fresh { FLAG_FRESH } else { 0 };
    flags |= if gap > 0 { FLAG_GAP } else { 0 };
    flags |= if op.cuts.is_empty() { 0 } else { FLAG_CUTS };
    let (code, element) = match &op.action {
        Action::Assign { element, ttl, .. } => {
            flags |= if *ttl < Time::MAX { FLAG_TTL } else { 0 };
            (ASSIGN, *element)
        }
        Action::Remove { element } => (REMOVE, *element),
        Action::Clear => (CLEAR, Element::String),
        Action::Incr { element, sum, .. } => {
            flags |= if sum.fraction() > 0 { FLAG_FRACTION } else { 0 };
            (INCR, *element)
        }
        Action::Expire { deadline } => {
            flags |= if *deadline < Time::MAX { FLAG_TTL } else { 0 };
            (EXPIRE, Element::String)
        }
    };
    (code, element, flags)
}

fn put_name(out: &mut Vec<u8>, element: Element<'_>) {
    match element {
        Element::String => {}
        Element::Field(name) | Element::Member(name) => put_bytes(out, name),
    }
}

fn put_body(out: &mut Vec<u8>, op: &Op<'_>, dot: Dot, flags: u8) {
    match &op.action {
        Action::Assign { element, value, ttl } => {
            if !matches!(element, Element::Member(_)) {
                put_bytes(out, value);
            }
            if flags & FLAG_TTL != 0 {
                put_varint(out, ttl.as_ms());
            }
        }
        Action::Remove { .. } | Action::Clear => {}
        Action::Incr { birth, sum, .. } => {
            put_varint(out, dot.time.0 - birth.0);
            put_amount(out, *sum);
        }
        Action::Expire { deadline } => {
            if flags & FLAG_TTL != 0 {
                put_varint(out, deadline.as_ms());
            }
        }
    }
}

fn put_amount(out: &mut Vec<u8>, amount: Amount) {
    put_signed(out, amount.whole());
    if amount.fraction() > 0 {
        put_varint(out, amount.fraction());
    }
}

fn put_cuts(out: &mut Vec<u8>, cuts: &[Cut<'_>]) {
    put_varint(out, cuts.len() as u64);
    for cut in cuts {
        match cut.element {
            Element::String => out.push(0),
            Element::Field(name) => {
                out.push(1);
                put_bytes(out, name);
            }
            Element::Member(name) => {
                out.push(2);
                put_bytes(out, name);
            }
        }
        put_varint(out, u64::from(cut.origin.0));
        put_varint(out, cut.birth.0);
        put_varint(out, cut.last.0 - cut.birth.0);
        put_signed(out, cut.sum.whole());
        put_varint(out, cut.sum.fraction());
    }
}

/// Decodes the operations of one frame, giving each its stamp.
#[derive(Clone, Debug)]
pub struct OpReader<'a> {
    reader: Reader<'a>,
    origin: Origin,
    last: Time,
    key: Option<&'a [u8]>,
}

impl<'a> OpReader<'a> {
    /// Reads `bytes`, the operations of a frame of `origin` whose previous stamp is `previous`.
    #[must_use]
    pub fn new(bytes: &'a [u8], origin: Origin, previous: Time) -> OpReader<'a> {
        OpReader { reader: Reader::new(bytes), origin, last: previous, key: None }
    }

    /// The stamp of the last operation that was read, or the one before the frame.
    #[must_use]
    pub fn last(&self) -> Time {
        self.last
    }

    /// The next operation and its dot; none at the end.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are not an operation.
    #[allow(clippy::should_implement_trait, reason = "fallible, and borrowing from the frame")]
    pub fn next(&mut self) -> Result<Option<(Dot, Op<'a>)>, Malformed> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let head = self.reader.u8()?;
        if head & (1 << 6) != 0 {
            return Err(Malformed("operation head has an unknown bit"));
        }
        let flags = if head & HAS_FLAGS != 0 { self.reader.u8()? } else { 0 };
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Malformed("operation has unknown flags"));
        }
        let gap = if flags & FLAG_GAP != 0 { self.reader.varint()? } else { 0 };
        let time = self.last.0.checked_add(1).and_then(|t| t.checked_add(gap));
        let dot = Dot::new(Time(time.ok_or(Malformed("stamp overflows"))?), self.origin);
        let key = self.key(head)?;
        let action = self.action(head, flags, dot)?;
        let cuts = if flags & FLAG_CUTS != 0 { self.cuts()? } else { Vec::new() };
        self.last = dot.time;
        self.key = Some(key);
        Ok(Some((dot, Op { key, action, fresh: flags & FLAG_FRESH != 0, cuts })))
    }

    fn key(&mut self, head: u8) -> Result<&'a [u8], Malformed> {
        if head & SAME_KEY != 0 {
            self.key.ok_or(Malformed("first operation repeats a key"))
        } else {
            self.reader.bytes()
        }
    }

    fn action(&mut self, head: u8, flags: u8, dot: Dot) -> Result<Action<'a>, Malformed> {
        let kind = (head >> ELEMENT_SHIFT) & ELEMENT_MASK;
        let code = head & ACTION_MASK;
        if matches!(code, CLEAR | EXPIRE) && kind != 0 {
            return Err(Malformed("operation on the whole key names an element"));
        }
        let element = read_element(&mut self.reader, kind)?;
        Ok(match code {
            ASSIGN => {
                let member = matches!(element, Element::Member(_));
                let value = if member { &[][..] } else { self.reader.bytes()? };
                Action::Assign { element, value, ttl: self.ttl(flags)? }
            }
            REMOVE => Action::Remove { element },
            CLEAR => Action::Clear,
            INCR => {
                let age = self.reader.varint()?;
                let birth = dot.time.0.checked_sub(age).ok_or(Malformed("birth before zero"))?;
                let whole = self.reader.signed()?;
                let fraction = if flags & FLAG_FRACTION != 0 { self.reader.varint()? } else { 0 };
                let sum = Amount::from_parts(whole, fraction);
                let sum = sum.ok_or(Malformed("fraction of one or more"))?;
                Action::Incr { element, birth: Time(birth), sum }
            }
            EXPIRE => Action::Expire { deadline: self.ttl(flags)? },
            _ => return Err(Malformed("unknown action")),
        })
    }

    fn ttl(&mut self, flags: u8) -> Result<Time, Malformed> {
        if flags & FLAG_TTL == 0 {
            return Ok(Time::MAX);
        }
        // Zero would mean "superseded" in a register.
        Ok(Time::from_ms(self.reader.varint()?).max(Time(1)))
    }

    fn cuts(&mut self) -> Result<Vec<Cut<'a>>, Malformed> {
        let count = self.reader.varint()? as usize;
        if count > MAX_CUTS || count > self.reader.rest().len() {
            return Err(Malformed("more cuts than bytes"));
        }
        let mut cuts = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = self.reader.u8()?;
            let element = read_element(&mut self.reader, kind)?;
            let origin = u16::try_from(self.reader.varint()?);
            let origin = Origin(origin.map_err(|_| Malformed("ordinal too large"))?);
            let birth = Time(self.reader.varint()?);
            let last = birth.0.checked_add(self.reader.varint()?);
            let last = Time(last.ok_or(Malformed("stamp overflows"))?);
            let (whole, fraction) = (self.reader.signed()?, self.reader.varint()?);
            let sum = Amount::from_parts(whole, fraction);
            let sum = sum.ok_or(Malformed("fraction of one or more"))?;
            cuts.push(Cut { element, origin, birth, last, sum });
        }
        Ok(cuts)
    }
}

fn read_element<'a>(reader: &mut Reader<'a>, kind: u8) -> Result<Element<'a>, Malformed> {
    Ok(match kind {
        0 => Element::String,
        1 => Element::Field(reader.bytes()?),
        2 => Element::Member(reader.bytes()?),
        _ => return Err(Malformed("unknown element kind")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: Origin = Origin(3);

    fn round_trip(ops: &[(u64, Op<'_>)]) {
        let (mut bytes, mut previous, mut last) = (Vec::new(), None, Time(100));
        for (time, op) in ops {
            encode_op(&mut bytes, op, Dot::new(Time(*time), ME), (previous, last));
            (previous, last) = (Some(op.key), Time(*time));
        }
        let mut reader = OpReader::new(&bytes, ME, Time(100));
        for (time, op) in ops {
            let read = reader.next().unwrap().unwrap();
            assert_eq!(read, (Dot::new(Time(*time), ME), op.clone()));
        }
        assert_eq!(reader.next(), Ok(None));
    }

    #[test]
    fn every_action_round_trips() {
        let field = Element::Field(b"f");
        let cut = Cut {
            element: field,
            origin: Origin(1),
            birth: Time(5),
            last: Time(50),
            sum: Amount::from_parts(-3, 7).unwrap(),
        };
        let at = Time::from_ms(1_700_000_000_123);
        let set = Action::Assign { element: Element::String, value: b"v", ttl: Time::MAX };
        let set_ex = Action::Assign { element: Element::String, value: b"v", ttl: at };
        let add = Action::Assign { element: Element::Member(b"m"), value: b"", ttl: Time::MAX };
        let sum = Amount::from_parts(-1, 5).unwrap();
        round_trip(&[
            (101, Op { fresh: true, ..Op::new(b"k", set) }),
            (102, Op::new(b"k", set_ex)),
            (110, Op::new(b"other", add)),
            (111, Op { cuts: vec![cut], ..Op::new(b"other", Action::Remove { element: field }) }),
            (112, Op { cuts: vec![cut, cut], ..Op::new(b"", Action::Clear) }),
            (113, Op::new(b"n", Action::Incr { element: field, birth: Time(90), sum })),
            (114, Op::new(b"n", Action::Expire { deadline: at })),
            (115, Op::new(b"n", Action::Expire { deadline: Time::MAX })),
        ]);
    }

    #[test]
    fn a_plain_set_costs_three_bytes_beside_key_and_value() {
        let action = Action::Assign { element: Element::String, value: &[7; 100], ttl: Time::MAX };
        let mut bytes = Vec::new();
        encode_op(
            &mut bytes,
            &Op::new(b"0123456789abcde", action),
            Dot::new(Time(8), ME),
            (None, Time(7)),
        );
        assert_eq!(bytes.len(), 15 + 100 + 3);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = OpReader::new(&bytes, ME, Time(1));
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
