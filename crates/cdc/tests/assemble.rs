//! Stories of the stream: messages in, batches out, written as text so that they can be read.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_cdc::limits::{BATCH_BYTES_MAX, BATCH_CHANGES_MAX};
use meridian_cdc::{
    AssembleError, Assembled, Assembler, Batch, Change, Column, Message, Mirror, Old, Position,
    Relation, RelationColumn, ReplicaIdentity, TableName, Tables, Tuple,
};
use proptest::prelude::*;

const START: Position = Position { system_id: 1, timeline: 1, lsn: 100 };

fn assembler() -> Assembler {
    Assembler::new(Tables::Schema("public".into()), START)
}

/// Columns as words; a `*` marks the key.
fn relation(oid: u32, table: &str, identity: ReplicaIdentity, columns: &str) -> Message {
    let column = |name: &str| RelationColumn {
        key: name.ends_with('*') || identity == ReplicaIdentity::Full,
        name: name.trim_end_matches('*').into(),
        type_oid: 25,
        type_modifier: -1,
    };
    let columns = columns.split(' ').map(column).collect();
    let (schema, table) = ("public".into(), table.into());
    Message::Relation(Relation { oid, schema, table, identity, columns })
}

/// `-` is NULL, `~` is an unchanged large value.
fn tuple(text: &str) -> Tuple {
    let column = |word: &str| match word {
        "-" => Column::Null,
        "~" => Column::Unchanged,
        value => Column::Text(Bytes::copy_from_slice(value.as_bytes())),
    };
    text.split(' ').map(column).collect()
}

fn insert(oid: u32, row: &str) -> Message {
    Message::Insert { oid, new: tuple(row) }
}

fn update(oid: u32, old: Old, row: &str) -> Message {
    Message::Update { oid, old, new: tuple(row) }
}

fn begin(commit_lsn: u64) -> Message {
    Message::Begin { commit_lsn, commit_time_us: 5, xid: 1 }
}

fn commit(commit_lsn: u64) -> Message {
    Message::Commit { commit_lsn, end_lsn: commit_lsn + 10, commit_time_us: 5 }
}

fn drain(assembler: &mut Assembler) -> Vec<Assembled> {
    std::iter::from_fn(|| assembler.poll()).collect()
}

