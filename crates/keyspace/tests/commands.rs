//! What Redis does not have, or has differently here: Meridian's own keys, the mirror, clients,
//! the server's description of itself, limits, and scans while the data changes.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use meridian_crdt::OpReader;
use meridian_keyspace::limits::{MAX_ARGUMENT_BYTES, MAX_VALUE_BYTES};
use meridian_keyspace::{MirrorChange, RESERVED_PREFIX};
use meridian_resp::Value;
use meridian_store::Frame;
use support::{Dice, Region, START_MS, config, parse, show, sorted, words};

/// Runs a command as a given client.
fn run_as(region: &mut Region, client: u64, line: &str) -> String {
    let args = words(line);
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    show(&parse(&region.run_as(client, &args)))
}

/// A region with a mirrored row, and so with the mirror's positions under reserved keys.
fn with_mirror() -> Region {
    let mut region = Region::new(0);
    let row = MirrorChange::Upsert {
        key: b"pg:users:7".to_vec(),
        set: vec![(b"name".to_vec(), b"Ada".to_vec())],
        keep: Vec::new(),
    };
    region.engine.stage_mut().mirror("shop", Some(b"position"), &[row], |_| true);
    region.commit();
    region
}

/// One of the reserved keys that the mirror has written.
fn reserved_key(region: &Region) -> Vec<u8> {
    let stage = region.engine.stage();
    let keys = (0..meridian_keyspace::SLOTS).flat_map(|slot| stage.table(slot).iter());
    let mut reserved = keys.map(|(key, _)| key).filter(|key| key.starts_with(RESERVED_PREFIX));
    reserved.next().expect("the mirror keeps its position").to_vec()
}

#[test]
fn reserved_keys_are_invisible() {
    let mut region = with_mirror();
    let key = reserved_key(&region).escape_ascii().to_string();
    let key = format!("\"{key}\"");
    for (command, expect) in [
        ("GET", "(nil)"),
        ("EXISTS", "0"),
        ("TYPE", "none"),
        ("STRLEN", "0"),
        ("TTL", "-2"),
        ("MGET", "[(nil)]"),
        ("OBJECT ENCODING", "(nil)"),
        ("SUNION", "[]"),
        ("MERIDIAN.CONFLICTS", "[]"),
    ] {
        assert_eq!(region.run(&format!("{command} {key}")), expect, "{command}");
    }
    for line in [format!("SET {key} x"), format!("DEL {key}"), format!("RENAME {key} k")] {
        let reply = region.run(&line);
        assert!(reply.starts_with("(error) ERR keys that begin with"), "{line}: {reply}");
    }
    assert_eq!(region.run(&format!("COPY {key} mine")), "0");
    assert_eq!(region.run("DBSIZE"), "1");
    assert_eq!(region.run("KEYS *"), "[pg:users:7]");
    assert_eq!(region.run("RANDOMKEY"), "pg:users:7");
    assert_eq!(region.run("SCAN 0 COUNT 100"), "[0 [pg:users:7]]");
}

#[test]
fn mirrored_rows_are_read_only() {
    let mut region = with_mirror();
    assert_eq!(region.run("HGETALL pg:users:7"), "[name Ada]");
    for line in
        ["HSET pg:users:7 name Eve", "DEL pg:users:7", "RENAME pg:users:7 mine", "INCR pg:x:1"]
    {
        let reply = region.run(line);
        assert!(reply.starts_with("(error) READONLY "), "{line}: {reply}");
    }
    assert!(region.run("HSET pg:users:7 a b").contains("'users'"));
    assert_eq!(region.run("COPY pg:users:7 mine"), "1");
    assert_eq!(region.run("HGETALL mine"), "[name Ada]");
    assert!(region.run("COPY mine pg:users:8").starts_with("(error) READONLY "));
    assert!(region.run("SUNIONSTORE pg:m mine").starts_with("(error) READONLY "));
    // A queued command is checked as well.
    assert_eq!(region.run("MULTI"), "OK");
    assert!(region.run("DEL pg:users:7").starts_with("(error) READONLY "));
    assert!(region.run("EXEC").starts_with("(error) EXECABORT"));
}

