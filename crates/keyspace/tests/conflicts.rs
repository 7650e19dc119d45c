//! Values that lost: how they are listed, told to those who follow, and made current again.

mod support;

use meridian_keyspace::{
    Engine, MirrorChange, Stage,
    limits::{MAX_FEED_BACKLOG_BYTES, MAX_FEED_EVENTS, MAX_FEED_VALUE_BYTES, MAX_FOLLOWERS},
};
use meridian_resp::{ReplyParser, Value};
use meridian_store::{Entries, LogPosition};
use support::{Dice, Region, START_MS, config, frames_of, parse, show, stage_config, words};

/// The connection that follows.
const FOLLOWER: u64 = 2;

/// Two regions that have seen the same.
struct Pair {
    regions: [Region; 2],
    now_ms: u64,
}

impl Pair {
    fn new() -> Pair {
        Pair { regions: [Region::new(0), Region::new(1)], now_ms: START_MS }
    }

    /// Each region runs its lines unseen by the other, the second one later; then both have all.
    fn race(&mut self, first: &str, second: &str) {
        let lengths: Vec<usize> = self.regions.iter().map(|region| region.log.len()).collect();
        for (number, line) in [(0, first), (1, second)].into_iter().filter(|(_, l)| !l.is_empty()) {
            self.now_ms += 10;
            self.regions.iter_mut().for_each(|region| region.set_ms(self.now_ms));
            for line in line.lines() {
                let reply = self.regions[number].run(line);
                assert!(!reply.starts_with("(error)"), "{line}: {reply}");
            }
        }
        let frames: Vec<Vec<Vec<u8>>> =
            (0..2).map(|number| frames_of(&self.regions[number].log[lengths[number]..])).collect();
        for number in 0..2 {
            for frame in &frames[1 - number] {
                self.regions[number].deliver(frame).expect("in order");
            }
        }
    }

    /// One region runs a line that the other then sees.
    fn alone(&mut self, region: usize, line: &str) {
        if region == 0 { self.race(line, "") } else { self.race("", line) }
    }

    fn both(&mut self, line: &str) -> String {
        let replies: Vec<String> = self.regions.iter_mut().map(|region| region.run(line)).collect();
        assert_eq!(replies[0], replies[1], "{line}");
        replies[0].clone()
    }

    /// The stamp of the first value that lost.
    fn loser(&mut self, key: &str) -> String {
        let list = self.both(&format!("MERIDIAN.CONFLICTS {key}"));
        field(&list, "stamp").unwrap_or_else(|| panic!("no stamp in {list}"))
    }

    /// The first region has a follower.
    fn follow(&mut self, protocol: &str) -> String {
        let region = &mut self.regions[0];
        region.engine.connect(FOLLOWER, String::new());
        run_as(region, FOLLOWER, &format!("HELLO {protocol}"));
        run_as(region, FOLLOWER, "MERIDIAN.CONFLICTS FOLLOW")
    }

    fn told(&mut self) -> Vec<String> {
        messages(&mut self.regions[0], FOLLOWER)
    }
}

fn run_as(region: &mut Region, client: u64, line: &str) -> String {
    let args = words(line);
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    show(&parse(&region.run_as(client, &args)))
}

/// Everything that has left for a client, value by value.
fn messages(region: &mut Region, client: u64) -> Vec<String> {
    let bytes = region.take_output(client);
    let (mut parser, mut at, mut found) = (ReplyParser::default(), 0, Vec::new());
    while at < bytes.len() {
        let (value, used) = parser.parse(&bytes[at..]).expect("a value").expect("a whole value");
        let sent = if matches!(value, Value::Push(_)) { "push" } else { "reply" };
        found.push(format!("{sent} {}", show(&value)));
        at += used;
    }
    found
}

/// A field of a message or of the first entry of a list.
fn field(text: &str, name: &str) -> Option<String> {
    let text = text.replace('=', " ");
    let mut words = text.split([' ', '[', ']', '{', '}']).skip_while(|word| *word != name);
    words.nth(1).map(str::to_owned)
}

