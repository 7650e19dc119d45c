//! Which tables are captured, and how a table and a row are named in the mirror.
//!
//! `public.products` is the prefix `pg:products:`, `sales.orders` is `pg:sales.orders:`. The bytes
//! that separate (`:` `.`) and `%` are percent-escaped inside names, and `:` and `%` inside key
//! parts, so two different rows can never share a key.

use std::collections::BTreeSet;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// Everything that is mirrored lives under this prefix.
pub const MIRROR_PREFIX: &[u8] = b"pg:";

/// A table by schema and name, unquoted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The schema, usually `public`.
    pub schema: String,
    /// The table.
    pub table: String,
}

impl TableName {
    /// A table of that schema.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> TableName {
        TableName { schema: schema.into(), table: table.into() }
    }

    /// Reads `table` or `schema.table`, as written in a topology file.
    pub fn parse(text: &str) -> Option<TableName> {
        let (schema, table) = text.split_once('.').unwrap_or(("public", text));
        let good = |name: &str| !name.is_empty() && !name.contains(['.', '\0']);
        (good(schema) && good(table)).then(|| TableName::new(schema, table))
    }

    /// The bytes that start the key of every row of this table.
    pub fn prefix(&self) -> Bytes {
        let mut out = BytesMut::from(MIRROR_PREFIX);
        if self.schema != "public" {
            escape(self.schema.as_bytes(), b":.%", &mut out);
            out.put_u8(b'.');
        }
        escape(self.table.as_bytes(), b":.%", &mut out);
        out.put_u8(b':');
        out.freeze()
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// Which tables an operator wants in the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Every table with a key in this schema, also those created later.
    Schema(String),
    /// These and no others.
    Listed(BTreeSet<TableName>),
}

impl Tables {
    /// Whether the operator asked for this table.
    pub fn wants(&self, table: &TableName) -> bool {
        match self {
            Tables::Schema(schema) => *schema == table.schema,
            Tables::Listed(tables) => tables.contains(table),
        }
    }
}

/// The first key after all keys that start with `prefix`; empty if there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|&b| b != u8::MAX).map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

/// Appends `part` with every byte of `special` percent-escaped.
pub(crate) fn escape(part: &[u8], special: &[u8], out: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = part;
    while let Some(at) = rest.iter().position(|byte| special.contains(byte)) {
        let byte = rest[at];
        out.put_slice(&rest[..at]);
        out.put_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        rest = &rest[at + 1..];
    }
    out.put_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schema: &str, table: &str, expect: &str) {
        let prefix = TableName::new(schema, table).prefix();
        assert_eq!(std::str::from_utf8(&prefix), Ok(expect));
    }

    #[test]
    fn prefixes() {
        check("public", "products", "pg:products:");
        check("sales", "orders", "pg:sales.orders:");
        check("public", "sales.orders", "pg:sales%2Eorders:");
        check("public", "a:b%", "pg:a%3Ab%25:");
    }

    #[test]
    fn parses_names() {
        assert_eq!(TableName::parse("t"), Some(TableName::new("public", "t")));
        assert_eq!(TableName::parse("s.t"), Some(TableName::new("s", "t")));
        for bad in ["", ".", "s.", ".t", "a.b.c", "a\0b"] {
            assert_eq!(TableName::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_the_next_key() {
        assert_eq!(&prefix_end(b"pg:t:")[..], b"pg:t;");
        assert_eq!(&prefix_end(b"a\xff\xff")[..], b"b");
        assert!(prefix_end(b"\xff").is_empty());
    }
}
