//! Groups under a seeded scheduler in virtual time: delays, loss, duplication, cuts, and crashes
//! that lose what was not fsynced. Every step checks what Raft promises: one leader per term, and
//! one history of committed entries.

use std::collections::{BTreeMap, BTreeSet};

use meridian_consensus::{Conf, ConfChange, Error, Group, GroupConfig, Output, Ready, Recovered};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What may happen to traffic and disks.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Percentage of messages that are lost, and of those that arrive twice.
    pub loss: u32,
    pub duplicates: u32,
    /// Added to every delay, at random up to this many milliseconds.
    pub jitter_ms: u64,
    /// One-way delay in milliseconds by (lower, higher) region; 5 where not given.
    pub delays_ms: BTreeMap<(u16, u16), u64>,
    /// Longest fsync in milliseconds.
    pub fsync_ms: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self { loss: 0, duplicates: 0, jitter_ms: 0, delays_ms: BTreeMap::new(), fsync_ms: 1 }
    }
}

enum Event {
    Deliver { from: u16, to: u16, bytes: Vec<u8> },
    Fsynced { region: u16, life: u64 },
}

/// One region: a group while it is alive, and the disk that outlives it.
struct Region {
    group: Option<Group>,
    /// Counts restarts, so that an fsync of a former life is not taken for one of this.
    life: u64,
    disk: Vec<Vec<u8>>,
    /// How much of `disk` survives a crash for certain.
    synced: usize,
    pending: Option<Ready>,
    /// The state machine: last index and a fold over everything applied.
    applied: (u64, u64),
}

pub struct Cluster {
    pub now_ms: u64,
    pub weather: Weather,
    rng: StdRng,
    /// Every region, whatever its part.
    voters: Vec<u16>,
    /// Who voted at the beginning.
    founders: Vec<u16>,
    round_trip_ms: u64,
    regions: BTreeMap<u16, Region>,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    cuts: BTreeSet<(u16, u16)>,
    leaders: BTreeMap<u64, u16>,
    history: BTreeMap<u64, Vec<u8>>,
    folds: BTreeMap<u64, u64>,
    pub trace: Vec<String>,
    /// Snapshots that were adopted.
    pub snapshots: usize,
}

impl Cluster {
    pub fn new(voters: &[u16], round_trip_ms: u64, seed: u64) -> Self {
        let mut cluster = Self {
            now_ms: 0,
            weather: Weather::default(),
            rng: StdRng::seed_from_u64(seed),
            voters: voters.to_vec(),
            founders: voters.to_vec(),
            round_trip_ms,
            regions: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            cuts: BTreeSet::new(),
            leaders: BTreeMap::new(),
            history: BTreeMap::new(),
            folds: BTreeMap::new(),
            trace: Vec::new(),
            snapshots: 0,
        };
        for &id in voters {
            cluster.insert(id);
        }
        cluster
    }

    /// A region that is new to the group: it has an empty log and knows no voters.
    pub fn join(&mut self, id: u16) {
        self.voters.push(id);
        self.insert(id);
    }

    fn insert(&mut self, id: u16) {
        let region = Region {
            group: None,
            life: 0,
            disk: Vec::new(),
            synced: 0,
            pending: None,
            applied: (0, 0),
        };
        self.regions.insert(id, region);
        self.start(id);
    }

    /// Proposes a change of the group at whoever leads, again and again until it is made there.
    pub fn change(&mut self, change: ConfChange, is_made: impl Fn(&Conf) -> bool) {
        let start = self.now_ms;
        loop {
            assert!(self.now_ms - start < 30_000, "{change:?} is not made: {:#?}", self.tail());
            if let Some(leader) = self.leader() {
                let group = self.group(leader).expect("it lives");
                if is_made(group.conf()) {
                    return;
                }
                match group.propose_change(change) {
                    Ok(()) | Err(Error::NoLeader | Error::Busy | Error::BadChange(_)) => {}
                    Err(error) => panic!("{leader}: {error}"),
                }
                self.drive(leader);
            }
            self.run(100);
        }
    }

    /// The configuration that a region has applied.
    pub fn conf(&self, id: u16) -> Conf {
        self.regions[&id].group.as_ref().expect("it lives").conf().clone()
    }