#[test]
fn what_loses_and_how_it_ends_is_told() {
    for protocol in ["2", "3"] {
        let mut pair = Pair::new();
        assert_eq!(pair.follow(protocol), "[]");
        pair.race("SET k early", "SET k late");
        let told = pair.told();
        let [seen] = told.as_slice() else { panic!("{told:?}") };
        let sent = if protocol == "3" { "push" } else { "reply" };
        assert!(seen.starts_with(&format!("{sent} [meridian-conflict seen ")), "{seen}");
        for (name, expect) in [
            ("sequence", "1"),
            ("key", "k"),
            ("element", "string"),
            ("value", "early"),
            ("value_bytes", "5"),
            ("region", "region-0"),
            ("winner_region", "region-1"),
            ("rule", "larger"),
        ] {
            assert_eq!(field(seen, name).as_deref(), Some(expect), "{name} in {seen}");
        }
        assert_eq!(field(seen, "stamp"), Some(pair.loser("k")));

        pair.alone(1, "SET k last");
        let told = pair.told();
        let [resolved] = told.as_slice() else { panic!("{told:?}") };
        for (name, expect) in [
            ("sequence", "2"),
            ("value", "early"),
            ("outcome", "overwritten"),
            ("by_region", "region-1"),
        ] {
            assert_eq!(field(resolved, name).as_deref(), Some(expect), "{name} in {resolved}");
        }
        assert_eq!(pair.both("MERIDIAN.CONFLICTS"), "[]");
        pair.alone(0, "SET k again");
        assert_eq!(pair.told(), [""; 0], "nothing was lost");
        assert_eq!(pair.regions[0].engine.stage().conflicts().counts(), (1, 1));
    }
}

#[test]
fn a_loss_ends_kept_overwritten_or_removed() {
    for (past, race, end, outcome) in [
        ("PING", ("SET k a", "SET k b"), "SET k c", "overwritten"),
        ("PING", ("SET k a", "SET k b"), "SET k a", "kept"),
        ("PING", ("SET k a", "SET k b"), "DEL k", "removed"),
        ("PING", ("HSET k f a", "HSET k f b"), "HDEL k f", "removed"),
        ("PING", ("HSET k f a", "HSET k f b"), "HSET k f c", "overwritten"),
        ("PING", ("HSET k f a g 1", "HSET k f b"), "DEL k", "removed"),
        ("PING", ("HSET k f a", "SET k s"), "DEL k", "removed"),
        ("PING", ("HSET k f a", "SET k s"), "SET k t", "overwritten"),
        ("PING", ("SADD k m", "HSET k f a"), "HDEL k f", "kept"),
        ("SET k 5", ("SET k 1", "SET k 2"), "INCR k", ""),
        ("PING", ("SADD k m", "SADD k m"), "DEL k", ""),
        ("PING", ("HSET k f a", "HSET k g b"), "DEL k", ""),
    ] {
        let mut pair = Pair::new();
        pair.alone(0, past);
        pair.follow("3");
        pair.race(race.0, race.1);
        pair.alone(1, end);
        let told = pair.told().join("\n");
        let found = field(&told, "outcome").unwrap_or_default();
        assert_eq!(found, outcome, "{race:?} {end}: {told}");
        let (seen, resolved) = pair.regions[0].engine.stage().conflicts().counts();
        let open = pair.both("MERIDIAN.CONFLICTS").matches("winner_stamp").count() as u64;
        assert_eq!(seen, resolved + open, "{race:?} {end}");
        assert_eq!(pair.regions[0].engine.stage().conflicts().len() as u64, open);
    }
}

