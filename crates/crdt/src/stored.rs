//! Cells and deadlines as the checkpoint stores them. Canonical: equal cells give equal bytes,
//! so that digests can be taken over them.
//!
//! ```text
//! cell := registers varint, rows varint, register*, row*
//! register := time u64, origin varint, ttl u64, value bytes
//! row := origin varint, birth u64, last u64, sum, cut_last u64, cut_sum
//! ```

use meridian_clock::{Dot, Origin, Time};
use meridian_codec::{Malformed, Reader, put_bytes, put_signed, put_varint};

use crate::{Amount, Cell, Element, Object, Reg, Row, Stored};

/// The most registers or rows that a stored cell may claim.
const MAX_SIBLINGS: u64 = 1 << 12;

/// An element's name within its key, as bytes: one byte for what it is, then the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ElementKey {
    /// The key's deadlines.
    Deadlines,
    /// The string.
    String,
    /// A field of the hash.
    Field(Box<[u8]>),
    /// A member of the set.
    Member(Box<[u8]>),
}

impl ElementKey {
    /// The key of an element.
    #[must_use]
    pub fn of(element: Element<'_>) -> ElementKey {
        match element {
            Element::String => ElementKey::String,
            Element::Field(name) => ElementKey::Field(name.into()),
            Element::Member(name) => ElementKey::Member(name.into()),
        }
    }

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_name(out, self.element());
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`Malformed`] for an unknown kind.
    pub fn decode(bytes: &[u8]) -> Result<ElementKey, Malformed> {
        match bytes.split_first() {
            Some((0, [])) => Ok(ElementKey::Deadlines),
            Some((1, [])) => Ok(ElementKey::String),
            Some((2, name)) => Ok(ElementKey::Field(name.into())),
            Some((4, name)) => Ok(ElementKey::Member(name.into())),
            _ => Err(Malformed("unknown element in the checkpoint")),
        }
    }

    /// The element; none for the deadlines.
    #[must_use]
    pub fn element(&self) -> Option<Element<'_>> {
        match self {
            ElementKey::Deadlines => None,
            ElementKey::String => Some(Element::String),
            ElementKey::Field(name) => Some(Element::Field(name)),
            ElementKey::Member(name) => Some(Element::Member(name)),
        }
    }
}

/// Appends the name of an element within its key, or of the key's deadlines.
pub fn encode_name(out: &mut Vec<u8>, element: Option<Element<'_>>) {
    let (kind, name): (u8, &[u8]) = match element {
        None => (0, &[]),
        Some(Element::String) => (1, &[]),
        Some(Element::Field(name)) => (2, name),
        Some(Element::Member(name)) => (4, name),
    };
    out.push(kind);
    out.extend_from_slice(name);
}

/// Appends a cell. Without `residue`, rows that hold nothing are left out: they differ between
/// regions for a while and mean nothing to a digest.
pub fn encode_cell(out: &mut Vec<u8>, cell: &Cell, residue: bool) {
    let keep = |row: &&Row| residue || row.is_live();
    put_varint(out, cell.regs().count() as u64);
    put_varint(out, cell.rows().iter().filter(keep).count() as u64);
    for reg in cell.regs() {
        out.extend_from_slice(&reg.dot.time.0.to_le_bytes());
        put_varint(out, u64::from(reg.dot.origin.0));
        out.extend_from_slice(&reg.raw_ttl().0.to_le_bytes());
        put_bytes(out, &reg.value);
    }
    cell.rows().iter().filter(keep).for_each(|row| put_row(out, row));
}

/// Appends what tells a cell's state from any other of the same cell: all of it but the values, which
/// nobody has written but who wrote the registers' dots. So nobody need look at them.
pub fn encode_state(out: &mut Vec<u8>, cell: &Cell) {
    put_varint(out, cell.regs().count() as u64);
    for reg in cell.regs() {
        out.extend_from_slice(&reg.dot.time.0.to_le_bytes());
        out.extend_from_slice(&reg.dot.origin.0.to_le_bytes());
        out.extend_from_slice(&reg.raw_ttl().0.to_le_bytes());
    }
    cell.rows().iter().for_each(|row| put_row(out, row));
}

/// Reads a cell.
///
/// # Errors
/// [`Malformed`] when the bytes are not a cell.
pub fn decode_cell(bytes: &[u8]) -> Result<Cell, Malformed> {
    let mut reader = Reader::new(bytes);
    let (regs, rows) = (reader.varint()?, reader.varint()?);
    if regs > MAX_SIBLINGS || rows > MAX_SIBLINGS {
        return Err(Malformed("cell with too many siblings"));
    }
    let regs = (0..regs).map(|_| read_reg(&mut reader)).collect::<Result<Vec<_>, _>>()?;
    let rows = (0..rows).map(|_| read_row(&mut reader)).collect::<Result<Vec<_>, _>>()?;
    if !reader.is_empty() {
        return Err(Malformed("cell leaves bytes over"));
    }
    Ok(Cell::from_parts(regs, rows))
}

/// Appends a key's deadlines.
pub fn encode_deadlines(out: &mut Vec<u8>, deadlines: &[(Dot, Time)]) {
    for (dot, deadline) in deadlines {
        out.extend_from_slice(&dot.time.0.to_le_bytes());
        out.extend_from_slice(&dot.origin.0.to_le_bytes());
        out.extend_from_slice(&deadline.0.to_le_bytes());
    }
}

