//! Session tokens: what they cover, who waits for them, and what is no token.

mod support;

use meridian_clock::{MAX_AHEAD_MS, Origin, Time};
use meridian_keyspace::{
    Durability, Scope, Token,
    limits::{MAX_AWAIT_MS, MAX_DEFERRED_COMMANDS, MAX_TOKEN_CHARS, MAX_WAITING_CLIENTS},
};
use proptest::prelude::*;
use support::{PARTITIONS, Region, START_MS, config, frames_of, parse, show, words};

/// A second connection, and the first ID for many.
const OTHER: u64 = 2;
const MANY: u64 = 100;

/// Sends a command without waiting for its reply.
fn send(region: &mut Region, client: u64, line: &str) {
    let args = words(line);
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    region.engine.execute(client, &args);
    region.commit();
}

/// All replies that have left for a client, as they are on the wire.
fn received(region: &mut Region, client: u64) -> String {
    String::from_utf8_lossy(&region.take_output(client)).into_owned()
}

/// Lets a region look at who waits, at a moment of its steady clock.
fn wake(region: &mut Region, now_ms: u64) {
    region.engine.wake(now_ms);
    region.commit();
}

/// Runs a command and returns its frames.
fn frames(region: &mut Region, line: &str) -> Vec<Vec<u8>> {
    let before = region.log.len();
    region.run(line);
    frames_of(&region.log[before..])
}

fn two() -> (Region, Region) {
    (Region::new(0), Region::new(1))
}

#[test]
fn a_client_waits_for_its_write_and_what_it_sends_meanwhile_waits_behind() {
    let (mut here, mut there) = two();
    let token = here.run("MERIDIAN.TOKEN");
    assert_eq!(there.run(&format!("MERIDIAN.AWAIT {token} 0")), "OK", "nothing was done yet");
    let login = frames(&mut here, "SET session:7 Ada");
    let token = here.run("MERIDIAN.TOKEN");
    let stale = there.run(&format!("MERIDIAN.AWAIT {token} 0"));
    assert_eq!(
        stale,
        "(error) STALE this region lacks writes of region-0 (nothing has come of it in 1 of 4 \
         partitions)"
    );

    send(&mut there, 1, &format!("MERIDIAN.AWAIT {token} 500"));
    send(&mut there, 1, "GET session:7");
    send(&mut there, 1, "SET answer 42");
    wake(&mut there, 10_000);
    assert_eq!(received(&mut there, 1), "");
    there.engine.connect(OTHER, "127.0.0.1:2000".to_owned());
    send(&mut there, OTHER, "CLIENT LIST ID 1");
    let list = received(&mut there, OTHER);
    assert!(list.contains(" flags=b ") && list.contains("cmd=meridian.await"), "{list}");
    send(&mut there, OTHER, "INFO clients");
    assert!(received(&mut there, OTHER).contains("blocked_clients:1"));
    send(&mut there, OTHER, "GET answer");
    assert_eq!(received(&mut there, OTHER), "$-1\r\n", "what was put off has not been run");
    assert_eq!(there.engine.next_wake_ms(), Some(10_500));

    there.deliver(&login[0]).unwrap();
    wake(&mut there, 10_001);
    assert_eq!(received(&mut there, 1), "+OK\r\n$3\r\nAda\r\n+OK\r\n");
    assert_eq!(there.engine.next_wake_ms(), None);
    send(&mut there, OTHER, "INFO clients");
    assert!(received(&mut there, OTHER).contains("blocked_clients:0"));
    let awaits = there.engine.environment().awaits;
    assert_eq!((awaits.covered, awaits.waited, awaits.stale), (1, 1, 1));
}

