//! Regions in one process, without threads and without faults: what a test says happens, happens.

use std::collections::BTreeMap;

use meridian_clock::Origin;
use meridian_keyspace::{Ablations, Durability, Engine, EngineConfig, StageConfig};
use meridian_node::{
    CheckpointRun, DataConfig, DataEffect, DataNode, Recovered, Shipper, export, recover,
    wire::{Assembler, PeerMessage, pieces},
};
use meridian_store::{CheckpointBatch, Identity, MemoryStorage, Meta, Storage};

pub const CLUSTER: &str = "shop";
pub const PARTITIONS: u16 = 2;
/// 2023-11-14, in microseconds.
pub const EPOCH_US: u64 = 1_700_000_000_000_000;

pub fn identity(origin: Origin) -> Identity {
    let region = format!("region-{}", origin.0);
    Identity { cluster: CLUSTER.into(), region, origin, partitions: PARTITIONS }
}

/// One region: the data node, its log, and what feeds the others.
pub struct Region {
    pub node: DataNode,
    pub storage: MemoryStorage,
    pub shipper: Shipper,
    pub assembler: Assembler,
    pub meta: Meta,
    us: u64,
}

impl Region {
    pub fn start(origin: Origin, peers: &[Origin], storage: MemoryStorage) -> Region {
        Region::start_at(EPOCH_US, origin, peers, storage)
    }

    /// A region whose clock shows `us`.
    pub fn start_at(us: u64, origin: Origin, peers: &[Origin], storage: MemoryStorage) -> Region {
        let ablations = Ablations::default();
        let stage = StageConfig { me: origin, partitions: PARTITIONS, seed: 1, ablations };
        let recovered = recover(&storage, stage.clone(), &identity(origin)).expect("sound");
        let Recovered { stage: data, end, marks, meta, .. } = recovered;
        let config = EngineConfig {
            stage,
            durability: Durability::Everysec,
            password: None,
            cluster: CLUSTER.into(),
            region: identity(origin).region,
            regions: BTreeMap::new(),
        };
        let mut engine = Engine::new(config, data, end);
        engine.set_physical_us(us);
        engine.connect(1, "test".into());
        let data = DataConfig {
            cluster: CLUSTER.into(),
            peers: peers.to_vec(),
            scrub_every_ms: 0,
            ablations,
        };
        let shipper = Shipper::new(PARTITIONS, marks, peers);
        let node = DataNode::new(engine, data);
        Region { node, storage, shipper, assembler: Assembler::default(), meta, us: EPOCH_US }
    }

    /// Runs a command; the reply as text.
    pub fn run(&mut self, command: &str) -> String {
        let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.node.engine_mut().execute(1, &args);
        self.end_turn();
        let client = self.node.engine_mut().output(1).expect("connected");
        let reply = String::from_utf8_lossy(client.releasable()).into_owned();
        let length = client.releasable().len();
        client.consume(length);
        reply
    }

    /// Time goes on, and what is due by it is done.
    pub fn tick(&mut self, ms: u64) {
        self.us += ms * 1000;
        self.node.engine_mut().set_physical_us(self.us);
        self.node.tick((self.us - EPOCH_US) / 1000, false);
        self.end_turn();
    }

    /// One commit, durable.
    pub fn end_turn(&mut self) {
        let engine = self.node.engine_mut();
        let commit = engine.commit();
        let mut end = self.storage.bounds().1;
        if let Some(entry) = &commit.entry {
            end = self.storage.append(entry).expect("memory");
        }
        engine.appended(commit, end);
        engine.synced(self.storage.sync().expect("memory"));
    }

    /// The batches that a peer has asked for.
    pub fn batches(&mut self, peer: Origin) -> Vec<Vec<u8>> {
        let durable = self.storage.synced_position();
        let storage = &self.storage;
        self.shipper.next(peer, durable, |from, max| storage.read(from, max)).expect("memory")
    }

    /// A checkpoint of all that happened, as one batch.
    pub fn checkpoint(&mut self) -> CheckpointBatch {
        let (storage, durable) = (&self.storage, self.storage.synced_position());
        let read = |from, max| storage.read(from, max);
        let plan = CheckpointRun::plan(&self.meta, durable, read).expect("memory");
        let mut run = plan.expect("something happened");
        let mut batch = CheckpointBatch::default();
        while run.remaining() > 0 {
            let part = export(self.node.engine().stage(), &run.next_portion());
            batch.cleared.extend(part.cleared);
            batch.puts.extend(part.puts);
        }
        batch.meta = Some(run.meta().encode());
        batch
    }
}

/// How a session between two regions ended, if it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The first broke the rules, says the second; or the other way round.
    By(Origin, String),
}

/// Carries everything between two regions with a session until there is nothing to carry.
/// `hears` may change or refuse what a region is told.
pub fn exchange(
    regions: &mut [Region; 2],
    session: u64,
    hears: impl Fn(usize, &[u8]) -> Result<(), String>,
) -> Result<(), Ended> {
    let origins = [0, 1].map(|at: usize| regions[at].node.engine().stage().me());
    loop {
        let mut moved = false;
        for (at, other) in [(0, 1), (1, 0)] {
            let (me, peer) = (origins[at], origins[other]);
            for effect in regions[at].node.take_effects() {
                moved = true;
                match effect {
                    DataEffect::Send { message, .. } => {
                        let bytes = message.encode();
                        hears(other, &bytes).map_err(|reason| Ended::By(peer, reason))?;
                        deliver(&mut regions[other], me, session, &bytes)
                            .map_err(|reason| Ended::By(peer, reason))?;
                    }
                    DataEffect::Disconnect { reason, .. } => return Err(Ended::By(me, reason)),
                    DataEffect::Fork { .. } => panic!("no history forks here"),
                    DataEffect::Diverged { .. } => panic!("nothing differs here"),
                }
            }
            for batch in regions[at].batches(peer) {
                moved = true;
                for piece in pieces(&batch) {
                    let region = &mut regions[other];
                    if let Some(batch) = region.assembler.push(me, &piece).expect("a piece") {
                        region.node.batch(me, session, &batch);
                        region.end_turn();
                    }
                }
            }
        }
        if !moved {
            return Ok(());
        }
    }
}

/// What the network part of a node does with a message of the control lane.
pub fn deliver(
    region: &mut Region,
    from: Origin,
    session: u64,
    bytes: &[u8],
) -> Result<(), String> {
    let Some(message) = PeerMessage::decode(bytes).map_err(|e| e.to_string())? else {
        return Ok(());
    };
    match message {
        PeerMessage::Subscribe(request) => {
            region.shipper.subscribe(from, session, &request).map_err(|e| e.to_string())
        }
        message => {
            region.node.message(from, session, message);
            Ok(())
        }
    }
}
