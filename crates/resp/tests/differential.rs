//! The same bytes through this crate and through `redis-protocol`, an independent implementation:
//! what one writes the other must read as the same values, however the bytes are cut.

use meridian_resp::{Args, Limits, Protocol, ReplyParser, RequestParser, Value, Writer};
use meridian_resp::{ProtocolError, encode_command};
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::resp2::types::OwnedFrame as Frame2;
use redis_protocol::resp3::types::{OwnedFrame as Frame3, VerbatimStringFormat};
use redis_protocol::{resp2, resp3};

type Commands = Vec<Vec<Vec<u8>>>;

/// Everything that a connection understands of `input` when it arrives in pieces that end at
/// `cuts`, and the error that ends it, if any.
fn parse_requests(input: &[u8], cuts: &[usize]) -> (Commands, Option<ProtocolError>) {
    let mut parser = RequestParser::new(Limits::DEFAULT);
    let mut args = Args::new();
    let (mut commands, mut start) = (Vec::new(), 0);
    for &cut in cuts.iter().chain([&input.len()]) {
        loop {
            let unread = &input[start..cut];
            match parser.parse(unread, &mut args) {
                Ok(Some(used)) => {
                    assert!(used > 0 && used <= unread.len());
                    commands.push(args.iter(unread).map(<[u8]>::to_vec).collect());
                    start += used;
                }
                Ok(None) => break,
                Err(error) => return (commands, Some(error)),
            }
        }
    }
    (commands, None)
}

/// Everything that `redis-protocol` reads at the start of `input` as arrays of strings.
fn reference_requests(input: &[u8]) -> Commands {
    let mut commands = Vec::new();
    let mut rest = input;
    while let Ok(Some((Frame2::Array(frames), used))) = resp2::decode::decode(rest) {
        let args = frames.into_iter().map(|frame| match frame {
            Frame2::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        let Some(args) = args.collect() else { break };
        commands.push(args);
        rest = &rest[used..];
    }
    commands
}

fn commands() -> impl Strategy<Value = Commands> {
    vec(vec(vec(any::<u8>(), 0..40), 1..6), 1..5)
}

fn encoded(commands: &Commands) -> Vec<u8> {
    let mut bytes = Vec::new();
    commands.iter().for_each(|args| encode_command(&mut bytes, args));
    bytes
}

fn sorted_cuts(cuts: Vec<prop::sample::Index>, len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

/// Text that looks like requests now and then: what a random byte string never does.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        8 => "[*$][0-9]{1,2}\r\n".prop_map(String::into_bytes),
        4 => "[a-z]{0,12}\r\n".prop_map(String::into_bytes),
        2 => "[*$][-+0-9]{0,12}\r?\n?".prop_map(String::into_bytes),
        2 => "[ -~]{0,8}\n".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..8),
    ];
    vec(token, 0..12).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn requests_agree(commands in commands(), cuts: Vec<prop::sample::Index>) {
        let bytes = encoded(&commands);
        let cuts = sorted_cuts(cuts, bytes.len());
        prop_assert_eq!(parse_requests(&bytes, &cuts), (commands.clone(), None));
        prop_assert_eq!(reference_requests(&bytes), commands);
    }

    #[test]
    fn broken_requests_do_not_depend_on_the_cuts(
        bytes in nearly_requests(),
        cuts: Vec<prop::sample::Index>,
    ) {
        let whole = parse_requests(&bytes, &[]);
        let cuts = sorted_cuts(cuts, bytes.len());
        prop_assert_eq!(parse_requests(&bytes, &cuts), whole);
    }

    #[test]
    fn damaged_requests_are_never_read_differently(
        commands in commands(),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut bytes = encoded(&commands);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let (ours, error) = parse_requests(&bytes, &[]);
        // What the stricter reference accepts we read the same, unless we stop with an error: it
        // takes lengths with a plus sign or leading zeros, Redis does not.
        for (our, reference) in ours.iter().zip(&reference_requests(&bytes)) {
            prop_assert_eq!(our, reference, "{:?}", error);
        }
        let mut every_byte: Vec<usize> = (0..bytes.len()).collect();
        every_byte.push(bytes.len());
        prop_assert_eq!(parse_requests(&bytes, &every_byte), (ours, error));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        let (commands, _) = parse_requests(&bytes, &[]);
        let held: usize = commands.iter().flatten().map(Vec::len).sum();
        prop_assert!(held <= bytes.len());
        let mut parser = ReplyParser::default();
        let whole = parser.parse(&bytes);
        let mut pieces = ReplyParser::default();
        let cut = (0..=bytes.len()).map(|end| pieces.parse(&bytes[..end]));
        let cut = cut.into_iter().find(|parsed| !matches!(parsed, Ok(None))).unwrap_or(Ok(None));
        prop_assert_eq!(format!("{cut:?}"), format!("{whole:?}"));
    }

    #[test]
    fn replies_agree_in_resp3(value in value()) {
        let mut bytes = Vec::new();
        write(&value, &mut Writer::new(&mut bytes, Protocol::Resp3));
        let (frame, used) = resp3::decode::complete::decode(&bytes)
            .expect("a reply").expect("a whole reply");
        prop_assert_eq!(used, bytes.len());
        prop_assert_eq!(sorted(from_resp3(&frame)), sorted(value.clone()));
        prop_assert_eq!(ReplyParser::default().parse(&bytes), Ok(Some((value, bytes.len()))));
        // And in the other direction: what the reference writes.
        let mut theirs = vec![0; bytes.len() * 2 + 1024];
        let len = resp3::encode::complete::encode(&mut theirs, &frame, false).expect("encodable");
        let (back, _) = ReplyParser::default().parse(&theirs[..len]).expect("a reply").expect("whole");
        prop_assert_eq!(sorted(back), sorted(from_resp3(&frame)));
    }

    #[test]
    fn replies_agree_in_resp2(value in value()) {
        let mut bytes = Vec::new();
        write(&value, &mut Writer::new(&mut bytes, Protocol::Resp2));
        let (frame, used) = resp2::decode::decode(&bytes).expect("a reply").expect("a whole reply");
        prop_assert_eq!(used, bytes.len());
        let expected = as_resp2(&value);
        prop_assert_eq!(from_resp2(&frame), expected.clone());
        prop_assert_eq!(ReplyParser::default().parse(&bytes), Ok(Some((expected, bytes.len()))));
    }
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    "[ -~]{0,20}".prop_map(String::into_bytes)
}