#[test]
fn who_waits_too_long_is_told_what_is_missing() {
    let (mut here, mut there) = two();
    let first = frames(&mut here, "SET k v");
    there.deliver(&first[0]).unwrap();
    here.set_ms(START_MS + 250);
    frames(&mut here, "SET k w");
    let token = here.run("MERIDIAN.TOKEN");
    send(&mut there, 1, &format!("MERIDIAN.AWAIT {token} 100"));
    send(&mut there, 1, "GET k");
    wake(&mut there, 5);
    wake(&mut there, 104);
    assert_eq!(received(&mut there, 1), "");
    wake(&mut there, 105);
    assert_eq!(
        received(&mut there, 1),
        "-STALE this region lacks writes of region-0 (250 ms behind in 1 of 4 partitions)\r\n\
         $1\r\nv\r\n"
    );
    let clock_jumps = START_MS - 10_000;
    there.set_ms(clock_jumps);
    send(&mut there, 1, &format!("MERIDIAN.AWAIT {token}"));
    wake(&mut there, 200);
    wake(&mut there, 1_199);
    assert_eq!(received(&mut there, 1), "");
    wake(&mut there, 1_200);
    assert!(received(&mut there, 1).starts_with("-STALE"), "the default is a second");
}

#[test]
fn a_token_covers_the_partitions_that_the_session_touched_and_no_others() {
    let (mut here, mut there) = two();
    here.run("MERIDIAN.TOKEN");
    let mine = frames(&mut here, "SET mine 1");
    // Somebody else, in other partitions, is not waited for: this region may die before it
    // has sent that.
    here.engine.connect(OTHER, "127.0.0.1:2000".to_owned());
    for n in 0..20 {
        let args = words(&format!("SET others:{n} 1"));
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        here.run_as(OTHER, &args);
    }
    here.run("PING");
    let token = here.run("MERIDIAN.TOKEN");
    there.deliver(&mine[0]).unwrap();
    assert_eq!(there.run(&format!("MERIDIAN.AWAIT {token} 0")), "OK");
    // What the first token of a connection must assume to have been seen is everything.
    let args: [&[u8]; 1] = [b"MERIDIAN.TOKEN"];
    let whole = show(&parse(&here.run_as(OTHER, &args)));
    assert!(there.run(&format!("MERIDIAN.AWAIT {whole} 0")).contains("STALE"));
    assert!(token.len() < 64 && whole.len() < 128, "{token} {whole}");
}

#[test]
fn what_was_read_is_covered_too() {
    for read in ["GET k", "INCR k", "SCAN 0", "MGET other k", "MERIDIAN DIGEST", "SINTERCARD 1 k"] {
        let (mut here, mut there) = two();
        let mut third = Region::new(2);
        let write = frames(&mut here, if read.contains("CARD") { "SADD k 1" } else { "SET k 1" });
        there.deliver(&write[0]).unwrap();
        there.run("MERIDIAN TOKEN");
        let before = there.log.len();
        there.run(read);
        let token = there.run("MERIDIAN TOKEN");
        assert!(third.run(&format!("MERIDIAN AWAIT {token} 0")).contains("region-0"), "{read}");
        third.deliver(&write[0]).unwrap();
        frames_of(&there.log[before..]).iter().for_each(|f| third.deliver(f).unwrap());
        assert_eq!(third.run(&format!("MERIDIAN.AWAIT {token} 0")), "OK", "{read}");
        // A session goes on where its token came from.
        let next = third.run("MERIDIAN.TOKEN");
        assert!(Region::new(1).run(&format!("MERIDIAN.AWAIT {next} 0")).contains("STALE"));
    }
    // What says nothing about data is not followed.
    let (mut here, mut there) = two();
    let empty = here.run("MERIDIAN.TOKEN");
    let write = frames(&mut there, "SET k 1");
    here.deliver(&write[0]).unwrap();
    for line in ["PING", "MERIDIAN REGIONS", "CLIENT ID", "MERIDIAN TOKEN"] {
        here.run(line);
    }
    assert_eq!(here.run("MERIDIAN.TOKEN"), empty);
}

#[test]
fn sessions_are_forgotten_on_demand() {
    let (mut here, mut there) = two();
    frames(&mut here, "SET k 1");
    for forget in ["MERIDIAN.TOKEN FORGET", "RESET"] {
        let token = here.run("MERIDIAN.TOKEN");
        assert!(there.run(&format!("MERIDIAN.AWAIT {token} 0")).contains("STALE"));
        here.run(forget);
        let token = here.run("MERIDIAN.TOKEN");
        assert_eq!(there.run(&format!("MERIDIAN.AWAIT {token} 0")), "OK", "{forget}");
        here.run("GET k");
    }
}