#[test]
fn a_third_value_is_one_more_loss_and_a_late_one_may_free_an_earlier() {
    let mut regions: Vec<Region> = (0..3).map(Region::new).collect();
    let mut frames = Vec::new();
    for (number, value) in [(0, "a"), (1, "b"), (2, "c")] {
        regions[number].set_ms(START_MS + 10 * number as u64);
        let before = regions[number].log.len();
        regions[number].run(&format!("SET k {value}"));
        frames.push(frames_of(&regions[number].log[before..]).remove(0));
    }
    let here = &mut regions[0];
    here.engine.connect(FOLLOWER, String::new());
    run_as(here, FOLLOWER, "HELLO 3");
    run_as(here, FOLLOWER, "MERIDIAN.CONFLICTS FOLLOW");
    here.deliver(&frames[2]).unwrap();
    here.deliver(&frames[1]).unwrap();
    let told = messages(here, FOLLOWER);
    let what: Vec<String> = told.iter().filter_map(|message| field(message, "value")).collect();
    assert_eq!(what, ["a", "b"], "{told:?}");
    // The third region removes what it has seen, its own value: the second one's shows now.
    let before = regions[2].log.len();
    regions[2].run("DEL k");
    let gone = frames_of(&regions[2].log[before..]).remove(0);
    let here = &mut regions[0];
    here.deliver(&gone).unwrap();
    assert_eq!(here.run("GET k"), "b");
    let told = messages(here, FOLLOWER);
    let [kept] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(field(kept, "value").as_deref(), Some("b"));
    assert_eq!(field(kept, "outcome").as_deref(), Some("kept"));
    assert_eq!(here.run("MERIDIAN.CONFLICTS").matches("value a").count(), 1);
}

#[test]
fn what_lost_can_be_made_current() {
    let mut pair = Pair::new();
    pair.race("SET k early EX 1000", "SET k late");
    let stamp = pair.loser("k");
    pair.alone(1, &format!("MERIDIAN.CONFLICTS RESTORE k {stamp}"));
    assert_eq!(pair.both("GET k"), "early");
    assert_eq!(pair.both("TTL k"), "1000", "with its own time to live");
    assert_eq!(pair.both("MERIDIAN.CONFLICTS"), "[]");

    pair.race("HSET h f early g 1", "HSET h f late");
    let stamp = pair.loser("h");
    pair.alone(0, &format!("MERIDIAN CONFLICTS RESTORE h f {stamp}"));
    assert_eq!(pair.both("HGET h f"), "early");
    assert_eq!(pair.both("HGET h g"), "1");
    assert_eq!(pair.both("MERIDIAN.CONFLICTS"), "[]");
}

#[test]
fn a_hidden_type_can_be_made_current() {
    for (race, name, read, expect) in [
        (("HSET k f 1 g 2", "SET k s"), "f", "HGET k g", "2"),
        (("SADD k m n", "SET k s"), "m", "SCARD k", "2"),
        (("SADD k m", "HSET k f 1 g 2"), "m", "SISMEMBER k m", "1"),
        (("HINCRBY k n 7", "SET k s"), "n", "HGET k n", "7"),
    ] {
        let mut pair = Pair::new();
        pair.race(race.0, race.1);
        let stamp = pair.loser("k");
        let list = pair.both("MERIDIAN.CONFLICTS");
        assert!(list.contains("rule string before hash before set"), "{list}");
        pair.alone(0, &format!("MERIDIAN.CONFLICTS RESTORE k {name} {stamp}"));
        assert_eq!(pair.both(read), expect, "{race:?}");
        assert_eq!(pair.both("MERIDIAN.CONFLICTS"), "[]", "{race:?}");
        assert!(pair.regions.iter().all(|region| region.engine.stage().conflicts().is_empty()));
    }
}

