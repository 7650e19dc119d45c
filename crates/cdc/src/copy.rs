//! A table's copy: rows in COPY's text form become upserts, and what the copy did not see goes.
//!
//! A copy may follow an earlier one (interrupted, or stale after a gap), so it must also remove.
//! The keys seen are remembered, sorted, and cut into ranges by [`KeyScan`]. A table too large for
//! that memory overflows it; then a second pass reads only the keys, sorted by the server as the
//! mirror sorts them. Memory stays bounded either way.

use bytes::{Bytes, BytesMut};

use crate::limits::{
    BATCH_BYTES_MAX, BATCH_CHANGES_MAX, COPY_KEYS_BYTES_MAX, COPY_KEYS_MAX, RETAIN_BYTES_MAX,
    RETAIN_KEYS_MAX,
};
use crate::{
    Batch, Change, CopyError, MIRROR_PREFIX, Retain, Shape, TableName, Upsert, prefix_end,
};

/// The copy of one table in progress.
#[derive(Debug)]
pub struct TableCopy {
    shape: Shape,
    changes: Vec<Change>,
    weight: usize,
    /// All keys so far; `None` once they are too many to remember.
    keys: Option<Vec<Bytes>>,
    keys_bytes: usize,
    rows: u64,
}

impl TableCopy {
    /// A copy that will be given rows of exactly `shape.columns`.
    pub fn new(shape: Shape) -> TableCopy {
        TableCopy { shape, changes: vec![], weight: 0, keys: Some(vec![]), keys_bytes: 0, rows: 0 }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes one line of `COPY ... TO STDOUT` (text format); gives a batch whenever one is full.
    pub fn row(&mut self, line: &Bytes) -> Result<Option<Batch>, CopyError> {
        let upsert = parse(&self.shape, line)?;
        self.remember(&upsert.key);
        self.rows += 1;
        let change = Change::Upsert(upsert);
        self.weight += change.weight();
        self.changes.push(change);
        let full = self.changes.len() >= BATCH_CHANGES_MAX || self.weight >= BATCH_BYTES_MAX;
        Ok(full.then(|| self.take()))
    }

    /// The mirror key in a line that holds the key columns of `shape`.
    pub fn key_of(shape: &Shape, line: &Bytes) -> Result<Bytes, CopyError> {
        Ok(parse(shape, line)?.key)
    }

    /// After the last row: the last batches, which also remove what was not copied, and `true`; or
    /// `false` if the keys were too many and a [`KeyScan`] has to follow.
    pub fn finish(mut self) -> Result<(Vec<Batch>, bool), CopyError> {
        let mut batches = vec![self.take()];
        let Some(mut keys) = self.keys.take() else { return Ok((batches, false)) };
        keys.sort_unstable();
        let mut scan = KeyScan::new(self.shape.name);
        for key in keys {
            batches.extend(scan.key(key)?);
        }
        batches.push(scan.finish());
        Ok((batches, true))
    }

    fn take(&mut self) -> Batch {
        self.weight = 0;
        Batch { changes: std::mem::take(&mut self.changes), ..Batch::default() }
    }

    fn remember(&mut self, key: &Bytes) {
        self.keys_bytes += key.len();
        if self.rows >= COPY_KEYS_MAX as u64 || self.keys_bytes > COPY_KEYS_BYTES_MAX {
            self.keys = None;
        }
        if let Some(keys) = &mut self.keys {
            keys.push(key.clone());
        }
    }
}

/// The second pass over a large table: its keys in the mirror's order, cut into ranges that
/// together cover the table's whole prefix.
#[derive(Debug)]
pub struct KeyScan {
    name: TableName,
    from: Bytes,
    to: Bytes,
    keys: Vec<Bytes>,
    bytes: usize,
}

impl KeyScan {
    /// A scan of this table.
    pub fn new(name: TableName) -> KeyScan {
        let from = name.prefix();
        KeyScan { name, to: prefix_end(&from), from, keys: vec![], bytes: 0 }
    }

