//! The same random steps on files with RocksDB and on the model in memory: what can be seen of
//! them stays the same, across restarts and across copies taken as a crash would leave them.

use meridian_disk::DiskStorage;
use meridian_store::{
    CheckpointBatch, CrashModel, LogPosition, MemoryStorage, Storage, StoreError, conformance,
    element_key, key_prefix,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use crate::support::{copy_open, meta, storage};

const SEEDS: u64 = 8;
const STEPS: usize = 150;

#[test]
fn the_disk_does_what_the_model_does() {
    for seed in 0..SEEDS {
        let mut pair = Pair::new();
        let mut random = StdRng::seed_from_u64(seed);
        for step in 0..STEPS {
            let done = pair.step(&mut random);
            pair.compare(&mut random, &format!("seed {seed}, step {step}: {done}"));
        }
    }
}

struct Pair {
    directory: TempDir,
    disk: Option<DiskStorage>,
    model: MemoryStorage,
    /// Starts of entries that are still held.
    starts: Vec<LogPosition>,
    /// The position that the last record named.
    recorded: LogPosition,
}

impl Pair {
    fn new() -> Pair {
        let directory = tempfile::tempdir().unwrap();
        let disk = Some(storage(directory.path()));
        let model = MemoryStorage::new();
        Pair { directory, disk, model, starts: vec![], recorded: LogPosition(0) }
    }

    fn disk(&mut self) -> &mut DiskStorage {
        self.disk.as_mut().expect("open between steps")
    }

    fn step(&mut self, random: &mut StdRng) -> &'static str {
        match random.random_range(0..100) {
            0..50 => self.append(random),
            50..65 => {
                assert_eq!(self.disk().sync().unwrap(), self.model.sync().unwrap());
                "sync"
            }
            65..85 => self.checkpoint(random),
            85..90 => self.release(),
            90..95 => self.reopen(),
            _ => self.crash(),
        }
    }

    fn append(&mut self, random: &mut StdRng) -> &'static str {
        let frames: Vec<Vec<u8>> = (0..random.random_range(1..4))
            .map(|_| vec![random.random(); random.random_range(0..900)])
            .collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let entry = conformance::entry(&frames, self.model.synced_position());
        self.starts.push(self.model.bounds().1);
        assert_eq!(self.disk().append(&entry).unwrap(), self.model.append(&entry).unwrap());
        "append"
    }

    fn checkpoint(&mut self, random: &mut StdRng) -> &'static str {
        let place = |random: &mut StdRng| {
            let key = [b'k', random.random_range(0..8)];
            element_key(0, &key[..random.random_range(1..3)], &[random.random_range(0..4)])
        };
        let value =
            |random: &mut StdRng| random.random_bool(0.8).then(|| vec![random.random(); 20]);
        let mut puts: Vec<_> =
            (0..random.random_range(0..10)).map(|_| (place(random), value(random))).collect();
        puts.sort();
        puts.dedup_by(|a, b| a.0 == b.0);
        let clear = random.random_bool(0.5);
        let cleared = vec![key_prefix(0, &[b'k', random.random_range(0..8)])];
        let cleared = if clear { cleared } else { vec![] };
        let complete = random.random_bool(0.4);
        let record = complete.then(|| {
            // A record names only what is durable.
            self.recorded = self.model.synced_position();
            meta(self.recorded)
        });
        let batch = CheckpointBatch { cleared, puts, meta: record };
        self.disk().checkpoint(batch.clone()).unwrap();
        self.model.checkpoint(batch).unwrap();
        "checkpoint"
    }

    fn release(&mut self) -> &'static str {
        let recorded = self.recorded;
        self.disk().release(recorded).unwrap();
        self.model.release(recorded).unwrap();
        self.starts.retain(|start| *start >= recorded);
        "release"
    }

    fn reopen(&mut self) -> &'static str {
        drop(self.disk.take());
        self.disk = Some(storage(self.directory.path()));
        self.model = std::mem::take(&mut self.model).crash(CrashModel::Process);
        "reopen"
    }

    /// The process is killed: files are as they are, memtables are gone.
    fn crash(&mut self) -> &'static str {
        let left = tempfile::tempdir().unwrap();
        copy_open(self.directory.path(), left.path());
        drop(self.disk.take());
        self.directory = left;
        self.disk = Some(storage(self.directory.path()));
        let everything = CrashModel::Machine { log_bytes: usize::MAX, batches: 0 };
        self.model = std::mem::take(&mut self.model).crash(everything);
        "crash"
    }

    fn compare(&mut self, random: &mut StdRng, context: &str) {
        let disk = self.disk.as_ref().expect("open between steps");
        assert_eq!(disk.bounds().1, self.model.bounds().1, "{context}");
        assert!(disk.bounds().0 <= self.model.bounds().0, "{context}: released too much");
        assert_eq!(disk.meta().unwrap(), self.model.meta().unwrap(), "{context}");
        assert_eq!(elements(disk), elements(&self.model), "{context}");
        let from = match self.starts.len() {
            0 => self.model.bounds().1,
            held => self.starts[random.random_range(0..held)],
        };
        let most = *[0, 1, 1000, 10_000, usize::MAX].get(random.random_range(0..5)).unwrap();
        assert_eq!(
            disk.read(from, most).unwrap(),
            self.model.read(from, most).unwrap(),
            "{context}"
        );
        let beyond = LogPosition(self.model.bounds().1.0 + 1);
        assert!(matches!(disk.read(beyond, 1), Err(StoreError::NotHeld(_))), "{context}");
    }
}

fn elements(storage: &impl Storage) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    storage
        .elements(&mut |key, value| {
            all.push((key.to_vec(), value.to_vec()));
            Ok(())
        })
        .unwrap();
    all
}

/// The comparison above is worth something: a storage that forgets is told from the model.
#[test]
#[should_panic(expected = "a planted loss")]
fn a_lost_entry_is_noticed() {
    let mut pair = Pair::new();
    let mut random = StdRng::seed_from_u64(0);
    pair.append(&mut random);
    let fresh = tempfile::tempdir().unwrap();
    pair.disk = Some(storage(fresh.path()));
    pair.compare(&mut random, "a planted loss");
}
