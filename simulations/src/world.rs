//! The world: regions, clients and network under one scheduler that owns time.
//!
//! One event happens at a time, at a moment of virtual time. What an event leads to is put back
//! into the queue with a drawn delay, so that a seed decides everything. First clients write and
//! faults strike; then everything heals, and the run ends when the judges are satisfied, or fails
//! when they are not in time.

mod disks;
mod faults;
mod healing;
mod journeys;
mod links;
mod members;
mod operators;
mod quic;
mod relapse;
#[cfg(test)]
mod stories;
mod time;
mod turns;

use std::collections::{BTreeMap, BTreeSet};

use meridian_clock::{Origin, Time, VersionVector};
use meridian_keyspace::ClientId;
use meridian_store::{LogPosition, MemoryStorage};

use crate::{
    client::{Client, Promise},
    clocks::Clocks,
    control_log::ControlLog,
    history::History,
    judge::Agreement,
    lockstep::Lockstep,
    network::{Arrival, Network, Pair},
    outcome::{Counts, Failure, Report},
    plan::{Fault, MS, Plan, SECOND, Strike},
    queue::Queue,
    random::{Random, Stream},
    region::{Region, RegionConfig},
    trace::Trace,
    workload::{Workload, universe},
};
pub(crate) use journeys::Journey;

use faults::Relief;
use healing::Probe;
use members::Belonging;
use operators::{JOINERS, Request};
use quic::Fabric;

/// The judges look whether everything has settled this often.
pub(crate) const VERDICT_EVERY_US: u64 = 50 * MS;

/// What can happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A region does what is due, and ends its turn.
    Turn(usize, u64),
    /// A region's log is on disk.
    Synced(usize, u64),
    /// A region's control log is on disk.
    ControlSynced(usize, u64),
    /// A region's time is reserved on disk up to there.
    FloorSynced(usize, u64, Time),
    /// A region goes on with its checkpoint.
    Checkpoint(usize, u64),
    /// A region's end-to-end check has ended.
    Check(usize, u64),
    /// A client sends.
    Client(usize),
    /// A message reaches the end of its lane.
    Arrival(Arrival),
    /// A datagram of a session arrives: from, to.
    Datagram { pair: Pair, number: u64, from: usize, bytes: Vec<u8> },
    /// A packet of QUIC arrives.
    Packet { from: usize, to: usize, bytes: Vec<u8> },
    /// A host of QUIC has something to do.
    Wake(usize, u64),
    /// Two regions try to connect.
    Dial(Pair),
    /// An end of a session learns that it is up.
    Up { pair: Pair, number: u64, end: usize },
    /// An end of a session learns that it is over.
    Down { pair: Pair, number: u64, end: usize },
    /// A judge looks at a region.
    Look,
    /// A fault strikes.
    Strike(Fault, u64),
    /// An operator asks for a change of the members.
    Ask(usize),
    /// A fault ends.
    Relief(Relief),
    /// The judges look whether everything has settled.
    Verdict,
}

