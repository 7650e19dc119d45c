//! One region, composed as the daemon composes it, without threads.
//!
//! The daemon's rules of order are kept here and nowhere else: a commit is appended before its
//! replies are seen; peers are fed from what is synced; a portion of a checkpoint is written once
//! the log is synced up to where it ended when the portion was read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_clock::{Origin, Time, VersionVector};
use meridian_crdt::ElementKey;
use meridian_failover::MemberStatus;
use meridian_keyspace::{ClientId, Durability, Engine, EngineConfig, StageConfig};
use meridian_node::{
    CheckpointRun, DataConfig, DataEffect, DataNode, RepairLimits, Shipper, export, recover,
    wire::{Assembler, PeerMessage, pieces},
};
use meridian_store::{
    CheckpointBatch, Identity, LogPosition, MemoryStorage, Meta, Storage, split_element_key,
};

use crate::{ablation::Ablation, control_log::ControlPlane, disk::SimDisk};

/// The cluster's name.
pub(crate) const CLUSTER: &str = "simulated";

/// After this much log a mark is set: small, so that marks matter in short runs.
const MARK_EVERY_BYTES: u64 = 600;

/// A partition is compared this often, in simulated milliseconds: often, so that short runs see it.
const SCRUB_EVERY_MS: u64 = 150;

/// Partitions are compared in portions of so many elements: few, so that much happens between two
/// portions.
const SCAN_ELEMENTS: usize = 4;

/// With tiny limits pieces of a repair have so many bytes for every symbol of a message.
const PIECE_BYTES: usize = 8;

/// And so many pieces are under way at most.
const PIECES: u64 = 4;

/// A repair that hears nothing for so long is given up, in milliseconds: the way there and back
/// takes up to a second, and the donor syncs.
const REPAIR_PATIENCE_MS: u64 = 3000;

/// What of a peer's message is for the control group.
#[derive(Debug)]
pub(crate) enum ForControl {
    /// A message of Raft.
    Raft(Vec<u8>),
    /// The agreed state, as the peer knows it.
    Members(Vec<u8>),
}

/// How a region belongs to the cluster, as far as clients notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It gets the data; clients wait.
    Joining,
    /// It serves.
    #[default]
    Serving,
    /// It takes no more writes.
    Leaving,
}

impl Standing {
    /// What a status means.
    pub fn of(status: Option<MemberStatus>) -> Standing {
        match status {
            Some(MemberStatus::Joining) => Standing::Joining,
            Some(MemberStatus::Leaving) => Standing::Leaving,
            _ => Standing::Serving,
        }
    }
}

/// What a region must know to start.
#[derive(Clone, Debug)]
pub(crate) struct RegionConfig {
    pub index: usize,
    pub origin: Origin,
    pub partitions: u16,
    pub peers: Vec<Origin>,
    pub durability: Durability,
    pub ablation: Option<Ablation>,
    /// Keys the hash tables.
    pub seed: u64,
    /// How many bytes of frames may wait for what they depend on; 0: as in production.
    pub inbox_bytes: usize,
    /// How many bytes of log are kept for who is away; 0: all.
    pub retention_bytes: u64,
    /// Repairs send so many symbols in a message; 0: as in production.
    pub sketch: u64,
    /// A peer that lacks more bytes of log is sent bundles; 0: as in production.
    pub compact_bytes: u64,
    /// How long a sync takes, in microseconds: from and to.
    pub sync_us: (u64, u64),
}

impl RegionConfig {
    /// Whose directory it is.
    pub fn identity(&self) -> Identity {
        Identity {
            cluster: CLUSTER.into(),
            region: format!("region-{}", self.index),
            origin: self.origin,
            partitions: self.partitions,
        }
    }

    /// The stage's part.
    pub fn stage(&self) -> StageConfig {
        StageConfig {
            me: self.origin,
            partitions: self.partitions,
            seed: self.seed,
            ablations: self.ablation.map(Ablation::switches).unwrap_or_default(),
        }
    }

    fn repairs(&self) -> RepairLimits {
        let limits = RepairLimits { scan_elements: SCAN_ELEMENTS, ..RepairLimits::default() };
        let symbols = self.sketch;
        if symbols == 0 {
            return limits;
        }
        let piece_bytes = PIECE_BYTES * symbols as usize;
        RepairLimits {
            sample: 1,
            whole_share: 0,
            spare_symbols: symbols,
            symbols,
            items: symbols as usize,
            piece_bytes,
            window_bytes: PIECES * piece_bytes as u64,
            patience_ms: REPAIR_PATIENCE_MS,
            ..limits
        }
    }