#[test]
fn what_cannot_be_restored_is_refused_with_the_reason() {
    let mut pair = Pair::new();
    pair.race("SET k early PX 50", "SET k late");
    let (loser, list) = (pair.loser("k"), pair.both("MERIDIAN.CONFLICTS"));
    let winner = field(&list, "winner_stamp").unwrap();
    let gone = "(error) ERR no such conflict: nothing that lost has this stamp any more";
    let no_stamp = "(error) ERR not a stamp: MERIDIAN.CONFLICTS lists them as time@ordinal";
    for (args, expect) in [
        (format!("k {winner}"), "(error) ERR this value is the current one"),
        ("k 17@0".to_owned(), gone),
        (format!("k f {loser}"), gone),
        (format!("other {loser}"), gone),
        (format!("\"\\x00meridian:x\" {loser}"), "(error) ERR keys that begin with a zero byte"),
        (format!("pg:users:7 {loser}"), "(error) READONLY"),
        ("k 17".to_owned(), no_stamp),
        ("k @".to_owned(), no_stamp),
        ("k +1@0".to_owned(), no_stamp),
        ("k 17@70000".to_owned(), no_stamp),
        ("k 99999999999999999999@0".to_owned(), no_stamp),
        ("k".to_owned(), "(error) ERR syntax error"),
        (format!("k f g {loser}"), "(error) ERR syntax error"),
    ] {
        let reply = pair.regions[0].run(&format!("MERIDIAN.CONFLICTS RESTORE {args}"));
        assert!(reply.starts_with(expect), "{args}: {reply}");
    }
    pair.regions[0].engine.environment_mut().refuse_writes =
        Some("MISCONF the disk is full".to_owned());
    let restore = format!("MERIDIAN.CONFLICTS RESTORE k {loser}");
    let full = "(error) MISCONF the disk is full";
    assert_eq!(pair.regions[0].run(&restore), full);
    pair.regions[0].engine.environment_mut().refuse_writes = None;
    pair.regions[0].set_ms(pair.now_ms + 100);
    assert_eq!(pair.regions[0].run(&restore), "(error) ERR what lost has expired");
    pair.alone(1, "SET k last");
    assert_eq!(pair.regions[0].run(&restore), gone);
    assert!(pair.regions[0].run("MERIDIAN.CONFLICTS FOLLOW COUNT x").starts_with("(error)"));
}

#[test]
fn a_follower_that_does_not_read_is_told_what_it_lost() {
    let mut pair = Pair::new();
    pair.follow("3");
    let long = "x".repeat(MAX_FEED_VALUE_BYTES * 2);
    let rounds = MAX_FEED_BACKLOG_BYTES / MAX_FEED_VALUE_BYTES + 50;
    for n in 0..rounds {
        pair.race(&format!("SET k:{n} {long}"), &format!("SET k:{n} b"));
    }
    let backlog = pair.regions[0].engine.clients()[&FOLLOWER].backlog();
    assert!(backlog <= MAX_FEED_BACKLOG_BYTES, "{backlog}");
    let first = pair.told();
    assert!(first.iter().all(|message| message.contains("seen")), "nothing else yet");
    assert_eq!(field(&first[0], "value").map(|v| v.len()), Some(MAX_FEED_VALUE_BYTES));
    assert_eq!(field(&first[0], "value_bytes"), Some((MAX_FEED_VALUE_BYTES * 2).to_string()));
    let dropped = pair.regions[0].engine.environment().feed_dropped;
    assert_eq!(first.len() as u64 + dropped, rounds as u64);

    // As soon as there is room, whether something more happens or not.
    pair.regions[0].commit();
    let told = pair.told();
    let lost = format!(
        "push [meridian-conflict lost {{count={dropped} first_sequence={} last_sequence={rounds}}}]",
        first.len() + 1
    );
    assert_eq!(told, [lost]);
    pair.race("SET more a", "SET more b");
    assert_eq!(field(&pair.told()[0], "sequence"), Some((rounds + 1).to_string()));
}

#[test]
fn one_commit_tells_a_bounded_number_of_losses() {
    let mut pair = Pair::new();
    pair.follow("3");
    let fields = |value: &str| {
        let pairs = (0..MAX_FEED_EVENTS + 10).map(|n| format!(" f{n} {value}"));
        format!("HSET h{}", pairs.collect::<String>())
    };
    pair.race(&fields("a"), &fields("b"));
    let mut told = pair.told();
    pair.regions[0].commit();
    told.extend(pair.told());
    let lost = told.pop().unwrap();
    let count: usize = field(&lost, "count").unwrap_or_else(|| panic!("{lost}")).parse().unwrap();
    assert_eq!(told.len() + count, MAX_FEED_EVENTS + 10);
    assert_eq!(pair.regions[0].engine.environment().feed_dropped, count as u64);
}

