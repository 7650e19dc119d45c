//! A table as the mirror sees it: prefix, columns, and which of them make the key.

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits::KEY_BYTES_MAX;
use crate::table::escape;
use crate::{KeyError, TableName};

/// How rows of one table become hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The table.
    pub name: TableName,
    /// What every key of the table starts with.
    pub prefix: Bytes,
    /// Column names in the order of the rows that will come.
    pub columns: Vec<Bytes>,
    /// Indexes into `columns`, ascending, at least one. The key's parts stand in the order of the
    /// table's columns, which is the same in the stream and in the catalogs.
    pub key: Vec<usize>,
}

impl Shape {
    /// `None` if `key` is empty or names a column that is not there.
    pub fn new(name: TableName, columns: Vec<Bytes>, key: &[String]) -> Option<Shape> {
        let is_key = |column: &Bytes| key.iter().any(|name| name.as_bytes() == &column[..]);
        let indexes: Vec<usize> = (0..columns.len()).filter(|&i| is_key(&columns[i])).collect();
        let whole = !key.is_empty() && indexes.len() == key.len();
        whole.then(|| Shape { prefix: name.prefix(), name, columns, key: indexes })
    }

    /// Names of the key columns.
    pub fn key_columns(&self) -> Vec<String> {
        let name = |&index: &usize| String::from_utf8_lossy(&self.columns[index]).into_owned();
        self.key.iter().map(name).collect()
    }

    /// The mirror key of the row whose columns `value` yields.
    pub fn row_key<'a>(
        &self,
        value: impl Fn(usize) -> Option<&'a Bytes>,
    ) -> Result<Bytes, KeyError> {
        let mut key = BytesMut::from(&self.prefix[..]);
        for (place, &index) in self.key.iter().enumerate() {
            if place > 0 {
                key.put_u8(b':');
            }
            let missing =
                || KeyError::Missing(String::from_utf8_lossy(&self.columns[index]).into_owned());
            let part = value(index).ok_or_else(missing)?;
            // Before escaping, which at most triples it: a refusal must not cost the memory.
            if key.len() + part.len() > KEY_BYTES_MAX {
                return Err(KeyError::Long(key.len() + part.len()));
            }
            escape(part, b":%", &mut key);
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(KeyError::Long(key.len()));
        }
        Ok(key.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &[&str], row: &[&str], expect: Option<&str>) {
        let columns = ["a", "b", "c"].map(Bytes::from).to_vec();
        let key: Vec<String> = key.iter().map(|name| name.to_string()).collect();
        let shape = Shape::new(TableName::new("public", "t"), columns, &key);
        let row: Vec<Bytes> = row.iter().map(|v| Bytes::copy_from_slice(v.as_bytes())).collect();
        let got = shape.and_then(|shape| shape.row_key(|i| row.get(i)).ok());
        assert_eq!(got.as_deref(), expect.map(str::as_bytes));
    }

    #[test]
    fn keys() {
        check(&["a"], &["42", "x", "y"], Some("pg:t:42"));
        check(&["b"], &["42", "x", "y"], Some("pg:t:x"));
        check(&["c", "a"], &["42", "x", "y"], Some("pg:t:42:y"));
        check(&["a", "b"], &["1:2", "50%"], Some("pg:t:1%3A2:50%25"));
        check(&["a", "b"], &["", ""], Some("pg:t::"));
        check(&[], &["42"], None);
        check(&["z"], &["42"], None);
        check(&["a", "c"], &["42", "x"], None);
    }

    #[test]
    fn parts_never_run_into_each_other() {
        check(&["a", "b"], &["1", "2:3"], Some("pg:t:1:2%3A3"));
        check(&["a", "b"], &["1:2", "3"], Some("pg:t:1%3A2:3"));
    }

    #[test]
    fn a_long_key_is_refused() {
        let long = "x".repeat(KEY_BYTES_MAX);
        check(&["a"], &[&long], None);
        let escapes_too_long = ":".repeat(KEY_BYTES_MAX / 2);
        check(&["a"], &[&escapes_too_long], None);
    }
}
