//! Every command against a real `redis-server`: the same requests, the same replies, byte for
//! byte, in both protocols. Replies whose order means nothing are sorted first, times to live are
//! compared with a tolerance.

#[path = "support/redis.rs"]
mod redis;
mod support;

use meridian_resp::Value;
use redis::{RedisClient, RedisServer};
use support::{Dice, Region, parse, words};

/// By how much the two clocks may differ when a time to live is compared, in milliseconds.
const TOLERANCE_MS: i64 = 5_000;

/// How many random commands run in each protocol.
const RANDOM_COMMANDS: usize = 20_000;

/// How the replies of a command are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    Exactly,
    /// An array in any order.
    Unordered,
    /// A flat array of pairs in any order.
    Pairs,
    /// A cursor, and an array in any order.
    Scan,
    /// A cursor, and a flat array of pairs in any order.
    ScanPairs,
    /// Seconds or milliseconds.
    Seconds,
    Milliseconds,
    /// Only whether it is an error, and which.
    Errors,
}

fn comparison(args: &[Vec<u8>]) -> Compare {
    let name = args[0].to_ascii_lowercase();
    match name.as_slice() {
        b"smembers" | b"sunion" | b"sinter" | b"sdiff" | b"keys" | b"hkeys" | b"hvals"
        | b"srandmember" => Compare::Unordered,
        b"spop" if args.len() > 2 => Compare::Unordered,
        b"hrandfield" if args.len() > 3 => Compare::Pairs,
        b"hrandfield" => Compare::Unordered,
        b"hgetall" => Compare::Pairs,
        b"scan" | b"sscan" => Compare::Scan,
        b"hscan" => Compare::ScanPairs,
        b"ttl" | b"expiretime" => Compare::Seconds,
        b"pttl" | b"pexpiretime" => Compare::Milliseconds,
        b"time" | b"info" | b"role" | b"memory" | b"hello" | b"randomkey" => Compare::Errors,
        b"client" | b"config" | b"object" | b"command" => Compare::Errors,
        _ => Compare::Exactly,
    }
}

fn sort(values: &mut [Value]) {
    values.sort_by_key(|value| format!("{value:?}"));
}

fn canonical(value: Value, how: Compare) -> Value {
    if matches!(value, Value::Error(_)) {
        return value;
    }
    match (how, value) {
        (Compare::Unordered, Value::Array(mut values)) => {
            sort(&mut values);
            Value::Array(values)
        }
        (Compare::Unordered, Value::Set(mut values)) => {
            sort(&mut values);
            Value::Set(values)
        }
        (Compare::Pairs, Value::Array(values)) if values.iter().all(|v| v.as_array().is_none()) => {
            Value::Array(sorted_pairs(&values))
        }
        (Compare::Pairs, Value::Array(mut values)) => {
            sort(&mut values);
            Value::Array(values)
        }
        (Compare::Pairs, Value::Map(mut pairs)) => {
            pairs.sort_by_key(|pair| format!("{pair:?}"));
            Value::Map(pairs)
        }
        (Compare::Scan | Compare::ScanPairs, Value::Array(parts)) => {
            let [cursor, Value::Array(found)] = &parts[..] else {
                panic!("a scan replies a cursor and an array, not {parts:?}");
            };
            let found = if how == Compare::ScanPairs {
                sorted_pairs(found)
            } else {
                let mut found = found.clone();
                sort(&mut found);
                found
            };
            Value::Array(vec![cursor.clone(), Value::Array(found)])
        }
        (Compare::Errors, _) => Value::Null,
        (_, value) => value,
    }
}

fn sorted_pairs(values: &[Value]) -> Vec<Value> {
    let mut pairs: Vec<&[Value]> = values.chunks(2).collect();
    pairs.sort_by_key(|pair| format!("{pair:?}"));
    pairs.concat()
}

fn agree(ours: &Value, theirs: &Value, how: Compare) -> bool {
    let tolerance = match how {
        Compare::Seconds => TOLERANCE_MS / 1000,
        Compare::Milliseconds => TOLERANCE_MS,
        _ => return canonical(ours.clone(), how) == canonical(theirs.clone(), how),
    };
    match (ours, theirs) {
        (Value::Integer(ours), Value::Integer(theirs)) if *ours >= 0 && *theirs >= 0 => {
            (ours - theirs).abs() <= tolerance
        }
        _ => ours == theirs,
    }
}

/// Both servers, and what a transaction has queued.
struct Pair {
    region: Region,
    redis: Vec<RedisClient>,
    queued: Vec<Option<Vec<Vec<Vec<u8>>>>>,
    history: Vec<String>,
}