#[test]
fn flushall_spares_the_mirror_and_reserved_keys() {
    let mut region = with_mirror();
    let reserved = reserved_key(&region);
    region.run("MSET a 1 b 2");
    assert_eq!(region.run("FLUSHALL"), "OK");
    assert_eq!(region.run("KEYS *"), "[pg:users:7]");
    assert!(region.engine.stage().object(&reserved).is_some());
}

#[test]
fn a_region_that_joins_answers_no_data() {
    let mut region = Region::new(0);
    region.run("SET k v");
    region.engine.environment_mut().loading = Some("the data is on its way".to_owned());
    let loading = "(error) LOADING the data is on its way";
    for command in ["GET k", "SET k w", "PING", "MULTI", "DBSIZE"] {
        assert_eq!(region.run(command), loading, "{command}");
    }
    assert!(region.run("INFO").contains("redis_version"));
    region.engine.environment_mut().loading = None;
    assert_eq!(region.run("GET k"), "v");
}

#[test]
fn a_region_that_leaves_writes_nothing_new() {
    let mut region = Region::new(0);
    region.run("SET k v");
    for queued in ["MULTI", "SET k w", "GET k"] {
        region.run(queued);
    }
    region.engine.environment_mut().leaving = Some("write to another region".to_owned());
    let aborted =
        "(error) EXECABORT Transaction discarded because of: READONLY write to another region";
    assert_eq!(region.run("EXEC"), aborted);
    let refused = "(error) READONLY write to another region";
    for command in ["SET k w", "DEL k", "EXPIRE k 10", "INCR n", "FLUSHALL"] {
        assert_eq!(region.run(command), refused, "{command}");
    }
    assert_eq!(region.run("GET k"), "v", "reads go on");
    for queued in ["MULTI", "GET k"] {
        region.run(queued);
    }
    assert_eq!(region.run("EXEC"), "[v]");
}

#[test]
fn a_password_is_asked_for() {
    let mut region = Region::with(config(0, Some("secret")));
    let refused = "(error) NOAUTH Authentication required.";
    assert_eq!(region.run("GET k"), refused);
    assert_eq!(region.run("PING"), refused);
    assert_eq!(region.run("GET"), "(error) ERR wrong number of arguments for 'get' command");
    assert!(region.run("HELLO 3").starts_with("(error) NOAUTH HELLO must be called"));
    assert!(region.run("AUTH wrong").starts_with("(error) WRONGPASS"));
    assert!(region.run("AUTH other secret").starts_with("(error) WRONGPASS"));
    assert_eq!(region.run("GET k"), refused);
    assert_eq!(region.run("AUTH secret"), "OK");
    assert_eq!(region.run("GET k"), "(nil)");
    assert_eq!(region.run("RESET"), "RESET");
    assert_eq!(region.run("GET k"), refused);
    assert!(region.run("HELLO 3 AUTH default secret SETNAME me").contains("proto=3"));
    assert_eq!(region.run("CLIENT GETNAME"), "me");
}