#[test]
fn a_stale_token_does_not_become_part_of_the_session() {
    let (mut here, mut there) = two();
    frames(&mut here, "SET k 1");
    let token = here.run("MERIDIAN.TOKEN");
    let before = there.run("MERIDIAN.TOKEN");
    assert!(there.run(&format!("MERIDIAN.AWAIT {token} 0")).contains("STALE"));
    assert_eq!(there.run("MERIDIAN.TOKEN"), before);
}

#[test]
fn a_promise_covers_as_well_and_the_end_of_an_origin_does_not() {
    let (mut here, mut there) = two();
    let wrote = frames(&mut here, "SET k 1");
    let token = here.run("MERIDIAN.TOKEN");
    let stamp = here.engine.stage().now();
    let ask = format!("MERIDIAN.AWAIT {token} 0");
    for number in 0..PARTITIONS {
        assert!(there.run(&ask).contains("STALE"), "not promised for every partition yet");
        let part = there.engine.stage_mut().partition_mut(number);
        part.promise(Origin(0), Time(stamp.0 - 1));
    }
    assert!(there.run(&ask).contains("STALE"), "promised for a moment before");
    for number in 0..PARTITIONS {
        there.engine.stage_mut().partition_mut(number).promise(Origin(0), stamp);
    }
    assert_eq!(there.run(&ask), "OK");
    let mut third = Region::new(2);
    assert!(third.run(&ask).contains("STALE"));
    (0..PARTITIONS).for_each(|n| third.engine.stage_mut().partition_mut(n).retire(Origin(0)));
    assert!(third.run(&ask).contains("STALE"), "that nothing more comes brings nothing");
    third.deliver(&wrote[0]).unwrap();
    assert_eq!(third.run(&ask), "OK");
    assert_eq!(here.run(&ask), "OK", "a region has its own writes");
}

#[test]
fn a_transaction_may_make_a_token_and_must_not_wait() {
    let (mut here, mut there) = two();
    let token = here.run("MERIDIAN.TOKEN");
    for line in [format!("MERIDIAN.AWAIT {token}"), format!("meridian await {token} 5")] {
        here.run("MULTI");
        assert_eq!(here.run(&line), "(error) ERR MERIDIAN.AWAIT inside MULTI is not allowed");
        let abort = "(error) EXECABORT Transaction discarded because of previous errors.";
        assert_eq!(here.run("EXEC"), abort);
    }
    here.run("MULTI");
    here.run("SET k 1");
    here.run("MERIDIAN.TOKEN");
    let reply = here.run("EXEC");
    let token = reply.trim_end_matches(']').split(' ').next_back().unwrap().to_owned();
    assert!(there.run(&format!("MERIDIAN.AWAIT {token} 0")).contains("STALE"), "{reply}");
}

