//! Clocks that are off and peers that lie: what a data node believes, and what it does not.

use std::collections::BTreeMap;

use meridian_clock::{ClockNote, MAX_AHEAD_MS, Origin, Time, VersionVector};
use meridian_keyspace::{Ablations, Durability, Engine, EngineConfig, Stage, StageConfig};
use meridian_node::{Alarm, Claim, DataConfig, DataEffect, DataNode, wire::PeerMessage};
use meridian_replication::{
    Batch, Hello, PROTOCOL_NEWEST, Subscribe, Vectors, Watermark,
    repair::{PackedVector, Refusal, RepairMessage},
};
use meridian_store::{Entries, LogPosition};

const DAY_US: u64 = 1_700_000_000_000_000;
const EIGHT_HOURS_US: u64 = 28_800_000_000;
const ME: Origin = Origin(0);
const PEER: Origin = Origin(1);
const OTHER: Origin = Origin(2);
const SESSION: u64 = 7;
const CLIENT: u64 = 1;

/// A region, its log's length, and its clocks.
struct Region {
    node: DataNode,
    end: u64,
    steady_us: u64,
    /// What the time of day is ahead of the truth.
    wrong_us: i64,
}

impl Region {
    fn new(me: Origin) -> Region {
        Region::above(me, Time::ZERO, 0)
    }

    /// Starts above a floor with a clock that is wrong.
    fn above(me: Origin, floor: Time, wrong_us: i64) -> Region {
        let stage = StageConfig { me, partitions: 1, seed: 1, ablations: Ablations::default() };
        let config = EngineConfig {
            stage: stage.clone(),
            durability: Durability::Everysec,
            password: None,
            cluster: "test".into(),
            region: me.to_string(),
            regions: BTreeMap::new(),
        };
        let engine = Engine::new(config, Stage::new(stage), LogPosition(0));
        let peers = [ME, PEER, OTHER].into_iter().filter(|o| *o != me).collect();
        let config = DataConfig {
            cluster: "test".into(),
            peers,
            ablations: Ablations::default(),
            scrub_every_ms: 0,
        };
        let mut node = DataNode::new(engine, config);
        node.engine_mut().connect(CLIENT, "client".into());
        let mut region = Region { node, end: 0, steady_us: 0, wrong_us };
        let unix_us = region.unix_us();
        region.node.start_clocks(0, unix_us, floor, 250);
        region.pass(0);
        region
    }

    fn unix_us(&self) -> u64 {
        (DAY_US + self.steady_us).saturating_add_signed(self.wrong_us)
    }

    /// Time goes on; everything that is due, and the floor is written at once.
    fn pass(&mut self, us: u64) -> Vec<DataEffect> {
        self.steady_us += us;
        let unix_us = self.unix_us();
        self.node.set_clocks(self.steady_us, unix_us);
        if let Some(floor) = self.node.floor_wanted() {
            self.node.floor_granted(floor);
        }
        self.node.tick(self.steady_us / 1_000, true);
        self.commit();
        self.node.take_effects()
    }

    /// Appends and syncs what was executed; its frames.
    fn commit(&mut self) -> Vec<Vec<u8>> {
        let engine = self.node.engine_mut();
        let commit = engine.commit();
        let mut frames = Vec::new();
        if let Some(entry) = &commit.entry {
            self.end += entry.len() as u64;
            for entry in Entries::new(entry, LogPosition(0)) {
                frames.extend(entry.frames().map(<[u8]>::to_vec));
            }
        }
        engine.appended(commit, LogPosition(self.end));
        engine.synced(LogPosition(self.end));
        frames
    }

    /// A command's reply, and the frames that it made.
    fn run(&mut self, line: &str) -> (String, Vec<Vec<u8>>) {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.node.engine_mut().execute(CLIENT, &args);
        let frames = self.commit();
        let client = self.node.engine_mut().output(CLIENT).expect("a client");
        let reply = String::from_utf8_lossy(client.releasable()).into_owned();
        client.consume(reply.len());
        (reply, frames)
    }