fn value() -> impl Strategy<Value = Value> {
    let bytes = || vec(any::<u8>(), 0..30);
    let leaf = prop_oneof![
        bytes().prop_map(Value::Bulk),
        text().prop_map(Value::Simple),
        text().prop_map(Value::Error),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_filter("NaN equals nothing", |d| !d.is_nan()).prop_map(Value::Double),
        any::<bool>().prop_map(Value::Boolean),
        "-?[1-9][0-9]{0,30}".prop_map(|digits| Value::BigNumber(digits.into_bytes())),
        text().prop_map(|text| Value::Verbatim(*b"txt", text)),
        Just(Value::Null),
    ];
    let keys = || prop::collection::btree_set(vec(any::<u8>(), 0..8), 0..5);
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let pairs = keys().prop_flat_map({
            let inner = inner.clone();
            move |keys| {
                vec(inner.clone(), keys.len()).prop_map(move |values| {
                    keys.iter().cloned().map(Value::Bulk).zip(values).collect()
                })
            }
        });
        prop_oneof![
            vec(inner, 0..5).prop_map(Value::Array),
            pairs.prop_map(Value::Map),
            keys().prop_map(|keys| Value::Set(keys.into_iter().map(Value::Bulk).collect())),
        ]
    })
}

fn write(value: &Value, writer: &mut Writer<'_>) {
    let ascii = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ascii");
    match value {
        Value::Simple(text) => writer.simple(&ascii(text)),
        Value::Error(text) => writer.error(&ascii(text)),
        Value::Integer(value) => writer.integer(*value),
        Value::Double(value) => writer.double(*value),
        Value::Boolean(value) => writer.boolean(*value),
        Value::BigNumber(digits) => writer.big_number(&ascii(digits)),
        Value::Bulk(bytes) => writer.bulk(bytes),
        Value::Verbatim(format, text) => writer.verbatim(*format, text),
        Value::Null => writer.null(),
        Value::Array(values) => {
            writer.array(values.len());
            values.iter().for_each(|value| write(value, writer));
        }
        Value::Set(values) => {
            writer.set(values.len());
            values.iter().for_each(|value| write(value, writer));
        }
        Value::Map(pairs) => {
            writer.map(pairs.len());
            for (key, value) in pairs {
                write(key, writer);
                write(value, writer);
            }
        }
        Value::Push(_) | Value::Attributed(..) => unreachable!("not generated"),
    }
}

