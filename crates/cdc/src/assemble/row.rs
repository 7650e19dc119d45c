//! One row change of the stream as mirror changes.

use bytes::Bytes;

use super::Refetch;
use crate::{AssembleError, Change, Column, KeyError, Old, Shape, Tuple, Upsert};

/// A mirror change and what is missing in it.
pub(super) type Row = (Change, Option<Refetch>);

/// An insert or update. The inner error is the row's: its table has to be refused.
pub(super) fn upsert(
    shape: &Shape,
    old: &Old,
    new: &Tuple,
) -> Result<Result<Vec<Row>, KeyError>, AssembleError> {
    check_width(shape, new)?;
    let before = match old {
        Old::None => None,
        Old::Key(tuple) | Old::Full(tuple) => {
            check_width(shape, tuple)?;
            Some(tuple)
        }
    };
    // A large value that did not change is not in the new row; the old one has it if it is part of
    // the replica identity, or if that is FULL.
    let value = |index: usize| match &new[index] {
        Column::Unchanged => {
            let sent = matches!(old, Old::Full(_)) || shape.key.contains(&index);
            before.filter(|_| sent).map_or(&Column::Unchanged, |tuple| &tuple[index])
        }
        column => column,
    };
    Ok(changes(shape, before, value))
}

/// A delete.
pub(super) fn delete(shape: &Shape, old: &Old) -> Result<Result<Row, KeyError>, AssembleError> {
    let (Old::Key(tuple) | Old::Full(tuple)) = old else {
        return Err(AssembleError::Order { what: "a delete without its row", place: "inside" });
    };
    check_width(shape, tuple)?;
    Ok(shape.row_key(|i| text(&tuple[i])).map(|key| (Change::Delete { key }, None)))
}

fn changes<'a>(
    shape: &Shape,
    before: Option<&'a Tuple>,
    value: impl Fn(usize) -> &'a Column,
) -> Result<Vec<Row>, KeyError> {
    let key = shape.row_key(|i| text(value(i)))?;
    let mut row = Upsert { key: key.clone(), set: vec![], keep: vec![] };
    for (index, name) in shape.columns.iter().enumerate() {
        match value(index) {
            Column::Null => {}
            Column::Unchanged => row.keep.push(name.clone()),
            Column::Text(v) | Column::Binary(v) => row.set.push((name.clone(), v.clone())),
        }
    }
    let moved_from = match before {
        Some(tuple) => Some(shape.row_key(|i| text(&tuple[i]))?).filter(|old| *old != key),
        None => None,
    };
    let Some(old_key) = moved_from else { return Ok(vec![(Change::Upsert(row), None)]) };
    // The large values stand under the old key only.
    let columns = std::mem::take(&mut row.keep);
    let refetch = (!columns.is_empty()).then(|| Refetch {
        change: 0,
        xid: 0,
        table: shape.name.clone(),
        key: key_values(shape, &value),
        columns,
    });
    Ok(vec![(Change::Delete { key: old_key }, None), (Change::Upsert(row), refetch)])
}

fn key_values<'a>(shape: &Shape, value: &impl Fn(usize) -> &'a Column) -> Vec<(Bytes, Bytes)> {
    let pair = |&index: &usize| Some((shape.columns[index].clone(), text(value(index))?.clone()));
    shape.key.iter().filter_map(pair).collect()
}

fn text(column: &Column) -> Option<&Bytes> {
    match column {
        Column::Text(value) | Column::Binary(value) => Some(value),
        Column::Null | Column::Unchanged => None,
    }
}

fn check_width(shape: &Shape, tuple: &Tuple) -> Result<(), AssembleError> {
    let (got, want) = (tuple.len(), shape.columns.len());
    if got == want {
        return Ok(());
    }
    Err(AssembleError::Columns { table: shape.name.to_string(), got, want })
}
