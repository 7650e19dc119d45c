//! Random commands in three regions that exchange frames, with keys that expire on the way. All
//! must converge; and each must come back, from its log alone and from a checkpoint that was read
//! while it went on working.

mod support;

use std::collections::BTreeMap;

use meridian_clock::{Origin, VersionVector};
use meridian_crdt::OpReader;
use meridian_keyspace::{Engine, Stage, Touched, export_element, slot_of};
use meridian_store::{Entries, Frame, LogPosition, split_element_key};
use support::{Dice, PARTITIONS, Region, START_MS, config, frames_of, stage_config};

const SEEDS: u64 = 40;
const STEPS: usize = 250;
const REGIONS: usize = 3;

/// How many copies of a region's data are kept for the checkpoint to be read from.
const SNAPSHOTS: usize = 6;

const KEYS: &[&str] = &["a", "b", "{a}c", "{b}d", "e"];

/// Regions with their links.
struct World {
    regions: Vec<Region>,
    /// Frames on their way, by origin and destination, in order.
    links: BTreeMap<(usize, usize), Vec<Vec<u8>>>,
    clocks: Vec<u64>,
    /// Copies of the first region's data, each with the log's length at that time.
    snapshots: Vec<(u64, Stage)>,
}

impl World {
    fn new() -> World {
        let regions: Vec<Region> = (0..REGIONS as u16).map(Region::new).collect();
        let stage = regions[0].engine.stage().clone();
        World {
            regions,
            links: BTreeMap::new(),
            clocks: vec![START_MS; REGIONS],
            snapshots: vec![(0, stage)],
        }
    }

    fn run(&mut self, region: usize, line: &str) {
        let before = self.regions[region].log.len();
        self.regions[region].run(line);
        self.ship(region, before);
    }

    fn ship(&mut self, region: usize, before: usize) {
        let frames = frames_of(&self.regions[region].log[before..]);
        for other in (0..REGIONS).filter(|o| *o != region) {
            self.links.entry((region, other)).or_default().extend(frames.iter().cloned());
        }
    }

    /// Delivers the link's next frame if causality allows it.
    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let queue = self.links.entry((from, to)).or_default();
        let done = queue.first().is_some_and(|frame| self.regions[to].deliver(frame).is_ok());
        if done {
            queue.remove(0);
        }
        done
    }

    /// Delivers everything.
    fn settle(&mut self) {
        loop {
            let mut progress = false;
            for from in 0..REGIONS {
                for to in (0..REGIONS).filter(|to| *to != from) {
                    while self.deliver(from, to) {
                        progress = true;
                    }
                }
            }
            if !progress {
                break;
            }
        }
        assert!(self.links.values().all(Vec::is_empty), "frames that never become deliverable");
    }

    fn step(&mut self, dice: &mut Dice) {
        let region = dice.roll(REGIONS);
        match dice.roll(20) {
            0 | 1 => {
                self.clocks[region] += dice.roll(40) as u64;
                let ms = self.clocks[region];
                self.regions[region].set_ms(ms);
            }
            2..8 => {
                let to = (region + 1 + dice.roll(REGIONS - 1)) % REGIONS;
                for _ in 0..=dice.roll(4) {
                    self.deliver(region, to);
                }
            }
            8 => {
                let stage = self.regions[region].engine.stage_mut();
                (0..PARTITIONS).for_each(|number| stage.collect_residue(number));
            }
            9 => self.expire(region, dice.pick(KEYS)),
            10 => {
                // A transaction: several commands in one commit.
                self.run(region, "MULTI");
                for _ in 0..dice.roll(4) {
                    let line = random_command(dice);
                    self.run(region, &line);
                }
                self.run(region, "EXEC");
            }
            _ => {
                let line = random_command(dice);
                self.run(region, &line);
            }
        }
    }

    fn expire(&mut self, region: usize, key: &str) {
        let others: Vec<Origin> =
            (0..REGIONS).filter(|o| *o != region).map(|o| Origin(o as u16)).collect();
        let before = self.regions[region].log.len();
        let stage = self.regions[region].engine.stage_mut();
        let now = stage.now();
        stage.expire_slot(slot_of(key.as_bytes()), now, &others);
        self.regions[region].commit();
        self.ship(region, before);
    }

    fn snapshot(&mut self) {
        let end = self.regions[0].log.len() as u64;
        self.snapshots.push((end, self.regions[0].engine.stage().clone()));
    }
}

