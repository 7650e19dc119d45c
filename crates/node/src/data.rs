//! The data of a region and its conversation with its peers about data.

mod frames;
mod membership;
mod mirror;
mod pull;
mod word;

use std::collections::{BTreeMap, BTreeSet};

use meridian_cdc::Position;
use meridian_clock::{Origin, Time, VersionVector};
use meridian_keyspace::{Ablations, Engine, SLOTS};
use meridian_replication::{
    Inbox, PROTOCOL_OLDEST, REPAIR_SINCE, RelayPlan, Router, Upstreams, Versions,
};

use crate::{
    clocks::{Alarm, Clocks},
    lag::LagMeter,
    limits::{
        LAST_WORDS_MS, RESUBSCRIBE_EVERY_MS, ROUTE_EVERY_MS, SWEEP_EVERY_MS, SWEEP_SLOTS,
        UNHEARD_MS_MAX, WATERMARK_EVERY_MS,
    },
    repair::{RepairLimits, Repairs},
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

/// What a peer has acknowledged, and when it said so, by `now_ms`.
#[derive(Clone, Debug)]
struct LastWord {
    vectors: Vec<VersionVector>,
    at_ms: u64,
}

impl Peer {
    /// Whether it can give a repair or be compared with: not if its history has forked, for what it
    /// holds is not what the others count as its history.
    fn can_give(&self, origin: Origin, forked: &BTreeSet<Origin>) -> bool {
        self.version >= Some(REPAIR_SINCE) && !forked.contains(&origin)
    }
}

/// The data of a region and what it knows of its peers.
#[derive(Debug)]
pub struct DataNode {
    engine: Engine,
    config: DataConfig,
    inbox: Inbox,
    peers: BTreeMap<Origin, Peer>,
    /// The last word of each peer, kept over its sessions.
    acknowledged: BTreeMap<Origin, LastWord>,
    /// Since when origins are known to be retired, in this life.
    gone_ms: BTreeMap<Origin, u64>,
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
        // Also those of regions that are gone: perhaps nobody is left to name them.
        for vector in engine.stage().vectors() {
            origins.extend(vector.iter().map(|(origin, _)| origin));
        }
        DataNode {
            engine,
            clocks: Clocks::default(),
            config,
            inbox: Inbox::new(),
            peers: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            gone_ms: BTreeMap::new(),
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

    /// Repairs by other limits than the default ones: for tests, in which a partition holds few
    /// elements. Only at the start.
    pub fn limit_repairs(&mut self, limits: RepairLimits) {
        self.repairs.set_limits(limits);
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
        if self.config.ablations.believe_one_clock {
            self.clocks.watch.believe_one();
        }
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
        let version = peer.version.unwrap_or_default();
        let result = match message {
            PeerMessage::Hello(hello) => self.greet(from, &hello),
            PeerMessage::Watermark(watermark) => {
                self.watermark(from, &watermark).map_err(|e| e.to_string())
            }
            PeerMessage::Behind { number, partitions } => {
                self.behind(from, number, &partitions);
                Ok(())
            }
            PeerMessage::Repair(message) => {
                self.repair_message(from, session, message, version).map_err(|e| e.to_string())
            }
            PeerMessage::Clock(note) => {
                self.clocks.hear(&mut self.engine, from, &note);
                Ok(())
            }
            // The shell hears for us what has moved.
            PeerMessage::Subscribe(_)
            | PeerMessage::Raft(_)
            | PeerMessage::Members(_)
            | PeerMessage::Moved(_) => Ok(()),
        };
        if let Err(reason) = result {
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
            let forked = self.inbox.quarantined();
            let able = self.peers.iter().filter(|(o, p)| p.can_give(**o, forked)).map(|(o, _)| *o);
            let peers: Vec<Origin> = able.collect();
            self.repairs.scrub(self.engine.stage(), &peers, now_ms);
        }
        // A reclaim is a write too.
        let writes = primary && !self.clocks.refuses_writes();
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

    /// Until when, by the steady clock in milliseconds, [`DataNode::tick`] has nothing to do unless
    /// something comes in: a shell may sleep until then. Never further away than the shortest of
    /// the periods in `limits.rs`.
    #[must_use]
    pub fn idle_until_ms(&self) -> u64 {
        if self.has_work() {
            return self.now_ms;
        }
        let scrub = (self.config.scrub_every_ms > 0).then_some(self.scrub_due_ms);
        let sweep = self.engine.environment().primary.then_some(self.sweep_due_ms);
        let always = [self.watermark_due_ms, self.route_due_ms, self.resubscribe_due_ms];
        let sometimes = [scrub, sweep, self.engine.next_wake_ms()];
        always.into_iter().chain(sometimes.into_iter().flatten()).min().unwrap_or(self.now_ms)
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
        self.acknowledged.get(&peer).map(|word| word.vectors.as_slice())
    }

    /// Whom this region asks for whose frames.
    #[must_use]
    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// An origin that is not configured any more writes nothing new: its region goes on under
    /// another ordinal (rule R5). Once every region has said in this life that it has no more of
    /// it than this one, nothing of it can arrive. What was said shortly after the end does not count:
    /// something of that origin may have been on its way to who said it.
    fn retire_origins(&mut self) {
        let me = self.engine.stage().me();
        let is_retired =
            |o: &&Origin| **o != me && o.0 < self.handed_out && !self.config.peers.contains(o);
        let retired: Vec<Origin> = self.origins.iter().filter(is_retired).copied().collect();
        let now_ms = self.now_ms;
        for origin in retired {
            let since_ms = *self.gone_ms.entry(origin).or_insert(now_ms) + LAST_WORDS_MS;
            let is_late = |peer| self.acknowledged.get(peer).is_some_and(|w| w.at_ms >= since_ms);
            if now_ms < since_ms || !self.config.peers.iter().all(is_late) {
                continue;
            }
            for number in 0..self.engine.stage().partitions() {
                let have = self.engine.stage().partition(number).vector.get(origin);
                let is_complete = self.config.peers.iter().all(|peer| {
                    let said = self.acknowledged(*peer).and_then(|v| v.get(usize::from(number)));
                    said.is_some_and(|vector| vector.get(origin) <= have)
                });
                if is_complete {
                    self.engine.stage_mut().partition_mut(number).retire(origin);
                    self.clocks.holds.forget(origin);
                }
            }
        }
    }

    /// Clears keys that have expired, once nothing written before their deadline can still come.
    fn sweep(&mut self) {
        let origins: Vec<Origin> = self.config.peers.clone();
        let now = self.engine.stage().now();
        let upto = (self.sweep_slot + SWEEP_SLOTS).min(SLOTS);
        let mut slots = self.sweep_slot..upto;
        let stage = self.engine.stage_mut();
        while let Some(slot) = stage.next_occupied(&mut slots) {
            stage.expire_slot(slot, now, &origins);
        }
        self.sweep_slot = upto % SLOTS;
    }
}
