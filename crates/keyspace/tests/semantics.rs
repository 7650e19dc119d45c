//! What happens when regions race: every row of the table of semantics that concerns strings,
//! counters, hashes, sets, keys, expiry and transactions.
//!
//! A story has a past that every region has seen, and commands that run concurrently, each in one
//! region. Their frames are then delivered in every order that causality allows, at every region;
//! all must hold the same data, and show what the table says.

mod support;

use meridian_keyspace::Stage;
use support::{PARTITIONS, Region, START_MS, frames_of, sorted};

/// When the concurrent part begins, after the past, in milliseconds.
const RACE_MS: u64 = START_MS + 1_000;

/// Three regions and the frames that each has made since the last exchange.
struct Story {
    regions: Vec<Region>,
    pending: Vec<Vec<Vec<u8>>>,
    now_ms: u64,
}

impl Story {
    /// All regions have seen `past`, which ran in the first one.
    fn after(past: &[&str]) -> Story {
        let regions = (0..3).map(Region::new).collect();
        let mut story = Story { regions, pending: vec![Vec::new(); 3], now_ms: START_MS };
        for line in past {
            story.at(0, line);
        }
        story.exchange();
        story.wait(RACE_MS - START_MS);
        story
    }

    /// Lets time pass in every region.
    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        for region in &mut self.regions {
            region.set_ms(self.now_ms);
        }
    }

    /// Runs a command in one region, unseen by the others; returns its reply.
    fn at(&mut self, region: usize, line: &str) -> String {
        let before = self.regions[region].log.len();
        let reply = self.regions[region].run(line);
        let frames = frames_of(&self.regions[region].log[before..]);
        self.pending[region].extend(frames);
        reply
    }

    /// Delivers what is pending, in every possible order on copies, in one order for good.
    fn exchange(&mut self) {
        let mut digests = Vec::new();
        for region in 0..3 {
            let others: Vec<&[Vec<u8>]> = (0..3)
                .filter(|o| *o != region)
                .map(|origin| self.pending[origin].as_slice())
                .collect();
            let stage = self.regions[region].engine.stage().clone();
            every_order(stage, &others, &mut |stage| digests.push(data_digest(stage)));
        }
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "regions differ: {digests:x?}");
        for region in 0..3 {
            for origin in (0..3).filter(|o| *o != region) {
                for frame in &self.pending[origin] {
                    self.regions[region].deliver(frame).expect("causal order");
                }
            }
        }
        self.pending = vec![Vec::new(); 3];
        let digests: Vec<String> = self.regions.iter_mut().map(Region::digest).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "regions differ: {digests:?}");
    }

    /// Every region gives this reply.
    #[track_caller]
    fn everywhere(&mut self, line: &str, expect: &str) {
        for (number, region) in self.regions.iter_mut().enumerate() {
            assert_eq!(region.run(line), expect, "{line} in region {number}");
        }
        self.unchanged(line);
    }

    /// Every region gives this reply, in any order.
    #[track_caller]
    fn everywhere_in_any_order(&mut self, line: &str, expect: &[&str]) {
        for (number, region) in self.regions.iter_mut().enumerate() {
            assert_eq!(sorted(&region.run(line)), expect, "{line} in region {number}");
        }
        self.unchanged(line);
    }

    /// What only reads must not write: else the regions would differ without an exchange.
    #[track_caller]
    fn unchanged(&mut self, line: &str) {
        let digests: Vec<String> = self.regions.iter_mut().map(Region::digest).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{line} has written");
    }
}

/// Applies the sequences, each in its own order, interleaved in every way.
fn every_order(stage: Stage, sequences: &[&[Vec<u8>]], visit: &mut impl FnMut(Stage)) {
    if sequences.iter().all(|s| s.is_empty()) {
        return visit(stage);
    }
    for (at, sequence) in sequences.iter().enumerate() {
        let Some((frame, rest)) = sequence.split_first() else { continue };
        let mut stage = stage.clone();
        stage.apply_frame(frame).expect("concurrent frames depend on the past only");
        let mut left = sequences.to_vec();
        left[at] = rest;
        every_order(stage, &left, visit);
    }
}

fn data_digest(mut stage: Stage) -> u64 {
    (0..meridian_keyspace::SLOTS)
        .fold(0, |sum: u64, slot| sum.wrapping_add(stage.slot_digest(slot)))
}

