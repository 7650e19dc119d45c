//! What today's protocol says and writes beyond version 1's, kept byte by byte in `corpus/v4`: the
//! version that comes after it must read these, and goes on writing them to whoever speaks version 4.

use crate::{
    corpus,
    region::{EPOCH_US, PARTITIONS, Region},
};
use meridian_clock::{ClockNote, Origin, Time, VersionVector};
use meridian_node::wire::{Moved, PeerMessage};
use meridian_replication::{
    Batch, Hello, PROTOCOL_NEWEST, Subscribe, Vectors,
    repair::{PackedVector, Refusal, RepairMessage, put_runs, put_sums},
};
use meridian_store::{Frame, MemoryStorage, RepairElement, RepairHeader, RepairPart};

const AUTHOR: Origin = Origin(1);
const READER: Origin = Origin(2);

/// Writes of several types, some of which go over others.
const COMMANDS: [&str; 8] = [
    "SET plain text",
    "SET plain other",
    "INCRBY visits 41",
    "INCR visits",
    "HSET user:1 name Ada born 1815",
    "SADD langs rust c",
    "SREM langs c",
    "PEXPIREAT langs 1700086400000",
];

fn vector() -> VersionVector {
    let mut vector = VersionVector::new();
    vector.set(AUTHOR, Time(1 << 40));
    vector.set(READER, Time(3));
    vector
}

fn hello() -> Hello {
    Hello { version: 4, cluster: "shop".into(), origin: AUTHOR, partitions: PARTITIONS }
}

/// Every message of a repair, in the order of the wire.
fn repairs() -> Vec<RepairMessage> {
    let (number, vector) = (7, PackedVector::pack(&vector()));
    let (mut sums, mut runs) = (Vec::new(), Vec::new());
    put_sums(&mut sums, &[(512, 1), (700, u64::MAX)]);
    put_runs(&mut runs, &[512, 513, 900]);
    let refusals = [Refusal::Busy, Refusal::Changed, Refusal::Unknown];
    let mut all = vec![
        RepairMessage::Open {
            number,
            partition: 1,
            seed: 9,
            vector: vector.clone(),
            lasting: true,
        },
        RepairMessage::Offer {
            number,
            vector: vector.clone(),
            sums: vec![1, 0, u64::MAX],
            items: 300,
            news: 2,
            whole: false,
        },
        RepairMessage::More { number, groups: 5, upto: 300 },
        RepairMessage::Symbols { number, groups: 5, from: 20, symbols: vec![1, 2, 3] },
        RepairMessage::Fetch { number, items: vec![4, 1 << 50], last: true },
        RepairMessage::Grant { number, bytes: 1 << 22 },
        RepairMessage::Elements { number, from: 70_000, bytes: vec![5, 6], last: false },
        RepairMessage::Close { number },
        RepairMessage::OfferSlots {
            number,
            vector,
            shift: 3,
            sums,
            items: 300,
            news: 2,
            whole: true,
        },
        RepairMessage::Select { number, runs, news: 70_000 },
    ];
    all.extend(refusals.map(|reason| RepairMessage::Refuse { number, reason }));
    all
}

/// Every kind of message that version 1 did not know, and its greeting.
fn messages() -> Vec<PeerMessage> {
    let mut all = vec![
        PeerMessage::Hello(hello()),
        PeerMessage::Behind { number: 300, partitions: vec![0, 1] },
        PeerMessage::Clock(ClockNote { number: 0, physical_us: EPOCH_US, answers: None }),
        PeerMessage::Clock(ClockNote { number: 1, physical_us: 2, answers: Some((3, 70_000)) }),
        PeerMessage::Members(vec![1, 2, 3]),
        PeerMessage::Moved(Moved {
            after: 1,
            entries: vec![(1, 2, 1 << 40)],
            now: 1 << 41,
            physical_ms: EPOCH_US / 1000,
        }),
    ];
    all.extend(repairs().into_iter().map(PeerMessage::Repair));
    all
}

/// What a region sends that has run the commands, to a peer that has seen nothing.
fn batches(compact_beyond: u64) -> Vec<Vec<u8>> {
    let mut author = Region::start_at(0, AUTHOR, &[READER], MemoryStorage::new());
    author.node.engine_mut().stage_mut().start_above(Time::from_ms(EPOCH_US / 1000));
    COMMANDS.iter().for_each(|command| drop(author.run(command)));
    author.shipper.greeted(READER, 4);
    author.shipper.compact_beyond(compact_beyond);
    let nothing = vec![VersionVector::new(); usize::from(PARTITIONS)];
    let request = Subscribe { number: 1, origins: vec![AUTHOR], vectors: Vectors::pack(&nothing) };
    author.shipper.subscribe(READER, 1, &request).expect("it fits the cluster");
    author.batches(READER)
}

fn repair() -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = RepairHeader { partition: 1, seen: vector(), last: true, union: true };
    header.encode(&mut bytes);
    elements().iter().for_each(|element| element.encode(&mut bytes));
    bytes
}

fn elements() -> [RepairElement<'static>; 2] {
    [
        RepairElement { key: b"plain", element: b"\0", value: Some(b"stored") },
        RepairElement { key: b"user:1", element: b"\x01name", value: None },
    ]
}

#[test]
fn today_s_encoders_write_what_version_4_wrote() {
    assert_eq!(PROTOCOL_NEWEST, 4, "a newer one gets a corpus of its own");
    let encoded: Vec<_> = messages().iter().map(PeerMessage::encode).collect();
    corpus::check("v4/messages", &encoded);
    corpus::check("v4/packed", &batches(u64::MAX));
    corpus::check("v4/bundles", &batches(0));
    corpus::check("v4/repair", &[repair()]);
}

#[test]
fn messages_of_version_4_are_understood() {
    let decode = |bytes: &Vec<u8>| PeerMessage::decode(bytes).unwrap().expect("a known kind");
    let decoded: Vec<_> = corpus::read("v4/messages").iter().map(decode).collect();
    assert_eq!(decoded, messages());
}

#[test]
fn batches_of_version_4_are_read() {
    for (name, bundled) in [("v4/packed", false), ("v4/bundles", true)] {
        let mut reader = Region::start(READER, &[AUTHOR], MemoryStorage::new());
        reader.node.peer_up(AUTHOR, 1);
        reader.node.message(AUTHOR, 1, PeerMessage::Hello(hello()));
        for batch in corpus::read(name) {
            let plain = Batch::plain(&batch).unwrap();
            let batch_of = Batch::decode(&plain).unwrap();
            let bundles = batch_of.frames.iter().filter(|f| Frame::decode(f).unwrap().is_bundle);
            assert_eq!(bundles.count() > 0, bundled, "{name}");
            reader.node.batch(AUTHOR, 1, &batch);
            reader.end_turn();
        }
        for (command, reply) in [
            ("GET plain", "$5\r\nother\r\n"),
            ("GET visits", "$2\r\n42\r\n"),
            ("HGET user:1 name", "$3\r\nAda\r\n"),
            ("SMEMBERS langs", "*1\r\n$4\r\nrust\r\n"),
            ("EXPIRETIME langs", ":1700086400\r\n"),
        ] {
            assert_eq!(reader.run(command), reply, "{name}: {command}");
        }
    }
}

#[test]
fn a_repair_in_a_log_of_version_4_is_read() {
    let bytes = corpus::read("v4/repair").remove(0);
    let part = RepairPart::decode(&bytes).unwrap();
    assert!(part.header.last && part.header.union && part.header.seen == vector());
    let read: Vec<_> = part.elements().map(Result::unwrap).collect();
    assert_eq!(read, elements());
}
