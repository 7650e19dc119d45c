//! The data of a region and its conversation with its peers about data.

mod membership;

use std::collections::{BTreeMap, BTreeSet};

use meridian_cdc::{Batch as CdcBatch, Change, Position};
use meridian_clock::{Origin, Time, VersionVector};
use meridian_codec::{Malformed, Reader};
use meridian_crdt::ElementKey;
use meridian_keyspace::{Ablations, Engine, MirrorChange, SLOTS};
use meridian_replication::{
    Batch, Hello, Inbox, InboxEvent, Lenience, PROTOCOL_OLDEST, PeerView, REPAIR_SINCE, RelayPlan,
    Router, Subscribe, Upstreams, Vectors, Versions, Watermark,
};

use crate::{
    clocks::{self, Alarm, Clocks},
    lag::LagMeter,
    limits::{
        MAX_DIVERGENT_NAMES, RESUBSCRIBE_EVERY_MS, ROUTE_EVERY_MS, STALLED_AFTER_MS,
        STALLED_AFTER_MS_MAX, SWEEP_EVERY_MS, SWEEP_SLOTS, UNHEARD_MS_MAX, WATERMARK_EVERY_MS,
    },
    repair::{Repaired, Repairs},
    wire::PeerMessage,
};

/// What a data node must know beyond its engine.
#[derive(Clone, Debug)]
pub struct DataConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The other regions.
    pub peers: Vec<Origin>,
    /// A partition is compared with another region's this often, in milliseconds; 0 is never.
    pub scrub_every_ms: u64,
    /// Rules that are off, for tests of the tests.
    pub ablations: Ablations,
}

/// What a data node wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataEffect {
    /// Send a message on the control lane.
    Send {
        /// To whom.
        peer: Origin,
        /// In which session; it is dropped if that is over.
        session: u64,
        /// What.
        message: PeerMessage,
    },
    /// The peer does not keep the rules: end the session.
    Disconnect {
        /// Whose.
        peer: Origin,
        /// Which.
        session: u64,
        /// Why, for the log.
        reason: String,
    },
    /// An origin's history has forked here. Its frames are refused from now on.
    Fork {
        /// Whose history.
        origin: Origin,
        /// Where.
        partition: u16,
    },
    /// Elements differed from another region's although both had seen the same. They hold now what
    /// either held.
    Diverged {
        /// Whose.
        peer: Origin,
        /// Where.
        partition: u16,
        /// Some of their keys.
        keys: Vec<Vec<u8>>,
        /// How many elements.
        count: usize,
    },
}

/// How far this region is behind a peer, and the peer behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerLag {
    /// How old the oldest of the peer's own records may be that is not here, in ms.
    pub behind_ms: u64,
    /// How old the oldest of this region's records may be that the peer has not acknowledged,
    /// in ms.
    pub unacknowledged_ms: u64,
}

/// Where the tailer goes on, as the data says.
pub type StreamPosition = Option<Position>;

#[derive(Debug, Default)]
struct Peer {
    session: u64,
    /// With which version it was greeted in this session.
    greeting: u16,
    /// The version that is spoken, once it has greeted.
    version: Option<u16>,
    /// Counts our subscriptions to it.
    number: u64,
    subscribed: BTreeSet<Origin>,
    /// What it has, by its last watermark.
    vectors: Vec<VersionVector>,
    /// Batches that answered our subscriptions, and how many there had been at the last look.
    batches: u64,
    batches_seen: u64,
    /// When it is asked again if it has more and no batch comes, and how long was waited for that.
    stalled_at_ms: Option<u64>,
    patience_ms: u64,
    /// What it had when the session began: once we have that, we have caught up with it.
    target: Option<Vec<VersionVector>>,
    lag: PeerLag,
    /// When something came from it last, by [`DataNode::listened_ms`].
    heard_ms: u64,
}