    /// A session with a peer that greets.
    fn greet(&mut self, peer: Origin) {
        self.node.peer_up(peer, SESSION);
        let hello =
            Hello { version: PROTOCOL_NEWEST, cluster: "test".into(), origin: peer, partitions: 1 };
        self.node.message(peer, SESSION, PeerMessage::Hello(hello));
    }

    /// A watermark of a peer.
    fn mark(&mut self, peer: Origin, has: &[(Origin, Time)], now: Time, physical_ms: u64) {
        let mut vector = VersionVector::new();
        for (origin, time) in has {
            vector.set(*origin, *time);
        }
        let vectors = Vectors::pack(&[vector]);
        let mark = Watermark { vectors, now: now.0, physical_ms };
        self.node.message(peer, SESSION, PeerMessage::Watermark(mark));
    }

    /// An honest word of a peer that has nothing.
    fn honest(&mut self, peer: Origin) {
        let ms = (DAY_US + self.steady_us) / 1_000;
        self.mark(peer, &[], Time::from_ms(ms), ms);
    }

    /// The peer sends frames in answer to the newest subscription.
    fn receive(&mut self, peer: Origin, frames: &[Vec<u8>], effects: &[DataEffect]) {
        let number = subscriptions(effects, peer).last().expect("a subscription").number;
        let mut batch = Batch::begin(number);
        frames.iter().for_each(|frame| Batch::push(&mut batch, frame));
        self.node.batch(peer, SESSION, &batch);
        self.commit();
    }

    fn promised(&self, peer: Origin, time: Time) -> bool {
        self.node.engine().stage().partition(0).is_settled(time, [peer].into_iter())
    }

    /// An exchange of clock notes with a peer whose clock is wrong by so much.
    fn exchange(&mut self, peer: Origin, wrong_us: i64) {
        let mut effects = Vec::new();
        let note = loop {
            let found = effects.iter().find_map(|effect| match effect {
                DataEffect::Send { peer: to, message: PeerMessage::Clock(note), .. }
                    if *to == peer =>
                {
                    Some(*note)
                }
                _ => None,
            });
            match found {
                Some(note) => break note,
                None => effects = self.pass(10_000),
            }
        };
        let physical_us = (DAY_US + self.steady_us).saturating_add_signed(wrong_us);
        self.pass(2_000);
        let answer = ClockNote { number: 0, physical_us, answers: Some((note.number, 0)) };
        self.node.message(peer, SESSION, PeerMessage::Clock(answer));
    }
}

fn subscriptions(effects: &[DataEffect], peer: Origin) -> Vec<&Subscribe> {
    let asked = effects.iter().filter_map(|effect| match effect {
        DataEffect::Send { peer: to, message: PeerMessage::Subscribe(request), .. }
            if *to == peer =>
        {
            Some(request)
        }
        _ => None,
    });
    asked.collect()
}

fn is_asked_for(effects: &[DataEffect], peer: Origin, origin: Origin) -> Option<bool> {
    subscriptions(effects, peer).last().map(|request| request.origins.contains(&origin))
}

#[test]
fn a_frame_from_the_future_holds_its_origin_until_the_clock_has_come_close() {
    let mut writer = Region::above(PEER, Time::ZERO, (MAX_AHEAD_MS * 1_000) as i64 + 5_000_000);
    let (_, early) = writer.run("SET k early");
    let mut region = Region::new(ME);
    region.greet(PEER);
    let asked = region.node.take_effects();
    let before = region.node.engine().stage().now();
    region.receive(PEER, &early, &asked);
    assert_eq!(region.run("GET k").0, "$-1\r\n");
    assert!(region.node.engine().stage().now() < before.plus_ms(1_000), "not dragged along");
    let alarms = region.node.take_alarms();
    assert!(
        matches!(alarms[..], [Alarm::Held { origin: PEER, ahead_ms }] if ahead_ms > MAX_AHEAD_MS)
    );

    // Not asked for again and again, but asked for without it.
    let effects = region.pass(300_000);
    assert_eq!(is_asked_for(&effects, PEER, PEER), Some(false));
    region.receive(PEER, &early, &effects);
    for _ in 0..10 {
        assert_eq!(is_asked_for(&region.pass(300_000), PEER, PEER), None);
    }
    assert_eq!(region.node.take_alarms(), [], "told once");

    // Five seconds later the stamp is near enough.
    let mut effects = Vec::new();
    while is_asked_for(&effects, PEER, PEER) != Some(true) {
        effects = region.pass(300_000);
        assert!(region.steady_us < 12_000_000, "never asked for again");
    }
    region.receive(PEER, &early, &effects);
    assert_eq!(region.run("GET k").0, "$5\r\nearly\r\n");
    assert_eq!(region.node.take_alarms(), [Alarm::Released(PEER)]);
    assert!(region.node.clocks().holds().is_empty());
}