/// The usual story: a past, one command in each of two or three regions, what is read then. The
/// second list's command has the larger stamp.
#[track_caller]
fn check(past: &[&str], race: &[&str], reads: &[(&str, &str)]) {
    let mut story = Story::after(past);
    for (region, line) in race.iter().enumerate() {
        let reply = story.at(region, line);
        assert!(!reply.starts_with("(error)"), "{line}: {reply}");
        story.wait(10);
    }
    story.exchange();
    for (line, expect) in reads {
        story.everywhere(line, expect);
    }
}

#[test]
fn set_and_set() {
    check(&[], &["SET k a", "SET k b"], &[("GET k", "b")]);
    check(&["SET k old"], &["SET k a", "SET k b", "SET k c"], &[("GET k", "c")]);
}

#[test]
fn the_value_that_lost_is_listed_until_it_is_overwritten() {
    let mut story = Story::after(&[]);
    story.at(1, "SET k a");
    story.wait(10);
    story.at(0, "SET k b");
    story.exchange();
    story.everywhere("GET k", "b");
    let (loser, winner) = (RACE_MS, RACE_MS + 10);
    // A write's stamp is the one after the time that is shown before it.
    let stamp = |ms| meridian_clock::Time::from_ms(ms).0 + 1;
    let conflict = format!(
        "[[key k element string name  value a time_ms {loser} region region-1 stamp {}@1 \
         winner_time_ms {winner} winner_region region-0 winner_stamp {}@0 rule larger stamp \
         wins]]",
        stamp(loser),
        stamp(winner)
    );
    story.everywhere("MERIDIAN.CONFLICTS", &conflict);
    story.everywhere("MERIDIAN CONFLICTS k COUNT 5", &conflict);
    story.everywhere("MERIDIAN.CONFLICTS other", "[]");
    story.at(2, "SET k c");
    story.exchange();
    story.everywhere("GET k", "c");
    story.everywhere("MERIDIAN.CONFLICTS", "[]");
}

#[test]
fn set_and_del() {
    check(&["SET k old"], &["SET k new", "DEL k"], &[("GET k", "new")]);
    check(&["SET k old"], &["DEL k", "SET k new"], &[("GET k", "new")]);
    check(&["SET k old"], &["GETDEL k", "APPEND k er"], &[("GET k", "older")]);
}

#[test]
fn a_later_set_wins_whatever_the_clocks_say() {
    let mut story = Story::after(&[]);
    story.regions[0].set_ms(RACE_MS + 50_000);
    story.at(0, "SET k fast");
    story.exchange();
    story.regions[1].set_ms(RACE_MS - 500);
    story.at(1, "SET k slow");
    story.exchange();
    story.everywhere("GET k", "slow");
    story.everywhere("MERIDIAN.CONFLICTS k", "[]");
}

#[test]
fn writes_of_a_part_are_writes_of_the_whole_value() {
    check(&["SET k ab"], &["APPEND k x", "APPEND k y"], &[("GET k", "aby")]);
    check(&["SET k ab"], &["APPEND k x", "SETRANGE k 0 Z"], &[("GET k", "Zb")]);
    check(&["SET k ab"], &["GETSET k new", "APPEND k y"], &[("GET k", "aby")]);
    check(&["SET k ab"], &["APPEND k y", "GETSET k new"], &[("GET k", "new")]);
}

#[test]
fn increments_sum() {
    check(&[], &["INCRBY n 7", "INCRBY n 3"], &[("GET n", "10")]);
    check(&["SET n 100"], &["INCRBY n 7", "DECRBY n 3", "INCR n"], &[("GET n", "105")]);
    check(&["INCR n"], &["INCR n", "INCR n", "INCR n"], &[("GET n", "4"), ("STRLEN n", "1")]);
    check(&[], &["INCRBYFLOAT n 0.1", "INCRBYFLOAT n 0.2", "INCRBYFLOAT n 0.7"], &[("GET n", "1")]);
    check(&["SET n 1.5"], &["INCRBYFLOAT n 0.1", "INCRBYFLOAT n -3"], &[("GET n", "-1.4")]);
}

