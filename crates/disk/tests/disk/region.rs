//! A region's data over a real directory: what the node does, without sockets.

use std::path::Path;

use meridian_clock::{Origin, Time};
use meridian_crdt::{Action, Amount, Element};
use meridian_disk::{DataDir, Digests, DiskStorage, Mark, Opened};
use meridian_keyspace::{Ablations, SLOTS, Stage, StageConfig};
use meridian_node::{CheckpointRun, export, export_slot, recover};
use meridian_store::{Entries, Identity, LogPosition, Meta, Storage};

use crate::support::{identity, small};

/// When the tests' time begins, milliseconds since 1970.
pub const START_MS: u64 = 1_700_000_000_000;

pub fn stage_config(me: Origin) -> StageConfig {
    StageConfig { me, partitions: identity().partitions, seed: 7, ablations: Ablations::default() }
}

/// A digest of every slot.
pub fn digests(stage: &mut Stage) -> Vec<(u16, u64)> {
    (0..SLOTS).map(|slot| (slot, stage.slot_digest(slot))).collect()
}

/// What storage holds, found by the recovery that nodes start with.
pub fn recovered(
    storage: &impl Storage,
    identity: &Identity,
) -> Result<Stage, meridian_node::RecoverError> {
    recover(storage, stage_config(identity.origin), identity).map(|found| found.stage)
}

/// A region that is running.
pub struct Region {
    pub opened: Opened,
    pub stage: Stage,
    last: Meta,
}

impl Region {
    pub fn start(path: &Path) -> Region {
        Region::start_as(path, &identity())
    }

    pub fn start_as(path: &Path, identity: &Identity) -> Region {
        let opened = DataDir::open(path, identity, small()).expect("the directory opens");
        let storage = DiskStorage::from(opened);
        let config = stage_config(identity.origin);
        let found = recover(&storage, config, identity).expect("a sound directory");
        Region { opened: storage.into_parts(), stage: found.stage, last: found.meta }
    }

    /// SET at a time.
    pub fn set(&mut self, ms: u64, key: &str, value: &str) {
        self.set_all(ms, &[(key, value)]);
    }

    /// Several SETs in one commit, as a transaction does.
    pub fn set_all(&mut self, ms: u64, pairs: &[(&str, &str)]) {
        self.stage.set_physical_us(ms * 1000);
        for (key, value) in pairs {
            let (element, value) = (Element::String, value.as_bytes());
            self.stage.write(key.as_bytes(), Action::Assign { element, value, ttl: Time::MAX });
            self.stage.end_command();
        }
        self.commit();
    }

    /// INCRBY at a time.
    pub fn add(&mut self, ms: u64, key: &str, amount: i64) {
        self.stage.set_physical_us(ms * 1000);
        let (element, me) = (Element::String, self.stage.me());
        self.stage.decide(key.as_bytes(), |object, dot| {
            let rows = object.cell(element).map(|cell| cell.rows()).unwrap_or_default();
            let own = rows.iter().find(|row| row.origin == me);
            let (birth, before) = own.map_or((dot.time, 0), |row| (row.birth, row.sum.whole()));
            let sum = Amount::from_int(before + amount);
            Some(Action::Incr { element, birth, sum })
        });
        self.stage.end_command();
        self.commit();
    }

    /// Frames of its log from a position on.
    pub fn frames(&self, from: LogPosition) -> Vec<Vec<u8>> {
        let bytes = self.opened.reader.read(from, usize::MAX).expect("the log is readable");
        let entries: Vec<_> = Entries::new(&bytes, from).collect();
        entries.iter().flat_map(|e| e.frames().map(<[u8]>::to_vec)).collect()
    }

    /// Frames of another region.
    pub fn receive(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            self.stage.apply_frame(frame).expect("the frame follows");
        }
        self.commit();
    }

    pub fn end(&self) -> LogPosition {
        self.opened.writer.end()
    }

    /// What is read at a key.
    pub fn get(&self, key: &str) -> Option<String> {
        get(&self.stage, key)
    }

    pub fn sync(&mut self) {
        self.opened.syncer.sync().expect("sync");
        self.opened.syncer.prepare().expect("prepare");
    }

    /// Writes a checkpoint of all that is durable.
    pub fn checkpoint(&mut self) {
        self.checkpoint_while(|_| {});
    }

    /// The same, with something else going on between reading what changed and exporting it.
    pub fn checkpoint_while(&mut self, meanwhile: impl FnOnce(&mut Region)) {
        self.sync();
        let reader = self.opened.reader.clone();
        let plan = CheckpointRun::plan(&self.last, reader.durable(), |at, max| {
            reader.read_durable(at, max)
        });
        let Some(mut run) = plan.expect("a sound log") else { return };
        meanwhile(self);
        self.sync();
        let mut batch = export(&self.stage, &run.next_portion_of(usize::MAX));
        batch.meta = Some(run.meta().encode());
        self.opened.checkpoint.write(batch).expect("a checkpoint");
        self.last = run.meta().clone();
    }

    /// Writes a checkpoint of everything beside the old one, and uses it from now on.
    pub fn fresh_checkpoint(&mut self) {
        self.sync();
        let fresh = self.opened.checkpoint.begin_fresh().expect("a new checkpoint");
        for slot in 0..SLOTS {
            fresh.write(export_slot(&self.stage, slot)).expect("a part of it");
        }
        let (position, vectors) = (self.end(), self.stage.vectors());
        self.last = Meta { identity: self.last.identity.clone(), position, vectors };
        self.opened.checkpoint.adopt(fresh, self.last.encode()).expect("it takes the place");
    }

    /// Exports what changed, and dies before the checkpoint is complete.
    pub fn half_a_checkpoint(&mut self) {
        self.sync();
        let reader = self.opened.reader.clone();
        let plan = CheckpointRun::plan(&self.last, reader.durable(), |at, max| {
            reader.read_durable(at, max)
        });
        if let Some(mut run) = plan.expect("a sound log") {
            let batch = export(&self.stage, &run.next_portion_of(usize::MAX));
            self.opened.checkpoint.write(batch).expect("a part of a checkpoint");
        }
    }

    /// What a node tells a backup.
    pub fn mark(&mut self) -> Mark {
        self.sync();
        let digests = digests(&mut self.stage).into_iter();
        let digests = Digests::new(digests.map(|(slot, digest)| (slot, Some(digest))));
        Mark { position: self.end(), vectors: self.stage.vectors(), digests }
    }

    fn commit(&mut self) {
        let durable = self.opened.syncer.durable();
        if let Some((entry, _)) = self.stage.take_entry(durable) {
            self.opened.writer.append(&entry).expect("append");
        }
    }
}

pub fn get(stage: &Stage, key: &str) -> Option<String> {
    let value = stage.object(key.as_bytes())?.string_value(stage.now())?;
    Some(String::from_utf8_lossy(value.as_ref()).into_owned())
}