#[test]
fn an_author_that_claims_to_have_seen_the_future_is_held() {
    let mut writer = Region::new(PEER);
    // Its own stamps are honest; what it says to have seen cannot exist.
    let mut seen = VersionVector::new();
    seen.set(OTHER, Time::MAX);
    writer.node.engine_mut().stage_mut().partition_mut(0).vector = seen;
    let (_, frames) = writer.run("SET k v");
    let mut region = Region::new(ME);
    region.greet(PEER);
    let asked = region.node.take_effects();
    region.receive(PEER, &frames, &asked);
    assert_eq!(region.node.inbox().held_bytes(), 0, "it would wait for ever");
    assert!(matches!(region.node.take_alarms()[..], [Alarm::Held { origin: PEER, .. }]));
}

#[test]
fn a_promise_counts_only_as_far_as_a_clock_may_be_ahead() {
    let mut region = Region::new(ME);
    region.greet(PEER);
    let now_ms = DAY_US / 1_000;
    region.mark(PEER, &[], Time::MAX, u64::MAX);
    assert!(region.promised(PEER, Time::from_ms(now_ms)));
    assert!(!region.promised(PEER, Time::from_ms(now_ms + MAX_AHEAD_MS + 1_000)));
    let later = region.node.engine().stage().now();
    assert!(later < Time::from_ms(now_ms + 5_000), "its clock moves nobody's");
}

#[test]
fn no_physical_time_overflows() {
    let mut region = Region::new(ME);
    region.greet(PEER);
    for physical_ms in [0, 1, i64::MAX as u64, 1 << 63, u64::MAX] {
        region.mark(PEER, &[], Time::ZERO, physical_ms);
        for physical_us in [0, physical_ms] {
            for answers in [None, Some((0, u64::MAX)), Some((u64::MAX, 0)), Some((0, 0))] {
                let note = ClockNote { number: u64::MAX, physical_us, answers };
                region.node.message(PEER, SESSION, PeerMessage::Clock(note));
                region.pass(100_000);
            }
        }
    }
    assert!(region.run("SET k v").0.starts_with("+OK"), "two clocks cannot tell who is wrong");
}

#[test]
fn a_watermark_that_claims_the_impossible_is_not_believed() {
    let mut region = Region::new(ME);
    let (_, frames) = region.run("SET k v");
    assert_eq!(frames.len(), 1);
    let mine = region.node.engine().stage().partition(0).vector.get(ME);
    let far = Time::from_ms(DAY_US / 1_000 + 2 * MAX_AHEAD_MS);
    region.greet(PEER);
    region.greet(OTHER);
    region.honest(OTHER);
    assert!(!region.node.is_caught_up(), "the peer has said nothing yet");
    for (has, claim) in [
        (vec![(OTHER, far)], Claim::Future),
        (vec![(PEER, far)], Claim::Future),
        (vec![(ME, Time(mine.0 + 1))], Claim::NeverWritten),
    ] {
        region.mark(PEER, &has, Time::MAX, DAY_US / 1_000);
        let mut alarms = vec![Alarm::Doubtful { peer: PEER, claim }];
        if claim == Claim::NeverWritten {
            // As many say so as do not: what a region may have lost weighs more than its writes.
            alarms.push(Alarm::Outlived);
        }
        assert_eq!(region.node.take_alarms(), alarms);
        assert!(region.node.acknowledged(PEER).is_none(), "{claim:?}");
        assert!(!region.promised(PEER, Time(1)), "{claim:?}");
        assert!(region.node.is_caught_up(), "a liar does not keep a region from catching up");
        region.mark(PEER, &has, Time::MAX, DAY_US / 1_000);
        assert_eq!(region.node.take_alarms(), [], "told once");
        region.greet(PEER);
    }
    assert_eq!(region.node.clocks().watermarks_refused, 6);
    region.mark(PEER, &[(ME, mine)], Time::ZERO, DAY_US / 1_000);
    assert_eq!(region.node.acknowledged(PEER).map(|v| v[0].get(ME)), Some(mine));
}