#[test]
fn replies_to_writes_carry_the_token_when_asked_to() {
    let (mut here, mut there) = two();
    let refused = here.run("MERIDIAN.TOKEN ATTRIBUTE ON");
    assert_eq!(refused, "(error) ERR attributes need RESP3: say HELLO 3 first");
    here.run("HELLO 3");
    assert_eq!(here.run("MERIDIAN.TOKEN ATTRIBUTE ON"), "OK");
    let mut raw = |line: &str| {
        let before = here.log.len();
        let args = words(line);
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let reply = String::from_utf8_lossy(&here.run_as(1, &args)).into_owned();
        (reply, frames_of(&here.log[before..]))
    };
    let (reply, write) = raw("SET k 1");
    let (head, rest) = reply.split_once("meridian-token\r\n").expect("an attribute");
    assert_eq!(head, "|1\r\n$14\r\n");
    let mut lines = rest.split("\r\n");
    let (length, token) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!(length, format!("${}", token.len()));
    assert_eq!(lines.collect::<Vec<_>>(), ["+OK", ""]);
    assert!(there.run(&format!("MERIDIAN.AWAIT {token} 0")).contains("STALE"));
    there.deliver(&write[0]).unwrap();
    assert_eq!(there.run(&format!("MERIDIAN.AWAIT {token} 0")), "OK");

    assert_eq!(raw("GET k").0, "$1\r\n1\r\n", "a read has none");
    assert_eq!(raw("SETNX k 2").0, ":0\r\n", "nor has a write that wrote nothing");
    for line in ["MULTI", "INCR k", "CLIENT LIST"] {
        raw(line);
    }
    let (reply, _) = raw("EXEC");
    assert!(reply.starts_with("|1\r\n") && reply.contains("\r\n*2\r\n:2\r\n="), "{reply}");
    assert!(parse(reply.as_bytes()) != meridian_resp::Value::Null, "one whole reply");
    assert_eq!(raw("MERIDIAN TOKEN ATTRIBUTE OFF").0, "+OK\r\n");
    assert_eq!(raw("SET k 3").0, "+OK\r\n");
    raw("MERIDIAN.TOKEN ATTRIBUTE ON");
    raw("HELLO 2");
    assert_eq!(raw("SET k 4").0, "+OK\r\n", "RESP2 has no place for it");
}

#[test]
fn who_hangs_up_or_is_killed_waits_no_more() {
    let (mut here, mut there) = two();
    frames(&mut here, "SET k 1");
    let token = here.run("MERIDIAN.TOKEN");
    for id in [OTHER, OTHER + 1] {
        there.engine.connect(id, format!("127.0.0.1:{id}"));
        send(&mut there, id, &format!("MERIDIAN.AWAIT {token} 1000"));
    }
    assert_eq!(there.engine.environment().waiting, 2);
    there.engine.disconnect(OTHER);
    assert_eq!(there.engine.environment().waiting, 1);
    assert_eq!(there.run(&format!("CLIENT KILL ID {}", OTHER + 1)), "1");
    assert!(there.engine.take_ready().contains(&(OTHER + 1)), "it is closed at once");
    there.engine.disconnect(OTHER + 1);
    wake(&mut there, 1);
    assert_eq!((there.engine.environment().waiting, there.engine.next_wake_ms()), (0, None));
}

#[test]
fn waiting_is_limited() {
    let (mut here, mut there) = two();
    frames(&mut here, "SET k 1");
    let token = here.run("MERIDIAN.TOKEN");
    let wait = format!("MERIDIAN.AWAIT {token} 1000");
    for id in MANY..MANY + MAX_WAITING_CLIENTS as u64 {
        there.engine.connect(id, String::new());
        send(&mut there, id, &wait);
        assert_eq!(received(&mut there, id), "");
    }
    assert_eq!(there.run(&wait), "(error) ERR too many clients wait already");
    wake(&mut there, 0);
    wake(&mut there, 1000);
    assert!(received(&mut there, MANY).starts_with("-STALE"));
    send(&mut there, 1, &wait);
    for _ in 0..=MAX_DEFERRED_COMMANDS {
        there.engine.execute(1, &[b"INCR", b"n"]);
    }
    there.commit();
    let last = received(&mut there, 1);
    assert_eq!(last, "-ERR too many commands behind MERIDIAN.AWAIT\r\n");
    assert!(there.engine.clients()[&1].closing);
    there.engine.connect(OTHER, String::new());
    send(&mut there, OTHER, "EXISTS n");
    assert_eq!(received(&mut there, OTHER), ":0\r\n");
}

#[test]
fn a_reply_after_a_wait_is_as_durable_as_any() {
    let mut here = Region::new(0);
    let login = frames(&mut here, "SET k 1");
    let token = here.run("MERIDIAN.TOKEN");
    let mut there = Region::with(meridian_keyspace::EngineConfig {
        durability: Durability::Always,
        ..config(1, None)
    });
    send(&mut there, 1, &format!("MERIDIAN.AWAIT {token}"));
    send(&mut there, 1, "SET after 1");
    there.deliver(&login[0]).unwrap();
    there.engine.wake(0);
    let commit = there.engine.commit();
    let entry = commit.entry.clone().expect("the write that was put off");
    let end = meridian_store::LogPosition((there.log.len() + entry.len()) as u64);
    there.engine.appended(commit, end);
    assert_eq!(received(&mut there, 1), "", "not before the disk has it");
    there.engine.synced(end);
    assert_eq!(received(&mut there, 1), "+OK\r\n+OK\r\n");
}

