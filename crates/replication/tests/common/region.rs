//! A region without its surroundings: an engine, a log, and random commands for it.

use std::collections::BTreeMap;

use meridian_clock::{Origin, VersionVector};
use meridian_keyspace::{Ablations, Durability, Engine, EngineConfig, SLOTS, Stage, StageConfig};
use meridian_store::{Entries, LogPosition};

const START_US: u64 = 1_700_000_000_000_000;
const CLIENT: u64 = 1;

/// Marsaglia's xorshift64*.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % sides as u64) as usize
    }
}

pub struct Region {
    pub engine: Engine,
    pub log: Vec<u8>,
}

impl Region {
    pub fn new(ordinal: usize) -> Region {
        let me = Origin(ordinal as u16);
        let stage = StageConfig { me, partitions: 1, seed: 3, ablations: Ablations::default() };
        let config = EngineConfig {
            stage: stage.clone(),
            durability: Durability::Everysec,
            password: None,
            cluster: "test".into(),
            region: ordinal.to_string(),
            regions: BTreeMap::new(),
        };
        let mut engine = Engine::new(config, Stage::new(stage), LogPosition(0));
        engine.set_physical_us(START_US);
        engine.connect(CLIENT, "client".into());
        Region { engine, log: Vec::new() }
    }

    pub fn vector(&self) -> VersionVector {
        self.engine.stage().partition(0).vector.clone()
    }

    pub fn execute(&mut self, line: &str) {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.engine.execute(CLIENT, &args);
    }

    pub fn commit(&mut self) -> Vec<Vec<u8>> {
        let commit = self.engine.commit();
        let entry = commit.entry.clone().unwrap_or_default();
        self.log.extend_from_slice(&entry);
        let end = LogPosition(self.log.len() as u64);
        self.engine.appended(commit, end);
        self.engine.synced(end);
        let entries = Entries::new(&entry, LogPosition(0));
        entries.flat_map(|e| e.frames().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
    }
}

pub fn digest(stage: &mut Stage) -> u64 {
    (0..SLOTS).fold(0, |sum, slot| sum.rotate_left(1) ^ stage.slot_digest(slot))
}

pub fn command(dice: &mut Dice) -> String {
    let key = ["a", "b"][dice.roll(2)];
    let name = ["x", "y"][dice.roll(2)];
    let number = dice.roll(9);
    match dice.roll(15) {
        0 | 1 => format!("SET {key} {number}"),
        2 => format!("SET {key} {number} EX {}", 100 + number),
        3 | 4 => format!("INCRBY {key} {}", number + 1),
        5 => format!("DEL {key}"),
        6 => format!("HSET h{key} {name} {number}"),
        7 | 8 => format!("HINCRBY h{key} {name} {}", number + 1),
        9 => format!("HDEL h{key} {name}"),
        10 => format!("SADD s{key} {name}"),
        11 => format!("SREM s{key} {name}"),
        12 => format!("EXPIRE {key} {}", 50 + number),
        13 => format!("DEL h{key}"),
        _ => format!("PERSIST {key}"),
    }
}