impl Pair {
    fn new(server: &RedisServer, protocol: &str) -> Pair {
        let mut region = Region::new(0);
        region.engine.connect(2, "127.0.0.1:1001".to_owned());
        let redis = vec![server.connect(), server.connect()];
        let mut pair = Pair { region, redis, queued: vec![None, None], history: Vec::new() };
        pair.run(0, "FLUSHALL");
        for client in 0..2 {
            pair.run(client, &format!("HELLO {protocol}"));
        }
        pair.set_clock();
        pair
    }

    /// Tells our side the other side's time.
    fn set_clock(&mut self) {
        // The second connection, because the first may be inside a MULTI.
        let time = parse(&self.redis[1].run(&[b"TIME"]));
        let parts: Vec<i64> =
            time.as_array().unwrap_or(&[]).iter().filter_map(Value::as_integer).collect();
        let [seconds, us] = parts[..] else { panic!("TIME replied {time:?}") };
        self.region.engine.set_physical_us((seconds * 1_000_000 + us) as u64);
    }

    fn run(&mut self, client: usize, line: &str) {
        let args = words(line);
        let refs: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let ours = self.region.run_as(client as u64 + 1, &refs);
        let theirs = self.redis[client].run(&refs);
        self.history.push(format!("@{client} {line}"));
        let (our_value, their_value) = (parse(&ours), parse(&theirs));
        let name = args[0].to_ascii_lowercase();
        let same = if name == b"exec" && self.queued[client].is_some() {
            let queued = self.queued[client].take().unwrap_or_default();
            match (our_value.as_array(), their_value.as_array()) {
                (Some(ours), Some(theirs)) if ours.len() == theirs.len() => {
                    let each = ours.iter().zip(theirs).zip(&queued);
                    ours.len() == queued.len()
                        && each.into_iter().all(|((o, t), args)| agree(o, t, comparison(args)))
                }
                _ => ours == theirs,
            }
        } else {
            let how = comparison(&args);
            if how == Compare::Exactly || self.queued[client].is_some() {
                ours == theirs
            } else {
                agree(&our_value, &their_value, how)
            }
        };
        let queued = their_value == Value::Simple(b"QUEUED".to_vec());
        match name.as_slice() {
            b"multi" if self.queued[client].is_none() => self.queued[client] = Some(Vec::new()),
            b"discard" | b"reset" => self.queued[client] = None,
            _ if queued => {
                if let Some(commands) = &mut self.queued[client] {
                    commands.push(args);
                }
            }
            _ => {}
        }
        let from = self.history.len().saturating_sub(25);
        assert!(
            same,
            "{line}\n  ours:   {}\n  theirs: {}\nafter\n{}",
            ours.escape_ascii(),
            theirs.escape_ascii(),
            self.history[from..].join("\n")
        );
    }
}

fn run_script(script: &str) {
    let Some(server) = RedisServer::start() else { return };
    for protocol in ["2", "3"] {
        let mut pair = Pair::new(&server, protocol);
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            match line.strip_prefix("@2 ") {
                Some(line) => pair.run(1, line),
                None => pair.run(0, line),
            }
        }
    }
}

#[test]
fn strings() {
    run_script(include_str!("scripts/strings.txt"));
}

#[test]
fn counters() {
    run_script(include_str!("scripts/counters.txt"));
}

#[test]
fn hashes() {
    run_script(include_str!("scripts/hashes.txt"));
}

#[test]
fn sets() {
    run_script(include_str!("scripts/sets.txt"));
}

#[test]
fn keys() {
    run_script(include_str!("scripts/keys.txt"));
}

#[test]
fn connections_and_transactions() {
    run_script(include_str!("scripts/connections.txt"));
}