#[test]
fn clients_see_and_kill_each_other() {
    let mut region = Region::new(0);
    region.engine.connect(2, "127.0.0.1:2000".to_owned());
    region.engine.connect(3, "127.0.0.1:3000".to_owned());
    run_as(&mut region, 2, "CLIENT SETNAME worker");
    run_as(&mut region, 2, "CLIENT SETINFO LIB-NAME library");
    let list = region.run("CLIENT LIST");
    assert_eq!(list.matches("id=").count(), 3, "{list}");
    assert!(list.contains("id=2 addr=127.0.0.1:2000 name=worker"), "{list}");
    assert!(list.contains("lib-name=library"), "{list}");
    assert!(list.contains("cmd=client"), "{list}");
    assert_eq!(region.run("CLIENT LIST ID 3 1").matches("id=").count(), 2);
    assert_eq!(region.run("CLIENT LIST TYPE pubsub"), "");

    // Inside a transaction the replies keep their places.
    for line in ["MULTI", "PING", "CLIENT LIST ID 2", "ECHO between", "CLIENT LIST ID 3", "PING"] {
        region.run(line);
    }
    let replies = region.run("EXEC");
    let places: Vec<usize> = ["PONG", "id=2", "between", "id=3", "PONG]"]
        .iter()
        .map(|part| replies.find(part).unwrap_or_else(|| panic!("{part} in {replies}")))
        .collect();
    assert!(places.is_sorted(), "{replies}");

    assert_eq!(region.run("CLIENT KILL ID 2"), "1");
    let ready = region.engine.take_ready();
    assert!(ready.contains(&2), "the killed client must be noticed: {ready:?}");
    assert!(region.engine.clients()[&2].closing);
    assert!(region.run_as(2, &[b"SET", b"k", b"late"]).is_empty(), "a dead client runs nothing");
    assert_eq!(region.run("EXISTS k"), "0");
    assert_eq!(region.run("CLIENT KILL 127.0.0.1:3000"), "OK");
    assert!(region.engine.clients()[&3].closing);
    assert_eq!(region.run("CLIENT KILL TYPE normal"), "0", "not oneself");
    assert_eq!(region.run("CLIENT KILL TYPE normal SKIPME no"), "1");
    assert!(region.engine.clients()[&1].closing);
}

#[test]
fn quit_ends_a_connection() {
    let mut region = Region::new(0);
    assert_eq!(region.run("QUIT"), "OK");
    assert!(region.run_as(1, &[b"PING"]).is_empty());
}

#[test]
fn hello_greets() {
    let mut region = Region::new(0);
    assert_eq!(
        region.run("HELLO"),
        "[server redis version 7.2.0 proto 2 id 1 mode standalone role master modules []]"
    );
    assert_eq!(
        region.run("HELLO 3 SETNAME me"),
        "{server=redis version=7.2.0 proto=3 id=1 mode=standalone role=master modules=[]}"
    );
}

#[test]
fn info_says_what_clients_look_for() {
    let mut region = Region::new(0);
    region.engine.environment_mut().primary = true;
    let extra = vec![("used_memory".to_owned(), "123".to_owned())];
    region.engine.environment_mut().info =
        BTreeMap::from([("memory".to_owned(), extra.clone()), ("Mesh".to_owned(), extra)]);
    region.run("SET k v");
    region.run("GET k");
    region.run("GET nokey");
    let info = region.run("INFO");
    for line in [
        "# Server",
        "redis_version:7.2.0",
        "redis_mode:standalone",
        "connected_clients:1",
        "maxmemory_policy:noeviction",
        "used_memory:123",
        "role:master",
        "keyspace_hits:1",
        "keyspace_misses:1",
        "cluster_enabled:0",
        "db0:keys=1,avg_ttl=0",
        "region:region-0",
        "cluster:test",
        "primary:1",
        "# Mesh",
    ] {
        assert!(info.contains(&format!("{line}\\r\\n")), "{line} in {info}");
    }
    assert!(!info.contains("cmdstat"), "only on request");
    assert!(region.run("INFO commandstats").contains("cmdstat_get:calls=2\\r\\n"));
    assert!(region.run("INFO everything").contains("cmdstat_set:calls=1\\r\\n"));
    assert!(!region.run("INFO server").contains("# Clients"));
    assert_eq!(region.run("INFO nosuch"), "");
    assert_eq!(region.run("CONFIG RESETSTAT"), "OK");
    assert!(region.run("INFO stats").contains("keyspace_hits:0\\r\\n"));
}