/// The data of a region and what it knows of its peers.
#[derive(Debug)]
pub struct DataNode {
    engine: Engine,
    config: DataConfig,
    inbox: Inbox,
    peers: BTreeMap<Origin, Peer>,
    /// The last word of each peer, kept over its sessions.
    acknowledged: BTreeMap<Origin, Vec<VersionVector>>,
    /// How far we are behind each peer, and each behind us; kept over its sessions.
    meters: BTreeMap<Origin, [LagMeter; 2]>,
    origins: BTreeSet<Origin>,
    versions: Versions,
    router: Router,
    /// The way to each peer and back, in milliseconds, as far as it was measured.
    round_trips: BTreeMap<Origin, u64>,
    /// Ordinals below this have been handed out, as far as is known here; all, where the peers are
    /// configured.
    handed_out: u16,
    upstreams: Upstreams,
    /// Origins whose frames must be asked for again.
    missed: BTreeSet<Origin>,
    effects: Vec<DataEffect>,
    /// How long this node has listened, in milliseconds: stands still when the node does.
    listened_ms: u64,
    ticked_ms: Option<u64>,
    repairs: Repairs,
    /// The steady clock at the last tick.
    now_ms: u64,
    scrub_due_ms: u64,
    watermark_due_ms: u64,
    route_due_ms: u64,
    resubscribe_due_ms: u64,
    sweep_due_ms: u64,
    sweep_slot: u16,
    /// The tailer's batches are compared with what each partition has, until one is applied
    /// that is only a part of a transaction.
    filter_mirror: bool,
    clocks: Clocks,
    /// Frames applied from other regions.
    pub frames_applied: u64,
    /// Frames that lay too far in the future and were not applied.
    pub frames_from_the_future: u64,
}

impl DataNode {
    /// A node over an engine.
    #[must_use]
    pub fn new(engine: Engine, config: DataConfig) -> DataNode {
        let mut origins: BTreeSet<Origin> = config.peers.iter().copied().collect();
        origins.insert(engine.stage().me());
        DataNode {
            engine,
            clocks: Clocks::default(),
            config,
            inbox: Inbox::new(),
            peers: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            meters: BTreeMap::new(),
            origins,
            versions: Versions::default(),
            router: Router::new(RelayPlan::direct()),
            round_trips: BTreeMap::new(),
            handed_out: u16::MAX,
            upstreams: Upstreams::new(),
            missed: BTreeSet::new(),
            effects: Vec::new(),
            listened_ms: 0,
            ticked_ms: None,
            repairs: Repairs::default(),
            now_ms: 0,
            scrub_due_ms: 0,
            watermark_due_ms: 0,
            route_due_ms: 0,
            resubscribe_due_ms: 0,
            sweep_due_ms: 0,
            sweep_slot: 0,
            filter_mirror: true,
            frames_applied: 0,
            frames_from_the_future: 0,
        }
    }

    /// The engine: commands, commits, replies.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine: commands, commits, replies.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Lets fewer bytes wait for what they depend on than [`Inbox::new`] does. Only at the start:
    /// what waits already is dropped.
    pub fn limit_inbox(&mut self, bytes: usize) {
        self.inbox = Inbox::with_limit(bytes);
    }

    /// What waits for what it depends on.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Speaks other versions than this build does: for tests of upgrades. Only at the start.
    pub fn set_versions(&mut self, versions: Versions) {
        self.versions = versions;
    }

    /// The protocol that is spoken with each peer that has greeted.
    pub fn protocols(&self) -> impl Iterator<Item = (Origin, u16)> {
        self.peers.iter().filter_map(|(peer, state)| Some((*peer, state.version?)))
    }

    /// From whom whose frames are to come while all is well; from everybody directly until this
    /// is called.
    pub fn set_relay_plan(&mut self, plan: RelayPlan) {
        self.router.set_plan(plan);
    }

    /// The way to each peer and back, in milliseconds, as measured.
    pub fn set_round_trips(&mut self, round_trips: BTreeMap<Origin, u64>) {
        self.round_trips = round_trips;
    }

    /// How often an origin was asked for by a second way while the first had a session.
    #[must_use]
    pub fn detours(&self) -> u64 {
        self.router.detours
    }

    /// What is to be done since the last call. What a peer cannot understand is not among it.
    pub fn take_effects(&mut self) -> Vec<DataEffect> {
        let mut effects = std::mem::take(&mut self.effects);
        effects.retain(|effect| match effect {
            DataEffect::Send { peer, message, .. } => {
                let spoken = self.peers.get(peer).and_then(|p| p.version);
                message.since() <= spoken.unwrap_or(PROTOCOL_OLDEST)
            }
            _ => true,
        });
        effects
    }