#[test]
fn a_region_that_has_lost_writes_of_its_own_writes_nothing_more() {
    let mut region = Region::new(ME);
    region.run("SET k v");
    let mine = region.node.engine().stage().partition(0).vector.get(ME);
    let [third, fourth] = [Origin(7), Origin(8)];
    for peer in [OTHER, PEER, third, fourth] {
        region.greet(peer);
    }
    // One of three is not enough: it may lie.
    for honest in [OTHER, third] {
        region.mark(honest, &[(ME, mine)], Time::ZERO, DAY_US / 1_000);
    }
    let lost = Time(mine.0 + 1_000);
    region.mark(PEER, &[(ME, lost)], Time::ZERO, DAY_US / 1_000);
    assert!(!region.node.clocks().is_outlived());
    assert!(region.run("SET k w").0.starts_with("+OK"));
    // The write has overtaken what is lost; one more that has more is enough all the same.
    let now = region.node.engine().stage().partition(0).vector.get(ME);
    region.mark(fourth, &[(ME, Time(now.0 + 1))], Time::ZERO, DAY_US / 1_000);
    assert!(region.node.clocks().is_outlived());
    assert!(region.run("SET k x").0.starts_with("-READONLY this region has lost writes"));
    assert!(region.run("GET k").0.starts_with("$1\r\nw"), "it still answers");
    for peer in [PEER, fourth] {
        region.mark(peer, &[(ME, mine)], Time::ZERO, DAY_US / 1_000);
    }
    assert!(region.run("SET k x").0.starts_with("-READONLY"), "for as long as it runs");
}

#[test]
fn what_was_lost_is_noticed_although_new_writes_have_overtaken_it() {
    let floor = Time::from_ms(DAY_US / 1_000 + 500);
    let started = || {
        let mut region = Region::above(ME, floor, 0);
        region.greet(PEER);
        assert_eq!(region.run("SET k v").0, "+OK\r\n");
        region
    };
    let mut region = started();
    let mine = region.node.engine().stage().partition(0).vector.get(ME);
    // Older than all that this life can have written, and newer than all that it began with.
    region.mark(PEER, &[(ME, Time(floor.0 - 1))], Time::ZERO, DAY_US / 1_000);
    assert!(mine > floor && region.node.clocks().is_outlived());
    assert!(region.run("SET k x").0.starts_with("-READONLY"));

    for has in [vec![], vec![(ME, mine)]] {
        let mut sound = started();
        sound.mark(PEER, &has, Time::ZERO, DAY_US / 1_000);
        assert!(!sound.node.clocks().is_outlived(), "{has:?}");
    }
}

#[test]
fn who_asks_for_a_repair_before_its_first_watermark_may_tell_of_a_loss_too() {
    let open = |region: &mut Region, mine: Time, lasting| {
        let mut vector = VersionVector::new();
        vector.set(ME, mine);
        let vector = PackedVector::pack(&vector);
        let open = RepairMessage::Open { number: 3, partition: 0, seed: 5, vector, lasting };
        region.node.message(PEER, SESSION, PeerMessage::Repair(open));
        let mut effects = region.pass(1_000);
        effects.retain(|e| matches!(e, DataEffect::Send { message: PeerMessage::Repair(_), .. }));
        let [DataEffect::Send { message: PeerMessage::Repair(said), .. }] = &effects[..] else {
            panic!("{effects:?}");
        };
        said.clone()
    };
    let floor = Time::from_ms(DAY_US / 1_000 + 500);
    for lasting in [false, true] {
        let mut region = Region::above(ME, floor, 0);
        region.greet(PEER);
        assert_eq!(region.run("SET k v").0, "+OK\r\n");
        let sound = open(&mut region, Time::ZERO, lasting);
        assert!(matches!(sound, RepairMessage::OfferSlots { .. }), "{sound:?}");
        assert!(!region.node.clocks().is_outlived());

        // It would take over what follows on the loss, and have nothing more to tell it by.
        let refused = open(&mut region, Time(floor.0 - 1), lasting);
        assert!(matches!(refused, RepairMessage::Refuse { reason: Refusal::Busy, .. }));
        assert!(region.node.clocks().is_outlived());
        assert!(region.run("SET k x").0.starts_with("-READONLY"));
    }
}