#[test]
fn config_is_read_only() {
    let mut region = Region::new(0);
    region.engine.environment_mut().config.insert("port".to_owned(), "7001".to_owned());
    assert_eq!(region.run("CONFIG GET save"), "[save ]");
    assert_eq!(region.run("CONFIG GET MAXMEM*"), "[maxmemory 0 maxmemory-policy noeviction]");
    assert_eq!(region.run("CONFIG GET port appendfsync"), "[appendfsync everysec port 7001]");
    assert_eq!(region.run("CONFIG GET nosuch"), "[]");
    assert_eq!(region.run("CONFIG SET maxmemory-policy noeviction"), "OK");
    assert!(region.run("CONFIG SET maxmemory 100").contains("cannot be changed"));
}

#[test]
fn what_is_not_supported_says_so() {
    let mut region = Region::new(0);
    for line in ["WAIT 1 0", "REPLICAOF host 1", "SLAVEOF NO ONE", "CLIENT TRACKING ON"] {
        let reply = region.run(line);
        assert!(reply.starts_with("(error) ERR ") && reply.contains("not supported"), "{reply}");
    }
    assert_eq!(region.run("ROLE"), "[master 0 []]");
    assert_eq!(region.run("TIME"), format!("[{} 0]", START_MS / 1000));
    assert_eq!(region.run("SLOWLOG GET"), "[]");
    assert!(region.run("MERIDIAN HELP").contains("DIGEST SLOTS"));
    assert!(region.run("MERIDIAN.HELP").contains("DIGEST SLOTS"));
    assert!(region.run("MERIDIAN NOSUCH").contains("Try MERIDIAN HELP."));
}

#[test]
fn writes_can_be_refused() {
    let mut region = Region::new(0);
    region.run("SET k v");
    region.engine.environment_mut().refuse_writes = None;
    region.run("MULTI");
    region.run("SET k w");
    region.engine.environment_mut().refuse_writes = Some("MISCONF the disk is full".to_owned());
    assert_eq!(
        region.run("EXEC"),
        "(error) EXECABORT Transaction discarded because of: MISCONF the disk is full"
    );
    assert_eq!(region.run("SET k w"), "(error) MISCONF the disk is full");
    assert_eq!(region.run("GET k"), "v");
    region.run("MULTI");
    region.run("GET k");
    assert_eq!(region.run("EXEC"), "[v]", "reading goes on");
    region.engine.environment_mut().refuse_writes = None;
    assert_eq!(region.run("SET k w"), "OK");
}

#[test]
fn digests_name_slots_and_keys() {
    let mut region = Region::new(0);
    assert_eq!(region.run("MERIDIAN.DIGEST"), "0000000000000000");
    assert_eq!(region.run("MERIDIAN DIGEST SLOTS"), "[]");
    region.run("SET foo bar");
    let whole = region.run("MERIDIAN DIGEST");
    assert_ne!(whole, "0000000000000000");
    // The slot that Redis Cluster's documentation gives for this key.
    assert_eq!(region.run("MERIDIAN.DIGEST SLOTS"), format!("[[12182 {whole}]]"));
    assert_eq!(region.run("MERIDIAN.DIGEST KEY foo"), whole);
    assert_eq!(region.run("MERIDIAN.DIGEST KEY nokey"), "0000000000000000");
    assert_eq!(
        region.run("MERIDIAN.REGIONS"),
        "[[name region-0 ordinal 0 here 1] [name region-1 ordinal 1 here 0] \
         [name region-2 ordinal 2 here 0]]"
    );
}