    /// Takes the next mirror key, bytewise above the last one; gives a batch whenever a range is
    /// full.
    pub fn key(&mut self, key: Bytes) -> Result<Option<Batch>, CopyError> {
        let ascends = self.keys.last().is_none_or(|last| *last < key);
        if !ascends || key < self.from || key >= self.to {
            return Err(CopyError::Order { table: self.name.to_string() });
        }
        let full = self.keys.len() >= RETAIN_KEYS_MAX || self.bytes > RETAIN_BYTES_MAX;
        let batch = full.then(|| self.cut(key.clone()));
        self.bytes += key.len();
        self.keys.push(key);
        Ok(batch)
    }

    /// After the last key: the rest of the table's prefix.
    pub fn finish(mut self) -> Batch {
        let to = self.to.clone();
        self.cut(to)
    }

    fn cut(&mut self, to: Bytes) -> Batch {
        let from = std::mem::replace(&mut self.from, to.clone());
        let keys = std::mem::take(&mut self.keys);
        self.bytes = 0;
        Batch { changes: vec![Change::Retain(Retain { from, to, keys })], ..Batch::default() }
    }
}

/// Ranges of the mirror that belong to none of these tables: after a copy of all tables, whatever
/// lies there comes from tables that are no longer captured.
pub fn uncaptured<'a>(tables: impl IntoIterator<Item = &'a TableName>) -> Vec<Change> {
    let mut prefixes: Vec<Bytes> = tables.into_iter().map(TableName::prefix).collect();
    prefixes.sort_unstable();
    let mut from = Bytes::from_static(MIRROR_PREFIX);
    let mut changes = vec![];
    let mut add = |from: &Bytes, to: Bytes| {
        if *from < to {
            changes.push(Change::Retain(Retain { from: from.clone(), to, keys: vec![] }));
        }
    };
    for prefix in prefixes {
        add(&from, prefix.clone());
        from = prefix_end(&prefix);
    }
    add(&from, prefix_end(MIRROR_PREFIX));
    changes
}

/// A line of COPY as a row.
fn parse(shape: &Shape, line: &Bytes) -> Result<Upsert, CopyError> {
    let name = || shape.name.to_string();
    let end = line.len() - usize::from(line.last() == Some(&b'\n'));
    let line = line.slice(..end);
    let mut values = Vec::with_capacity(shape.columns.len());
    // A tab inside a value is written \t, so every raw tab separates.
    for raw in line.split(|&b| b == b'\t') {
        values
            .push(unescape(line.slice_ref(raw)).map_err(|()| CopyError::Escape { table: name() })?);
    }
    let (got, want) = (values.len(), shape.columns.len());
    if got != want {
        return Err(CopyError::Columns { table: name(), got, want });
    }
    let key = shape.row_key(|i| values[i].as_ref());
    let key = key.map_err(|source| CopyError::Key { table: name(), source })?;
    let columns = shape.columns.iter().cloned();
    let set = columns.zip(values).filter_map(|(name, value)| Some((name, value?))).collect();
    Ok(Upsert { key, set, keep: vec![] })
}

/// One value of COPY's text format; `None` is NULL.
fn unescape(raw: Bytes) -> Result<Option<Bytes>, ()> {
    if raw[..] == *b"\\N" {
        return Ok(None);
    }
    if !raw.contains(&b'\\') {
        return Ok(Some(raw));
    }
    let mut out = BytesMut::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        let byte = match byte {
            b'\\' => match rest.next().ok_or(())? {
                b'b' => 8,
                b't' => b'\t',
                b'n' => b'\n',
                b'v' => 11,
                b'f' => 12,
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return Err(()),
            },
            plain => plain,
        };
        out.extend_from_slice(&[byte]);
    }
    Ok(Some(out.freeze()))
}
