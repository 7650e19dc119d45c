//! The ledger of copies: which tables the mirror holds a complete copy of, and by which key.
//!
//! It is kept at the source, as the comment of the publication, because it has to change in the
//! same breath as the publication and to survive every mirror. A captured table that the ledger
//! does not name (new, or its key changed, or it was refused for a while) is copied before its
//! changes can be trusted; a name in it that is no longer captured is emptied in the mirror.
//!
//! The form is one line of text, `meridian slot=… public.products(id) public.items(order,line)`,
//! with everything but letters, digits, `_` and `-` percent-escaped inside names.

use std::collections::BTreeMap;

use crate::TableName;

/// First word of the comment.
const MARK: &str = "meridian";

/// Tables with a complete copy, for one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The slot whose mirror this speaks of. A publication serves one mirror.
    pub slot: String,
    /// Key columns of each copied table, sorted.
    pub tables: BTreeMap<TableName, Vec<String>>,
}

impl Ledger {
    /// A ledger without tables.
    pub fn new(slot: impl Into<String>) -> Ledger {
        Ledger { slot: slot.into(), tables: BTreeMap::new() }
    }

    /// Notes a complete copy.
    pub fn insert(&mut self, table: TableName, mut key: Vec<String>) {
        key.sort();
        self.tables.insert(table, key);
    }

    /// Whether the mirror holds this table by this key.
    pub fn holds(&self, table: &TableName, key: &[String]) -> bool {
        let mut key = key.to_vec();
        key.sort();
        self.tables.get(table) == Some(&key)
    }

    /// The comment's text.
    pub fn format(&self) -> String {
        let mut out = format!("{MARK} slot={}", escape(&self.slot));
        for (name, key) in &self.tables {
            let key: Vec<String> = key.iter().map(|column| escape(column)).collect();
            out += &format!(" {}.{}({})", escape(&name.schema), escape(&name.table), key.join(","));
        }
        out
    }

    /// Reads [`Ledger::format`]'s text; `None` if it is something else, which must not be
    /// overwritten.
    pub fn parse(text: &str) -> Option<Ledger> {
        let mut words = text.split(' ');
        if words.next() != Some(MARK) {
            return None;
        }
        let slot = unescape(words.next()?.strip_prefix("slot=")?)?;
        let mut ledger = Ledger::new(slot);
        for word in words {
            let (name, key) = word.strip_suffix(')')?.split_once('(')?;
            let (schema, table) = name.split_once('.')?;
            let key: Option<Vec<String>> = key.split(',').map(unescape).collect();
            ledger.insert(TableName::new(unescape(schema)?, unescape(table)?), key?);
        }
        Some(ledger)
    }
}

fn escape(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut out = vec![];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            (digit(rest.next())? * 16 + digit(rest.next())?) as u8
        } else {
            byte
        };
        out.push(byte);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mut ledger = Ledger::new("meridian");
        assert_eq!(Ledger::parse(&ledger.format()), Some(ledger.clone()));
        ledger.insert(TableName::new("public", "order items"), vec!["ü,(".into(), "a".into()]);
        ledger.insert(TableName::new("s.x", "T%"), vec!["id".into()]);
        let text = ledger.format();
        assert_eq!(
            text,
            "meridian slot=meridian public.order%20items(a,%C3%BC%2C%28) s%2Ex.T%25(id)"
        );
        assert_eq!(Ledger::parse(&text), Some(ledger));
    }

    #[test]
    fn leaves_other_comments_alone() {
        for text in ["", "orders for the shop", "meridian", "meridian slot=a b", "meridian slot=%z"]
        {
            assert_eq!(Ledger::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_key_decides() {
        let mut ledger = Ledger::new("s");
        let table = TableName::new("public", "t");
        ledger.insert(table.clone(), vec!["b".into(), "a".into()]);
        assert!(ledger.holds(&table, &["a".into(), "b".into()]));
        assert!(!ledger.holds(&table, &["a".into()]));
        assert!(!ledger.holds(&TableName::new("public", "u"), &["a".into()]));
    }
}