#[test]
fn scan_returns_what_is_there_throughout_exactly_once() {
    let mut region = Region::new(0);
    let stays: BTreeSet<String> = (0..300).map(|n| format!("stays:{n}")).collect();
    stays.iter().for_each(|key| drop(region.run(&format!("SET {key} v"))));
    let mut dice = Dice::new(3);
    let mut seen: Vec<String> = Vec::new();
    let mut cursor = "0".to_owned();
    let mut calls = 0;
    loop {
        let reply = parse(&region.run_as(1, &[b"SCAN", cursor.as_bytes(), b"COUNT", b"7"]));
        let Some([next, found]) = reply.as_array() else { panic!("{reply:?}") };
        cursor = show(next);
        seen.extend(found.as_array().unwrap_or(&[]).iter().map(show));
        calls += 1;
        if cursor == "0" {
            break;
        }
        // The data changes between the calls.
        for _ in 0..10 {
            let key = format!("other:{}", dice.roll(500));
            region.run(&format!("SET {key} v"));
            region.run(&format!("DEL other:{}", dice.roll(500)));
        }
    }
    assert!(calls > 10, "{calls} calls");
    let found: Vec<&String> = seen.iter().filter(|key| key.starts_with("stays:")).collect();
    assert_eq!(found.len(), stays.len());
    assert_eq!(found.into_iter().cloned().collect::<BTreeSet<_>>(), stays);
}

#[test]
fn scans_of_elements_miss_nothing_that_stays() {
    for (add, scan, remove) in [("SADD m", "SSCAN", "SREM"), ("HSET m", "HSCAN", "HDEL")] {
        let mut region = Region::new(0);
        let value = if scan == "HSCAN" { " v" } else { "" };
        for n in 0..200 {
            region.run(&format!("{add} stays:{n}{value}"));
            region.run(&format!("{add} goes:{n}{value}"));
        }
        let mut dice = Dice::new(4);
        let mut seen = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let reply = parse(&region.run_as(1, &[scan.as_bytes(), b"m", cursor.as_bytes()]));
            let Some([next, found]) = reply.as_array() else { panic!("{reply:?}") };
            cursor = show(next);
            seen.extend(found.as_array().unwrap_or(&[]).iter().map(show));
            if cursor == "0" {
                break;
            }
            for _ in 0..5 {
                region.run(&format!("{remove} m goes:{}", dice.roll(200)));
                region.run(&format!("{add} new:{}{value}", dice.roll(200)));
            }
        }
        assert!((0..200).all(|n| seen.contains(&format!("stays:{n}"))), "{scan}");
    }
}

#[test]
fn random_picks_are_elements_and_differ() {
    let mut region = Region::new(0);
    region.run("SADD m a b c d e f g h");
    let all = sorted(&region.run("SMEMBERS m"));
    let mut firsts = BTreeSet::new();
    for _ in 0..100 {
        let picked = sorted(&region.run("SRANDMEMBER m 3"));
        assert_eq!(picked.iter().collect::<BTreeSet<_>>().len(), 3);
        assert!(picked.iter().all(|member| all.contains(member)));
        firsts.insert(region.run("SRANDMEMBER m"));
        assert_eq!(sorted(&region.run("SRANDMEMBER m -20")).len(), 20);
    }
    assert!(firsts.len() > 4, "always the same: {firsts:?}");
    let popped = sorted(&region.run("SPOP m 3"));
    assert_eq!(popped.len(), 3);
    let left = sorted(&region.run("SMEMBERS m"));
    assert_eq!(left.len(), 5);
    assert!(popped.iter().all(|member| all.contains(member) && !left.contains(member)));
    assert!(region.run("SRANDMEMBER m -99999999").starts_with("(error)"));
}

#[test]
fn deadlines_beyond_the_last_stamp_are_moved_there() {
    let mut region = Region::new(0);
    assert_eq!(region.run("SET k v PXAT 9000000000000000"), "OK");
    assert_eq!(region.run("PEXPIRETIME k"), "4294967295999");
    region.run("SET k v");
    assert_eq!(region.run("EXPIRE k 9000000000"), "1");
    assert_eq!(region.run("PEXPIRETIME k"), "4294967295999");
}