    fn is(&self, ablation: Ablation) -> bool {
        self.ablation == Some(ablation)
    }
}

/// A commit that is in the log but perhaps not on disk.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Its frames, in order.
    pub frames: Vec<Vec<u8>>,
    /// What is to be sent on control lanes.
    pub effects: Vec<DataEffect>,
}

/// A living process of a region.
pub(crate) struct Region {
    pub config: RegionConfig,
    pub node: DataNode,
    pub storage: SimDisk,
    pub control: Option<ControlPlane>,
    pub standing: Standing,
    shipper: Shipper,
    assembler: Assembler,
    /// Pieces that were read from the log and wait for room on the lane.
    waiting: BTreeMap<Origin, VecDeque<Vec<u8>>>,
    /// The last complete checkpoint.
    meta: Meta,
    writing: Option<Writing>,
    marked: u64,
    /// It was rebuilt from a checkpoint and from log after it.
    pub from_both: bool,
}

/// A checkpoint on its way.
struct Writing {
    run: CheckpointRun,
    /// A portion that was read, and the log's end when it was.
    portion: Option<(CheckpointBatch, LogPosition)>,
}

/// How far a checkpoint got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to do.
    Under,
    /// It is written.
    Complete,
    /// Nothing has changed since the last one.
    Idle,
}

impl Region {
    /// Starts from what the disk holds.
    pub fn start(config: RegionConfig, storage: MemoryStorage) -> Result<Region, String> {
        let storage = SimDisk::new(storage);
        let recovered = recover(&storage, config.stage(), &config.identity())
            .map_err(|e| format!("region {} cannot start: {e}", config.index))?;
        let engine = Engine::new(engine_config(&config), recovered.stage, recovered.end);
        let data = DataConfig {
            cluster: CLUSTER.into(),
            peers: config.peers.clone(),
            scrub_every_ms: SCRUB_EVERY_MS,
            ablations: config.stage().ablations,
        };
        let mut node = DataNode::new(engine, data);
        node.limit_repairs(config.repairs());
        if config.inbox_bytes > 0 {
            node.limit_inbox(config.inbox_bytes);
        }
        let mut shipper = Shipper::new(config.partitions, recovered.marks, &config.peers);
        if config.compact_bytes > 0 {
            shipper.compact_beyond(config.compact_bytes);
        }
        shipper.ablate(config.ablation.map(Ablation::compaction).unwrap_or_default());
        Ok(Region {
            node,
            shipper,
            assembler: Assembler::default(),
            waiting: BTreeMap::new(),
            meta: recovered.meta,
            writing: None,
            marked: recovered.end.0,
            from_both: recovered.elements > 0 && recovered.entries > 0,
            control: None,
            standing: Standing::default(),
            storage,
            config,
        })
    }

    /// What every partition has applied.
    pub fn vectors(&self) -> Vec<VersionVector> {
        self.node.engine().stage().vectors()
    }

    /// By partition: the stamp of this region's last operation.
    pub fn written(&self) -> Vec<Time> {
        let stage = self.node.engine().stage();
        let last = |number| stage.partition(number).vector.get(self.config.origin);
        (0..self.config.partitions).map(last).collect()
    }

    /// How many empty counter rows wait.
    pub fn residue(&self) -> usize {
        let stage = self.node.engine().stage();
        (0..self.config.partitions).map(|number| stage.partition(number).residue()).sum()
    }

    /// Whether some peer's frames come through another one.
    pub fn is_relayed(&self) -> bool {
        let by_another = |(peer, origins): (&Origin, &BTreeSet<Origin>)| {
            origins.iter().any(|o| o != peer && self.config.peers.contains(o))
        };
        self.node.upstreams().iter().any(by_another)
    }

    /// Takes over who the other regions are, and how this one belongs to them.
    pub fn set_members(&mut self, peers: Vec<Origin>, handed_out: u16, standing: Standing) {
        self.config.peers.clone_from(&peers);
        self.waiting.retain(|peer, _| peers.contains(peer));
        self.shipper.set_peers(&peers);
        self.node.set_members(peers, handed_out);
        let serving = Some(Ablation::ServeWhileLeaving);
        let env = self.node.engine_mut().environment_mut();
        env.loading = (standing == Standing::Joining).then(|| "the region joins".to_owned());
        let refuses = standing == Standing::Leaving && self.config.ablation != serving;
        env.leaving = refuses.then(|| "the region leaves".to_owned());
        self.standing = standing;
    }

    /// A session began.
    pub fn peer_up(&mut self, peer: Origin, session: u64) {
        self.node.peer_up(peer, session);
    }