#[test]
fn what_is_no_token_is_refused_with_the_reason() {
    let mut here = Region::new(0);
    frames(&mut here, "SET k 1");
    let token = here.run("MERIDIAN.TOKEN");
    let mut ask = |line: String| here.run(&format!("MERIDIAN.AWAIT {line}"));
    for (text, expect) in [
        ("\"\"", "ERR not a session token: it does not begin as one"),
        ("hello", "ERR not a session token: it does not begin as one"),
        ("m1", "ERR not a session token: it is too short"),
        ("m1***", "ERR not a session token: characters that cannot be"),
        ("m2AAAA", "ERR session token has version 2, this node reads version 1"),
        ("m1AAAAAAAAAAAAAAAAAAAA", "ERR session token is damaged: its checksum does not fit"),
        (&"m".repeat(MAX_TOKEN_CHARS + 1), "ERR not a session token: too long"),
    ] {
        assert_eq!(ask(text.to_owned()), format!("(error) {expect}"));
    }
    let range = format!("(error) ERR timeout is not between 0 and {MAX_AWAIT_MS} milliseconds");
    for timeout in ["-1", "x", "1.5", "60001", "99999999999999999999"] {
        assert_eq!(ask(format!("{token} {timeout}")), range);
    }
    assert_eq!(ask(format!("{token} 0 0")), "(error) ERR syntax error");
    assert!(ask(String::new()).contains("wrong number of arguments"));
    assert_eq!(here.run("MERIDIAN.TOKEN NOW"), "(error) ERR syntax error");
    assert_eq!(here.run("MERIDIAN.TOKEN ATTRIBUTE MAYBE"), "(error) ERR syntax error");
}

#[test]
fn tokens_of_elsewhere_and_of_the_future_are_refused_at_once() {
    let mut here = Region::new(0);
    frames(&mut here, "SET k 1");
    let foreign = "(error) ERR session token is of another cluster";
    for scope in [Scope::new("other", PARTITIONS), Scope::new("test", PARTITIONS * 2)] {
        let token = Token::of(here.engine.stage()).encode(scope);
        assert_eq!(here.run(&format!("MERIDIAN.AWAIT {token} 1000")), foreign);
    }
    let ahead = START_MS + MAX_AHEAD_MS + 5_000;
    let mut wild = Region::new(1);
    wild.set_ms(ahead);
    frames(&mut wild, "SET k 1");
    let token = wild.run("MERIDIAN.TOKEN");
    assert_eq!(
        here.run(&format!("MERIDIAN.AWAIT {token} 1000")),
        "(error) ERR session token is from the future: its stamp is 65000 ms ahead of this \
         region's clock (limit 60000 ms)"
    );
}

proptest! {
    #[test]
    fn a_token_that_was_changed_is_never_taken(at in 2usize..60, to in 0u8..64) {
        let mut here = Region::new(0);
        frames(&mut here, "SET k 1");
        let token = here.run("MERIDIAN.TOKEN").into_bytes();
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (at, to) = (at % token.len(), alphabet[usize::from(to)]);
        let mut changed = token.clone();
        changed[at] = to;
        let scope = Scope::new("test", PARTITIONS);
        prop_assert_eq!(Token::decode(&changed, scope).is_ok(), changed == token);
    }

    #[test]
    fn whatever_is_sent_as_a_token_is_read_without_harm(bytes: Vec<u8>) {
        let mut here = Region::new(0);
        let text = [b"m1".as_slice(), &bytes].concat();
        for token in [&bytes, &text] {
            let reply = here.run_as(1, &[b"MERIDIAN.AWAIT", token, b"1000"]);
            prop_assert!(reply.starts_with(b"-ERR"), "{}", reply.escape_ascii());
        }
    }
}