/// A region's place: what outlives its process.
pub(crate) struct Place {
    pub config: RegionConfig,
    pub clocks: Clocks,
    /// The process, while it lives.
    pub process: Option<Region>,
    /// The disk, while no process has it.
    pub disk: MemoryStorage,
    /// Where its log ends, as far as the history knows it.
    pub logged: LogPosition,
    /// Its disk has no room.
    pub full: bool,
    /// A bit of what its disk holds has changed.
    pub rotten: bool,
    /// Its disk was refused: it must begin again under a new ordinal.
    pub ruined: bool,
    /// Its disk has lost what it had called durable: it must go on under a new ordinal.
    pub behind: bool,
    /// It goes on from an older copy under its old ordinal: what it writes is another history.
    pub relapsed: bool,
    /// And has written something.
    pub forked: bool,
    /// The last stamp of what it has lost so.
    pub lost: Time,
    /// It knows that, and must not write any more.
    pub knows_its_loss: bool,
    /// What was really on disk when the disk began to lie about it.
    pub honest: Option<Vec<VersionVector>>,
    /// Where its own chances come from: what its turns do, and how its disk behaves.
    pub turns: Random,
    pub disk_random: Random,
    pub control_log: ControlLog,
    /// Counts the processes; events of a former one concern nobody.
    pub life: u64,
    /// It stands still until then.
    pub paused_until_us: u64,
    /// Under which topology the process was started.
    pub topology: u64,
    /// A sync is under way.
    pub syncing: bool,
    /// What the log holds, and what of it is on disk: by partition.
    pub appended: Vec<VersionVector>,
    pub synced: Vec<VersionVector>,
    /// The same sets, kept by another library.
    pub sets: Lockstep,
    /// The latest time of day that its clock has shown, in microseconds since 1970.
    pub latest_us: u64,
    /// Up to where time is reserved on its disk.
    pub floor: Time,
    /// What a judge saw last, in this life.
    pub looked: Vec<VersionVector>,
    /// Hybrid time at that look.
    pub looked_now: Time,
    /// Without a control plane: whether it takes itself for the primary.
    pub primary: bool,
    /// When the control plane moves next.
    pub control_due_us: u64,
    /// Something has happened to its process since its last turn ended.
    pub stirred: bool,
    /// How it belongs to the cluster.
    pub belonging: Belonging,
    /// It does not come back before.
    pub away_until_us: u64,
}

impl Place {
    /// How long a sync takes this time.
    fn sync_us(&mut self) -> u64 {
        let (from, upto) = self.config.sync_us;
        self.disk_random.range(from, upto)
    }
}

/// A copy of a region's disk, and what it had applied.
type Backup = (Vec<VersionVector>, MemoryStorage);

/// Everything.
pub(crate) struct World {
    pub plan: Plan,
    pub now_us: u64,
    pub places: Vec<Place>,
    pub history: History,
    pub keys: Vec<Vec<u8>>,
    /// Writes that clients were told of.
    pub promises: Vec<Promise>,
    pub agreement: Agreement,
    pub counts: Counts,
    pub trace: Trace,
    pub judges: Random,
    queue: Queue<Event>,
    dials: Random,
    /// What the liar says.
    lies: Random,
    workloads: Vec<Workload>,
    network: Network,
    /// What carries sessions, if it is not the network's own model of them.
    quic: Option<Fabric>,
    clients: Vec<Option<Client>>,
    /// By client, the place that it talks to.
    homes: Vec<usize>,
    /// By client, where it goes and when.
    journeys: Vec<Random>,
    next_client: ClientId,
    /// Everything has healed.
    calm: bool,
    /// Grows when an ordinal changes.
    topology: u64,
    /// Copies of regions' disks, to which they may be set back: by place.
    backups: BTreeMap<usize, Backup>,
    next_origin: u16,
    /// What operators want of the members.
    requests: Vec<Request>,
    /// Regions that were declared dead, by the numbers that the control group knows them by.
    dead: BTreeSet<u16>,
    /// The longest way there and back before anything heals, in milliseconds: leases are for that.
    round_trip_ms: u64,
    /// A part has healed and is to show that it goes on alone.
    probe: Option<Probe>,
    /// When healing began.
    pub healed_us: u64,
    /// The faults that have struck.
    struck: Vec<Strike>,
}