/// The columns of COMMAND that clients rely on: arity, keys, and whether it writes.
#[test]
fn the_command_table_agrees() {
    let Some(server) = RedisServer::start() else { return };
    let mut pair = Pair::new(&server, "2");
    let table = parse(&pair.region.run_as(1, &[b"COMMAND"]));
    // Groups of subcommands name no keys in Redis; substr and the ones it does not know.
    let known_to_differ = [&b"object"[..], b"memory"];
    let mut compared = 0;
    for row in table.as_array().expect("a table") {
        let name = row.as_array().and_then(|r| r[0].as_bytes()).expect("a name");
        if name.starts_with(b"meridian") || known_to_differ.contains(&name) {
            continue;
        }
        let theirs = parse(&pair.redis[0].run(&[b"COMMAND", b"INFO", name]));
        let theirs = theirs.as_array().and_then(|rows| rows[0].as_array());
        let (ours, theirs) = (row.as_array().expect("a row"), theirs.expect("Redis knows it"));
        let shown = name.escape_ascii();
        assert_eq!(ours[1], theirs[1], "arity of {shown}");
        assert_eq!(ours[3..6], theirs[3..6], "keys of {shown}");
        let has = |row: &[Value], flag: &str| {
            let flags = row[2].as_array().unwrap_or(&[]);
            flags.iter().any(|f| f.as_bytes() == Some(flag.as_bytes()))
        };
        for flag in ["write", "readonly", "movablekeys"] {
            assert_eq!(has(ours, flag), has(theirs, flag), "{flag} of {shown}");
        }
        compared += 1;
    }
    assert!(compared > 90, "only {compared} commands were compared");
}

#[test]
fn glob_patterns_agree() {
    let Some(server) = RedisServer::start() else { return };
    let mut pair = Pair::new(&server, "2");
    let alphabet =
        [&b"a"[..], b"b", b"c", b"*", b"?", b"[", b"]", b"^", b"-", b"\\", b"\xe9", b"!"];
    let mut dice = Dice::new(5);
    for _ in 0..200 {
        let key: Vec<u8> = (0..dice.roll(5)).flat_map(|_| dice.pick(&alphabet).to_vec()).collect();
        for reply in
            [pair.region.run_as(1, &[b"SET", &key, b"v"]), pair.redis[0].run(&[b"SET", &key, b"v"])]
        {
            assert_eq!(reply, b"+OK\r\n");
        }
    }
    for _ in 0..3_000 {
        let pattern: Vec<u8> =
            (0..dice.roll(8)).flat_map(|_| dice.pick(&alphabet).to_vec()).collect();
        let ours = parse(&pair.region.run_as(1, &[b"KEYS", &pattern]));
        let theirs = parse(&pair.redis[0].run(&[b"KEYS", &pattern]));
        assert!(agree(&ours, &theirs, Compare::Unordered), "KEYS {}", pattern.escape_ascii());
    }
}

#[test]
fn random_commands() {
    let Some(server) = RedisServer::start() else { return };
    for (seed, protocol) in [(1, "2"), (2, "3")] {
        let mut pair = Pair::new(&server, protocol);
        let mut dice = Dice::new(seed);
        for step in 0..RANDOM_COMMANDS {
            if step % 100 == 0 {
                pair.set_clock();
            }
            let line = random_command(&mut dice);
            pair.run(0, &line);
        }
    }
}