    /// Begins with the clocks as they are (both in microseconds; the steady one's zero is
    /// anywhere) and above `floor`, which an earlier life reserved on disk; zero if there was
    /// none. From here on time does not pass what is reserved: see [`DataNode::floor_wanted`]. While
    /// this region's clock is more than `limit_ms` from the majority's, it refuses to write.
    pub fn start_clocks(&mut self, steady_us: u64, unix_us: u64, floor: Time, limit_ms: u64) {
        let peers = self.config.peers.len();
        self.clocks = Clocks::new(limit_ms);
        self.clocks.start(&mut self.engine, (steady_us, unix_us), floor, peers);
    }

    /// Tells what the clocks show, in microseconds. Before anything else in a turn.
    pub fn set_clocks(&mut self, steady_us: u64, unix_us: u64) {
        self.clocks.set(&mut self.engine, (steady_us, unix_us));
    }

    /// Time that should be reserved on disk now, when more is needed than was asked for; then
    /// [`DataNode::floor_granted`].
    pub fn floor_wanted(&mut self) -> Option<Time> {
        self.clocks.floor_wanted(&self.engine)
    }

    /// Time up to here is reserved, durably.
    pub fn floor_granted(&mut self, upto: Time) {
        self.clocks.floor_granted(&mut self.engine, upto);
    }

    /// What is known of time.
    #[must_use]
    pub fn clocks(&self) -> &Clocks {
        &self.clocks
    }

    /// What an operator must hear since the last call.
    pub fn take_alarms(&mut self) -> Vec<Alarm> {
        self.clocks.take_alarms()
    }

    /// A session with a peer began.
    pub fn peer_up(&mut self, peer: Origin, session: u64) {
        self.clocks.new_session(peer);
        let heard_ms = self.listened_ms;
        let greeting = self.versions.greeting(peer);
        self.peers.insert(peer, Peer { session, greeting, heard_ms, ..Peer::default() });
        let hello = PeerMessage::Hello(self.hello(greeting));
        self.effects.push(DataEffect::Send { peer, session, message: hello });
    }

    /// A session is over.
    pub fn peer_down(&mut self, peer: Origin, session: u64) {
        if self.peers.get(&peer).is_some_and(|p| p.session == session) {
            self.peers.remove(&peer);
            self.repairs.peer_down(self.engine.stage_mut(), peer, self.now_ms);
            self.reroute(None);
        }
    }

    /// A message of the control lane that concerns data. Subscriptions go to the shipper.
    pub fn message(&mut self, from: Origin, session: u64, message: PeerMessage) {
        let Some(peer) = self.peers.get_mut(&from).filter(|p| p.session == session) else {
            return;
        };
        peer.heard_ms = self.listened_ms;
        let result = match message {
            PeerMessage::Hello(hello) => self.greet(from, &hello),
            PeerMessage::Watermark(watermark) => {
                self.watermark(from, &watermark).map_err(|e| e.to_string())
            }
            PeerMessage::Behind { number, partitions } => {
                self.behind(from, number, &partitions);
                Ok(())
            }
            PeerMessage::Repair(message) => self
                .repairs
                .message(self.engine.stage_mut(), from, message, self.now_ms)
                .map_err(|e| e.to_string()),
            PeerMessage::Clock(note) => {
                self.clocks.hear(&mut self.engine, from, &note);
                Ok(())
            }
            PeerMessage::Subscribe(_) | PeerMessage::Raft(_) | PeerMessage::Members(_) => Ok(()),
        };
        if let Err(reason) = result {
            self.effects.push(DataEffect::Disconnect { peer: from, session, reason });
        }
    }

