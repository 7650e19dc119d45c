//! Bytes on the wire for one record, with payloads like those of real clients: redis-benchmark's
//! values are one letter repeated, which compresses as nothing else does.

use crate::client::Client;
use crate::target::Target;
use anyhow::{Context, Result};

/// Commands that are sent together; their replies are read after the last.
const PIPELINE: u64 = 500;
/// One in so many records is written before it counts.
const WARM_UP_SHARE: u64 = 4;
/// Values of the two SET workloads, in bytes.
const VALUE_LEN: usize = 128;
/// Keys of the SET workloads.
const SET_KEYS: u64 = 1_000_000;
/// Counters of the INCR workload.
const COUNTERS: usize = 100_000;
/// The exponent of Zipf's law, as YCSB has it.
const SKEW: f64 = 0.99;
/// Every run writes the same.
const SEED: u64 = 0x6d65_7269_6469_616e;

/// What is written.
#[derive(Clone, Copy, Debug)]
pub enum Payload {
    /// SET of random bytes.
    Random,
    /// SET of a session as a shop may keep it.
    Json,
    /// INCR of counters of which few are used much.
    ZipfCounter,
    /// INCR of one counter.
    HotCounter,
}

/// A payload with its name, the floor (what a general compressor makes of the bare records) and the
/// design's target.
const PAYLOADS: [(Payload, &str, &str, &str); 4] = [
    (Payload::Random, "SET, 128 random bytes", "130", "140"),
    (Payload::Json, "SET, 128 bytes of JSON", "-", "31"),
    (Payload::ZipfCounter, "INCR, 100 k counters, Zipf", "1.6", "5"),
    (Payload::HotCounter, "INCR, one counter", "0", "0.2"),
];

/// Writes `ops` records of each kind to each target; a table of bytes sent to one peer for each.
///
/// # Errors
/// When a server does not answer.
pub fn measure(targets: &[Target], ops: u64) -> Result<String> {
    let mut text = format!("{:<28}", "bytes on the wire a record");
    targets.iter().for_each(|target| text.push_str(&format!("{:>18}", target.name)));
    text.push_str(&format!("{:>8}{:>8}\n", "floor", "target"));
    for (payload, name, floor, aim) in PAYLOADS {
        text.push_str(&format!("{name:<28}"));
        for target in targets {
            crate::progress(&format!("{name}: {}", target.name));
            let bytes = one(target, payload, ops).with_context(|| target.last_words())?;
            let shown = bytes.map_or("-".to_owned(), |bytes| format!("{bytes:.2}"));
            text.push_str(&format!("{shown:>18}"));
        }
        text.push_str(&format!("{floor:>8}{aim:>8}\n"));
    }
    Ok(text)
}

fn one(target: &Target, payload: Payload, ops: u64) -> Result<Option<f64>> {
    let mut writer = Writer::new(payload, 0);
    let mut client = Client::connect(target.address)?;
    let mut write = |ops: u64| -> Result<()> {
        for _ in 0..ops / PIPELINE {
            let batch: Vec<Vec<Vec<u8>>> = (0..PIPELINE).map(|_| writer.command()).collect();
            client.call_all(&batch)?;
        }
        target.settle()
    };
    // What came before was of another kind: a compressor finds out after a while.
    write(ops / WARM_UP_SHARE)?;
    let Some(before) = target.sent_bytes()? else { return Ok(None) };
    write(ops)?;
    let sent = target.sent_bytes()?;
    let ops = ops / PIPELINE * PIPELINE;
    Ok(sent.map(|sent| sent.saturating_sub(before) as f64 / ops as f64))
}

/// Makes commands up.
pub struct Writer {
    payload: Payload,
    random: u64,
    /// Keys of the SET workloads.
    keys: u64,
    /// Cumulated shares of the counters, the most used first.
    shares: Vec<f64>,
}

impl Writer {
    /// Makes up the same commands for the same `stream`.
    pub fn new(payload: Payload, stream: u64) -> Writer {
        let mut total = 0.0;
        let mut share = |rank: usize| {
            total += 1.0 / (rank as f64).powf(SKEW);
            total
        };
        let mut shares: Vec<f64> = (1..=COUNTERS).map(&mut share).collect();
        shares.iter_mut().for_each(|share| *share /= total);
        Writer { payload, random: SEED ^ stream.rotate_left(40), keys: SET_KEYS, shares }
    }

    /// With so many keys of the SET workloads.
    pub fn with_keys(self, keys: u64) -> Writer {
        Writer { keys, ..self }
    }

    /// The next command.
    pub fn command(&mut self) -> Vec<Vec<u8>> {
        let set = |key: u64, value| vec![b"SET".to_vec(), name("user", key), value];
        let incr = |key: u64| vec![b"INCR".to_vec(), name("hits", key)];
        match self.payload {
            Payload::Random => {
                let value = (0..VALUE_LEN).map(|_| self.next() as u8).collect();
                set(self.next() % self.keys, value)
            }
            Payload::Json => {
                let value = self.json();
                set(self.next() % self.keys, value)
            }
            Payload::ZipfCounter => {
                let at = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
                incr(self.shares.partition_point(|share| *share < at) as u64)
            }
            Payload::HotCounter => incr(0),
        }
    }

    /// A session as a shop may keep it.
    fn json(&mut self) -> Vec<u8> {
        let (id, first, second) = (self.next() % 1_000_000, self.next() % 5000, self.next() % 5000);
        let region = ["eu-west", "us-east", "ap-south"][(self.next() % 3) as usize];
        let tier = ["gold", "silver", "basic"][(self.next() % 3) as usize];
        let seen = 1_700_000_000 + self.next() % 10_000_000;
        let text = format!(
            "{{\"id\":{id},\"name\":\"user{id}\",\"cart\":[{first},{second}],\
             \"region\":\"{region}\",\"ts\":{seen},\"ok\":true,\"tier\":\"{tier}\"}}"
        );
        let mut bytes = text.into_bytes();
        bytes.resize(VALUE_LEN, b' ');
        bytes
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Fifteen bytes, in no order that a compressor could guess.
fn name(kind: &str, key: u64) -> Vec<u8> {
    format!("{kind}:{:010}", key.wrapping_mul(2_654_435_761) % 10_000_000_000).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_what_they_are_called() {
        for (payload, name, ..) in PAYLOADS {
            let mut writer = Writer::new(payload, 0);
            let commands: Vec<_> = (0..1000).map(|_| writer.command()).collect();
            assert!(commands.iter().all(|c| name.as_bytes().starts_with(&c[0])), "{name}");
            assert!(commands.iter().all(|c| c[1].len() == 15), "{name}");
            assert!(commands.iter().all(|c| c.get(2).is_none_or(|v| v.len() == VALUE_LEN)));
        }
        let mut zipf = Writer::new(Payload::ZipfCounter, 0);
        let first = (0..1000).filter(|_| zipf.command()[1] == super::name("hits", 0)).count();
        assert!((40..160).contains(&first), "{first} in 1000 go to the most used");
    }
}
