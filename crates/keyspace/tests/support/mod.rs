//! A region in memory, as the tests drive it: an engine, its log, and the frames that it made.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;

use meridian_clock::Origin;
use meridian_keyspace::{
    Ablations, Durability, Engine, EngineConfig, FrameError, Stage, StageConfig,
};
use meridian_resp::{Args, Limits, ReplyParser, RequestParser, Value};
use meridian_store::{Entries, LogPosition};

/// When the tests' time begins, in milliseconds since 1970.
pub const START_MS: u64 = 1_700_000_000_000;

/// Few partitions, so that commands meet in one now and then.
pub const PARTITIONS: u16 = 4;

/// The client that [`Region::run`] speaks for.
const CLIENT: u64 = 1;

/// One region: engine and log.
pub struct Region {
    pub engine: Engine,
    pub log: Vec<u8>,
}

/// What a stage of this region is made from.
pub fn stage_config(ordinal: u16) -> StageConfig {
    StageConfig {
        me: Origin(ordinal),
        partitions: PARTITIONS,
        seed: 7 + u64::from(ordinal),
        ablations: Ablations::default(),
    }
}

/// An engine's configuration.
pub fn config(ordinal: u16, password: Option<&str>) -> EngineConfig {
    let regions: BTreeMap<Origin, String> =
        (0..3).map(|n| (Origin(n), format!("region-{n}"))).collect();
    EngineConfig {
        stage: stage_config(ordinal),
        durability: Durability::Everysec,
        password: password.map(str::to_owned),
        cluster: "test".to_owned(),
        region: format!("region-{ordinal}"),
        regions,
    }
}

impl Region {
    pub fn new(ordinal: u16) -> Region {
        Region::with(config(ordinal, None))
    }

    pub fn with(config: EngineConfig) -> Region {
        let stage = Stage::new(config.stage.clone());
        let mut engine = Engine::new(config, stage, LogPosition(0));
        engine.set_physical_us(START_MS * 1000);
        engine.connect(CLIENT, "127.0.0.1:1000".to_owned());
        Region { engine, log: Vec::new() }
    }

    pub fn set_ms(&mut self, ms: u64) {
        self.engine.set_physical_us(ms * 1000);
    }

    /// Runs one command, commits, and returns the reply's bytes.
    pub fn run_as(&mut self, client: u64, args: &[&[u8]]) -> Vec<u8> {
        self.engine.execute(client, args);
        self.commit();
        self.take_output(client)
    }

    pub fn take_output(&mut self, client: u64) -> Vec<u8> {
        let Some(client) = self.engine.output(client) else {
            return Vec::new();
        };
        let bytes = client.releasable().to_vec();
        client.consume(bytes.len());
        bytes
    }

    /// Runs a command that is written as in `redis-cli` and returns its reply as text.
    pub fn run(&mut self, line: &str) -> String {
        let args = words(line);
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        show(&parse(&self.run_as(CLIENT, &args)))
    }

    /// Runs a command, commits, and returns the frames.
    pub fn frames(&mut self, line: &str) -> Vec<Vec<u8>> {
        let args = words(line);
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        self.engine.execute(CLIENT, &args);
        let frames = self.commit();
        self.take_output(CLIENT);
        frames
    }

    /// Commits and returns the frames of the entry.
    pub fn commit(&mut self) -> Vec<Vec<u8>> {
        let commit = self.engine.commit();
        let entry = commit.entry.clone().unwrap_or_default();
        let frames = frames_of(&entry);
        self.log.extend_from_slice(&entry);
        let end = LogPosition(self.log.len() as u64);
        self.engine.appended(commit, end);
        self.engine.synced(end);
        frames
    }

    /// Applies a remote frame and commits.
    pub fn deliver(&mut self, frame: &[u8]) -> Result<(), FrameError> {
        self.engine.apply_frame(frame)?;
        self.commit();
        Ok(())
    }

    pub fn digest(&mut self) -> String {
        self.run("MERIDIAN.DIGEST")
    }
}

/// The frames of one log entry.
pub fn frames_of(entry: &[u8]) -> Vec<Vec<u8>> {
    let entries = Entries::new(entry, LogPosition(0));
    entries.flat_map(|e| e.frames().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
}

/// Splits a line as an inline command: quotes and escapes as in `redis-cli`.
pub fn words(line: &str) -> Vec<Vec<u8>> {
    let input = format!("{line}\r\n").into_bytes();
    let mut args = Args::new();
    let used = RequestParser::new(Limits::DEFAULT).parse(&input, &mut args);
    assert_eq!(used, Ok(Some(input.len())), "{line:?} is one command");
    args.iter(&input).map(<[u8]>::to_vec).collect()
}

/// Reads exactly one reply.
pub fn parse(bytes: &[u8]) -> Value {
    let parsed = ReplyParser::default().parse(bytes);
    match parsed {
        Ok(Some((value, used))) if used == bytes.len() => value,
        other => {
            let start = &bytes[..bytes.len().min(500)];
            panic!("not one reply: {other:?} in {}", start.escape_ascii())
        }
    }
}

/// A reply as text: short enough to be compared in a test.
pub fn show(value: &Value) -> String {
    let list = |values: &[Value]| values.iter().map(show).collect::<Vec<_>>().join(" ");
    match value {
        Value::Null => "(nil)".to_owned(),
        Value::Integer(value) => value.to_string(),
        Value::Error(text) => format!("(error) {}", readable(text)),
        Value::Array(values) | Value::Set(values) | Value::Push(values) => {
            format!("[{}]", list(values))
        }
        Value::Map(pairs) => {
            let pairs = pairs.iter().map(|(k, v)| format!("{}={}", show(k), show(v)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(" "))
        }
        other => match other.as_bytes() {
            Some(bytes) => readable(bytes),
            None => format!("{other:?}"),
        },
    }
}

/// Bytes as text; what cannot be printed is escaped.
fn readable(bytes: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte).to_string(),
        other => other.escape_ascii().to_string(),
    };
    bytes.iter().map(one).collect()
}

/// The elements of a reply, sorted: for replies whose order means nothing.
pub fn sorted(reply: &str) -> Vec<String> {
    let inside = reply.trim_start_matches('[').trim_end_matches(']');
    let mut words: Vec<String> = inside.split_whitespace().map(str::to_owned).collect();
    words.sort();
    words
}

/// A small generator for seeded tests: Marsaglia's xorshift64*.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        dice.roll(2);
        dice
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % sides as u64) as usize
    }

    pub fn pick<'a, T: ?Sized>(&mut self, among: &[&'a T]) -> &'a T {
        among[self.roll(among.len())]
    }
}