    /// A session is over.
    pub fn peer_down(&mut self, peer: Origin, session: u64) {
        self.assembler.forget(peer);
        self.waiting.remove(&peer);
        self.node.peer_down(peer, session);
        self.shipper.peer_down(peer, session);
    }

    /// A message of the control lane. Gives back what is for the control group.
    pub fn control_message(
        &mut self,
        peer: Origin,
        session: u64,
        bytes: &[u8],
    ) -> Result<Option<ForControl>, String> {
        let Some(message) = PeerMessage::decode(bytes).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        match message {
            PeerMessage::Raft(message) => return Ok(Some(ForControl::Raft(message))),
            PeerMessage::Members(state) => return Ok(Some(ForControl::Members(state))),
            PeerMessage::Subscribe(mut request) => {
                self.waiting.remove(&peer);
                if self.config.is(Ablation::NoRelay) {
                    request.origins.retain(|origin| *origin == self.config.origin);
                }
                self.shipper.subscribe(peer, session, &request).map_err(|e| e.to_string())?;
            }
            message => {
                if let PeerMessage::Hello(hello) = &message {
                    self.shipper.greeted(peer, hello.version);
                }
                if let PeerMessage::Watermark(mark) = &message {
                    let vectors = mark.vectors.unpack(self.config.partitions);
                    self.shipper.acknowledge(peer, vectors.map_err(|e| e.to_string())?);
                }
                self.node.message(peer, session, message);
            }
        }
        Ok(None)
    }

    /// A piece of the live lane. `drop_batch` is the daemon that was too busy to take it.
    pub fn piece(
        &mut self,
        peer: Origin,
        session: u64,
        bytes: &[u8],
        drop_batch: bool,
    ) -> Result<(), String> {
        let batch = self.assembler.push(peer, bytes).map_err(|e| e.to_string())?;
        if let Some(batch) = batch.filter(|_| !drop_batch) {
            self.node.batch(peer, session, &batch);
        }
        Ok(())
    }

    /// Ends a turn: one commit, appended; then what may leave.
    pub fn end_turn(&mut self) -> Result<Turn, String> {
        let frames = self.commit()?;
        let mut effects = self.node.take_effects();
        for effect in &effects {
            if let DataEffect::Send { message, .. } = effect {
                self.shipper.said(message, self.storage.synced_position());
            }
        }
        let told = self.shipper.take_messages().into_iter();
        effects.extend(told.map(|(peer, session, message)| DataEffect::Send {
            peer,
            session,
            message,
        }));
        Ok(Turn { frames, effects })
    }

