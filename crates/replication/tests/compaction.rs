//! Random histories of three regions that exchange frames, plain and compacted: a region that got
//! a bundle must hold what it would hold had it got the frames. And the rules that keep it so,
//! switched off, must be noticed.

#[path = "common/region.rs"]
mod region;

use meridian_clock::{Origin, VersionVector};
use meridian_replication::{
    Batch, CompactionAblations, Inbox, InboxEvent, LastPacked, Lenience, LogMark, Sender,
    Subscribe, Vectors, compact,
};
use meridian_store::{Entries, Frame, LogPosition};
use region::{Dice, Region, command, digest};

const REGIONS: usize = 3;
const STEPS: usize = 220;
const SEEDS: u64 = 60;

/// Runs a command; the frames that it becomes.
fn run(region: &mut Region, line: &str) -> Vec<Vec<u8>> {
    region.execute(line);
    region.commit()
}

/// What became of a history.
#[derive(Default)]
struct Outcome {
    /// A region that got bundles held something else than it should.
    differs: bool,
    bundles: u32,
    many_vectors: u32,
    plain_bytes: usize,
    bundle_bytes: usize,
}

/// Runs a history; `rules` are those of the compaction.
fn history(seed: u64, rules: CompactionAblations) -> Outcome {
    let mut dice = Dice::new(seed);
    let mut regions: Vec<Region> = (0..REGIONS).map(Region::new).collect();
    // What each region has written, and how far each other one has it.
    let mut written: Vec<Vec<Vec<u8>>> = vec![Vec::new(); REGIONS];
    let mut outcome = Outcome::default();
    for step in 0..STEPS + 400 {
        let to = dice.roll(REGIONS);
        if step < STEPS && dice.roll(3) > 0 {
            let line = command(&mut dice);
            let frames = run(&mut regions[to], &line);
            written[to].extend(frames);
            continue;
        }
        let from = (to + 1 + dice.roll(REGIONS - 1)) % REGIONS;
        let have = regions[to].vector();
        let lacks = |bytes: &&Vec<u8>| {
            Frame::decode(bytes).expect("a frame").header.last > have.get(Origin(from as u16))
        };
        let take = 1 + dice.roll(24);
        let frames: Vec<&[u8]> =
            written[from].iter().filter(lacks).take(take).map(Vec::as_slice).collect();
        let frames: Vec<Vec<u8>> = match dice.roll(3) {
            0 => frames.into_iter().map(<[u8]>::to_vec).collect(),
            _ => compact(frames, |_| have.clone(), rules).expect("frames"),
        };
        for bytes in &frames {
            let frame = Frame::decode(bytes).expect("a frame");
            let mut plain = regions[to].engine.stage().clone();
            if regions[to].engine.apply_frame(bytes).is_err() {
                // It waits for somebody else's.
                break;
            }
            regions[to].commit();
            if !frame.is_bundle {
                continue;
            }
            outcome.bundles += 1;
            let (mut groups, mut count) = (frame.groups(), 0);
            while groups.next().expect("a group").is_some() {
                count += 1;
            }
            outcome.many_vectors += u32::from(count > 1);
            outcome.bundle_bytes += bytes.len();
            for original in &written[from] {
                let header = Frame::decode(original).expect("a frame").header;
                if header.previous >= frame.header.previous && header.last <= frame.header.last {
                    outcome.plain_bytes += original.len();
                    plain.apply_frame(original).expect("the frames that it was made of");
                }
            }
            let mut bundled = regions[to].engine.stage().clone();
            outcome.differs |= digest(&mut plain) != digest(&mut bundled);
        }
    }
    // Everything is delivered in the end, as it was written.
    for _ in 0..STEPS {
        for region in &mut regions {
            for bytes in written.iter().flatten() {
                // Its own, and what it has or cannot take yet, are refused.
                let _ = region.engine.apply_frame(bytes);
            }
            region.commit();
        }
        let first = regions[0].vector();
        if regions.iter().all(|region| region.vector() == first) {
            break;
        }
    }
    let mut digests = regions.iter_mut().map(|region| digest(region.engine.stage_mut()));
    let first = digests.next();
    outcome.differs |= digests.any(|other| Some(other) != first);
    outcome
}

#[test]
fn a_bundle_leaves_what_its_frames_would_have_left() {
    let mut sum = Outcome::default();
    for seed in 0..SEEDS {
        let outcome = history(seed, CompactionAblations::default());
        assert!(!outcome.differs, "seed {seed}");
        sum.bundles += outcome.bundles;
        sum.many_vectors += outcome.many_vectors;
        sum.plain_bytes += outcome.plain_bytes;
        sum.bundle_bytes += outcome.bundle_bytes;
    }
    assert!(sum.bundles > 500, "{} bundles", sum.bundles);
    assert!(sum.many_vectors > 100, "{} with several vectors", sum.many_vectors);
    assert!(sum.bundle_bytes * 3 < sum.plain_bytes * 2, "they are shorter");
}

/// Within how many seeds the rule that is off is noticed.
fn noticed(rules: CompactionAblations) -> Option<u64> {
    (0..SEEDS).find(|seed| history(*seed, rules).differs)
}