#[test]
fn a_set_resets_what_it_had_observed() {
    for race in [["SET n 10", "INCRBY n 3"], ["INCRBY n 3", "SET n 10"]] {
        check(&[], &race, &[("GET n", "13")]);
        check(&["SET n 50"], &race, &[("GET n", "13")]);
        check(&["INCRBY n 5"], &race, &[("GET n", "13")]);
    }
    // Rows of both regions before the race.
    let mut story = Story::after(&["INCRBY n 5"]);
    story.at(1, "INCRBY n 20");
    story.exchange();
    story.everywhere("GET n", "25");
    story.at(0, "SET n 10");
    story.at(1, "INCRBY n 3");
    story.exchange();
    story.everywhere("GET n", "13");
    story.at(1, "INCRBY n 4");
    story.exchange();
    story.everywhere("GET n", "17");
}

#[test]
fn del_leaves_the_unobserved_increment() {
    for race in [["DEL n", "INCRBY n 3"], ["INCRBY n 3", "DEL n"]] {
        check(&["INCRBY n 5"], &race, &[("GET n", "3")]);
        check(&["SET n 5"], &race, &[("GET n", "3")]);
    }
    // The deleting region had counted as well, and so had the third.
    let mut story = Story::after(&["INCRBY n 5"]);
    story.at(1, "INCRBY n 6");
    story.at(2, "INCRBY n 7");
    story.exchange();
    story.at(0, "DEL n");
    story.at(1, "INCRBY n 1");
    story.at(2, "INCRBY n 2");
    story.exchange();
    story.everywhere("GET n", "3");
}

#[test]
fn a_merged_sum_saturates_and_a_local_one_is_refused() {
    let mut story = Story::after(&["SET n 9223372036854775800"]);
    story.at(0, "INCRBY n 5");
    story.at(1, "INCRBY n 6");
    story.exchange();
    story.everywhere("GET n", "9223372036854775807");
    story.everywhere("INCR n", "(error) ERR increment or decrement would overflow");
    story.at(0, "SET n 1");
    story.exchange();
    story.everywhere("GET n", "1");
}

#[test]
fn hash_fields() {
    for race in [["HSET h f new", "HDEL h f"], ["HDEL h f", "HSET h f new"]] {
        check(&["HSET h f old"], &race, &[("HGETALL h", "[f new]")]);
    }
    check(&[], &["HSET h f a", "HSET h f b"], &[("HGET h f", "b"), ("HLEN h", "1")]);
    check(&[], &["HSET h f a", "HSET h g b"], &[("HGET h f", "a"), ("HGET h g", "b")]);
    check(&[], &["HINCRBY h f 7", "HINCRBY h f 3"], &[("HGET h f", "10")]);
    check(&["HSET h f 1"], &["HINCRBY h f 7", "HINCRBYFLOAT h f 0.5"], &[("HGET h f", "8.5")]);
    for race in [["HINCRBY h f 7", "HDEL h f"], ["HDEL h f", "HINCRBY h f 7"]] {
        check(&["HINCRBY h f 5"], &race, &[("HGETALL h", "[f 7]")]);
    }
    for race in [["HSET h g new", "DEL h"], ["DEL h", "HSET h g new"]] {
        check(&["HSET h f old"], &race, &[("HGETALL h", "[g new]")]);
    }
    check(&["HSET h f 5"], &["HSET h f 10", "HINCRBY h f 3"], &[("HGET h f", "13")]);
}

#[test]
fn set_members() {
    for race in [["SADD m x", "SREM m x"], ["SREM m x", "SADD m x"]] {
        check(&["SADD m x"], &race, &[("SMEMBERS m", "[x]")]);
        check(&["SADD m x"], &[race[0], race[1], "SREM m x"], &[("SMEMBERS m", "[x]")]);
    }
    check(&["SADD m x"], &["SREM m x", "SREM m x"], &[("EXISTS m", "0")]);
    check(&["SADD m x"], &["SPOP m", "SADD m x"], &[("SMEMBERS m", "[x]")]);
    check(&["SADD m x"], &["DEL m", "SADD m y"], &[("SMEMBERS m", "[y]")]);
    check(&["SADD m x"], &["SMOVE m other x", "SADD m x"], &[("SMEMBERS m", "[x]")]);
    // Two regions that add the same member agree; that is no conflict.
    check(&[], &["SADD m x", "SADD m x"], &[("SCARD m", "1"), ("MERIDIAN.CONFLICTS", "[]")]);
}