fn show(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn describe(change: &Change) -> String {
    match change {
        Change::Upsert(row) => {
            let mut out = format!("set {}", show(&row.key));
            for (name, value) in &row.set {
                out += &format!(" {}={}", show(name), show(value));
            }
            for name in &row.keep {
                out += &format!(" {}~", show(name));
            }
            out
        }
        Change::Delete { key } => format!("delete {}", show(key)),
        Change::Truncate { prefix } => format!("truncate {}", show(prefix)),
        Change::Retain(retain) => format!("retain {retain:?}"),
    }
}

/// Runs messages as one transaction and compares the changes of the batch.
#[track_caller]
fn check(assembler: &mut Assembler, messages: Vec<Message>, expect: &[&str]) -> Batch {
    let lsn = assembler.position().lsn + 10;
    assembler.handle(begin(lsn)).unwrap();
    for message in messages {
        assembler.handle(message).unwrap();
    }
    assembler.handle(commit(lsn)).unwrap();
    assembler.flush();
    let out = drain(assembler);
    assert_eq!(out.len(), 1);
    let batch = out[0].batch.clone();
    assert_eq!(batch.changes.iter().map(describe).collect::<Vec<_>>(), expect);
    assert_eq!(batch.position, Some(Position { lsn: lsn + 10, ..START }));
    batch
}

#[test]
fn a_row_is_a_hash() {
    let mut a = assembler();
    check(
        &mut a,
        vec![
            relation(1, "products", ReplicaIdentity::Default, "id* name price"),
            insert(1, "42 lamp -"),
            update(1, Old::None, "42 lamp 7"),
            Message::Delete { oid: 1, old: Old::Key(tuple("42 - -")) },
            Message::Truncate { oids: vec![1] },
        ],
        &[
            "set pg:products:42 id=42 name=lamp",
            "set pg:products:42 id=42 name=lamp price=7",
            "delete pg:products:42",
            "truncate pg:products:",
        ],
    );
    assert_eq!(a.counters().changes, 4);
    assert_eq!(a.counters().transactions, 1);
}

#[test]
fn composite_keys_and_key_changes() {
    let mut a = assembler();
    check(
        &mut a,
        vec![
            relation(1, "items", ReplicaIdentity::Default, "order* line* qty"),
            insert(1, "1:2 3 9"),
            update(1, Old::Key(tuple("1:2 3 -")), "1 2:3 9"),
            update(1, Old::Key(tuple("1 2:3 -")), "1 2:3 8"),
        ],
        &[
            "set pg:items:1%3A2:3 order=1:2 line=3 qty=9",
            "delete pg:items:1%3A2:3",
            "set pg:items:1:2%3A3 order=1 line=2:3 qty=9",
            "set pg:items:1:2%3A3 order=1 line=2:3 qty=8",
        ],
    );
}

#[test]
fn unchanged_large_values_stay() {
    let mut a = assembler();
    check(
        &mut a,
        vec![
            relation(1, "docs", ReplicaIdentity::Default, "id* title body"),
            update(1, Old::None, "1 new ~"),
        ],
        &["set pg:docs:1 id=1 title=new body~"],
    );
}

#[test]
fn with_full_identity_the_old_row_has_the_large_value() {
    let mut a = assembler();
    a.primary_key(TableName::new("public", "docs"), vec!["id".into()]);
    check(
        &mut a,
        vec![
            relation(1, "docs", ReplicaIdentity::Full, "id title body"),
            update(1, Old::Full(tuple("1 old large")), "1 new ~"),
            update(1, Old::Full(tuple("1 new large")), "2 new ~"),
            Message::Delete { oid: 1, old: Old::Full(tuple("2 new large")) },
        ],
        &[
            "set pg:docs:1 id=1 title=new body=large",
            "delete pg:docs:1",
            "set pg:docs:2 id=2 title=new body=large",
            "delete pg:docs:2",
        ],
    );
}

#[test]
fn a_key_change_asks_for_the_large_values() {
    let mut a = assembler();
    let lsn = START.lsn;
    for message in [
        begin(lsn),
        relation(1, "docs", ReplicaIdentity::Default, "id* title body"),
        insert(1, "7 first text"),
        update(1, Old::Key(tuple("7 - -")), "8 first ~"),
        commit(lsn),
    ] {
        a.handle(message).unwrap();
    }
    // A second transaction in the same batch: the index counts on.
    for message in [begin(150), update(1, Old::Key(tuple("8 - -")), "9 first ~"), commit(150)] {
        a.handle(message).unwrap();
    }
    a.flush();
    let out = drain(&mut a).remove(0);
    let upsert = |i: usize| describe(&out.batch.changes[out.refetch[i].change]);
    assert_eq!(out.refetch.len(), 2);
    assert_eq!(upsert(0), "set pg:docs:8 id=8 title=first");
    assert_eq!(upsert(1), "set pg:docs:9 id=9 title=first");
    assert_eq!(out.refetch[1].columns, [Bytes::from("body")]);
    assert_eq!(out.refetch[1].key, [(Bytes::from("id"), Bytes::from("9"))]);
}

#[test]
fn columns_come_and_go() {
    let mut a = assembler();
    let mut mirror = Mirror::default();
    let first = relation(1, "t", ReplicaIdentity::Default, "id* a b");
    mirror.apply(&check(&mut a, vec![first, insert(1, "1 x y")], &["set pg:t:1 id=1 a=x b=y"]));
    let second = relation(1, "t", ReplicaIdentity::Default, "id* b c");
    let row = update(1, Old::None, "1 ~ z");
    mirror.apply(&check(&mut a, vec![second, row], &["set pg:t:1 id=1 c=z b~"]));
    let fields = |m: &Mirror| format!("{:?}", m.rows[&b"pg:t:1"[..]]);
    // The dropped column goes with the next update, even when a large value is kept.
    assert_eq!(fields(&mirror), r#"{b"b": b"y", b"c": b"z", b"id": b"1"}"#);
}

#[test]
fn a_table_without_key_is_refused_and_the_others_go_on() {
    let mut a = assembler();
    check(
        &mut a,
        vec![
            relation(1, "log", ReplicaIdentity::Default, "line"),
            relation(2, "t", ReplicaIdentity::Default, "id* v"),
            relation(3, "none", ReplicaIdentity::Nothing, "id* v"),
            relation(4, "full", ReplicaIdentity::Full, "id v"),
            insert(1, "hello"),
            insert(2, "1 x"),
            insert(3, "1 x"),
            insert(4, "1 x"),
            Message::Truncate { oids: vec![1, 2] },
        ],
        &["set pg:t:1 id=1 v=x", "truncate pg:t:"],
    );
    let refused: Vec<_> = a.refused().keys().map(|t| t.table.as_str()).collect();
    assert_eq!(refused, ["full", "log", "none"]);
    assert!(a.refused()[&TableName::new("public", "log")].contains("no usable key"));
    assert_eq!(a.counters().ignored, 4);
}

#[test]
fn a_changed_key_or_name_refuses_until_a_new_copy() {
    let mut a = assembler();
    a.copied_key(TableName::new("public", "old"), vec!["id".into()]);
    check(
        &mut a,
        vec![
            relation(1, "t", ReplicaIdentity::Default, "id* v"),
            insert(1, "1 x"),
            relation(1, "t", ReplicaIdentity::Default, "id v*"),
            insert(1, "2 x"),
            relation(2, "old", ReplicaIdentity::Default, "id v*"),
            insert(2, "2 x"),
            relation(3, "before", ReplicaIdentity::Default, "id* v"),
            relation(3, "after", ReplicaIdentity::Default, "id* v"),
            insert(3, "2 x"),
        ],
        &["set pg:t:1 id=1 v=x"],
    );
    let reason = |table: &str| a.refused()[&TableName::new("public", table)].as_str();
    assert!(reason("t").contains("from (id) to (v)"), "{}", reason("t"));
    assert!(reason("old").contains("from (id) to (v)"));
    assert!(reason("after").contains("renamed from public.before"));
}

#[test]
fn a_table_copied_later_counts_from_its_copy_on() {
    let mut a = assembler();
    a.copied_key(TableName::new("public", "t"), vec!["v".into()]);
    a.copied_at(TableName::new("public", "t"), 150);
    // The key was another one before the copy: no reason to refuse.
    let before = relation(1, "t", ReplicaIdentity::Default, "id* v");
    let other = relation(2, "o", ReplicaIdentity::Default, "id*");
    check(&mut a, vec![before, other, insert(1, "1 x"), insert(2, "1")], &["set pg:o:1 id=1"]);
    let after = relation(1, "t", ReplicaIdentity::Default, "id v*");
    check(&mut a, vec![after, insert(1, "2 y")], &[]);
    // Past the copy, and the description is not sent again.
    check(&mut a, vec![insert(1, "3 z")], &["set pg:t:z id=3 v=z"]);
    assert!(a.refused().is_empty());
}

#[test]
fn tables_that_nobody_asked_for_are_passed_over() {
    let listed = Tables::Listed([TableName::new("public", "a")].into());
    let mut a = Assembler::new(listed, START);
    check(
        &mut a,
        vec![
            relation(1, "a", ReplicaIdentity::Default, "id*"),
            relation(2, "b", ReplicaIdentity::Nothing, "id"),
            insert(1, "1"),
            insert(2, "1"),
        ],
        &["set pg:a:1 id=1"],
    );
    assert!(a.refused().is_empty());
}

#[test]
fn commits_that_are_stored_already_are_dropped() {
    let mut a = assembler();
    let table = relation(1, "t", ReplicaIdentity::Default, "id*");
    // Ends at 100, which is stored.
    for message in [begin(90), table, insert(1, "1"), commit(90)] {
        a.handle(message).unwrap();
    }
    a.flush();
    assert!(drain(&mut a).is_empty());
    assert_eq!(a.counters().dropped, 1);
    // Its description of the table counts all the same.
    check(&mut a, vec![insert(1, "2")], &["set pg:t:2 id=2"]);
}

#[test]
fn idle_positions_wait_for_the_end_of_a_transaction() {
    let mut a = assembler();
    a.idle(90);
    a.flush();
    assert!(drain(&mut a).is_empty());
    a.idle(120);
    a.flush();
    let out = drain(&mut a);
    assert_eq!(out[0].batch.position.unwrap().lsn, 120);
    assert!(out[0].batch.changes.is_empty());
    a.handle(begin(130)).unwrap();
    a.idle(140);
    a.flush();
    assert!(drain(&mut a).is_empty());
}

#[test]
fn messages_out_of_order_end_the_session() {
    let order = |what, place| Err(AssembleError::Order { what, place });
    let mut a = assembler();
    assert_eq!(a.handle(insert(1, "1")), order("an insert", "outside"));
    assert_eq!(a.handle(commit(100)), order("a commit", "outside"));
    a.handle(begin(100)).unwrap();
    assert_eq!(a.handle(begin(100)), order("a begin", "inside"));
    assert_eq!(a.handle(insert(1, "1")), Err(AssembleError::UnknownRelation { oid: 1 }));
    a.handle(relation(1, "t", ReplicaIdentity::Default, "id* v")).unwrap();
    let narrow = a.handle(insert(1, "1"));
    assert!(matches!(narrow, Err(AssembleError::Columns { got: 1, want: 2, .. })));
}

#[test]
fn a_huge_transaction_moves_the_position_with_its_last_part_only() {
    let mut a = assembler();
    let table = relation(1, "t", ReplicaIdentity::Default, "id*");
    for message in [begin(100), table, insert(1, "before"), commit(100), begin(120)] {
        a.handle(message).unwrap();
    }
    for id in 0..2 * BATCH_CHANGES_MAX + 1 {
        a.handle(insert(1, &id.to_string())).unwrap();
    }
    let parts = drain(&mut a);
    let positions = |parts: &[Assembled]| -> Vec<_> {
        parts.iter().map(|p| (p.batch.position.map(|p| p.lsn), p.batch.changes.len())).collect()
    };
    let full = (None, BATCH_CHANGES_MAX);
    assert_eq!(positions(&parts), [(Some(110), 1), full, full]);
    a.handle(commit(120)).unwrap();
    a.flush();
    assert_eq!(positions(&drain(&mut a)), [(Some(130), 1)]);
}

#[test]
fn a_batch_is_bounded_in_bytes() {
    let mut a = assembler();
    a.handle(begin(100)).unwrap();
    a.handle(relation(1, "t", ReplicaIdentity::Default, "id* v")).unwrap();
    let value = "x".repeat(BATCH_BYTES_MAX / 3);
    for id in 0..9 {
        a.handle(insert(1, &format!("{id} {value}"))).unwrap();
    }
    a.handle(commit(100)).unwrap();
    a.flush();
    let sizes: Vec<_> = drain(&mut a).iter().map(|p| p.batch.changes.len()).collect();
    assert_eq!(sizes, [3, 3, 3, 0]);
}

/// A source of truth: what each transaction does to rows `id -> value`.
type Story = Vec<Vec<(u8, Option<u16>)>>;

proptest! {
    /// Any cutting into batches, with crashes that lose what came after some stored batch, ends in
    /// the same rows as the transactions themselves.
    #[test]
    fn restarts_lose_and_repeat_nothing(
        story in prop::collection::vec(
            prop::collection::vec((0u8..6, prop::option::of(any::<u16>())), 1..6), 1..12),
        crashes in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        flushes in any::<u64>(),
    ) {
        let mut mirror = Mirror { position: Some(START), ..Mirror::default() };
        for crash in crashes {
            let batches = stream(&story, mirror.position.unwrap(), flushes);
            let applied = if batches.is_empty() { 0 } else { crash.index(batches.len() + 1) };
            batches[..applied].iter().for_each(|batch| mirror.apply(batch));
        }
        for batch in stream(&story, mirror.position.unwrap(), flushes.rotate_left(7)) {
            mirror.apply(&batch);
        }
        let mut truth = BTreeMap::new();
        for (id, value) in story.iter().flatten() {
            match value {
                Some(value) => truth.insert(format!("pg:t:{id}"), value.to_string()),
                None => truth.remove(&format!("pg:t:{id}")),
            };
        }
        let got: BTreeMap<String, String> = mirror.rows.iter()
            .map(|(key, row)| (show(key).to_owned(), show(&row[&b"v"[..]]).to_owned()))
            .collect();
        prop_assert_eq!(got, truth);
    }
}

/// What Postgres would send from a position, and the batches that come of it. It sends commits at
/// or past the position; one more, that is stored already, is sent to be dropped.
fn stream(story: &Story, from: Position, flushes: u64) -> Vec<Batch> {
    let mut a = Assembler::new(Tables::Schema("public".into()), from);
    let mut flush = (0..64).map(|bit| flushes >> bit & 1 == 1).cycle();
    let mut described = false;
    for (index, transaction) in story.iter().enumerate() {
        let lsn = START.lsn + 20 * index as u64;
        if lsn + 20 < from.lsn {
            continue;
        }
        a.handle(begin(lsn)).unwrap();
        if !std::mem::replace(&mut described, true) {
            a.handle(relation(1, "t", ReplicaIdentity::Default, "id* v")).unwrap();
        }
        for (id, value) in transaction {
            let message = match value {
                Some(value) => insert(1, &format!("{id} {value}")),
                None => Message::Delete { oid: 1, old: Old::Key(tuple(&format!("{id} -"))) },
            };
            a.handle(message).unwrap();
            if flush.next().unwrap() {
                a.flush();
            }
        }
        a.handle(commit(lsn)).unwrap();
        if flush.next().unwrap() {
            a.flush();
        }
    }
    a.flush();
    drain(&mut a).into_iter().map(|out| out.batch).collect()
}
