//! Copies of tables: COPY lines in, batches out; what the copy did not see goes.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use meridian_cdc::limits::{
    BATCH_BYTES_MAX, BATCH_CHANGES_MAX, COPY_KEYS_BYTES_MAX, KEY_BYTES_MAX, RETAIN_BYTES_MAX,
    RETAIN_KEYS_MAX,
};
use meridian_cdc::{
    Batch, Change, CopyError, KeyScan, Mirror, Shape, TableCopy, TableName, Upsert, uncaptured,
};

fn shape() -> Shape {
    let columns = ["id", "v"].map(Bytes::from).to_vec();
    Shape::new(TableName::new("public", "t"), columns, &["id".into()]).unwrap()
}

fn upsert(key: &'static str) -> Change {
    Change::Upsert(Upsert { key: Bytes::from(key), set: vec![], keep: vec![] })
}

fn mirror_of(keys: &[&'static str]) -> Mirror {
    let mut mirror = Mirror::default();
    let changes = keys.iter().map(|key| upsert(key)).collect();
    mirror.apply(&Batch { changes, ..Batch::default() });
    mirror
}

fn keys(mirror: &Mirror) -> Vec<&str> {
    mirror.rows.keys().map(|key| std::str::from_utf8(key).unwrap()).collect()
}

fn line(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[track_caller]
fn check_row(text: &str, expect: Result<&str, &str>) {
    let mut copy = TableCopy::new(shape());
    let got = copy.row(&line(text)).map_err(|e| e.to_string()).map(|_| {
        let (batches, _) = copy.finish().unwrap();
        let Change::Upsert(row) = &batches[0].changes[0] else { panic!("not a row") };
        format!("{:?} {:?}", row.key, row.set)
    });
    assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned));
}

#[test]
fn copy_text_is_read() {
    check_row("1\tx\n", Ok(r#"b"pg:t:1" [(b"id", b"1"), (b"v", b"x")]"#));
    check_row("1\t\\N\n", Ok(r#"b"pg:t:1" [(b"id", b"1")]"#));
    check_row("1\t\n", Ok(r#"b"pg:t:1" [(b"id", b"1"), (b"v", b"")]"#));
    let all = r"1	\b\t\n\v\f\r\\N";
    check_row(all, Ok(r#"b"pg:t:1" [(b"id", b"1"), (b"v", b"\x08\t\n\x0b\x0c\r\\N")]"#));
    check_row(
        "\\N\tx",
        Err("a copied row of public.t cannot be mirrored: key column id has no value"),
    );
    check_row("1", Err("a copied row of public.t has 1 columns, 2 were selected"));
    check_row("1\t2\t3", Err("a copied row of public.t has 3 columns, 2 were selected"));
    check_row("1\t\\x", Err("a copied row of public.t has a broken escape sequence"));
    check_row("1\t\\", Err("a copied row of public.t has a broken escape sequence"));
}

#[test]
fn a_small_copy_removes_what_it_did_not_see() {
    let mut mirror = mirror_of(&["pg:s:1", "pg:t:", "pg:t:1", "pg:t:2", "pg:t;", "pg:u:1"]);
    let mut copy = TableCopy::new(shape());
    for row in ["3\tc", "2\tb"] {
        assert_eq!(copy.row(&line(row)), Ok(None));
    }
    assert_eq!(copy.rows(), 2);
    let (batches, swept) = copy.finish().unwrap();
    assert!(swept);
    for batch in batches {
        assert_eq!(batch.position, None);
        mirror.apply(&batch);
    }
    assert_eq!(keys(&mirror), ["pg:s:1", "pg:t:2", "pg:t:3", "pg:t;", "pg:u:1"]);
}

/// A copy of that many rows, with keys of about `width` bytes, over some old keys; whether it was
/// swept, and by how many ranges.
fn large_copy(count: usize, width: usize) -> (bool, usize) {
    let mut mirror = mirror_of(&["pg:s:1", "pg:t:", "pg:t:0000005x", "pg:t:9999999", "pg:u:1"]);
    let pad = "x".repeat(width);
    let mut copy = TableCopy::new(shape());
    for id in 0..count {
        if let Some(batch) = copy.row(&line(&format!("{id:07}{pad}\tx"))).unwrap() {
            assert!(batch.changes.len() <= BATCH_CHANGES_MAX);
            assert!(batch.changes.iter().map(Change::weight).sum::<usize>() < 2 * BATCH_BYTES_MAX);
            mirror.apply(&batch);
        }
    }
    let (mut batches, swept) = copy.finish().unwrap();
    if !swept {
        let mut scan = KeyScan::new(TableName::new("public", "t"));
        for id in 0..count {
            batches.extend(scan.key(format!("pg:t:{id:07}{pad}").into()).unwrap());
        }
        batches.push(scan.finish());
    }
    batches.iter().for_each(|batch| mirror.apply(batch));
    assert_eq!(mirror.rows.len(), count + 2);
    assert!(has(&mirror, "pg:s:1") && has(&mirror, "pg:u:1"));
    (swept, batches.len() - 1)
}

fn has(mirror: &Mirror, key: &str) -> bool {
    mirror.rows.contains_key(key.as_bytes())
}

#[test]
fn a_large_copy_is_swept_in_ranges() {
    assert_eq!(large_copy(RETAIN_KEYS_MAX, 0), (true, 1));
    assert_eq!(large_copy(RETAIN_KEYS_MAX + 10, 0), (true, 2));
}

#[test]
fn a_huge_copy_asks_for_a_key_scan() {
    let width = KEY_BYTES_MAX - 100;
    let (swept, ranges) = large_copy(COPY_KEYS_BYTES_MAX / width + 1, width);
    assert!(!swept);
    assert!(ranges >= COPY_KEYS_BYTES_MAX / RETAIN_BYTES_MAX - 1, "{ranges}");
}

#[test]
fn a_key_scan_out_of_order_is_refused() {
    let table = TableName::new("public", "t");
    let order = Err(CopyError::Order { table: "public.t".into() });
    let mut scan = KeyScan::new(table.clone());
    assert_eq!(scan.key("pg:t:2".into()), Ok(None));
    assert_eq!(scan.key("pg:t:2".into()), order);
    assert_eq!(scan.key("pg:t:1".into()), order);
    assert_eq!(scan.key("pg:u:1".into()), order);
    assert_eq!(KeyScan::new(table).key("pg:s:1".into()), order);
}

#[test]
fn tables_that_are_no_longer_captured_go() {
    let mut mirror =
        mirror_of(&["pg:a:1", "pg:b:", "pg:b:1", "pg:b;1", "pg:c:1", "pg:d:1", "ph", "x"]);
    let tables = ["b", "d"].map(|table| TableName::new("public", table));
    mirror.apply(&Batch { changes: uncaptured(&tables), ..Batch::default() });
    assert_eq!(keys(&mirror), ["pg:b:", "pg:b:1", "pg:d:1", "ph", "x"]);
    mirror.apply(&Batch { changes: uncaptured(&[]), ..Batch::default() });
    assert_eq!(keys(&mirror), ["ph", "x"]);
}