#[test]
fn a_follower_in_resp2_may_do_little_else_and_one_in_resp3_anything() {
    let mut pair = Pair::new();
    pair.race("SET k a", "SET k b");
    assert!(pair.follow("2").contains("value a"), "the present list comes first");
    let region = &mut pair.regions[0];
    for (line, expect) in [
        ("GET k", "(error) ERR this connection follows conflicts"),
        ("MERIDIAN.TOKEN", "(error) ERR this connection follows conflicts"),
        ("PING", "PONG"),
        ("MERIDIAN.CONFLICTS other", "[]"),
        ("MERIDIAN.CONFLICTS FOLLOW COUNT 0", "[]"),
        ("HELLO 3", "{server"),
        ("GET k", "b"),
        ("HELLO 2", "[server"),
        ("MERIDIAN.CONFLICTS UNFOLLOW", "OK"),
        ("GET k", "b"),
    ] {
        let reply = run_as(region, FOLLOWER, line);
        assert!(reply.starts_with(expect), "{line}: {reply}");
    }
    for end in ["MERIDIAN.CONFLICTS UNFOLLOW", "RESET"] {
        run_as(region, FOLLOWER, "MERIDIAN CONFLICTS FOLLOW");
        let list = region.run("CLIENT LIST ID 2");
        assert!(list.contains(" flags=O ") && region.engine.environment().followers == 1, "{list}");
        run_as(region, FOLLOWER, end);
        assert_eq!(region.engine.environment().followers, 0);
    }
    run_as(region, FOLLOWER, "MERIDIAN.CONFLICTS FOLLOW");
    region.engine.disconnect(FOLLOWER);
    assert_eq!(region.engine.environment().followers, 0);
    pair.race("SET k c", "SET k d");

    let region = &mut pair.regions[0];
    for line in ["MERIDIAN.CONFLICTS FOLLOW", "meridian conflicts follow count 1"] {
        region.run("MULTI");
        let error = "(error) ERR MERIDIAN.CONFLICTS FOLLOW inside MULTI is not allowed";
        assert_eq!(region.run(line), error);
        assert!(region.run("EXEC").starts_with("(error) EXECABORT"));
    }
    for id in 10..10 + MAX_FOLLOWERS as u64 {
        region.engine.connect(id, String::new());
        run_as(region, id, "MERIDIAN.CONFLICTS FOLLOW");
    }
    let full = "(error) ERR too many clients follow conflicts already";
    assert_eq!(region.run("MERIDIAN.CONFLICTS FOLLOW"), full);
}

#[test]
fn a_new_follower_misses_nothing_and_hears_nothing_twice() {
    let mut pair = Pair::new();
    let region = &mut pair.regions[1];
    region.set_ms(START_MS + 10);
    region.run("SET k b");
    let frame = frames_of(&region.log).remove(0);
    let here = &mut pair.regions[0];
    here.run("SET k a");
    for id in [FOLLOWER, FOLLOWER + 1] {
        here.engine.connect(id, String::new());
    }
    // All in one commit: one follows, the loss begins, another follows.
    here.engine.execute(FOLLOWER, &[b"MERIDIAN.CONFLICTS", b"FOLLOW"]);
    here.engine.apply_frame(&frame).unwrap();
    here.engine.execute(FOLLOWER + 1, &[b"MERIDIAN.CONFLICTS", b"FOLLOW"]);
    here.commit();
    let first = messages(here, FOLLOWER);
    assert!(first.len() == 2 && first[0] == "reply []" && first[1].contains("seen"), "{first:?}");
    let second = messages(here, FOLLOWER + 1);
    assert!(second.len() == 1 && second[0].contains("value a"), "{second:?}");
}

#[test]
fn the_region_s_own_keys_are_nobody_s_conflict() {
    let mut regions = [Region::new(0), Region::new(1)];
    for (number, position) in [(0, b"one"), (1, b"two")] {
        let row = MirrorChange::Delete { key: b"pg:users:7".to_vec() };
        let stage = regions[number].engine.stage_mut();
        stage.mirror("shop", Some(position), &[row], |_| true);
        regions[number].commit();
    }
    let frames = frames_of(&regions[1].log);
    frames.iter().for_each(|frame| regions[0].deliver(frame).unwrap());
    assert_eq!(regions[0].run("MERIDIAN.CONFLICTS"), "[]");
    assert_eq!(regions[0].engine.stage().conflicts().counts(), (0, 0));
}

