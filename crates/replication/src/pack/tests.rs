//! Batches in columns: what comes out, what it costs, and that nothing can be made of them that is
//! too large.

use meridian_clock::{Dot, Origin, Time, VersionVector};
use meridian_codec::{Malformed, put_bytes, put_varint};
use meridian_crdt::{Action, Amount, Cut, Element, Op, encode_op};
use meridian_store::FrameHeader;
use proptest::prelude::*;

use super::packer::{Packer, read_frame};
use super::runs::Runs;
use super::shape::CLEAR;
use crate::message::Batch;

const ME: Origin = Origin(2);

/// A frame of operations, each so far behind the one before.
fn frame(previous: u64, ops: &[(u64, Op<'_>)]) -> Vec<u8> {
    let (mut bytes, mut key, mut last) = (Vec::new(), None, Time(previous));
    for (gap, op) in ops {
        let dot = Dot::new(Time(last.0 + 1 + gap), ME);
        encode_op(&mut bytes, op, dot, (key, last));
        (key, last) = (Some(op.key), dot.time);
    }
    let mut seen = VersionVector::new();
    seen.set(Origin(0), Time(previous / 2 + 1));
    let (partition, previous) = (7, Time(previous));
    let mut out = Vec::new();
    FrameHeader { partition, origin: ME, previous, last, seen }.encode(&mut out);
    out.extend_from_slice(&bytes);
    out
}

fn round_trip(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    let packed = Batch::packed(9, &frames);
    let plain = Batch::plain(&packed).expect("what was packed");
    let batch = Batch::decode(&plain).expect("a plain batch");
    assert_eq!(batch.number, 9);
    batch.frames.into_iter().map(<[u8]>::to_vec).collect()
}

fn incr(key: &[u8], birth: u64, sum: i64) -> Op<'_> {
    let (element, sum) = (Element::String, Amount::from_int(sum));
    Op::new(key, Action::Incr { element, birth: Time(birth), sum })
}

#[test]
fn what_cannot_be_packed_travels_as_it_is() {
    let cut = Cut {
        element: Element::String,
        origin: Origin(0),
        birth: Time(1),
        last: Time(2),
        sum: Amount::ZERO,
    };
    let with_cuts = Op { cuts: vec![cut], ..Op::new(b"k", Action::Clear) };
    let plain = frame(100, &[(0, incr(b"a", 101, 1))]);
    let frames = [plain.clone(), b"no frame".to_vec(), frame(100, &[(3, with_cuts)]), plain];
    assert_eq!(round_trip(&frames), frames);
}

#[test]
fn of_the_increments_of_a_row_the_last_one_travels() {
    let expire = Op::new(b"n", Action::Expire { deadline: Time::MAX });
    let ops = [
        (0, incr(b"n", 1001, 1)),
        (0, incr(b"other", 5, 1)),
        (4, incr(b"n", 1001, 2)),
        (0, expire.clone()),
        (0, incr(b"n", 1001, 3)),
        (9, incr(b"n", 1001, 4)),
        (0, incr(b"n", 200, 1)),
    ];
    let kept = [
        (1, incr(b"other", 5, 1)),
        (4, incr(b"n", 1001, 2)),
        (0, expire),
        (10, incr(b"n", 1001, 4)),
        (0, incr(b"n", 200, 1)),
    ];
    assert_eq!(round_trip(&[frame(1000, &ops)]), [frame(1000, &kept)]);
}

#[test]
fn a_hot_counter_costs_next_to_nothing() {
    let ops: Vec<_> = (0..500).map(|n| (0, incr(b"hits:0000000001", 7, n))).collect();
    let frame = frame(1 << 40, &ops);
    assert!(Batch::packed(1, &[&frame]).len() < 100);
}

#[test]
fn keys_that_begin_alike_cost_what_they_differ_in() {
    let keys: Vec<Vec<u8>> = (1..1000u64)
        .map(|n| format!("user:{:010}", n * 2_654_435_761 % 9_999_999_967).into())
        .collect();
    let set = |key: &'_ Vec<u8>| {
        let action = Action::Assign { element: Element::String, value: &[1; 128], ttl: Time::MAX };
        frame(1 << 40, &[(15, Op::new(key, action))])
    };
    let frames: Vec<Vec<u8>> = keys.iter().map(set).collect();
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    // The stamps, vectors and headers of frames with one operation each.
    let header = 22;
    assert!(Batch::packed(1, &frames).len() <= 999 * (10 + 128 + header));
}

#[test]
fn what_would_unpack_to_too_much_is_refused() {
    // Sixteen million times the same key without any bytes of its own.
    let key = vec![b'k'; 1 << 16];
    let set = Op::new(&key, Action::Clear);
    let small = frame(100, &[(0, set.clone()), (0, set)]);
    let mut packer = Packer::default();
    packer.frame(&small);
    let mut columns = packer.finish();
    let operations = 1 << 24;
    let [frames, _, _, shapes, gaps, shared, rests, ..] = &mut columns;
    *frames = Vec::new();
    [operations, 7, 2, 1, 0].iter().for_each(|n| put_varint(frames, *n));
    let runs = |numbers: &[(u64, u64)]| {
        let mut runs = Runs::default();
        for (number, run) in numbers {
            (0..*run).for_each(|_| runs.push(*number));
        }
        runs.finish()
    };
    *shapes = runs(&[(CLEAR, operations)]);
    *gaps = vec![0; operations as usize];
    *shared = runs(&[(0, 1), (1 << 16, operations - 1)]);
    *rests = runs(&[(1 << 16, 1), (0, operations - 1)]);
    let mut bytes = vec![0, 1];
    columns.iter().for_each(|column| put_bytes(&mut bytes, column));
    assert_eq!(Batch::plain(&bytes), Err(Malformed("packed batch is too large")));
}