#[test]
fn del_and_other_writes() {
    check(&["SET k v"], &["DEL k", "APPEND k w"], &[("GET k", "vw")]);
    let mut story = Story::after(&["SADD m a b"]);
    story.at(0, "RENAME m other");
    story.at(1, "SADD m c");
    story.exchange();
    story.everywhere("SMEMBERS m", "[c]");
    story.everywhere_in_any_order("SMEMBERS other", &["a", "b"]);
    let mut story = Story::after(&["HSET h a 1", "HINCRBY h n 5", "SET k old"]);
    story.at(0, "COPY h k REPLACE");
    story.at(1, "HINCRBY h n 2");
    story.exchange();
    story.everywhere_in_any_order("HGETALL h", &["1", "7", "a", "n"]);
    story.everywhere_in_any_order("HGETALL k", &["1", "5", "a", "n"]);
}

#[test]
fn rename_is_one_record_where_the_keys_share_a_partition() {
    let mut region = Region::new(0);
    region.run("SADD {t}a x y z");
    region.run("SET {t}b old");
    assert_eq!(region.frames("RENAME {t}a {t}b").len(), 1);
    assert_eq!(sorted(&region.run("SMEMBERS {t}b")), ["x", "y", "z"]);
}

#[test]
fn two_types_both_live_and_the_first_shows() {
    for race in [["SET k v", "SADD k m"], ["SADD k m", "SET k v"]] {
        check(&[], &race, &[("TYPE k", "string"), ("GET k", "v"), ("EXISTS k", "1")]);
    }
    check(&[], &["HSET k f v", "SADD k m"], &[("TYPE k", "hash"), ("HGETALL k", "[f v]")]);
    let wrong = "(error) WRONGTYPE Operation against a key holding the wrong kind of value";
    check(&[], &["HSET k f v", "SADD k m"], &[("SMEMBERS k", wrong)]);

    let mut story = Story::after(&[]);
    story.at(0, "SET k v");
    story.at(1, "SADD k m");
    story.exchange();
    let listed = story.regions[2].run("MERIDIAN.CONFLICTS");
    assert!(listed.contains("element member name m"), "{listed}");
    assert!(listed.contains("rule string before hash before set"), "{listed}");
    story.at(2, "DEL k");
    story.exchange();
    story.everywhere("EXISTS k", "0");
    story.everywhere("MERIDIAN.CONFLICTS", "[]");
}

#[test]
fn a_set_that_saw_two_types_leaves_one() {
    let mut story = Story::after(&[]);
    story.at(0, "SET k v EX 10");
    story.at(1, "SADD k m");
    story.exchange();
    story.at(2, "SET k w EX 10");
    story.exchange();
    story.wait(11_000);
    // The set must not show up behind the string that has expired.
    story.everywhere("TYPE k", "none");
}

#[test]
fn deadlines() {
    check(&["SET k v"], &["EXPIRE k 60", "EXPIRE k 10"], &[("TTL k", "60")]);
    check(&["SET k v"], &["EXPIRE k 10", "EXPIRE k 60"], &[("TTL k", "60")]);
    check(&["SADD k v"], &["EXPIRE k 10", "EXPIRE k 60"], &[("TTL k", "60")]);
    check(&["SET k v EX 30"], &["PERSIST k", "EXPIRE k 60"], &[("TTL k", "-1")]);
    check(&["HSET k f v", "EXPIRE k 30"], &["EXPIRE k 60", "PERSIST k"], &[("TTL k", "-1")]);
    // A SET's time to live is that of the value it wrote.
    check(&["SET k v"], &["EXPIRE k 60", "SET k w"], &[("GET k", "w"), ("TTL k", "-1")]);
    check(&["SET k v"], &["SET k w", "EXPIRE k 60"], &[("GET k", "w"), ("TTL k", "-1")]);
    check(&["SET k v"], &["SET k w EX 10", "EXPIRE k 60"], &[("GET k", "w"), ("TTL k", "10")]);
    check(
        &["SET k v EX 60"],
        &["SET k w KEEPTTL", "EXPIRE k 10"],
        &[("GET k", "w"), ("TTL k", "59")],
    );
    for race in [["EXPIRE k 60", "DEL k"], ["DEL k", "EXPIRE k 60"]] {
        check(&["SET k v"], &race, &[("EXISTS k", "0"), ("TTL k", "-2")]);
        check(&["SADD k v"], &race, &[("EXISTS k", "0"), ("TTL k", "-2")]);
    }
}