/// What a RESP2 client sees of a value.
fn as_resp2(value: &Value) -> Value {
    let bulk = |text: String| Value::Bulk(text.into_bytes());
    match value {
        Value::Double(value) => {
            let text = meridian_resp::number::double_text(*value);
            Value::Bulk(text.as_bytes().to_vec())
        }
        Value::Boolean(value) => Value::Integer(i64::from(*value)),
        Value::BigNumber(digits) => Value::Bulk(digits.clone()),
        Value::Verbatim(_, text) => bulk(String::from_utf8_lossy(text).into_owned()),
        Value::Array(values) | Value::Set(values) => {
            Value::Array(values.iter().map(as_resp2).collect())
        }
        Value::Map(pairs) => Value::Array(
            pairs.iter().flat_map(|(key, value)| [as_resp2(key), as_resp2(value)]).collect(),
        ),
        value => value.clone(),
    }
}

fn from_resp2(frame: &Frame2) -> Value {
    match frame {
        Frame2::SimpleString(text) => Value::Simple(text.clone()),
        Frame2::Error(text) => Value::Error(text.clone().into_bytes()),
        Frame2::Integer(value) => Value::Integer(*value),
        Frame2::BulkString(bytes) => Value::Bulk(bytes.clone()),
        Frame2::Array(frames) => Value::Array(frames.iter().map(from_resp2).collect()),
        Frame2::Null => Value::Null,
    }
}

fn from_resp3(frame: &Frame3) -> Value {
    match frame {
        Frame3::BlobString { data, .. } => Value::Bulk(data.clone()),
        Frame3::SimpleString { data, .. } => Value::Simple(data.clone()),
        Frame3::SimpleError { data, .. } => Value::Error(data.clone().into_bytes()),
        Frame3::Boolean { data, .. } => Value::Boolean(*data),
        Frame3::Null => Value::Null,
        Frame3::Number { data, .. } => Value::Integer(*data),
        Frame3::Double { data, .. } => Value::Double(*data),
        Frame3::BigNumber { data, .. } => Value::BigNumber(data.clone()),
        Frame3::VerbatimString { data, format: VerbatimStringFormat::Text, .. } => {
            Value::Verbatim(*b"txt", data.clone())
        }
        Frame3::Array { data, .. } => Value::Array(data.iter().map(from_resp3).collect()),
        Frame3::Map { data, .. } => {
            Value::Map(data.iter().map(|(k, v)| (from_resp3(k), from_resp3(v))).collect())
        }
        Frame3::Set { data, .. } => Value::Set(data.iter().map(from_resp3).collect()),
        other => panic!("not written by these tests: {other:?}"),
    }
}

/// The reference keeps maps and sets without order: put them in one.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        Value::Set(values) => {
            let mut values: Vec<Value> = values.into_iter().map(sorted).collect();
            values.sort_by_key(|value| format!("{value:?}"));
            Value::Set(values)
        }
        Value::Map(pairs) => {
            let pairs = pairs.into_iter().map(|(key, value)| (sorted(key), sorted(value)));
            let mut pairs: Vec<(Value, Value)> = pairs.collect();
            pairs.sort_by_key(|(key, _)| format!("{key:?}"));
            Value::Map(pairs)
        }
        value => value,
    }
}
