//! The world: regions, clients and network under one scheduler that owns time.
//!
//! One event happens at a time, at a moment of virtual time. What an event leads to is put back
//! into the queue with a drawn delay, so that a seed decides everything. First clients write and
//! faults strike; then everything heals, and the run ends when the judges are satisfied, or fails
//! when they are not in time.

mod disks;
mod faults;
mod links;
#[cfg(test)]
mod stories;
mod turns;

use std::collections::BTreeMap;

use meridian_clock::{Origin, Time, VersionVector};
use meridian_keyspace::ClientId;
use meridian_store::MemoryStorage;

use crate::{
    ablation::Ablation,
    client::{Client, Promise},
    clocks::Clocks,
    control_log::ControlLog,
    history::History,
    judge::Agreement,
    lockstep::Lockstep,
    network::{Arrival, Network, Pair},
    outcome::{Counts, Failure, Report},
    plan::{MS, Plan, SECOND},
    queue::Queue,
    random::{Random, Stream},
    region::{Region, RegionConfig},
    trace::Trace,
    workload::{Workload, universe},
};
use faults::{Fault, Relief};

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
    /// Two regions try to connect.
    Dial(Pair),
    /// An end of a session learns that it is up.
    Up { pair: Pair, number: u64, end: usize },
    /// An end of a session learns that it is over.
    Down { pair: Pair, number: u64, end: usize },
    /// A judge looks at a region.
    Look,
    /// A fault strikes.
    Strike(Fault),
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
    /// What a judge saw last, in this life.
    pub looked: Vec<VersionVector>,
    /// Hybrid time at that look.
    pub looked_now: Time,
    /// Without a control plane: whether it takes itself for the primary.
    pub primary: bool,
    /// When the control plane moves next.
    pub control_due_us: u64,
}

/// Everything.
pub(crate) struct World {
    pub seed: u64,
    pub plan: Plan,
    pub ablation: Option<Ablation>,
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
    schedule: Random,
    faults: Random,
    workload: Workload,
    network: Network,
    clients: Vec<Option<Client>>,
    /// By client, the place that it talks to.
    homes: Vec<usize>,
    next_client: ClientId,
    /// Everything has healed.
    calm: bool,
    /// Grows when an ordinal changes.
    topology: u64,
    /// A copy of a region's disk, to which it may be set back.
    backup: Option<(usize, Vec<VersionVector>, MemoryStorage)>,
    next_origin: u16,
}

impl World {
    /// The world of a seed, before its first event.
    pub fn new(
        seed: u64,
        ablation: Option<Ablation>,
        sink: Option<fn(&str)>,
    ) -> Result<World, String> {
        World::planned(seed, Plan::of(seed), ablation, sink)
    }

    /// A world with a plan of its own.
    pub fn planned(
        seed: u64,
        plan: Plan,
        ablation: Option<Ablation>,
        sink: Option<fn(&str)>,
    ) -> Result<World, String> {
        let workload =
            Workload::new(plan.mix.clone(), plan.padding, Random::new(seed, Stream::Workload));
        let mut world = World {
            seed,
            ablation,
            now_us: 0,
            places: Vec::new(),
            history: History::default(),
            keys: universe(&plan.mix),
            promises: Vec::new(),
            agreement: Agreement::default(),
            counts: Counts::default(),
            trace: Trace::new(sink),
            judges: Random::new(seed, Stream::Judges),
            queue: Queue::new(),
            schedule: Random::new(seed, Stream::Schedule),
            faults: Random::new(seed, Stream::Faults),
            workload,
            network: Network::new(plan.weather.clone()),
            clients: Vec::new(),
            homes: Vec::new(),
            next_client: 1,
            calm: false,
            topology: 0,
            backup: None,
            next_origin: plan.regions as u16,
            plan,
        };
        world.trace.fault(0, || format!("{:?}", world.plan));
        world.settle_in()?;
        Ok(world)
    }