    fn commit(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let engine = self.node.engine_mut();
        let commit = engine.commit();
        let (mut frames, mut end) = (Vec::new(), self.storage.bounds().1);
        if let Some(entry) = &commit.entry {
            let start = end;
            end = self.storage.append(entry).map_err(|e| e.to_string())?;
            let entries = meridian_store::Entries::new(entry, start);
            frames =
                entries.flat_map(|e| e.frames().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect();
        }
        engine.appended(commit, end);
        if self.config.is(Ablation::ReplyUnsynced) {
            // Told that all is on disk, while it is not.
            engine.synced(end);
        }
        if end.0 - self.marked >= MARK_EVERY_BYTES {
            self.marked = end.0;
            let vectors = engine.stage().vectors();
            self.shipper.mark(end, vectors);
        }
        Ok(frames)
    }

    /// Whether something waits for a sync.
    pub fn needs_sync(&self) -> bool {
        self.storage.unsynced() > 0
    }

    /// The log is on disk up to where it ended when the sync began.
    pub fn synced(&mut self) -> Result<(), String> {
        let position = self.storage.sync().map_err(|e| e.to_string())?;
        self.node.engine_mut().synced(position);
        Ok(())
    }

    /// Up to where peers are fed.
    fn shippable(&self) -> LogPosition {
        if self.config.is(Ablation::ShipUnsynced) {
            self.storage.bounds().1
        } else {
            self.storage.synced_position()
        }
    }

    /// Whether there is anything for the live lanes, if they have room.
    pub fn has_to_ship(&self) -> bool {
        self.waiting.values().any(|queue| !queue.is_empty())
            || self.shipper.sessions(self.shippable()).any(|(.., work)| work)
    }

    /// Pieces for the live lanes, as far as `room` gives leave to send so many bytes to a peer.
    pub fn ship(
        &mut self,
        mut room: impl FnMut(Origin, u64) -> usize,
    ) -> Result<Vec<(Origin, u64, Vec<u8>)>, String> {
        let durable = self.shippable();
        let mut out = Vec::new();
        for (peer, session, _) in self.shipper.sessions(durable).collect::<Vec<_>>() {
            let mut left = room(peer, session);
            while left > 0 {
                let queue = self.waiting.entry(peer).or_default();
                if let Some(piece) = queue.pop_front() {
                    left = left.saturating_sub(piece.len());
                    out.push((peer, session, piece));
                    continue;
                }
                let storage = &self.storage;
                let read = |from, max| storage.read(from, max);
                let batches = self.shipper.next(peer, durable, read).map_err(|e| e.to_string())?;
                let more = self.shipper.sessions(durable).any(|(p, _, work)| p == peer && work);
                if batches.is_empty() && !more {
                    break;
                }
                queue.extend(batches.iter().flat_map(|b| pieces(b)));
            }
        }
        Ok(out)
    }

    /// One step of a checkpoint: plans one, reads a portion of so many keys, or writes what was
    /// read once it may be written.
    pub fn checkpoint_step(&mut self, keys: usize) -> Result<(Progress, Vec<Vec<u8>>), String> {
        let durable = self.storage.synced_position();
        let Some(mut writing) = self.writing.take() else {
            let storage = &self.storage;
            let plan =
                CheckpointRun::plan(&self.meta, durable, |from, max| storage.read(from, max));
            self.writing =
                plan.map_err(|e| e.to_string())?.map(|run| Writing { run, portion: None });
            let progress = if self.writing.is_some() { Progress::Under } else { Progress::Idle };
            return Ok((progress, Vec::new()));
        };
        let Some((mut batch, end)) = writing.portion.take() else {
            let mut batch = export(self.node.engine().stage(), &writing.run.next_portion_of(keys));
            self.spoil(&mut batch, writing.run.meta());
            // What this turn has executed is in the batch: it must be in the log.
            let frames = self.commit()?;
            writing.portion = Some((batch, self.storage.bounds().1));
            self.writing = Some(writing);
            return Ok((Progress::Under, frames));
        };
        if end > durable && !self.config.is(Ablation::CheckpointUnsynced) {
            writing.portion = Some((batch, end));
            self.writing = Some(writing);
            return Ok((Progress::Under, Vec::new()));
        }
        if writing.run.remaining() > 0 {
            self.storage.checkpoint(batch).map_err(|e| e.to_string())?;
            self.writing = Some(writing);
            return Ok((Progress::Under, Vec::new()));
        }
        let mut meta = writing.run.meta().clone();
        if self.config.is(Ablation::CheckpointAhead) {
            meta.position = durable;
            meta.vectors = self.node.engine().durable_vectors().to_vec();
        }
        batch.meta = Some(meta.encode());
        self.storage.checkpoint(batch).map_err(|e| e.to_string())?;
        self.meta = meta;
        Ok((Progress::Complete, Vec::new()))
    }

    /// What the rules that are off make of a portion.
    fn spoil(&self, batch: &mut CheckpointBatch, meta: &Meta) {
        if self.config.is(Ablation::KeepCleared) {
            batch.cleared.clear();
        }
        if self.config.is(Ablation::ForgetDeadlines) {
            let mut deadlines = Vec::new();
            ElementKey::Deadlines.encode(&mut deadlines);
            let is_one =
                |place: &[u8]| split_element_key(place).is_ok_and(|(.., name)| name == deadlines);
            batch.puts.retain(|(place, _)| !is_one(place));
        }
        if self.config.is(Ablation::RecordFirst) {
            batch.meta = Some(meta.encode());
        }
    }

    /// Lets go of the log that nobody needs. True if there was some.
    pub fn release(&mut self) -> Result<bool, String> {
        let end = self.storage.bounds().1.0;
        let must = match self.config.retention_bytes {
            0 => 0,
            retained => end.saturating_sub(retained),
        };
        let position = self.shipper.release(self.meta.position, LogPosition(must));
        let before = self.storage.bounds().0;
        self.storage.release(position).map_err(|e| e.to_string())?;
        Ok(self.storage.bounds().0 > before)
    }

    /// Bytes that a client may read now.
    pub fn take_output(&mut self) -> Vec<(ClientId, Vec<u8>)> {
        let engine = self.node.engine_mut();
        let mut out = Vec::new();
        for id in engine.take_ready() {
            if let Some(client) = engine.output(id) {
                let bytes = client.releasable().to_vec();
                client.consume(bytes.len());
                out.push((id, bytes));
            }
        }
        out
    }
}

/// What the engine of a region must know.
pub(crate) fn engine_config(config: &RegionConfig) -> EngineConfig {
    EngineConfig {
        stage: config.stage(),
        durability: config.durability,
        password: None,
        cluster: CLUSTER.into(),
        region: config.identity().region,
        regions: BTreeMap::new(),
    }
}
