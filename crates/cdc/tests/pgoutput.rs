//! The decoder against hand-laid messages, against every cut of them, and against arbitrary bytes.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::{BufMut, Bytes, BytesMut};
use meridian_cdc::{
    Assembler, Column, DecodeError, Decoder, Message, Old, Position, Relation, RelationColumn,
    ReplicaIdentity, Tables,
};
use proptest::prelude::*;

fn text(value: &'static str) -> Column {
    Column::Text(Bytes::from_static(value.as_bytes()))
}

fn put_tuple(out: &mut BytesMut, tuple: &[Column]) {
    out.put_u16(tuple.len() as u16);
    for column in tuple {
        match column {
            Column::Null => out.put_u8(b'n'),
            Column::Unchanged => out.put_u8(b'u'),
            Column::Text(v) | Column::Binary(v) => {
                out.put_u8(if matches!(column, Column::Text(_)) { b't' } else { b'b' });
                out.put_u32(v.len() as u32);
                out.put_slice(v);
            }
        }
    }
}

/// Every kind of message with its meaning.
fn examples() -> Vec<(Bytes, Message)> {
    let row = vec![text("42"), Column::Null, Column::Unchanged, Column::Binary("\0x".into())];
    let mut all = vec![];
    let mut add = |message: Message, write: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        write(&mut out);
        all.push((out.freeze(), message));
    };
    // 2000-01-01 00:00:01 is one second after Postgres's epoch.
    let commit_time_us = 946_684_801_000_000;
    add(Message::Begin { commit_lsn: 7, commit_time_us, xid: 9 }, &|out| {
        out.put_u8(b'B');
        out.put_u64(7);
        out.put_i64(1_000_000);
        out.put_u32(9);
    });
    add(Message::Commit { commit_lsn: 7, end_lsn: 8, commit_time_us }, &|out| {
        out.put_slice(b"C\0");
        out.put_u64(7);
        out.put_u64(8);
        out.put_i64(1_000_000);
    });
    add(Message::Origin, &|out| out.put_slice(b"O\0\0\0\0\0\0\0\x01other\0"));
    add(Message::Type, &|out| out.put_slice(b"Y\0\0\0\x07public\0mood\0"));
    let relation = Relation {
        oid: 5,
        schema: "public".into(),
        table: "products".into(),
        identity: ReplicaIdentity::Default,
        columns: vec![RelationColumn {
            key: true,
            name: "id".into(),
            type_oid: 23,
            type_modifier: -1,
        }],
    };
    add(Message::Relation(relation), &|out| {
        out.put_slice(b"R\0\0\0\x05public\0products\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff");
    });
    add(Message::Insert { oid: 5, new: row.clone() }, &|out| {
        out.put_slice(b"I\0\0\0\x05N");
        put_tuple(out, &row);
    });
    add(Message::Update { oid: 5, old: Old::None, new: row.clone() }, &|out| {
        out.put_slice(b"U\0\0\0\x05N");
        put_tuple(out, &row);
    });
    add(Message::Update { oid: 5, old: Old::Key(row.clone()), new: row.clone() }, &|out| {
        out.put_slice(b"U\0\0\0\x05K");
        put_tuple(out, &row);
        out.put_u8(b'N');
        put_tuple(out, &row);
    });
    add(Message::Delete { oid: 5, old: Old::Full(row.clone()) }, &|out| {
        out.put_slice(b"D\0\0\0\x05O");
        put_tuple(out, &row);
    });
    add(Message::Truncate { oids: vec![5, 6] }, &|out| {
        out.put_slice(b"T\0\0\0\x02\x03\0\0\0\x05\0\0\0\x06");
    });
    let (prefix, content) = (Bytes::from_static(b"mine"), Bytes::from_static(b"hello"));
    add(Message::Logical { transactional: true, lsn: 3, prefix, content }, &|out| {
        out.put_slice(b"M\x01\0\0\0\0\0\0\0\x03mine\0\0\0\0\x05hello");
    });
    all
}

#[test]
fn every_kind_of_message() {
    for (bytes, message) in examples() {
        assert_eq!(Decoder::default().decode(bytes), Ok(message));
    }
}

#[test]
fn a_message_cut_anywhere_or_too_long_is_an_error() {
    for (bytes, message) in examples() {
        for length in 0..bytes.len() {
            let cut = Decoder::default().decode(bytes.slice(..length));
            assert!(cut.is_err(), "{message:?} cut to {length} gave {cut:?}");
        }
        let mut long = BytesMut::from(&bytes[..]);
        long.put_u8(0);
        let tag = char::from(bytes[0]);
        let got = Decoder::default().decode(long.freeze());
        assert_eq!(got, Err(DecodeError::Trailing { tag, bytes: 1 }));
    }
}

#[test]
fn what_is_unknown_is_named() {
    let check = |bytes: &'static [u8], expect: &str| {
        let got = Decoder::default().decode(Bytes::from_static(bytes));
        assert_eq!(got.map_err(|e| e.to_string()), Err(expect.to_owned()));
    };
    check(b"", "pgoutput message ' ' is cut short");
    check(b"?", "pgoutput message '?' has an unknown kind 0x3f");
    check(b"I\0\0\0\x05X", "pgoutput message 'I' has an unknown new row 0x58");
    check(b"R\0\0\0\x05\xff\0t\0d\0\0", "pgoutput message 'R' has a name that is not UTF-8");
    check(b"I\0\0\0\x05N\xff\xff", "pgoutput message 'I' exceeds the limit for columns");
    check(b"T\xff\xff\xff\xff\0", "pgoutput message 'T' is cut short");
}

#[test]
fn streamed_blocks_carry_a_transaction_id_more() {
    let mut decoder = Decoder::default();
    let mut decode = |bytes: &'static [u8]| decoder.decode(Bytes::from_static(bytes)).unwrap();
    assert_eq!(decode(b"S\0\0\0\x01\x01"), Message::Stream { tag: b'S' });
    assert_eq!(decode(b"T\0\0\0\x01\0\0\0\x01\0\0\0\0\x05"), Message::Truncate { oids: vec![5] });
    assert_eq!(decode(b"E"), Message::Stream { tag: b'E' });
    assert_eq!(decode(b"T\0\0\0\x01\0\0\0\0\x05"), Message::Truncate { oids: vec![5] });
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(messages in prop::collection::vec(message_like(), 0..40)) {
        let mut decoder = Decoder::default();
        let position = Position { system_id: 1, timeline: 1, lsn: 0 };
        let mut assembler = Assembler::new(Tables::Schema("public".into()), position);
        let mut last = 0;
        for bytes in messages {
            let Ok(message) = decoder.decode(bytes) else { continue };
            if assembler.handle(message).is_err() {
                break;
            }
            assembler.flush();
            while let Some(out) = assembler.poll() {
                // Whatever arrives, positions never go back.
                if let Some(position) = out.batch.position {
                    prop_assert!(position.lsn >= last);
                    last = position.lsn;
                }
            }
        }
    }
}

/// Bytes that come near to being messages: examples, mutated or not, and noise.
fn message_like() -> impl Strategy<Value = Bytes> {
    let examples: Vec<Bytes> = examples().into_iter().map(|(bytes, _)| bytes).collect();
    let mutated =
        (prop::sample::select(examples.clone()), any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(bytes, index, byte)| {
                let mut bytes = bytes.to_vec();
                let at = index.index(bytes.len());
                bytes[at] = byte;
                Bytes::from(bytes)
            });
    prop_oneof![
        4 => prop::sample::select(examples),
        4 => mutated,
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from),
    ]
}