fn random_command(dice: &mut Dice) -> String {
    let (k, k2) = (dice.pick(KEYS), dice.pick(KEYS));
    let (f, n) = (dice.pick(&["f", "g", "h"]), dice.roll(20) as i64 - 5);
    let ms = dice.roll(30);
    match dice.roll(34) {
        0 | 1 => format!("SET {k} {n}"),
        2 => format!("SET {k} text PX {}", ms + 1),
        3 => format!("SET {k} {n} KEEPTTL"),
        4 => format!("APPEND {k} {f}"),
        5 => format!("GETDEL {k}"),
        6 => format!("GETEX {k} PX {}", ms + 1),
        7..10 => format!("INCRBY {k} {n}"),
        10 => format!("INCRBYFLOAT {k} {n}.25"),
        11..13 => format!("DEL {k}"),
        13..15 => format!("HSET {k} {f} {n} g2 x"),
        15..17 => format!("HINCRBY {k} {f} {n}"),
        17 => format!("HINCRBYFLOAT {k} {f} {n}.5"),
        18 => format!("HDEL {k} {f} g2"),
        19..22 => format!("SADD {k} {f} m{n}"),
        22 => format!("SREM {k} {f} m{n}"),
        23 => format!("SPOP {k} {}", dice.roll(3)),
        24 => format!("SMOVE {k} {k2} {f}"),
        25 => format!("SUNIONSTORE {k} {k} {k2}"),
        26..28 => format!("PEXPIRE {k} {ms}"),
        28 => format!("PEXPIRE {k} {ms} GT"),
        29 => format!("PERSIST {k}"),
        30 => format!("RENAME {k} {k2}"),
        31 => format!("COPY {k} {k2} REPLACE"),
        32 => format!("SETRANGE {k} 2 {f}"),
        _ if dice.roll(4) == 0 => "FLUSHALL".to_owned(),
        _ => format!("MSET {k} 1 {k2} 2"),
    }
}

/// A world after its steps, with everything delivered.
fn played(seed: u64) -> World {
    let mut dice = Dice::new(seed);
    let mut world = World::new();
    for step in 0..STEPS {
        world.step(&mut dice);
        if step % (STEPS / SNAPSHOTS) == 0 {
            world.snapshot();
        }
    }
    world.settle();
    world.snapshot();
    world
}

#[test]
fn regions_converge() {
    for seed in 0..SEEDS {
        let mut world = played(seed);
        let digests: Vec<String> = world.regions.iter_mut().map(Region::digest).collect();
        assert!(digests.windows(2).all(|p| p[0] == p[1]), "seed {seed}: {digests:?}");
        // At one time all show the same, whatever has expired by then.
        let now = world.clocks.iter().max().copied().unwrap_or(START_MS);
        for region in &mut world.regions {
            region.set_ms(now);
        }
        for key in KEYS {
            for command in ["TYPE", "GET", "HLEN", "SCARD", "PTTL"] {
                let line = format!("{command} {key}");
                let first = world.regions[0].run(&line);
                for region in &mut world.regions[1..] {
                    // Hybrid clocks may stand apart: a deadline is compared by its text only
                    // where it has no clock in it.
                    let other = region.run(&line);
                    assert!(command == "PTTL" || other == first, "seed {seed}: {line}");
                }
            }
        }
    }
}

/// Applies the log from a position on.
fn replay(stage: &mut Stage, log: &[u8], from: LogPosition) {
    let mut entries = Entries::new(&log[from.0 as usize..], from);
    for entry in entries.by_ref() {
        for frame in entry.frames() {
            stage.replay_frame(frame).expect("the log follows on what is before it");
        }
    }
    assert_eq!(entries.consumed(), log.len() - from.0 as usize, "the log is whole");
    stage.finish_restore();
}

/// An engine over rebuilt data.
fn revived(stage: Stage, original: &Region) -> Region {
    let end = LogPosition(original.log.len() as u64);
    let mut engine = Engine::new(config(0, None), stage, end);
    engine.connect(1, "127.0.0.1:1000".to_owned());
    Region { engine, log: original.log.clone() }
}

/// The rebuilt region holds the same and goes on as the original does.
#[track_caller]
fn check_same(world: &mut World, mut rebuilt: Region, seed: u64) {
    let original = &mut world.regions[0];
    assert_eq!(rebuilt.digest(), original.digest(), "seed {seed}");
    assert_eq!(rebuilt.engine.stage().vectors(), original.engine.stage().vectors());
    assert_eq!(rebuilt.run("DBSIZE"), original.run("DBSIZE"), "seed {seed}");
    let now = world.clocks.iter().max().copied().unwrap_or(START_MS) + 5;
    let (at_rest, end) = (original.engine.stage().clone(), original.log.len());
    original.set_ms(now);
    rebuilt.set_ms(now);
    for key in KEYS {
        for command in ["INCR", "HINCRBY", "SADD", "PEXPIRE", "GETEX", "DEL"] {
            let rest = match command {
                "HINCRBY" => " f 3",
                "SADD" => " f",
                "PEXPIRE" => " 1000",
                _ => "",
            };
            let line = format!("{command} {key}{rest}");
            assert_eq!(rebuilt.run(&line), original.run(&line), "seed {seed}: {line}");
            assert_eq!(rebuilt.digest(), original.digest(), "seed {seed}: {line}");
        }
    }
    // As before, for the next check.
    let log = original.log[..end].to_vec();
    *original = revived(at_rest, original);
    original.log = log;
}