#[test]
fn a_liar_alone_among_the_others_is_not_all_that_is_heard() {
    let mut region = Region::new(ME);
    region.greet(PEER);
    let far = Time::from_ms(DAY_US / 1_000 + 2 * MAX_AHEAD_MS);
    region.mark(PEER, &[(PEER, far)], Time::ZERO, 0);
    assert!(!region.node.is_caught_up(), "nobody who can be believed has said what there is");
}

#[test]
fn a_region_whose_clock_is_off_refuses_writes_and_serves_reads() {
    let mut region = Region::new(ME);
    for peer in [PEER, OTHER] {
        region.greet(peer);
        region.exchange(peer, 1_000);
    }
    assert_eq!(region.run("SET k v").0, "+OK\r\n");
    let before = region.node.engine().stage().now();
    region.wrong_us = EIGHT_HOURS_US as i64;
    region.pass(10_000);
    let (reply, frames) = region.run("SET k w");
    assert!(reply.starts_with("-CLOCKSKEW this region's clock is 28"), "{reply}");
    assert!(reply.contains("ahead of the other regions'"), "{reply}");
    assert!(frames.is_empty());
    assert_eq!(region.run("GET k").0, "$1\r\nv\r\n");
    assert!(matches!(region.node.take_alarms()[..], [Alarm::Fenced(_)]));
    let now = region.node.engine().stage().now();
    assert!(now < before.plus_ms(5_000), "hybrid time goes on with the majority");
    region.run("MULTI");
    assert!(region.run("SET k x").0.starts_with("-CLOCKSKEW"));
    assert!(region.run("EXEC").0.starts_with("-EXECABORT"));

    region.wrong_us = 0;
    region.pass(10_000);
    assert!(region.run("SET k x").0.starts_with("-CLOCKSKEW"), "not at once");
    for _ in 0..30 {
        region.pass(100_000);
    }
    assert_eq!(region.run("SET k x").0, "+OK\r\n");
    assert_eq!(region.node.take_alarms(), [Alarm::Unfenced]);
}

#[test]
fn one_lying_clock_of_three_fences_nobody_honest() {
    for lie in [i64::MIN, -(EIGHT_HOURS_US as i64), EIGHT_HOURS_US as i64, i64::MAX] {
        let mut region = Region::new(ME);
        region.greet(PEER);
        region.greet(OTHER);
        for _ in 0..5 {
            region.exchange(PEER, lie);
            region.exchange(OTHER, 0);
        }
        assert_eq!(region.run("SET k v").0, "+OK\r\n", "{lie}");
    }
}

#[test]
fn time_waits_for_the_disk_and_starts_above_what_was_reserved() {
    let mut region = Region::new(ME);
    region.pass(5_000_000);
    // The disk stands still: nothing more is granted.
    let shown = region.node.engine().stage().now();
    region.steady_us += 20_000_000;
    let unix_us = region.unix_us();
    region.node.set_clocks(region.steady_us, unix_us);
    let still = region.node.engine().stage().now();
    assert!(still.as_ms() - shown.as_ms() <= 1_000, "no promise beyond what is reserved");
    let floor = still;

    // The process dies, all of its log is lost, and its clock is set back by eight hours.
    let mut again = Region::above(ME, floor, -(EIGHT_HOURS_US as i64));
    assert!(again.node.engine().stage().now() >= shown);
    let (_, frames) = again.run("SET k v");
    let frame = meridian_store::Frame::decode(&frames[0]).unwrap();
    assert!(frame.header.last > shown, "nothing is stamped at or below what was promised");
}