/// One random command over few keys, most of them of the type that the command wants.
fn random_command(dice: &mut Dice) -> String {
    const KEYS: &[&str] = &["s1", "s2", "n1", "h1", "h2", "m1", "m2", "m3"];
    const FAMILIES: &[&[&str]] =
        &[&["s1", "s2", "n1"], &["n1", "n1", "n1", "s1"], &["h1", "h2"], &["m1", "m2", "m3"], KEYS];
    let family = dice.roll(FAMILIES.len());
    let wild = dice.roll(20) == 0;
    let among = if wild { KEYS } else { FAMILIES[family] };
    let k = dice.pick(among);
    let k2 = dice.pick(among);
    let v = dice.pick(&["a", "hello", "10", "-5", "3.25", "\"\"", "0", "x\\x00y"]);
    let f = dice.pick(&["f1", "f2", "f3", "\"\""]);
    let f2 = dice.pick(&["f1", "f4"]);
    let n = dice.pick(&["1", "-1", "5", "100", "-17", "abc", "0"]);
    let d = dice.pick(&["0.5", "-1.25", "3", "1e2", "abc", "-0.125", ".5"]);
    let at = dice.pick(&["0", "1", "-1", "3", "-3", "5", "x"]);
    let to = dice.pick(&["0", "2", "-1", "10", "-2"]);
    let m = dice.pick(&["a", "b", "c", "d", "7"]);
    let m2 = dice.pick(&["a", "e", "f"]);
    let ttl = 1_000 + dice.roll(100_000) * 7;
    let when = dice.pick(&["", " NX", " XX", " GT", " LT", " XX GT", " NX GT", " foo"]);
    let strings: &[String] = &[
        format!("GET {k}"),
        format!("SET {k} {v}"),
        format!("SET {k} {v} EX {ttl}"),
        format!("SET {k} {v} NX"),
        format!("SET {k} {v} XX GET"),
        format!("SET {k} {v} KEEPTTL"),
        format!("SET {k} {v} GET"),
        format!("SETNX {k} {v}"),
        format!("SETEX {k} {ttl} {v}"),
        format!("GETSET {k} {v}"),
        format!("GETDEL {k}"),
        format!("GETEX {k} PX {ttl}000"),
        format!("GETEX {k} PERSIST"),
        format!("APPEND {k} zz"),
        format!("SETRANGE {k} {} yy", dice.roll(6)),
        format!("GETRANGE {k} {at} {to}"),
        format!("STRLEN {k}"),
        format!("MGET {k} {k2} nokey"),
        format!("MSET {k} {v} {k2} b"),
        format!("MSETNX {k} {v} {k2} b"),
    ];
    let counters: &[String] = &[
        format!("INCR {k}"),
        format!("DECR {k}"),
        format!("INCRBY {k} {n}"),
        format!("DECRBY {k} {n}"),
        format!("INCRBYFLOAT {k} {d}"),
        format!("SET {k} 5"),
        format!("GET {k}"),
        format!("DEL {k}"),
    ];
    let hashes: &[String] = &[
        format!("HSET {k} {f} {v}"),
        format!("HSET {k} {f} {v} {f2} {v}"),
        format!("HSETNX {k} {f} {v}"),
        format!("HMSET {k} {f} {v}"),
        format!("HGET {k} {f}"),
        format!("HMGET {k} {f} {f2}"),
        format!("HGETALL {k}"),
        format!("HDEL {k} {f}"),
        format!("HDEL {k} {f} {f2} f3"),
        format!("HEXISTS {k} {f}"),
        format!("HLEN {k}"),
        format!("HKEYS {k}"),
        format!("HVALS {k}"),
        format!("HSTRLEN {k} {f}"),
        format!("HINCRBY {k} {f} {n}"),
        format!("HINCRBYFLOAT {k} {f} {d}"),
        format!("HSCAN {k} 0 COUNT 100"),
        format!("HRANDFIELD {k} 100 WITHVALUES"),
        format!("HRANDFIELD {k} 100"),
    ];
    let sets: &[String] = &[
        format!("SADD {k} {m}"),
        format!("SADD {k} {m} {m2} {m}"),
        format!("SREM {k} {m}"),
        format!("SREM {k} {m} {m2}"),
        format!("SISMEMBER {k} {m}"),
        format!("SMISMEMBER {k} {m} {m2}"),
        format!("SMEMBERS {k}"),
        format!("SCARD {k}"),
        format!("SPOP {k} 100"),
        format!("SRANDMEMBER {k} 100"),
        format!("SSCAN {k} 0 COUNT 100 MATCH [a-d]"),
        format!("SMOVE {k} {k2} {m}"),
        format!("SUNION {k} {k2}"),
        format!("SINTER {k} {k2}"),
        format!("SDIFF {k} {k2}"),
        format!("SUNIONSTORE m3 {k} {k2}"),
        format!("SINTERSTORE m3 {k} {k2}"),
        format!("SDIFFSTORE m3 {k} {k2}"),
        format!("SINTERCARD 2 {k} {k2} LIMIT {}", dice.roll(3)),
    ];
    let keys: &[String] = &[
        format!("DEL {k}"),
        format!("UNLINK {k} {k2}"),
        format!("EXISTS {k} {k2} {k}"),
        format!("TYPE {k}"),
        format!("EXPIRE {k} {ttl}{when}"),
        format!("PEXPIRE {k} {ttl}000{when}"),
        format!("EXPIRE {k} {n}000000"),
        format!("EXPIREAT {k} {}", 2_000_000_000 + ttl),
        format!("PEXPIREAT {k} {}", 2_000_000_000_000 + ttl),
        format!("TTL {k}"),
        format!("PTTL {k}"),
        format!("EXPIRETIME {k}"),
        format!("PERSIST {k}"),
        format!("RENAME {k} {k2}"),
        format!("RENAMENX {k} {k2}"),
        format!("COPY {k} {k2}"),
        format!("COPY {k} {k2} REPLACE"),
        format!("KEYS {}*", &k[..1]),
        "SCAN 0 COUNT 1000".to_owned(),
        "SCAN 0 COUNT 1000 TYPE set".to_owned(),
        "DBSIZE".to_owned(),
        "MULTI".to_owned(),
        "EXEC".to_owned(),
        "EXEC".to_owned(),
        "EXEC".to_owned(),
        format!("SET {k}"),
        format!("NOSUCH {k} {v}"),
    ];
    let commands = [strings, counters, hashes, sets, keys][family];
    commands[dice.roll(commands.len())].clone()
}