    /// A batch of frames. Commit afterwards.
    pub fn batch(&mut self, from: Origin, session: u64, bytes: &[u8]) {
        let current = |p: &&mut Peer| p.session == session && p.version.is_some();
        let Some(peer) = self.peers.get_mut(&from).filter(current) else {
            return;
        };
        peer.heard_ms = self.listened_ms;
        let number = peer.number;
        let result = Batch::decode(bytes).and_then(|batch| {
            if batch.number == number {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.batches += 1;
                }
                batch.frames.iter().try_for_each(|frame| self.frame(frame))?;
            }
            Ok(())
        });
        if let Err(reason) = result {
            let reason = reason.to_string();
            self.effects.push(DataEffect::Disconnect { peer: from, session, reason });
        }
    }

    /// What is due at `now_ms` (any steady clock). `primary` says whether this region may act as
    /// the primary one now. Commit afterwards.
    pub fn tick(&mut self, now_ms: u64, primary: bool) {
        self.engine.environment_mut().primary = primary;
        let passed_ms = now_ms.saturating_sub(self.ticked_ms.replace(now_ms).unwrap_or(now_ms));
        self.listened_ms += passed_ms.min(UNHEARD_MS_MAX);
        self.now_ms = now_ms;
        self.repair();
        self.send_clock_notes();
        if now_ms >= self.watermark_due_ms {
            self.watermark_due_ms = now_ms + WATERMARK_EVERY_MS;
            self.send_watermarks();
            self.retire_origins();
            for number in 0..self.engine.stage().partitions() {
                self.engine.stage_mut().collect_residue(number);
            }
        }
        if now_ms >= self.resubscribe_due_ms {
            self.resubscribe_due_ms = now_ms + RESUBSCRIBE_EVERY_MS;
            self.find_stalled(now_ms);
            self.clocks.look_again(&self.engine, now_ms);
            let missed = std::mem::take(&mut self.missed);
            self.reroute((!missed.is_empty()).then_some(&missed));
        } else if now_ms >= self.route_due_ms {
            self.route_due_ms = now_ms + ROUTE_EVERY_MS;
            self.reroute(None);
        }
        if self.config.scrub_every_ms > 0 && now_ms >= self.scrub_due_ms {
            self.scrub_due_ms = now_ms + self.config.scrub_every_ms;
            let can = |p: &Peer| p.version >= Some(REPAIR_SINCE);
            let able = self.peers.iter().filter(|(_, p)| can(p)).map(|(o, _)| *o);
            let peers: Vec<Origin> = able.collect();
            self.repairs.scrub(self.engine.stage(), &peers, now_ms);
        }
        // A reclaim is a write too.
        let writes = primary && self.clocks.watch.fence().is_none();
        if writes && now_ms >= self.sweep_due_ms {
            self.sweep_due_ms = now_ms + SWEEP_EVERY_MS;
            self.sweep();
        }
        self.engine.wake(now_ms);
    }

    /// Whether [`DataNode::tick`] should be called again at once: a comparison of partitions is
    /// done in portions.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.repairs.has_work()
    }

    /// The steady clock's time at the last tick, in milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// State repairs: counts, and what is under way.
    #[must_use]
    pub fn repairs(&self) -> &Repairs {
        &self.repairs
    }

    /// Applies a batch of the tailer. Commit afterwards; the position is durable with the rows.
    pub fn mirror(&mut self, stream: &str, batch: &CdcBatch) {
        let filter = self.filter_mirror;
        self.filter_mirror &= batch.position.is_some();
        let changes: Vec<MirrorChange> = batch.changes.iter().map(convert).collect();
        let position = batch.position.as_ref().map(encode_position);
        let applies = |stored: Option<&[u8]>| match (stored, &batch.position) {
            (Some(stored), Some(new)) if filter => is_news(stored, new),
            _ => true,
        };
        self.engine.stage_mut().mirror(stream, position.as_deref(), &changes, applies);
    }

    /// Where a tailer must go on: the earliest position of all partitions. Begins a new filter.
    pub fn begin_mirror(&mut self, stream: &str) -> StreamPosition {
        self.filter_mirror = true;
        let stage = self.engine.stage();
        let stored = (0..stage.partitions()).map(|p| stage.mirror_position(p, stream));
        let positions: Option<Vec<Position>> =
            stored.map(|bytes| bytes.as_deref().and_then(decode_position)).collect();
        positions?.into_iter().min_by_key(|p| (p.timeline, p.lsn))
    }

    /// Whether everything written here up to `vectors` is held durably by at least one of the
    /// peers that are up, or nobody is up: the tailer may tell Postgres to forget it.
    #[must_use]
    pub fn is_safe_elsewhere(&self, vectors: &[VersionVector]) -> bool {
        let up: Vec<_> = self.peers.values().filter(|p| p.version.is_some()).collect();
        let has = |p: &&Peer| {
            p.vectors.len() == vectors.len()
                && p.vectors.iter().zip(vectors).all(|(theirs, ours)| theirs.dominates(ours))
        };
        up.is_empty() || up.iter().any(has)
    }

    /// Whether this region has what its peers had when their sessions began.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        // Nothing that a peer says counts while it claims what cannot be.
        let honest =
            |(o, p): &(&Origin, &Peer)| p.version.is_some() && !self.clocks.is_doubtful(**o);
        let mut greeted = self.peers.iter().filter(honest).map(|(_, p)| p).peekable();
        let alone = self.config.peers.is_empty();
        (alone || greeted.peek().is_some())
            && greeted.all(|p| p.target.is_none() && !p.vectors.is_empty())
    }

    /// Peers with a session, and the lag both ways.
    pub fn lags(&self) -> impl Iterator<Item = (Origin, PeerLag)> {
        self.peers.iter().map(|(o, p)| (*o, p.lag))
    }

    /// What each peer has acknowledged, by its last word in any session.
    #[must_use]
    pub fn acknowledged(&self, peer: Origin) -> Option<&[VersionVector]> {
        self.acknowledged.get(&peer).map(Vec::as_slice)
    }

    /// Whom this region asks for whose frames.
    #[must_use]
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    fn hello(&self, version: u16) -> Hello {
        Hello {
            version,
            cluster: self.config.cluster.clone(),
            origin: self.engine.stage().me(),
            partitions: self.engine.stage().partitions(),
        }
    }

    fn greet(&mut self, from: Origin, hello: &Hello) -> Result<(), String> {
        hello.check(&self.hello(hello.version))?;
        if hello.origin != from {
            return Err(format!("peer {from} claims ordinal {}", hello.origin));
        }
        let spoken = self.versions.agree(from, hello.version)?;
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.version = Some(spoken);
            // It was upgraded, and was greeted as what it had been.
            if peer.greeting < spoken {
                peer.greeting = spoken;
                let session = peer.session;
                let message = PeerMessage::Hello(self.hello(spoken));
                self.effects.push(DataEffect::Send { peer: from, session, message });
            }
        }
        self.reroute(None);
        Ok(())
    }

    fn watermark(&mut self, from: Origin, mark: &Watermark) -> Result<(), Malformed> {
        let partitions = self.engine.stage().partitions();
        let vectors = mark.vectors.unpack(partitions)?;
        if !self.clocks.believes(&self.engine, from, &vectors) {
            return Ok(());
        }
        let now = clocks::promise(&self.engine, mark);
        let me = self.engine.stage().me();
        let mut behind = false;
        for (number, theirs) in (0..partitions).zip(&vectors) {
            self.origins.extend(theirs.iter().map(|(origin, _)| origin));
            let part = self.engine.stage_mut().partition_mut(number);
            // Only once all that the peer had written is here does its word count (FIFO).
            let believed = self.config.ablations.believe_early;
            if believed || part.vector.get(from) >= theirs.get(from) {
                part.learn(from, theirs);
                part.promise(from, now);
            }
            behind |= !part.vector.dominates(theirs);
        }
        let ours = self.engine.stage().vectors();
        let [behind_it, behind_us] = self.meters.entry(from).or_default();
        let behind_ms = behind_it.measure(from, now, &vectors, &ours);
        let my_now = self.engine.stage().clock().now();
        let unacknowledged_ms = behind_us.measure(me, my_now, &ours, &vectors);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.lag = PeerLag { behind_ms, unacknowledged_ms };
            if peer.vectors.is_empty() {
                peer.target = behind.then(|| vectors.clone());
            }
            let reached = |target: &Vec<VersionVector>| {
                ours.iter().zip(target).all(|(mine, theirs)| mine.dominates(theirs))
            };
            peer.target = peer.target.take().filter(|t| !reached(t));
            peer.vectors.clone_from(&vectors);
        }
        self.acknowledged.insert(from, vectors);
        Ok(())
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let header = meridian_store::Frame::decode(bytes)?.header;
        let bounded = !self.config.ablations.follow_any_clock;
        if bounded && !self.clocks.admit(&self.engine, &header, self.now_ms) {
            self.frames_from_the_future += 1;
            return Ok(());
        }
        let partitions = self.engine.stage().partitions();
        if header.partition >= partitions {
            return Err(Malformed("frame for a partition that does not exist"));
        }
        if self.repairs.is_paused(header.partition) && !self.config.ablations.repair_unpaused {
            // Asked for again when the repair is done (rule R3).
            return Ok(());
        }
        let vector = self.engine.stage().partition(header.partition).vector.clone();
        let event = self.inbox.offer(bytes, &vector, self.lenience())?;
        self.follow(header.partition, event)
    }

    /// Does what the inbox says, and what follows from that in the same partition.
    fn follow(&mut self, partition: u16, mut event: Option<InboxEvent>) -> Result<(), Malformed> {
        while let Some(current) = event {
            match current {
                InboxEvent::Apply(frame) => {
                    // A frame that the gate let through and the stage refuses is malformed.
                    self.engine
                        .apply_frame(&frame)
                        .map_err(|_| Malformed("frame that cannot be applied"))?;
                    self.frames_applied += 1;
                }
                InboxEvent::Resubscribe(origin) => {
                    self.missed.insert(origin);
                }
                InboxEvent::Fork { origin, partition } => {
                    self.effects.push(DataEffect::Fork { origin, partition });
                }
            }
            let vector = &self.engine.stage().partition(partition).vector;
            event = self.inbox.next(partition, vector);
        }
        Ok(())
    }

    fn lenience(&self) -> Lenience {
        let off = self.config.ablations;
        Lenience { gaps: off.apply_gaps, dependencies: off.ignore_dependencies }
    }

    /// What is on disk here.
    fn acknowledgement(&self) -> Vec<VersionVector> {
        let mut vectors = self.engine.durable_vectors().to_vec();
        if self.config.ablations.acknowledge_hearsay {
            for theirs in self.acknowledged.values() {
                vectors.iter_mut().zip(theirs).for_each(|(mine, heard)| mine.join(heard));
            }
        }
        vectors
    }

    fn send_watermarks(&mut self) {
        let stage = self.engine.stage();
        let vectors = Vectors::pack(&self.acknowledgement());
        let now = self.engine.durable_time().0;
        let physical_ms = stage.clock().physical().as_ms();
        for (peer, state) in &self.peers {
            let (peer, session) = (*peer, state.session);
            if state.version.is_some() {
                let watermark = Watermark { vectors: vectors.clone(), now, physical_ms };
                let message = PeerMessage::Watermark(watermark);
                self.effects.push(DataEffect::Send { peer, session, message });
            }
            // Only who has heard our greeting sends watermarks: perhaps it was lost on the way.
            if state.vectors.is_empty() {
                let message = PeerMessage::Hello(self.hello(state.greeting));
                self.effects.push(DataEffect::Send { peer, session, message });
            }
        }
    }

    fn send_clock_notes(&mut self) {
        for (peer, state) in self.peers.iter().filter(|(_, p)| p.version.is_some()) {
            if let Some(note) = self.clocks.note(*peer, self.now_ms) {
                let (peer, session) = (*peer, state.session);
                let message = PeerMessage::Clock(note);
                self.effects.push(DataEffect::Send { peer, session, message });
            }
        }
    }

    /// The safety net under every lost message: a peer has what is missing here, and nothing comes
    /// from it. Then it is asked again.
    fn find_stalled(&mut self, now_ms: u64) {
        let mine = self.engine.stage().vectors();
        let mut unmoved = Vec::new();
        for (origin, peer) in &mut self.peers {
            let has_more = peer.vectors.iter().zip(&mine).any(|(theirs, mine)| {
                peer.subscribed.iter().any(|o| theirs.get(*o) > mine.get(*o))
            });
            let is_moving = !has_more || peer.batches != peer.batches_seen;
            match peer.stalled_at_ms.filter(|_| !is_moving) {
                None => {
                    peer.batches_seen = peer.batches;
                    peer.patience_ms = STALLED_AFTER_MS;
                    peer.stalled_at_ms = Some(now_ms + STALLED_AFTER_MS);
                }
                Some(at_ms) if now_ms >= at_ms => {
                    if peer.patience_ms > STALLED_AFTER_MS {
                        unmoved.push(*origin);
                    }
                    peer.patience_ms = (2 * peer.patience_ms).min(STALLED_AFTER_MS_MAX);
                    peer.stalled_at_ms = Some(now_ms + peer.patience_ms);
                    self.missed.extend(&peer.subscribed);
                }
                Some(_) => {}
            }
        }
        for peer in unmoved {
            self.want_repair(peer);
        }
    }

    /// A peer's log does not lead on from what is here.
    fn behind(&mut self, from: Origin, number: u64, partitions: &[u16]) {
        if self.peers.get(&from).is_some_and(|p| p.number == number) {
            let all = self.engine.stage().partitions();
            for partition in partitions.iter().filter(|p| **p < all) {
                self.repairs.want(*partition, from);
            }
        }
    }

    /// A peer was asked again for what it has, and nothing came.
    fn want_repair(&mut self, peer: Origin) {
        let Some(state) = self.peers.get(&peer) else { return };
        let quarantined = self.inbox.quarantined();
        let asked = || state.subscribed.iter().filter(|o| !quarantined.contains(o));
        for (number, theirs) in (0..).zip(&state.vectors) {
            let mine = &self.engine.stage().partition(number).vector;
            if asked().any(|o| theirs.get(*o) > mine.get(*o)) {
                self.repairs.want(number, peer);
            }
        }
    }

    /// A portion of the repairs, and what they bring.
    fn repair(&mut self) {
        let (peers, now_ms) = (&self.peers, self.now_ms);
        let stage = self.engine.stage_mut();
        if self.repairs.outstanding() > 0 {
            let mine = stage.vectors();
            self.repairs.tick(stage, now_ms, |peer, number| {
                let state = peers.get(&peer).filter(|p| p.version >= Some(REPAIR_SINCE));
                let place = usize::from(number);
                match (state.and_then(|p| p.vectors.get(place)), mine.get(place)) {
                    (Some(theirs), Some(mine)) => !mine.dominates(theirs),
                    // It has not said yet what it has.
                    (None, Some(_)) => state.is_some(),
                    _ => false,
                }
            });
        } else {
            self.repairs.tick(stage, now_ms, |_, _| false);
        }
        if self.repairs.is_active() {
            let durable = self.engine.durable_vectors().to_vec();
            let repaired = self.repairs.work(self.engine.stage_mut(), &durable, now_ms);
            for Repaired { partition, donor, parts, divergent } in repaired {
                self.tell_divergent(donor, partition, &divergent);
                let applied =
                    self.engine.apply_repair(&parts).map_err(|e| e.to_string()).and_then(|()| {
                        let vector = &self.engine.stage().partition(partition).vector;
                        let event = self.inbox.next(partition, vector);
                        self.follow(partition, event).map_err(|e| e.to_string())
                    });
                if let Err(reason) = applied {
                    let session = self.peers.get(&donor).map_or(0, |p| p.session);
                    self.effects.push(DataEffect::Disconnect { peer: donor, session, reason });
                }
                // What came meanwhile was not taken.
                self.missed.extend(self.origins.iter().copied());
            }
        }
        for (peer, message) in self.repairs.take_said() {
            if let Some(state) = self.peers.get(&peer) {
                let (session, message) = (state.session, PeerMessage::Repair(message));
                self.effects.push(DataEffect::Send { peer, session, message });
            }
        }
    }

    fn tell_divergent(&mut self, peer: Origin, partition: u16, names: &[(Box<[u8]>, ElementKey)]) {
        if !names.is_empty() {
            let some = names.iter().take(MAX_DIVERGENT_NAMES).map(|(key, _)| key.to_vec());
            let (keys, count) = (some.collect(), names.len());
            self.effects.push(DataEffect::Diverged { peer, partition, keys, count });
        }
    }

    /// An origin that is not configured any more writes nothing new: its region goes on under
    /// another ordinal (rule R5). Once every region has said in this life that it has no more of
    /// it than this one, nothing of it can arrive.
    fn retire_origins(&mut self) {
        let me = self.engine.stage().me();
        let is_retired =
            |o: &&Origin| **o != me && o.0 < self.handed_out && !self.config.peers.contains(o);
        let retired: Vec<Origin> = self.origins.iter().filter(is_retired).copied().collect();
        for origin in retired {
            for number in 0..self.engine.stage().partitions() {
                let have = self.engine.stage().partition(number).vector.get(origin);
                let is_complete = self.config.peers.iter().all(|peer| {
                    let said = self.acknowledged.get(peer).and_then(|v| v.get(usize::from(number)));
                    said.is_some_and(|vector| vector.get(origin) <= have)
                });
                if is_complete {
                    self.engine.stage_mut().partition_mut(number).retire(origin);
                    self.clocks.holds.forget(origin);
                }
            }
        }
    }

    /// Chooses upstreams again and subscribes where the choice changed, or where one of `again`
    /// comes from.
    fn reroute(&mut self, again: Option<&BTreeSet<Origin>>) {
        let me = self.engine.stage().me();
        let mine = self.engine.stage().vectors();
        let view = |(peer, state): (&Origin, &Peer)| {
            let view = PeerView {
                silent_ms: self.listened_ms - state.heard_ms,
                round_trip_ms: self.round_trips.get(peer).copied().unwrap_or(0),
                vectors: state.vectors.clone(),
            };
            (*peer, view)
        };
        let up = self.peers.iter().filter(|(_, p)| p.version.is_some()).map(view).collect();
        let barred = |origin: &&Origin| !self.clocks.holds.is_barred(**origin);
        let origins: BTreeSet<Origin> = self.origins.iter().filter(barred).copied().collect();
        self.upstreams = self.router.route(self.listened_ms, me, &origins, &mine, &up);
        for (peer, origins) in self.upstreams.clone() {
            let Some(state) = self.peers.get_mut(&peer) else { continue };
            let missed = again.is_some_and(|again| !again.is_disjoint(&origins));
            if state.subscribed == origins && !missed {
                continue;
            }
            state.number += 1;
            state.subscribed.clone_from(&origins);
            let origins: Vec<Origin> = origins.into_iter().collect();
            self.inbox.resubscribed(&origins);
            let vectors = Vectors::pack(&mine);
            let request = Subscribe { number: state.number, origins, vectors };
            let (session, message) = (state.session, PeerMessage::Subscribe(request));
            self.effects.push(DataEffect::Send { peer, session, message });
        }
    }

    /// Clears keys that have expired, once nothing written before their deadline can still come.
    fn sweep(&mut self) {
        let origins: Vec<Origin> = self.config.peers.clone();
        let now = self.engine.stage().now();
        for _ in 0..SWEEP_SLOTS {
            let slot = self.sweep_slot;
            self.sweep_slot = (self.sweep_slot + 1) % SLOTS;
            self.engine.stage_mut().expire_slot(slot, now, &origins);
        }
    }
}