#[test]
fn a_region_comes_back_from_its_log_alone() {
    for seed in 0..SEEDS {
        let mut world = played(seed);
        let mut stage = Stage::new(stage_config(0));
        replay(&mut stage, &world.regions[0].log, LogPosition(0));
        let rebuilt = revived(stage, &world.regions[0]);
        check_same(&mut world, rebuilt, seed);
    }
}

/// A checkpoint as it stands on disk.
#[derive(Default)]
struct Stored {
    elements: BTreeMap<Vec<u8>, Vec<u8>>,
    position: u64,
    vectors: Vec<VersionVector>,
}

impl Stored {
    /// Writes what changed up to `position`, each key as some copy shows it that is not older.
    fn advance(&mut self, log: &[u8], position: u64, snapshots: &[(u64, Stage)], dice: &mut Dice) {
        let mut touched = Touched::new(self.vectors.clone());
        let stretch = &log[self.position as usize..position as usize];
        for entry in Entries::new(stretch, LogPosition(self.position)) {
            touched.add(&entry).expect("a sound log");
        }
        let newer: Vec<&Stage> =
            snapshots.iter().filter(|(at, _)| *at >= position).map(|(_, stage)| stage).collect();
        for ((partition, key), what) in &touched.keys {
            let stage = newer[dice.roll(newer.len())];
            let (cleared, puts) = export_element(stage, *partition, key, what);
            if let Some(prefix) = cleared {
                self.elements.retain(|place, _| !place.starts_with(&prefix));
            }
            for (place, value) in puts {
                match value {
                    Some(value) => self.elements.insert(place, value),
                    None => self.elements.remove(&place),
                };
            }
        }
        self.position = position;
        self.vectors = touched.vectors;
    }

    fn restore(&self) -> Stage {
        let mut stage = Stage::new(stage_config(0));
        for (place, value) in &self.elements {
            let (_, key, element) = split_element_key(place).expect("a place");
            stage.restore(key, element, value).expect("an element");
        }
        stage.restore_vectors(&self.vectors);
        stage
    }
}

#[test]
fn a_region_comes_back_from_a_checkpoint_that_was_read_later() {
    for seed in 0..SEEDS {
        let mut world = played(seed);
        let mut dice = Dice::new(seed + 1_000_000);
        let log = world.regions[0].log.clone();
        let ends: Vec<u64> = Entries::new(&log, LogPosition(0)).map(|e| e.end.0).collect();
        let mut stored =
            Stored { vectors: vec![VersionVector::new(); PARTITIONS.into()], ..Stored::default() };
        let mut at = 0;
        while at < ends.len() {
            stored.advance(&log, ends[at], &world.snapshots, &mut dice);
            let mut stage = stored.restore();
            replay(&mut stage, &log, LogPosition(stored.position));
            let rebuilt = revived(stage, &world.regions[0]);
            check_same(&mut world, rebuilt, seed);
            at += 1 + dice.roll(ends.len() / 2 + 1);
        }
    }
}

/// The random worlds hold what they are for: new lives of expired keys, resets of counters that
/// others have raised, conflicts, and few commands that are refused.
#[test]
fn the_worlds_are_eventful() {
    let (mut fresh, mut cuts, mut conflicts) = (0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = played(seed);
        for frame in frames_of(&world.regions[0].log) {
            let frame = Frame::decode(&frame).expect("a frame");
            let header = &frame.header;
            let mut ops = OpReader::new(frame.ops, header.origin, header.previous);
            while let Some((_, op)) = ops.next().expect("an operation") {
                fresh += usize::from(op.fresh);
                cuts += op.cuts.len();
            }
        }
        conflicts += usize::from(world.regions[0].run("MERIDIAN.CONFLICTS") != "[]");
    }
    let seeds = SEEDS as usize;
    assert!(fresh > 3 * seeds, "{fresh} new lives");
    assert!(cuts > 3 * seeds, "{cuts} resets");
    assert!(conflicts > seeds / 4, "{conflicts} conflicts");

    let mut world = World::new();
    let mut dice = Dice::new(1);
    let lines = (0..1_000).map(|_| random_command(&mut dice));
    let refused = lines.filter(|l| world.regions[0].run(l).starts_with("(error)")).count();
    assert!(refused < 500, "{refused} of 1000 were refused");
}