impl World {
    /// The world of a plan, before its first event.
    pub fn new(plan: Plan, sink: Option<fn(&str)>) -> Result<World, String> {
        let seed = plan.seed();
        let network = Network::new(&plan, if plan.changes_members() { JOINERS } else { 0 });
        let mut world = World {
            now_us: 0,
            places: Vec::new(),
            history: History::default(),
            keys: universe(&plan),
            promises: Vec::new(),
            agreement: Agreement::default(),
            counts: Counts::default(),
            trace: Trace::new(sink),
            judges: Random::new(seed, Stream::Judges, 0),
            queue: Queue::new(),
            dials: Random::new(seed, Stream::Dial, 0),
            lies: Random::new(seed, Stream::Lies, 0),
            workloads: Vec::new(),
            round_trip_ms: network.round_trip_ms(),
            network,
            quic: (plan.quic() > 0).then(|| Fabric::new(plan.regions() as usize)),
            clients: Vec::new(),
            homes: Vec::new(),
            journeys: Vec::new(),
            next_client: 1,
            calm: false,
            topology: 0,
            backups: BTreeMap::new(),
            next_origin: plan.regions() as u16,
            requests: Vec::new(),
            dead: BTreeSet::new(),
            probe: None,
            healed_us: 0,
            struck: Vec::new(),
            plan,
        };
        world.trace.fault(0, || world.plan.to_string());
        world.settle_in()?;
        Ok(world)
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Report, Box<Failure>> {
        let result = self.run_events();
        for process in self.places.iter().filter_map(|p| p.process.as_ref()) {
            self.counts.harvest(process);
        }
        if let Some(fabric) = &self.quic {
            fabric.harvest(&mut self.counts);
        }
        match result {
            Ok(()) => Ok(Report {
                seed: self.plan.seed(),
                hash: self.trace.hash(),
                simulated_us: self.now_us,
                counts: self.counts,
            }),
            Err(what) => Err(Box::new(Failure {
                plan: self.plan,
                at_us: self.now_us,
                what,
                tail: self.trace.tail(),
                strikes: self.struck,
            })),
        }
    }

    fn run_events(&mut self) -> Result<(), String> {
        while !self.step()? {}
        Ok(())
    }

    /// Lets the next thing happen. True when the run has ended well.
    fn step(&mut self) -> Result<bool, String> {
        let next = self.queue.next();
        let ((at_us, number), event) = next.ok_or("nothing is left to happen")?;
        self.now_us = self.now_us.max(at_us);
        if let Some(until_us) = self.sleeper(&event) {
            self.queue.postpone(until_us, number, event);
            return Ok(false);
        }
        self.counts.events += 1;
        let result = self.handle(event).and_then(|ended| self.settle_quic().map(|()| ended));
        let fallen = |p: &Place| p.process.as_ref().is_some_and(|p| p.storage.failed().is_some());
        match self.places.iter().position(fallen) {
            None => result,
            Some(place) if result.is_err() => self.fall(place).map(|()| false),
            Some(place) => Err(format!("region {place} goes on although its disk has failed")),
        }
    }

    /// Handles one event. True when the run has ended well.
    fn handle(&mut self, event: Event) -> Result<bool, String> {
        self.trace.mix(&[self.now_us]);
        match event {
            Event::Turn(place, life) if self.lives(place, life) => {
                self.turn(place)?;
                let turn_us = self.plan.turn_us();
                let next_us = self.places[place].turns.range(turn_us / 2, turn_us * 3 / 2);
                self.add(next_us, Event::Turn(place, life));
            }
            Event::Synced(place, life) if self.lives(place, life) => self.log_synced(place)?,
            Event::ControlSynced(place, life) if self.lives(place, life) => {
                self.control_synced(place)?;
            }
            Event::FloorSynced(place, life, upto) if self.lives(place, life) => {
                self.floor_synced(place, upto);
            }
            Event::Checkpoint(place, life) if self.lives(place, life) => self.checkpoint(place)?,
            Event::Check(place, life) if self.lives(place, life) => self.check(place),
            Event::Client(slot) => self.client(slot)?,
            Event::Arrival(arrival) => self.arrival(arrival)?,
            Event::Datagram { pair, number, from, bytes } => {
                self.datagram(pair, number, from, &bytes)?;
            }
            Event::Packet { from, to, bytes } => self.packet(from, to, &bytes),
            Event::Wake(place, life) if self.lives(place, life) => self.wake(place),
            Event::Dial(pair) => self.dial(pair)?,
            Event::Up { pair, number, end } => self.up(pair, number, end)?,
            Event::Down { pair, number, end } => self.down(pair, number, end)?,
            Event::Look => self.look()?,
            Event::Strike(fault, number) => self.strike(fault, number)?,
            Event::Ask(number) => self.ask(number)?,
            Event::Relief(relief) => self.relieve(relief)?,
            Event::Verdict => return self.verdict(),
            // Of a process that is gone.
            _ => {}
        }
        self.check_primaries()?;
        Ok(false)
    }

    /// Regions, links, clients and judges take their places.
    fn settle_in(&mut self) -> Result<(), String> {
        let regions = self.plan.regions() as usize;
        for index in 0..regions {
            let mut place = self.place(index);
            place.primary = self.plan.all_primary() > 0 || index == 0;
            self.places.push(place);
        }
        for index in 0..regions {
            self.start(index)?;
            for other in index + 1..regions {
                let delay_us = self.dials.range(0, 5 * MS);
                self.add(delay_us, Event::Dial((index, other)));
            }
            self.seat_clients(index);
        }
        self.add(self.plan.look_us(), Event::Look);
        self.plan_faults();
        self.add(self.plan.active_us(), Event::Relief(Relief::Everything));
        Ok(())
    }

    /// The clients of a region take their places.
    fn seat_clients(&mut self, index: usize) {
        for _ in 0..self.plan.clients() {
            let slot = self.clients.len();
            let mut workload = Workload::new(&self.plan, slot);
            let think_us = workload.think_us();
            self.clients.push(None);
            self.homes.push(index);
            self.journeys.push(self.plan.stream(Stream::Journey, slot as u64));
            self.workloads.push(workload);
            self.add(think_us, Event::Client(slot));
        }
    }

    fn place(&mut self, index: usize) -> Place {
        let (offset_us, drift_ppm) = self.plan.clock_of(index);
        let mut disk_random = self.plan.stream(Stream::Disk, index as u64);
        let uptime_us = disk_random.range(0, 1000 * SECOND);
        let peers = (0..self.plan.regions()).filter(|p| *p != index as u64);
        let nothing = vec![VersionVector::new(); self.plan.partitions() as usize];
        Place {
            config: RegionConfig {
                index,
                origin: Origin(index as u16),
                partitions: self.plan.partitions() as u16,
                peers: peers.map(|p| Origin(p as u16)).collect(),
                durability: self.plan.durability_of(index),
                ablation: self.plan.off,
                seed: self.plan.seed(),
                inbox_bytes: self.plan.inbox_bytes() as usize,
                retention_bytes: self.plan.retention_bytes(),
                sketch: self.plan.sketch(),
                compact_bytes: self.plan.compact_bytes(),
                sync_us: self.plan.sync_of(index),
            },
            clocks: Clocks { offset_us, drift_ppm, uptime_us },
            process: None,
            disk: MemoryStorage::new(),
            logged: LogPosition(0),
            full: false,
            rotten: false,
            ruined: false,
            behind: false,
            relapsed: false,
            forked: false,
            lost: Time::ZERO,
            knows_its_loss: false,
            honest: None,
            turns: self.plan.stream(Stream::Turns, index as u64),
            disk_random,
            control_log: ControlLog::default(),
            life: 0,
            paused_until_us: 0,
            topology: 0,
            syncing: false,
            appended: nothing.clone(),
            synced: nothing,
            sets: Lockstep::default(),
            latest_us: 0,
            floor: Time::ZERO,
            looked: Vec::new(),
            looked_now: Time::ZERO,
            primary: false,
            control_due_us: 0,
            stirred: false,
            belonging: Belonging {
                id: index as u16,
                configured: (0..self.plan.regions() as u16).collect(),
                ..Belonging::default()
            },
            away_until_us: 0,
        }
    }

    /// Adds an event after a delay.
    pub(crate) fn later(&mut self, delay_us: u64, event: Event) {
        self.add(delay_us, event);
    }

    fn add(&mut self, delay_us: u64, event: Event) {
        self.queue.add(self.now_us + delay_us, event);
    }

    fn lives(&self, place: usize, life: u64) -> bool {
        let place = &self.places[place];
        place.life == life && place.process.is_some()
    }

    /// The process of a place, if it lives, with its clock set to now.
    pub(crate) fn process(&mut self, place: usize) -> Option<&mut Region> {
        let fences = self.fences();
        let here = &mut self.places[place];
        here.stirred = true;
        let (steady_us, physical_us) = here.clocks.both_us(self.now_us);
        here.latest_us = here.latest_us.max(physical_us);
        let process = here.process.as_mut()?;
        if fences {
            process.node.set_clocks(steady_us, physical_us);
        } else {
            process.node.engine_mut().set_physical_us(physical_us);
        }
        Some(process)
    }

    /// Until when an event must wait because the process that it concerns stands still.
    fn sleeper(&self, event: &Event) -> Option<u64> {
        let place = match event {
            Event::Turn(place, _)
            | Event::Synced(place, _)
            | Event::ControlSynced(place, _)
            | Event::FloorSynced(place, ..)
            | Event::Checkpoint(place, _)
            | Event::Check(place, _)
            | Event::Wake(place, _)
            | Event::Packet { to: place, .. } => *place,
            Event::Client(slot) => self.homes[*slot],
            Event::Arrival(arrival) => arrival.pair.0 + arrival.pair.1 - arrival.from,
            Event::Datagram { pair, from, .. } => pair.0 + pair.1 - from,
            Event::Up { end, .. } | Event::Down { end, .. } => *end,
            _ => return None,
        };
        let until_us = self.places[place].paused_until_us;
        (until_us > self.now_us).then_some(until_us)
    }

    /// The place of an ordinal under the present topology.
    fn place_of(&self, origin: Origin) -> Option<usize> {
        self.places.iter().position(|p| p.config.origin == origin)
    }

    /// What every origin has written that some region has on disk.
    pub(crate) fn durable_somewhere(&self) -> Vec<VersionVector> {
        let mut all = vec![VersionVector::new(); self.plan.partitions() as usize];
        for place in &self.places {
            for (all, synced) in all.iter_mut().zip(&place.synced) {
                all.join(synced);
            }
        }
        all
    }

    /// What every region has, and will have after any crash that may still come.
    pub(crate) fn stable(&self) -> Vec<VersionVector> {
        let mut held: Vec<&[VersionVector]> =
            self.staying().map(|place| self.places[place].synced.as_slice()).collect();
        held.extend(self.backups.values().map(|(vectors, _)| vectors.as_slice()));
        held.extend(self.places.iter().filter_map(|p| p.honest.as_deref()));
        let nothing = vec![VersionVector::new(); self.plan.partitions() as usize];
        let plan = &self.plan;
        let begins = plan.changes_members() && plan.join_us() > 0;
        if plan.bit_rot_us() + plan.lying_sync_us() + plan.relapse_us() > 0 || begins {
            // Any region may have to begin again from nothing, or a new one begins so.
            held.push(&nothing);
        }
        let least = |number: usize| {
            let mut least = held[0][number].clone();
            for (origin, time) in held[0][number].iter() {
                let all = held.iter().map(|vectors| vectors[number].get(origin));
                least.set(origin, all.min().unwrap_or(time));
            }
            least
        };
        (0..nothing.len()).map(least).collect()
    }

    /// Whose client an engine's client is.
    fn slot_of(&self, id: ClientId) -> Option<usize> {
        self.clients.iter().position(|client| client.as_ref().is_some_and(|c| c.id == id))
    }
}