/// What protocol 3 sends, byte for byte: whoever changes it needs another protocol.
#[test]
fn the_layout_is_that_of_protocol_3() {
    let value = Action::Assign { element: Element::Field(b"f"), value: b"v", ttl: Time::MAX };
    let ops = [
        (2, incr(b"user:1", 990, 7)),
        (0, Op::new(b"user:2", value)),
        (0, Op::new(b"user:2", Action::Expire { deadline: Time::from_ms(5) })),
    ];
    let frame = frame(1000, &ops);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let packed = Batch::packed(9, &[&frame]);
    assert_eq!(hex(&packed), PROTOCOL_3);
}

const PROTOCOL_3: &str = "000905030702010002d00f08f501000000000000040610c8020302000002000a02\
    0c020f757365723a31de03000000000000320201660102020e0a017600";

fn any_op() -> impl Strategy<Value = (u64, (u8, u8, u8, u64, bool))> {
    let gap = prop_oneof![Just(0u64), 0..200u64, any::<u32>().prop_map(u64::from)];
    (gap, (0..7u8, 0..9u8, 0..4u8, any::<u64>(), any::<bool>()))
}

fn make<'a>(
    (kind, key, name, number, flag): (u8, u8, u8, u64, bool),
    keys: &'a [Vec<u8>],
) -> Op<'a> {
    let names: [&[u8]; 4] = [b"", b"f", b"field", b"another"];
    let element = match name {
        0 | 1 => Element::String,
        2 => Element::Field(names[usize::from(key % 4)]),
        _ => Element::Member(names[usize::from(key % 4)]),
    };
    let ttl = if flag { Time::from_ms(number % (1 << 42) + 1) } else { Time::MAX };
    let key = &keys[usize::from(key)][..];
    let value = if matches!(element, Element::Member(_)) { &[][..] } else { key };
    let action = match kind {
        0 | 1 => Action::Assign { element, value, ttl },
        2 => Action::Remove { element },
        3 => Action::Clear,
        4 => Action::Expire { deadline: ttl },
        _ => {
            let fraction = if number % 3 == 0 { number % 1000 } else { 0 };
            let sum = Amount::from_parts(number as i64 >> 1, fraction).expect("a fraction");
            // Rows that differ, so that none is left out.
            Action::Incr { element, birth: Time(number % 100), sum }
        }
    };
    Op { fresh: flag && kind == 1, ..Op::new(key, action) }
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(
        frames in prop::collection::vec(
            (1000..1u64 << 50, prop::collection::vec(any_op(), 1..40)), 0..8,
        )
    ) {
        let keys: Vec<Vec<u8>> =
            ["", "a", "user:1", "user:22", "user:23", "user:3", "users", "b", "user:1:long"]
                .iter().map(|key| key.as_bytes().to_vec()).collect();
        let frames: Vec<Vec<u8>> = frames.iter().map(|(previous, ops)| {
            let ops: Vec<_> = ops.iter().map(|(gap, op)| (*gap, make(*op, &keys))).collect();
            frame(*previous, &ops)
        }).collect();
        // Leaving out is told by the other tests; here a frame is compared with what is left.
        let expected: Vec<Vec<u8>> = frames.iter().map(|bytes| {
            let (header, ops) = read_frame(bytes).expect("a frame");
            let (mut out, mut key, mut last) = (Vec::new(), None, header.previous);
            header.encode(&mut out);
            for (dot, op) in ops.iter().flatten() {
                encode_op(&mut out, op, *dot, (key, last));
                (key, last) = (Some(op.key), dot.time);
            }
            out
        }).collect();
        prop_assert_eq!(round_trip(&frames), expected);
    }

    #[test]
    fn damaged_batches_never_panic(
        ops in prop::collection::vec(any_op(), 1..20),
        damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6),
        cut in any::<u16>(),
    ) {
        let keys: Vec<Vec<u8>> = (0..9u8).map(|n| vec![n; usize::from(n)]).collect();
        let ops: Vec<_> = ops.iter().map(|(gap, op)| (*gap, make(*op, &keys))).collect();
        let frame = frame(1 << 40, &ops);
        let mut bytes = Batch::packed(1, &[&frame, &frame]);
        for (at, value) in damage {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        bytes[0] = 0;
        let _ = Batch::plain(&bytes);
        let upto = usize::from(cut) % bytes.len();
        prop_assert!(upto == 0 || Batch::plain(&bytes[..upto]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let packed = [&[0][..], &bytes].concat();
        let _ = Batch::plain(&packed);
    }
}