/// Reads a key's deadlines.
///
/// # Errors
/// [`Malformed`] when the bytes end in the middle of one.
pub fn decode_deadlines(bytes: &[u8]) -> Result<Vec<(Dot, Time)>, Malformed> {
    let mut reader = Reader::new(bytes);
    let mut deadlines = Vec::new();
    while !reader.is_empty() {
        let dot = Dot::new(Time(reader.u64()?), Origin(reader.u16()?));
        deadlines.push((dot, Time(reader.u64()?)));
    }
    Ok(deadlines)
}

/// The stored form of one element of an object; none when it holds nothing.
#[must_use]
pub fn encode_stored(object: &Object, place: &ElementKey) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match place.element() {
        None if object.deadlines().is_empty() => return None,
        None => encode_deadlines(&mut out, object.deadlines()),
        Some(element) => {
            let cell = object.cell(element).filter(|c| !c.is_empty())?;
            encode_cell(&mut out, cell, true);
        }
    }
    Some(out)
}

/// Reads the stored form of the element at `place`.
///
/// # Errors
/// [`Malformed`] when the bytes are not one.
pub fn decode_stored(place: &ElementKey, bytes: &[u8]) -> Result<Stored, Malformed> {
    Ok(match place {
        ElementKey::Deadlines => Stored::Deadlines(decode_deadlines(bytes)?),
        _ => Stored::Cell(decode_cell(bytes)?),
    })
}

fn put_row(out: &mut Vec<u8>, row: &Row) {
    put_varint(out, u64::from(row.origin.0));
    out.extend_from_slice(&row.birth.0.to_le_bytes());
    out.extend_from_slice(&row.last.0.to_le_bytes());
    put_amount(out, row.sum);
    out.extend_from_slice(&row.cut_last.0.to_le_bytes());
    put_amount(out, row.cut_sum);
}

fn put_amount(out: &mut Vec<u8>, amount: Amount) {
    put_signed(out, amount.whole());
    put_varint(out, amount.fraction());
}

fn read_amount(reader: &mut Reader<'_>) -> Result<Amount, Malformed> {
    let (whole, fraction) = (reader.signed()?, reader.varint()?);
    Amount::from_parts(whole, fraction).ok_or(Malformed("fraction of one or more"))
}

fn read_origin(reader: &mut Reader<'_>) -> Result<Origin, Malformed> {
    let ordinal = u16::try_from(reader.varint()?).map_err(|_| Malformed("ordinal too large"))?;
    Ok(Origin(ordinal))
}

fn read_reg(reader: &mut Reader<'_>) -> Result<Reg, Malformed> {
    let time = Time(reader.u64()?);
    let dot = Dot::new(time, read_origin(reader)?);
    let ttl = Time(reader.u64()?);
    Ok(Reg::new(dot, reader.bytes()?.into(), ttl))
}

fn read_row(reader: &mut Reader<'_>) -> Result<Row, Malformed> {
    Ok(Row {
        origin: read_origin(reader)?,
        birth: Time(reader.u64()?),
        last: Time(reader.u64()?),
        sum: read_amount(reader)?,
        cut_last: Time(reader.u64()?),
        cut_sum: read_amount(reader)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cell_round_trips_in_canonical_order() {
        let reg = |t, o, v: &[u8]| Reg::new(Dot::new(Time(t), Origin(o)), v.into(), Time::MAX);
        let row = Row {
            origin: Origin(1),
            birth: Time(3),
            last: Time(9),
            sum: Amount::from_int(-4),
            cut_last: Time(5),
            cut_sum: Amount::from_int(2),
        };
        let cell = Cell::from_parts(vec![reg(9, 2, b"b"), reg(8, 1, b"a")], vec![row]);
        assert_eq!(cell.winner().map(|r| r.value.as_ref()), Some(&b"b"[..]));
        let mut bytes = Vec::new();
        encode_cell(&mut bytes, &cell, true);
        assert_eq!(decode_cell(&bytes), Ok(cell));
    }

    #[test]
    fn a_state_differs_by_everything_but_values() {
        let reg = |t, value: &[u8], ttl| Reg::new(Dot::new(Time(t), Origin(1)), value.into(), ttl);
        let row = |last, cut| Row {
            origin: Origin(1),
            birth: Time(3),
            last: Time(last),
            sum: Amount::from_int(4),
            cut_last: Time(cut),
            cut_sum: Amount::from_int(0),
        };
        let state = |regs: Vec<Reg>, rows: Vec<Row>| {
            let mut bytes = Vec::new();
            encode_state(&mut bytes, &Cell::from_parts(regs, rows));
            bytes
        };
        let all = [
            state(vec![reg(9, b"a", Time::MAX)], vec![]),
            state(vec![reg(8, b"a", Time::MAX)], vec![]),
            state(vec![reg(9, b"a", Time(50))], vec![]),
            state(vec![reg(9, b"a", Time::MAX), reg(8, b"a", Time::MAX)], vec![]),
            state(vec![reg(9, b"a", Time::MAX)], vec![row(5, 0)]),
            state(vec![], vec![row(5, 0)]),
            state(vec![], vec![row(6, 0)]),
            state(vec![], vec![row(5, 5)]),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(all[0], state(vec![reg(9, b"a longer value", Time::MAX)], vec![]));
    }

    proptest! {
        #[test]
        fn names_read_back(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let name: Box<[u8]> = name.into();
            let all = [
                ElementKey::Deadlines,
                ElementKey::String,
                ElementKey::Field(name.clone()),
                ElementKey::Member(name),
            ];
            for place in all {
                let mut bytes = Vec::new();
                place.encode(&mut bytes);
                prop_assert_eq!(ElementKey::decode(&bytes), Ok(place));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_cell(&bytes);
            let _ = decode_deadlines(&bytes);
            let _ = ElementKey::decode(&bytes);
        }
    }
}