    /// Runs for `ms` of virtual time.
    pub fn run(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.now_ms += 1;
            while let Some(entry) = self.queue.first_entry() {
                if entry.key().0 > self.now_ms {
                    break;
                }
                let event = entry.remove();
                self.handle(event);
            }
            for id in self.voters.clone() {
                let now_ms = self.now_ms;
                if let Some(group) = self.group(id) {
                    group.tick(now_ms);
                    self.drive(id);
                }
            }
        }
    }

    /// Runs until `condition` holds; how long that took, in milliseconds.
    pub fn run_until(&mut self, limit_ms: u64, condition: impl Fn(&Self) -> bool) -> u64 {
        let start = self.now_ms;
        while !condition(self) {
            assert!(
                self.now_ms - start < limit_ms,
                "not reached in {limit_ms} ms: {:#?}",
                self.tail()
            );
            self.run(1);
        }
        self.now_ms - start
    }

    /// Proposes at region `id`; whether the group took it.
    pub fn propose(&mut self, id: u16, data: &[u8]) -> bool {
        let Some(group) = self.group(id) else { return false };
        let taken = match group.propose(data.to_vec()) {
            Ok(()) => true,
            Err(Error::NoLeader | Error::Busy) => false,
            Err(error) => panic!("region {id}: {error}"),
        };
        self.drive(id);
        taken
    }

    /// Replaces the control log of region `id` by a snapshot, or dies on the way there.
    pub fn compact(&mut self, id: u16) {
        let is_killed = self.rng.random_range(0..4) == 0;
        self.compact_now(id, is_killed);
    }

    fn compact_now(&mut self, id: u16, is_killed: bool) {
        let Some(region) = self.regions.get_mut(&id) else { return };
        let Some(group) = &mut region.group else { return };
        let (index, fold) = (group.applied(), region.applied.1);
        match group.compact(index, fold.to_le_bytes().to_vec()) {
            Ok(_) if is_killed => self.crash(id),
            Ok(records) => {
                region.synced = records.len();
                region.disk = records;
                let known = *self.folds.entry(index).or_insert(fold);
                assert_eq!(known, fold, "{id} has another history up to {index}");
                self.note(format!("{id} compacts at {index}"));
            }
            Err(Error::Busy | Error::BadCompaction { .. }) => {}
            Err(error) => panic!("region {id}: {error}"),
        }
    }

    /// Kills a region: of what was not fsynced, a random prefix survives.
    pub fn crash(&mut self, id: u16) {
        let Some(region) = self.regions.get_mut(&id) else { return };
        let unsynced = region.disk.len() - region.synced;
        region.disk.truncate(region.synced + self.rng.random_range(0..=unsynced));
        region.synced = region.disk.len();
        region.group = None;
        region.pending = None;
        region.life += 1;
        self.note(format!("{id} crashes"));
    }

    /// Starts a region from its disk.
    pub fn start(&mut self, id: u16) {
        let Some(region) = self.regions.get_mut(&id) else { return };
        if region.group.is_some() {
            return;
        }
        let recovered = Recovered::from_records(&region.disk).expect("own log is readable");
        region.applied = match recovered.snapshot() {
            Some((index, state)) => (index, fold_of(state)),
            None => (0, 0),
        };
        let founders = match self.founders.contains(&id) {
            true => self.founders.clone(),
            false => Vec::new(),
        };
        let config = GroupConfig::new(id, founders, self.round_trip_ms);
        let mut group = Group::new(config, recovered).expect("own log is accepted");
        group.set_ranks(self.voters.clone(), self.voters.iter().copied().collect());
        region.group = Some(group);
        self.note(format!("{id} starts"));
        self.drive(id);
    }

    /// Cuts traffic from one region to another, one way.
    pub fn cut(&mut self, from: u16, to: u16) {
        self.cuts.insert((from, to));
    }

    /// Cuts a region from all others, both ways.
    pub fn isolate(&mut self, id: u16) {
        for other in self.voters.clone() {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    pub fn group(&mut self, id: u16) -> Option<&mut Group> {
        self.regions.get_mut(&id).and_then(|region| region.group.as_mut())
    }

    /// The living region that leads the highest term.
    pub fn leader(&self) -> Option<u16> {
        let groups = self.regions.values().filter_map(|region| region.group.as_ref());
        groups.filter(|g| g.is_leader()).max_by_key(|g| g.term()).map(Group::id)
    }

    /// Whether region `id` has applied `data`.
    pub fn has_applied(&self, id: u16, data: &[u8]) -> bool {
        let (last, _) = self.regions[&id].applied;
        self.history.range(..=last).any(|(_, entry)| entry == data)
    }

    /// Checks that every living region has applied the whole history, once.
    pub fn assert_converged(&self) {
        let last = self.history.keys().next_back().copied().unwrap_or(0);
        for (id, region) in &self.regions {
            assert!(region.applied.0 >= last, "{id} is at {:?}, history at {last}", region.applied);
        }
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.rng.random_range(0..items.len())]
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, bytes } => {
                if self.cuts.contains(&(from, to)) {
                    return;
                }
                let Some(group) = self.group(to) else { return };
                match group.step(from, &bytes) {
                    Ok(()) | Err(Error::Busy) => self.drive(to),
                    Err(error) => panic!("{from} to {to}: {error}"),
                }
            }
            Event::Fsynced { region: id, life } => {
                let Some(region) = self.regions.get_mut(&id) else { return };
                if region.life == life && region.group.is_some() {
                    region.synced = region.disk.len();
                    self.confirm(id);
                    self.drive(id);
                }
            }
        }
    }

    /// Writes what a region has ready, and schedules the fsync.
    fn drive(&mut self, id: u16) {
        self.check_leader(id);
        loop {
            let Some(region) = self.regions.get_mut(&id) else { return };
            let Some(ready) = region.group.as_mut().and_then(Group::ready) else { return };
            region.disk.extend(ready.records().iter().cloned());
            let must_sync = ready.must_sync();
            region.pending = Some(ready);
            if must_sync {
                let life = region.life;
                let delay = self.rng.random_range(0..=self.weather.fsync_ms);
                self.schedule(delay, Event::Fsynced { region: id, life });
                return;
            }
            self.confirm(id);
        }
    }

    fn confirm(&mut self, id: u16) {
        let Some(region) = self.regions.get_mut(&id) else { return };
        let (Some(ready), Some(group)) = (region.pending.take(), region.group.as_mut()) else {
            return;
        };
        let output = group.persisted(ready).expect("is the outstanding one");
        let is_due = group.wants_compaction();
        self.apply(id, &output);
        if is_due {
            self.compact_now(id, false);
        }
        for (to, bytes) in output.messages {
            self.send(id, to, bytes);
        }
    }

    fn apply(&mut self, id: u16, output: &Output) {
        let mut applied = self.regions[&id].applied;
        if let Some(snapshot) = &output.snapshot {
            assert!(snapshot.index > applied.0, "{id} goes back to a snapshot");
            applied = (snapshot.index, fold_of(&snapshot.state));
            self.snapshots += 1;
            assert_eq!(self.folds.get(&applied.0), Some(&applied.1), "{id}: another history");
        }
        for (index, data) in &output.committed {
            assert!(*index > applied.0, "{id} applies {index} after {applied:?}");
            let known = self.history.entry(*index).or_insert_with(|| data.clone());
            assert_eq!(known, data, "{id} commits something else at {index}");
            applied = (*index, fold(applied.1, data));
            let known = *self.folds.entry(*index).or_insert(applied.1);
            assert_eq!(known, applied.1, "{id} has another history up to {index}");
            self.note(format!("{id} applies {index} {data:?}"));
        }
        if let Some(region) = self.regions.get_mut(&id) {
            region.applied = applied;
        }
    }

    fn send(&mut self, from: u16, to: u16, bytes: Vec<u8>) {
        if self.chance(self.weather.loss) {
            return;
        }
        let copies = if self.chance(self.weather.duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            let link = (from.min(to), from.max(to));
            let base = self.weather.delays_ms.get(&link).copied().unwrap_or(5);
            let delay = base + self.rng.random_range(0..=self.weather.jitter_ms);
            self.schedule(delay, Event::Deliver { from, to, bytes: bytes.clone() });
        }
    }

    fn schedule(&mut self, delay_ms: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now_ms + delay_ms, self.queued), event);
    }

    fn check_leader(&mut self, id: u16) {
        let Some(group) = self.group(id) else { return };
        if group.is_leader() {
            let term = group.term();
            let is_new = !self.leaders.contains_key(&term);
            let leader = *self.leaders.entry(term).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {term}");
            if is_new {
                self.note(format!("{id} leads term {term}"));
            }
        }
    }

    fn note(&mut self, line: String) {
        self.trace.push(format!("{} {line}", self.now_ms));
    }

    fn tail(&self) -> &[String] {
        &self.trace[self.trace.len().saturating_sub(30)..]
    }
}

/// FNV-1a, over the entries in order.
fn fold(state: u64, data: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    data.iter().fold(state ^ 0xcbf2_9ce4_8422_2325, step)
}

fn fold_of(state: &[u8]) -> u64 {
    u64::from_le_bytes(state.try_into().expect("eight bytes"))
}