#[test]
fn a_dropped_fold_is_noticed() {
    let rules = CompactionAblations { drop_folds: true, ..Default::default() };
    let seed = noticed(rules);
    assert!(seed.is_some_and(|seed| seed < SEEDS), "{seed:?}");
}

#[test]
fn a_context_that_grows_is_noticed() {
    let rules = CompactionAblations { widen_context: true, ..Default::default() };
    let seed = noticed(rules);
    assert!(seed.is_some_and(|seed| seed < SEEDS), "{seed:?}");
}

/// What a sender makes of a log for a peer that has nothing, and how many bytes it is.
fn sent(log: &[u8], beyond: Option<u64>) -> (Vec<Vec<u8>>, usize) {
    let nothing = vec![VersionVector::new()];
    let marks = [LogMark { position: LogPosition(0), vectors: nothing.clone() }];
    let vectors = Vectors::pack(&nothing);
    let request = Subscribe { number: 1, origins: vec![Origin(0)], vectors };
    let mut sender = Sender::new();
    sender.subscribe(&request, 1, &marks).expect("a sound log");
    sender.compact_beyond(beyond);
    let end = LogPosition(log.len() as u64);
    let (mut frames, mut bytes) = (Vec::new(), 0);
    while sender.has_work(end) {
        let read = |from: LogPosition, max: usize| {
            let rest = &log[from.0 as usize..];
            let mut entries = Entries::new(rest, from);
            while entries.consumed() < max && entries.next().is_some() {}
            Ok(rest[..entries.consumed()].to_vec())
        };
        for batch in sender.next(end, &mut LastPacked::default(), read).expect("a sound log") {
            bytes += batch.len();
            let batch = Batch::decode(&batch).expect("a sound log");
            frames.extend(batch.frames.into_iter().map(<[u8]>::to_vec));
        }
    }
    (frames, bytes)
}

#[test]
fn a_peer_that_is_far_behind_is_sent_what_changed() {
    let mut writer = Region::new(0);
    let mut dice = Dice::new(5);
    for step in 0..20_000 {
        // Zipf with exponent one, by inversion: key k about 1/k as often as the first.
        let key = (10_000f64).powf(dice.roll(1 << 20) as f64 / f64::from(1 << 20)) as u32;
        run(&mut writer, &format!("SET key:{key} value:{step:032}"));
        run(&mut writer, &format!("INCR count:{key}"));
    }
    let (plain, plain_bytes) = sent(&writer.log, None);
    let (bundles, bundle_bytes) = sent(&writer.log, Some(1));
    println!(
        "40,000 writes: {} frames, {plain_bytes} bytes; compacted {}, {bundle_bytes} bytes",
        plain.len(),
        bundles.len()
    );
    assert!(bundle_bytes * 3 < plain_bytes);
    for frames in [plain, bundles] {
        let mut reader = Region::new(1);
        for frame in &frames {
            reader.engine.apply_frame(frame).expect("in order");
        }
        reader.commit();
        assert_eq!(digest(reader.engine.stage_mut()), digest(writer.engine.stage_mut()));
    }
}

#[test]
fn a_peer_that_stands_inside_a_bundle_is_not_served_from_it() {
    let mut writer = Region::new(0);
    let frames: Vec<Vec<u8>> =
        (0..9).flat_map(|n| run(&mut writer, &format!("SET k {n}"))).collect();
    let (bundles, _) = sent(&writer.log, Some(1));
    assert_eq!(bundles.len(), 1);
    let mut relay = Region::new(1);
    relay.engine.apply_frame(&bundles[0]).unwrap();
    relay.commit();
    let mut vector = VersionVector::new();
    vector.set(Origin(0), Frame::decode(&frames[3]).unwrap().header.last);
    let marks = [LogMark { position: LogPosition(0), vectors: vec![VersionVector::new()] }];
    let request =
        Subscribe { number: 1, origins: vec![Origin(0)], vectors: Vectors::pack(&[vector]) };
    let end = LogPosition(relay.log.len() as u64);
    for understands in [Some(1 << 30), None] {
        let mut sender = Sender::new();
        sender.subscribe(&request, 1, &marks).unwrap();
        sender.compact_beyond(understands);
        assert_eq!(
            sender
                .next(end, &mut LastPacked::default(), |_, _| Ok(relay.log.clone()))
                .unwrap()
                .len(),
            0
        );
        assert_eq!(sender.take_broken(), Some((1, vec![0])), "it must be repaired");
    }
}

#[test]
fn a_bundle_that_overlaps_is_no_fork() {
    let mut writer = Region::new(0);
    let frames: Vec<Vec<u8>> =
        (0..9).flat_map(|n| run(&mut writer, &format!("SET k {n}"))).collect();
    let (bundles, _) = sent(&writer.log, Some(1));
    let mut vector = VersionVector::new();
    vector.set(Origin(0), Frame::decode(&frames[3]).unwrap().header.last);
    let mut inbox = Inbox::new();
    let event = inbox.offer(&bundles[0], &vector, Lenience::default()).unwrap();
    assert_eq!(event, Some(InboxEvent::Resubscribe(Origin(0))), "asked for again, not refused");
    assert!(inbox.quarantined().is_empty());
}