#[test]
fn what_would_not_fit_a_record_is_refused() {
    let mut region = Region::new(0);
    let large = vec![b'x'; MAX_VALUE_BYTES];
    assert_eq!(region.run_as(1, &[b"SET", b"k", &large]), b"+OK\r\n");
    let too_long = "(error) ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    assert_eq!(region.run("APPEND k y"), too_long);
    assert_eq!(region.run(&format!("SETRANGE k {MAX_VALUE_BYTES} y")), too_long);
    assert_eq!(region.run("STRLEN k"), MAX_VALUE_BYTES.to_string());

    let too_much = "(error) ERR the command writes more than one replicated record may hold";
    let third = vec![b'x'; MAX_ARGUMENT_BYTES / 3];
    let reply = region.run_as(1, &[b"MSET", b"a", &third, b"b", &third, b"c", &third]);
    assert_eq!(show(&parse(&reply)), too_much);

    // A transaction that makes much of little stops where its record is full.
    region.run("MULTI");
    for _ in 0..4 {
        region.run("SETRANGE k 0 z");
    }
    let replies = parse(&region.run_as(1, &[b"EXEC"]));
    let replies: Vec<String> = replies.as_array().unwrap_or(&[]).iter().map(show).collect();
    assert_eq!(replies[0], MAX_VALUE_BYTES.to_string());
    assert!(replies[1..].contains(&too_much.to_owned()), "{replies:?}");
}

#[test]
fn a_delete_that_resets_very_many_counters_is_split() {
    const FIELDS: usize = 160;
    let (mut counting, mut deleting) = (Region::new(1), Region::new(0));
    let name = |n: usize| [n.to_string().into_bytes(), vec![b'f'; 32 << 10]].concat();
    for n in 0..FIELDS {
        counting.engine.execute(1, &[b"HINCRBY", b"h", &name(n), b"5"]);
    }
    let frames = counting.commit();
    counting.take_output(1);
    frames.iter().for_each(|f| deleting.deliver(f).expect("in order"));
    assert_eq!(deleting.run("HLEN h"), FIELDS.to_string());
    let removed = deleting.frames("DEL h");
    let mut operations = 0;
    for bytes in &removed {
        let frame = Frame::decode(bytes).expect("a frame");
        let mut ops = OpReader::new(frame.ops, frame.header.origin, frame.header.previous);
        while let Some((_, op)) = ops.next().expect("an operation") {
            assert!(op.cuts.len() <= 1, "{} cuts in one operation", op.cuts.len());
            operations += 1;
        }
    }
    assert_eq!(operations, FIELDS + 1);
    assert_eq!(deleting.run("EXISTS h"), "0");
    // What was counted meanwhile stays.
    counting.engine.execute(1, &[b"HINCRBY", b"h", &name(3), b"2"]);
    let counted = counting.commit();
    counting.take_output(1);
    removed.iter().for_each(|f| counting.deliver(f).expect("in order"));
    counted.iter().for_each(|f| deleting.deliver(f).expect("in order"));
    assert_eq!(counting.run("HVALS h"), "[2]");
    assert_eq!(deleting.run("HVALS h"), "[2]");
    assert_eq!(counting.digest(), deleting.digest());
}

#[test]
fn documentation_of_commands_is_a_map_by_name() {
    let mut region = Region::new(0);
    region.run("HELLO 3");
    let docs = parse(&region.run_as(1, &[b"COMMAND", b"DOCS", b"get", b"nosuch"]));
    let Value::Map(entries) = &docs else { panic!("{docs:?}") };
    assert_eq!(entries.len(), 1);
    assert_eq!(show(&docs), "{get={summary=Behaves as in Redis 7 within a region. group=string}}");
    assert_eq!(region.run("COMMAND GETKEYS MSET a 1 b 2"), "[a b]");
    assert_eq!(region.run("COMMAND GETKEYS SINTERCARD 2 a b LIMIT 1"), "[a b]");
    let count: usize = region.run("COMMAND COUNT").parse().expect("a number");
    let table = parse(&region.run_as(1, &[b"COMMAND"]));
    assert_eq!(table.as_array().map(<[Value]>::len), Some(count));
    assert_eq!(
        sorted(&region.run("COMMAND LIST FILTERBY PATTERN hinc*")),
        ["hincrby", "hincrbyfloat"]
    );
}