    /// Runs to the end.
    pub fn run(mut self) -> Result<Report, Failure> {
        match self.run_events() {
            Ok(()) => Ok(Report {
                seed: self.seed,
                hash: self.trace.hash(),
                simulated_us: self.now_us,
                counts: self.counts,
            }),
            Err(what) => Err(Failure {
                seed: self.seed,
                ablation: self.ablation,
                at_us: self.now_us,
                what,
                tail: self.trace.tail(),
            }),
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
        self.handle(event)
    }

    /// Handles one event. True when the run has ended well.
    fn handle(&mut self, event: Event) -> Result<bool, String> {
        self.trace.mix(&[self.now_us]);
        match event {
            Event::Turn(place, life) if self.lives(place, life) => {
                self.turn(place)?;
                let next_us = self.schedule.range(self.plan.turn_us / 2, self.plan.turn_us * 3 / 2);
                self.add(next_us, Event::Turn(place, life));
            }
            Event::Synced(place, life) if self.lives(place, life) => self.log_synced(place)?,
            Event::ControlSynced(place, life) if self.lives(place, life) => {
                self.control_synced(place)?;
            }
            Event::Checkpoint(place, life) if self.lives(place, life) => self.checkpoint(place)?,
            Event::Check(place, life) if self.lives(place, life) => self.check(place),
            Event::Client(slot) => self.client(slot)?,
            Event::Arrival(arrival) => self.arrival(arrival)?,
            Event::Datagram { pair, number, from, bytes } => {
                self.datagram(pair, number, from, &bytes)?;
            }
            Event::Dial(pair) => self.dial(pair),
            Event::Up { pair, number, end } => self.up(pair, number, end)?,
            Event::Down { pair, number, end } => self.down(pair, number, end)?,
            Event::Look => self.look()?,
            Event::Strike(fault) => self.strike(fault)?,
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
        let regions = self.plan.regions;
        for index in 0..regions {
            let place = self.place(index);
            self.places.push(place);
        }
        let all_primary = self.faults.chance(200);
        let chosen = self.faults.below(regions);
        for index in 0..regions {
            self.places[index].primary = all_primary || index == chosen;
            self.start(index)?;
            for other in index + 1..regions {
                let delay_us = self.schedule.range(0, 5 * MS);
                self.add(delay_us, Event::Dial((index, other)));
            }
            for _ in 0..self.plan.mix.clients {
                self.clients.push(None);
                self.homes.push(index);
                let think_us = self.workload.think_us();
                self.add(think_us, Event::Client(self.clients.len() - 1));
            }
        }
        self.add(self.plan.look_us, Event::Look);
        self.plan_faults();
        self.add(self.plan.active_us, Event::Relief(Relief::Everything));
        Ok(())
    }

    fn place(&mut self, index: usize) -> Place {
        let (offset_us, drift_ppm) = self.plan.clocks[index];
        let uptime_us = self.faults.range(0, 1000 * SECOND);
        let peers = (0..self.plan.regions).filter(|p| *p != index).map(|p| Origin(p as u16));
        let nothing = vec![VersionVector::new(); usize::from(self.plan.partitions)];
        Place {
            config: RegionConfig {
                index,
                origin: Origin(index as u16),
                partitions: self.plan.partitions,
                peers: peers.collect(),
                durability: self.plan.durability[index],
                ablation: self.ablation,
                seed: self.seed,
                inbox_bytes: self.plan.inbox_bytes,
            },
            clocks: Clocks { offset_us, drift_ppm, uptime_us },
            process: None,
            disk: MemoryStorage::new(),
            control_log: ControlLog::default(),
            life: 0,
            paused_until_us: 0,
            topology: 0,
            syncing: false,
            appended: nothing.clone(),
            synced: nothing,
            sets: Lockstep::default(),
            looked: Vec::new(),
            looked_now: Time::ZERO,
            primary: false,
            control_due_us: 0,
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
        let physical_us = self.places[place].clocks.physical_us(self.now_us);
        let process = self.places[place].process.as_mut()?;
        process.node.engine_mut().set_physical_us(physical_us);
        Some(process)
    }

    /// Until when an event must wait because the process that it concerns stands still.
    fn sleeper(&self, event: &Event) -> Option<u64> {
        let place = match event {
            Event::Turn(place, _)
            | Event::Synced(place, _)
            | Event::ControlSynced(place, _)
            | Event::Checkpoint(place, _)
            | Event::Check(place, _) => *place,
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
        let mut all = vec![VersionVector::new(); usize::from(self.plan.partitions)];
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
            self.places.iter().map(|p| p.synced.as_slice()).collect();
        held.extend(self.backup.as_ref().map(|(_, vectors, _)| vectors.as_slice()));
        let least = |number: usize| {
            let mut least = held[0][number].clone();
            for (origin, time) in held[0][number].iter() {
                let all = held.iter().map(|vectors| vectors[number].get(origin));
                least.set(origin, all.min().unwrap_or(time));
            }
            least
        };
        (0..usize::from(self.plan.partitions)).map(least).collect()
    }

    /// Clients by their engine's number.
    fn slots(&self) -> BTreeMap<ClientId, usize> {
        let clients = self.clients.iter().enumerate();
        clients.filter_map(|(slot, c)| c.as_ref().map(|c| (c.id, slot))).collect()
    }
}