#[test]
fn a_deadline_holds_in_every_region_without_another_message() {
    let mut story = Story::after(&["SET k v EX 5", "HSET h f v", "EXPIRE h 5", "SADD m x"]);
    story.everywhere("TTL h", "4");
    story.wait(10_000);
    story.everywhere("GET k", "(nil)");
    story.everywhere("HGETALL h", "[]");
    story.everywhere("EXISTS k h m", "1");
    // A new life does not begin with what was left of the old one.
    story.at(1, "HSET h g new");
    story.exchange();
    story.everywhere("HGETALL h", "[g new]");
    story.everywhere("TTL h", "-1");
}

#[test]
fn what_a_deadline_killed_does_not_come_back() {
    for later in ["EXPIRE h 100", "PEXPIREAT h 1900000000000", "EXPIRE h 100 NX"] {
        let mut story = Story::after(&["HSET h f old n 1", "HINCRBY h n 5"]);
        story.at(0, "EXPIRE h 10");
        story.wait(11_000);
        // Region 1 has not heard of the deadline: it writes to a living hash.
        story.at(1, "HSET h g new");
        story.at(1, "HINCRBY h n 2");
        story.exchange();
        story.everywhere_in_any_order("HGETALL h", &["2", "g", "n", "new"]);
        story.everywhere("HLEN h", "2");
        assert_eq!(story.at(2, later), "1");
        story.exchange();
        story.everywhere_in_any_order("HGETALL h", &["2", "g", "n", "new"]);
        story.everywhere("HEXISTS h f", "0");
        story.at(2, "PERSIST h");
        story.exchange();
        story.everywhere_in_any_order("HGETALL h", &["2", "g", "n", "new"]);
    }
}

#[test]
fn a_transaction_is_one_record_in_its_slot() {
    let mut region = Region::new(0);
    for line in ["MULTI", "SET {t}a 1", "INCR {t}n", "SADD {t}m x", "HSET {t}h f v"] {
        region.run(line);
    }
    let frames = region.frames("EXEC");
    assert_eq!(frames.len(), 1, "one slot, one frame");
    let mut other = Region::new(1);
    other.deliver(&frames[0]).expect("nothing is missing");
    assert_eq!(other.run("MGET {t}a {t}n"), "[1 1]");
    assert_eq!(other.digest(), region.digest());

    let mut region = Region::new(0);
    region.run("MULTI");
    for key in 0..40 {
        region.run(&format!("SET key{key} v"));
    }
    let frames = region.frames("EXEC");
    assert_eq!(frames.len(), usize::from(PARTITIONS), "each partition's part is one frame");
}

#[test]
fn a_remote_write_breaks_a_watch() {
    let mut story = Story::after(&["SET k v", "SET other v"]);
    assert_eq!(story.at(0, "WATCH k"), "OK");
    story.at(1, "SET other w");
    story.exchange();
    story.at(0, "MULTI");
    assert_eq!(story.at(0, "EXEC"), "[]");
    story.at(0, "WATCH k");
    story.at(1, "APPEND k w");
    story.exchange();
    story.at(0, "MULTI");
    story.at(0, "SET k mine");
    assert_eq!(story.at(0, "EXEC"), "(nil)");
    story.everywhere("GET k", "vw");
}

#[test]
fn flushall_removes_what_was_observed() {
    let mut story = Story::after(&["SET a 1", "SADD m x", "INCRBY n 5", "HSET h f v"]);
    story.at(0, "FLUSHALL");
    story.at(1, "SET b 2");
    story.at(1, "INCRBY n 2");
    story.at(2, "HSET h g w");
    story.exchange();
    story.everywhere_in_any_order("KEYS *", &["b", "h", "n"]);
    story.everywhere("GET n", "2");
    story.everywhere("HGETALL h", "[g w]");
    story.everywhere("DBSIZE", "3");
}

#[test]
fn a_frame_out_of_order_is_refused() {
    let (mut author, mut reader) = (Region::new(0), Region::new(1));
    let first = author.frames("SET k a");
    let second = author.frames("SET k b");
    assert!(reader.deliver(&second[0]).is_err());
    reader.deliver(&first[0]).expect("the first frame");
    assert!(reader.deliver(&first[0]).is_err(), "a duplicate");
    reader.deliver(&second[0]).expect("the second frame");
    assert_eq!(reader.run("GET k"), "b");
    // And before what its author had seen.
    let answer = reader.frames("SET k c");
    let mut third = Region::new(2);
    assert!(third.deliver(&answer[0]).is_err());
}