/// The list as one would find it by looking at every key.
fn by_looking(region: &mut Region) -> String {
    let stage = region.engine.stage();
    let mut keys: Vec<Vec<u8>> = stage
        .occupied_slots()
        .flat_map(|slot| stage.table(slot).iter())
        .map(|(key, _)| key.to_vec())
        .collect();
    keys.sort();
    let mut lists = Vec::new();
    for key in keys {
        let args: [&[u8]; 4] = [b"MERIDIAN.CONFLICTS", &key, b"COUNT", b"1000"];
        let list = show(&parse(&region.run_as(1, &args)));
        lists.push(list[1..list.len() - 1].to_owned());
    }
    lists.retain(|list| !list.is_empty());
    format!("[{}]", lists.join(" "))
}

/// Whether a command is meant for the type that its key shows.
fn suits(region: &Region, line: &str) -> bool {
    let wants = match line.split_once(' ') {
        Some(("HSET" | "HDEL" | "HINCRBY", _)) => "hash",
        Some(("SADD" | "SREM", _)) => "set",
        _ => return true,
    };
    let stage = region.engine.stage();
    let key = line.split(' ').nth(1).unwrap_or_default().as_bytes();
    let shows = stage.object(key).and_then(|object| object.visible(stage.now()));
    shows.is_none_or(|kind| kind.name() == wants)
}

#[test]
fn the_list_is_exact_whatever_happens_and_after_a_restart() {
    let all = "MERIDIAN.CONFLICTS COUNT 1000";
    let mut losses = 0;
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let mut pair = Pair::new();
        for _ in 0..40 {
            let mut line = || {
                let key = dice.pick(&["a", "b", "c", "d"]);
                let value = dice.roll(1000);
                match dice.roll(if key == "a" { 3 } else { 9 }) {
                    0 | 1 => format!("SET {key} {value}"),
                    2 | 3 => format!("HSET {key} f {value} g{} 1", dice.roll(2)),
                    4 => format!("SADD {key} m{}", dice.roll(2)),
                    5 => format!("DEL {key}"),
                    6 => format!("HDEL {key} f"),
                    7 => format!("SREM {key} m0 m1"),
                    _ => format!("HINCRBY {key} n 1"),
                }
            };
            let lines = [0, 1].map(|number| {
                let region = &pair.regions[number];
                let suiting = [line(), line()].into_iter().filter(|line| suits(region, line));
                // Two of one region must not need each other's type.
                suiting
                    .take(1)
                    .chain([line()].into_iter().filter(|l| l.starts_with("SET ")))
                    .collect::<Vec<_>>()
                    .join("\n")
            });
            pair.race(&lines[0], &lines[1]);
            for region in &mut pair.regions {
                assert_eq!(region.run(all), by_looking(region), "seed {seed} after {lines:?}");
                let conflicts = region.engine.stage().conflicts();
                let (seen, resolved) = conflicts.counts();
                assert_eq!(conflicts.open() as u64, seen - resolved, "seed {seed}: {lines:?}");
                losses += conflicts.open();
            }
        }
        let list = pair.both(all);
        for (number, region) in pair.regions.iter().enumerate() {
            let mut stage = Stage::new(stage_config(number as u16));
            stage.set_physical_us(pair.now_ms * 1000);
            for entry in Entries::new(&region.log, LogPosition(0)) {
                entry.frames().for_each(|frame| stage.replay_frame(frame).expect("its own log"));
            }
            stage.finish_restore();
            assert_eq!(stage.conflicts().open(), region.engine.stage().conflicts().open());
            let end = LogPosition(region.log.len() as u64);
            let mut again = Region {
                engine: Engine::new(config(number as u16, None), stage, end),
                log: region.log.clone(),
            };
            again.engine.connect(1, String::new());
            assert_eq!(again.run(all), list, "seed {seed}");
        }
    }
    assert!(losses > 200, "the races leave something to list: {losses}");
}