fn convert(change: &Change) -> MirrorChange {
    match change {
        Change::Upsert(row) => MirrorChange::Upsert {
            key: row.key.to_vec(),
            set: row.set.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
            keep: row.keep.iter().map(|n| n.to_vec()).collect(),
        },
        Change::Delete { key } => MirrorChange::Delete { key: key.to_vec() },
        Change::Truncate { prefix } => MirrorChange::Truncate { prefix: prefix.to_vec() },
        Change::Retain(retain) => MirrorChange::Retain {
            from: retain.from.to_vec(),
            to: retain.to.to_vec(),
            keys: retain.keys.iter().map(|k| k.to_vec()).collect(),
        },
    }
}

fn encode_position(position: &Position) -> Vec<u8> {
    let mut out = position.system_id.to_le_bytes().to_vec();
    out.extend_from_slice(&position.timeline.to_le_bytes());
    out.extend_from_slice(&position.lsn.to_le_bytes());
    out
}

fn decode_position(bytes: &[u8]) -> Option<Position> {
    let mut reader = Reader::new(bytes);
    let (system_id, timeline) = (reader.u64().ok()?, reader.u32().ok()?);
    Some(Position { system_id, timeline, lsn: reader.u64().ok()? })
}

/// Whether a position lies beyond the stored one in the same history.
fn is_news(stored: &[u8], new: &Position) -> bool {
    decode_position(stored).is_none_or(|stored| {
        stored.system_id != new.system_id || (stored.timeline, stored.lsn) < (new.timeline, new.lsn)
    })
}
