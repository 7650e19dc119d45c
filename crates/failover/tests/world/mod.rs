//! Regions with their own clocks, under a seeded scheduler in virtual time, beside a model of the
//! control group: a leader that reaches a majority commits, everybody else learns in order.
//!
//! Every millisecond it is checked that at most one region may act as primary, that epochs only
//! grow, and that regions at one epoch hold one state.

use std::collections::{BTreeMap, BTreeSet};

use meridian_failover::{
    Action, Applied, CheckReport, ControlState, Failover, FailoverConfig, RegionState, StepOutcome,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const US: u16 = 0;
pub const EU: u16 = 1;
pub const AP: u16 = 2;

/// Silence after which the modelled group replaces its leader.
const ELECTION_MS: u64 = 600;
/// How long a leader goes on believing in itself after it lost its majority.
const STALE_LEADER_MS: u64 = 400;
/// Interval of the end-to-end checks.
const CHECK_MS: u64 = 200;
/// Interval of the shell's ticks.
const TICK_MS: u64 = 10;
/// Datagrams that wait in a frozen process's socket.
const SOCKET_BUFFER: usize = 64;

struct Region {
    /// The controller while the process lives.
    failover: Option<Failover>,
    is_frozen: bool,
    is_disk_broken: bool,
    /// When it has caught up with the data.
    catch_up_until_ms: u64,
    /// Entries of the group's log that it has applied, durably.
    applied: usize,
    incarnation: u64,
    /// Its clock: an offset and a rate in millionths.
    offset_ms: u64,
    rate: u64,
    inbox: Vec<(u16, Vec<u8>)>,
    /// When it last reached a majority as leader.
    led_ms: Option<u64>,
}

/// A committed entry, with who committed it when.
struct Entry {
    bytes: Vec<u8>,
    at_ms: u64,
}

pub struct World {
    pub now_ms: u64,
    pub trace: Vec<String>,
    /// Percentage of datagrams that are lost.
    pub loss: u32,
    /// How long a restarted region needs to catch up with the data.
    pub catch_up_ms: u64,
    rng: StdRng,
    config: FailoverConfig,
    regions: BTreeMap<u16, Region>,
    cuts: BTreeSet<(u16, u16)>,
    datagrams: BTreeMap<(u64, u64), (u16, u16, Vec<u8>)>,
    sent: u64,
    leader: Option<u16>,
    leaderless_ms: u64,
    /// Proposals of the leader on their way to a majority: (when, by whom, bytes).
    proposals: Vec<(u64, u16, Vec<u8>)>,
    log: Vec<Entry>,
    states: BTreeMap<u64, ControlState>,
    epochs: BTreeMap<u16, u64>,
    primary: Option<u16>,
}

impl World {
    /// The demo's three regions; us is the first choice for the primary role.
    pub fn new(seed: u64) -> Self {
        Self::with(FailoverConfig::new(US, vec![US, EU, AP]), seed)
    }

    /// Regions that differ from `config` in their id only.
    pub fn with(config: FailoverConfig, seed: u64) -> Self {
        let mut world = Self {
            now_ms: 0,
            trace: Vec::new(),
            loss: 0,
            catch_up_ms: 1_000,
            rng: StdRng::seed_from_u64(seed),
            regions: BTreeMap::new(),
            cuts: BTreeSet::new(),
            datagrams: BTreeMap::new(),
            sent: 0,
            leader: None,
            leaderless_ms: 0,
            proposals: Vec::new(),
            log: Vec::new(),
            states: BTreeMap::new(),
            epochs: BTreeMap::new(),
            primary: None,
            config,
        };
        for id in world.config.regions.clone() {
            let region = Region {
                failover: None,
                is_frozen: false,
                is_disk_broken: false,
                catch_up_until_ms: 0,
                applied: 0,
                incarnation: 0,
                offset_ms: world.rng.random_range(0..1_000_000),
                // Clocks run up to two per cent apart, far worse than real ones.
                rate: world.rng.random_range(990_000..1_010_000),
                inbox: Vec::new(),
                led_ms: None,
            };
            world.regions.insert(id, region);
            world.start(id);
        }
        world
    }

    /// A world of three regions in which everything has settled.
    pub fn settled(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.run_until(10_000, |w| w.primary == Some(US) && w.is_all_up());
        world.run(1_000);
        world
    }

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    /// Runs until `condition` holds; how long that took, in milliseconds.
    pub fn run_until(&mut self, limit_ms: u64, condition: impl Fn(&Self) -> bool) -> u64 {
        let start = self.now_ms;
        while !condition(self) {
            let tail = &self.trace[self.trace.len().saturating_sub(30)..];
            assert!(self.now_ms - start < limit_ms, "not reached in {limit_ms} ms: {tail:#?}");
            self.step();
        }
        self.now_ms - start
    }

    pub fn kill(&mut self, id: u16) {
        self.note(format!("{id} is killed"));
        let region = self.region(id);
        region.failover = None;
        region.is_frozen = false;
        region.inbox.clear();
        region.led_ms = None;
    }

    /// Starts a region from its control log. It needs a while to catch up with the data.
    pub fn start(&mut self, id: u16) {
        let (now_ms, config) = (self.now_ms, FailoverConfig { id, ..self.config.clone() });
        let catch_up_ms = self.catch_up_ms;
        let region = self.region(id);
        if region.failover.is_some() {
            return;
        }
        region.incarnation += 1;
        region.catch_up_until_ms = if region.incarnation > 1 { now_ms + catch_up_ms } else { 0 };
        let local_ms = region.local(now_ms);
        let state = ControlState::initial(&config).expect("valid");
        let failover = Failover::new(config, state, local_ms, region.incarnation);
        region.failover = Some(failover.expect("valid"));
        for index in 0..self.regions[&id].applied {
            let bytes = self.log[index].bytes.clone();
            self.regions
                .get_mut(&id)
                .and_then(|r| r.failover.as_mut())
                .map(|f| f.apply(local_ms, &bytes));
        }
        self.note(format!("{id} starts"));
    }

    pub fn freeze(&mut self, id: u16) {
        self.note(format!("{id} freezes"));
        self.region(id).is_frozen = true;
    }

    pub fn thaw(&mut self, id: u16) {
        self.note(format!("{id} thaws"));
        let is_tick_first = self.rng.random();
        self.region(id).is_frozen = false;
        if is_tick_first {
            self.tick(id);
        }
        for (from, bytes) in std::mem::take(&mut self.region(id).inbox) {
            self.deliver(from, id, bytes);
        }
    }

    pub fn break_disk(&mut self, id: u16, is_broken: bool) {
        self.region(id).is_disk_broken = is_broken;
    }

    /// Cuts the way from one region to another, in this direction only.
    pub fn cut(&mut self, from: u16, to: u16) {
        self.note(format!("cut {from} to {to}"));
        self.cuts.insert((from, to));
    }

    pub fn isolate(&mut self, id: u16) {
        for other in self.config.regions.clone() {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    pub fn heal(&mut self) {
        self.note("heal".to_owned());
        self.cuts.clear();
    }

    /// The controller of a living region.
    pub fn failover(&self, id: u16) -> &Failover {
        self.regions[&id].failover.as_ref().expect("alive")
    }

    /// A region's own clock.
    pub fn local_ms(&self, id: u16) -> u64 {
        self.regions[&id].local(self.now_ms)
    }

    /// The region that may act as primary now.
    pub fn primary(&self) -> Option<u16> {
        self.primary
    }

    pub fn is_alive(&self, id: u16) -> bool {
        self.regions[&id].failover.is_some()
    }

    /// `region`'s agreed state as `witness` knows it.
    pub fn state(&self, witness: u16, region: u16) -> RegionState {
        self.failover(witness).state().state_of(region).expect("a region")
    }

    pub fn epoch(&self, id: u16) -> u64 {
        self.failover(id).state().epoch
    }

    /// Everybody lives and agrees that everybody is up.
    pub fn is_all_up(&self) -> bool {
        let is_up = |id: &u16| {
            self.is_alive(*id)
                && self.config.regions.iter().all(|&r| self.state(*id, r) == RegionState::Up)
        };
        self.config.regions.iter().all(is_up)
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.rng.random_range(0..items.len())]
    }

    fn step(&mut self) {
        self.now_ms += 1;
        while let Some(entry) = self.datagrams.first_entry() {
            if entry.key().0 > self.now_ms {
                break;
            }
            let (from, to, bytes) = entry.remove();
            self.deliver(from, to, bytes);
        }
        self.lead();
        self.learn();
        for id in self.config.regions.clone() {
            // Shells do not tick in unison.
            if (self.now_ms + u64::from(id) * 3).is_multiple_of(TICK_MS) {
                self.tick(id);
            }
        }
        self.check();
    }

    fn deliver(&mut self, from: u16, to: u16, bytes: Vec<u8>) {
        let now_ms = self.now_ms;
        let region = self.region(to);
        let local_ms = region.local(now_ms);
        if region.is_frozen {
            if region.inbox.len() < SOCKET_BUFFER {
                region.inbox.push((from, bytes));
            }
        } else if let Some(failover) = &mut region.failover {
            failover.receive(local_ms, from, &bytes).expect("a correct heartbeat");
        }
    }

    fn tick(&mut self, id: u16) {
        let now_ms = self.now_ms;
        let leader = self.leader;
        let region = self.region(id);
        let local_ms = region.local(now_ms);
        if region.is_frozen {
            return;
        }
        let is_leader = leader == Some(id)
            || region.led_ms.is_some_and(|led_ms| now_ms < led_ms + STALE_LEADER_MS);
        let is_caught_up = now_ms >= region.catch_up_until_ms;
        let is_disk_broken = region.is_disk_broken;
        let Some(failover) = &mut region.failover else { return };
        if (now_ms / TICK_MS).is_multiple_of(CHECK_MS / TICK_MS) {
            let fine = StepOutcome::Ok { took_ms: 1 };
            let fsync = if is_disk_broken { StepOutcome::Failed } else { fine };
            failover.observe_check(local_ms, &CheckReport { write: fine, fsync, read: fine });
        }
        failover.set_caught_up(is_caught_up);
        for action in failover.tick(local_ms, is_leader) {
            match action {
                Action::Broadcast(bytes) => self.broadcast(id, &bytes),
                Action::Propose(bytes) if leader == Some(id) => {
                    let at_ms = now_ms + 2 * self.delay_ms(id, (id + 1) % 3);
                    self.proposals.push((at_ms, id, bytes));
                }
                // Nobody listens to a former leader.
                Action::Propose(_) => {}
                Action::TransferLeadership(to)
                    if leader == Some(id) && self.reaches_majority(to) =>
                {
                    self.note(format!("{id} hands leadership to {to}"));
                    self.leader = Some(to);
                    self.region(id).led_ms = None;
                }
                Action::TransferLeadership(_) => {}
            }
        }
    }

    fn broadcast(&mut self, from: u16, bytes: &[u8]) {
        for to in self.config.regions.clone() {
            let is_lost = self.rng.random_range(0..100) < self.loss;
            if to == from || self.cuts.contains(&(from, to)) || is_lost {
                continue;
            }
            let at_ms = self.now_ms + self.delay_ms(from, to) + self.rng.random_range(0..10);
            self.sent += 1;
            self.datagrams.insert((at_ms, self.sent), (from, to, bytes.to_vec()));
        }
    }

    /// One-way delays of the demo.
    fn delay_ms(&self, a: u16, b: u16) -> u64 {
        match (a.min(b), a.max(b)) {
            (US, EU) => 40,
            (EU, AP) => 90,
            (US, AP) => 110,
            _ => 60,
        }
    }

    /// Keeps or replaces the group's leader, and commits what it proposed.
    fn lead(&mut self) {
        if let Some(leader) = self.leader.filter(|&leader| self.reaches_majority(leader)) {
            let now_ms = self.now_ms;
            self.region(leader).led_ms = Some(now_ms);
            self.leaderless_ms = 0;
        } else {
            self.leaderless_ms += 1;
            if self.leaderless_ms >= ELECTION_MS {
                let voters = self.config.voters.iter().copied();
                self.leader = voters.into_iter().find(|&voter| self.reaches_majority(voter));
                self.leaderless_ms = 0;
                self.note(format!("the control group is led by {:?}", self.leader));
            }
        }
        let (now_ms, leader) = (self.now_ms, self.leader);
        let (due, later) = std::mem::take(&mut self.proposals)
            .into_iter()
            .partition(|(at_ms, ..)| *at_ms <= now_ms);
        self.proposals = later;
        let due: Vec<_> = due;
        for (at_ms, by, bytes) in due {
            // A leader that was replaced meanwhile has lost its proposal; some come out twice.
            if leader == Some(by) && self.reaches_majority(by) {
                for _ in 0..self.pick(&[1, 1, 1, 2]) {
                    self.log.push(Entry { bytes: bytes.clone(), at_ms });
                }
            }
        }
    }

    /// Regions apply what the leader's commits tell them.
    fn learn(&mut self) {
        let Some(leader) = self.leader else { return };
        for id in self.config.regions.clone() {
            let is_linked = id == leader
                || !(self.cuts.contains(&(leader, id)) || self.cuts.contains(&(id, leader)));
            let delay_ms = if id == leader { 0 } else { self.delay_ms(leader, id) };
            let now_ms = self.now_ms;
            loop {
                let applied = self.regions[&id].applied;
                let Some(entry) = self.log.get(applied) else { break };
                if !is_linked || now_ms < entry.at_ms + delay_ms || !self.is_running(leader) {
                    break;
                }
                let bytes = entry.bytes.clone();
                let region = self.region(id);
                let local_ms = region.local(now_ms);
                if region.is_frozen {
                    break;
                }
                let Some(failover) = &mut region.failover else { break };
                let outcome = failover.apply(local_ms, &bytes);
                region.applied += 1;
                assert_ne!(outcome, Applied::Invalid);
                if id == leader {
                    let state = self.failover(id).state();
                    let line = format!(
                        "{outcome:?}: {:?} primary {}",
                        state.regions.iter().map(|(r, s)| (*r, s.state)).collect::<Vec<_>>(),
                        state.primary
                    );
                    self.note(line);
                }
            }
        }
    }

    fn reaches_majority(&self, id: u16) -> bool {
        let is_reached = |other: &&u16| {
            let is_cut = self.cuts.contains(&(id, **other)) || self.cuts.contains(&(**other, id));
            self.is_running(**other) && (**other == id || !is_cut)
        };
        let reached = self.config.voters.iter().filter(is_reached).count();
        self.is_running(id) && reached > self.config.voters.len() / 2
    }

    fn is_running(&self, id: u16) -> bool {
        self.is_alive(id) && !self.regions[&id].is_frozen
    }

    fn check(&mut self) {
        let mut primary = None;
        for id in self.config.regions.clone() {
            if !self.is_alive(id) {
                self.epochs.remove(&id);
                continue;
            }
            let failover = self.failover(id);
            if failover.is_primary(self.local_ms(id)) {
                assert_eq!(primary, None, "two primaries: {:#?}", self.trace);
                primary = Some(id);
            }
            let epoch = failover.state().epoch;
            match self.states.get(&epoch) {
                Some(agreed) => assert_eq!(agreed, failover.state(), "{id} has another state"),
                None => drop(self.states.insert(epoch, failover.state().clone())),
            }
            let before = self.epochs.insert(id, epoch).unwrap_or(0);
            assert!(epoch >= before, "{id} goes back to epoch {epoch}");
        }
        if primary != self.primary {
            self.note(format!("primary {:?} -> {primary:?}", self.primary));
            self.primary = primary;
        }
    }

    fn region(&mut self, id: u16) -> &mut Region {
        self.regions.get_mut(&id).expect("a region")
    }

    fn note(&mut self, line: String) {
        self.trace.push(format!("{} {line}", self.now_ms));
    }
}

impl Region {
    fn local(&self, now_ms: u64) -> u64 {
        self.offset_ms + now_ms * self.rate / 1_000_000
    }
}
