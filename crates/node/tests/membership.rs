//! Regions that join, leave and die, as their control planes see it: the real machines over a
//! network in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use meridian_consensus::GroupConfig;
use meridian_failover::{
    CheckReport, ControlState, FailoverConfig, MemberAddresses, MemberChange, MemberStatus,
    RegionState, StepOutcome,
};
use meridian_node::{Control, ControlConfig, ControlEffect};

/// One way between any two regions, in milliseconds.
const DELAY_MS: u64 = 20;
const TICK_MS: u64 = 10;
const CHECK_MS: u64 = 500;
/// How long anything that is waited for may take.
const PATIENCE_MS: u64 = 60_000;

enum Packet {
    Heartbeat(Vec<u8>),
    Raft(Vec<u8>),
}

struct Region {
    control: Option<Control>,
    /// The control log: everything is synced at once.
    log: Vec<Vec<u8>>,
    /// What a region that joins was told.
    told: Option<ControlState>,
    caught_up: bool,
    drained: bool,
}

struct World {
    now_ms: u64,
    regions: BTreeMap<u16, Region>,
    packets: BTreeMap<(u64, u64), (u16, u16, Packet)>,
    sent: u64,
    lives: u64,
    /// Whoever was primary in some epoch: checked to be one at a time.
    primaries: BTreeSet<u16>,
}

impl World {
    /// A settled cluster of three.
    fn three() -> World {
        let mut world = World {
            now_ms: 0,
            regions: BTreeMap::new(),
            packets: BTreeMap::new(),
            sent: 0,
            lives: 0,
            primaries: BTreeSet::new(),
        };
        for id in 0..3 {
            world.insert(id, None, true);
        }
        world.until("a primary", |w| w.primary() == Some(0) && w.leader().is_some());
        world
    }

    fn insert(&mut self, id: u16, told: Option<ControlState>, caught_up: bool) {
        let region = Region { control: None, log: Vec::new(), told, caught_up, drained: false };
        self.regions.insert(id, region);
        self.start(id);
    }

    fn start(&mut self, id: u16) {
        self.lives += 1;
        let (now_ms, lives) = (self.now_ms, self.lives);
        let region = self.regions.get_mut(&id).expect("a region");
        // A region that joins has itself in its topology file as well.
        let mut failover = FailoverConfig::new(id, vec![0, 1, 2]);
        if region.told.is_some() {
            failover = FailoverConfig::new(id, vec![0, 1, 2, id]);
        }
        let voters = if region.told.is_some() { Vec::new() } else { failover.voters.clone() };
        let founding = region.told.clone();
        let founding = founding.unwrap_or_else(|| ControlState::initial(&failover).expect("valid"));
        let config = ControlConfig { failover, group: GroupConfig::new(id, voters, 2 * DELAY_MS) };
        let log = region.log.clone();
        let control = Control::with_state(config, founding, log, now_ms, lives);
        region.control = Some(control.expect("its log is sound"));
    }

    fn kill(&mut self, id: u16) {
        self.regions.get_mut(&id).expect("a region").control = None;
    }

    fn control(&self, id: u16) -> &Control {
        self.regions[&id].control.as_ref().expect("it lives")
    }

    fn alive(&self) -> impl Iterator<Item = (u16, &Control)> {
        self.regions.iter().filter_map(|(id, region)| Some((*id, region.control.as_ref()?)))
    }

    fn primary(&self) -> Option<u16> {
        let mut acting = self.alive().filter(|(_, c)| c.is_primary(self.now_ms));
        let primary = acting.next().map(|(id, _)| id);
        assert!(acting.next().is_none(), "two primaries");
        primary
    }

    fn leader(&self) -> Option<u16> {
        self.alive().find(|(id, c)| c.leader().0 == Some(*id)).map(|(id, _)| id)
    }

    fn status(&self, witness: u16, region: u16) -> Option<MemberStatus> {
        self.control(witness).state().members.status(region)
    }

    fn until(&mut self, what: &str, condition: impl Fn(&World) -> bool) {
        let end = self.now_ms + PATIENCE_MS;
        while !condition(self) {
            assert!(self.now_ms < end, "{what} does not come");
            self.step();
        }
    }

    /// Proposes at `at` until its state shows the outcome.
    fn change(&mut self, at: u16, change: &MemberChange, is_done: impl Fn(&ControlState) -> bool) {
        let end = self.now_ms + PATIENCE_MS;
        while !is_done(self.control(at).state()) {
            assert!(self.now_ms < end, "{change:?} is not made");
            let region = self.regions.get_mut(&at).expect("a region");
            let _ = region.control.as_mut().expect("it lives").propose_member(change.clone());
            (0..300).for_each(|_| self.step());
        }
    }

    /// A new region asks a running one for an ordinal and starts with what it is told.
    fn join(&mut self, via: u16, caught_up: bool) -> u16 {
        let id = self.control(via).state().members.next_ordinal();
        let name = format!("new-{id}");
        let addresses = MemberAddresses {
            mesh: format!("10.0.0.{id}:7400"),
            clients: vec![[10, 0, 0, 1].into()],
            ..MemberAddresses::default()
        };
        let change = MemberChange::Add { name: name.clone(), token: 9, addresses };
        self.change(via, &change, |state| state.members.joined_as(&name, 9) == Some(id));
        let told = self.control(via).state().clone();
        self.insert(id, Some(told), caught_up);
        id
    }

    fn step(&mut self) {
        self.now_ms += 1;
        while let Some(entry) = self.packets.first_entry() {
            if entry.key().0 > self.now_ms {
                break;
            }
            let (from, to, packet) = entry.remove();
            self.deliver(from, to, packet);
        }
        if self.now_ms.is_multiple_of(TICK_MS) {
            for id in self.regions.keys().copied().collect::<Vec<_>>() {
                self.turn(id);
            }
        }
        self.primaries.extend(self.primary());
    }

    fn deliver(&mut self, from: u16, to: u16, packet: Packet) {
        let now_ms = self.now_ms;
        let Some(control) = self.regions.get_mut(&to).and_then(|r| r.control.as_mut()) else {
            return;
        };
        // The mesh lets live members through only.
        if !control.members().status(from).is_some_and(MemberStatus::is_live) {
            return;
        }
        let taken = match packet {
            Packet::Heartbeat(bytes) => control.receive(now_ms, from, &bytes),
            Packet::Raft(bytes) => control.step(from, &bytes),
        };
        if let Err(error) = taken {
            assert!(error.contains("not part of") || error.contains("not a peer"), "{error}");
        }
    }

    fn turn(&mut self, id: u16) {
        let now_ms = self.now_ms;
        loop {
            let Some(region) = self.regions.get_mut(&id) else { return };
            let Some(control) = &mut region.control else { return };
            if now_ms.is_multiple_of(CHECK_MS) {
                let step = StepOutcome::Ok { took_ms: 1 };
                control.check(now_ms, &CheckReport { write: step, fsync: step, read: step });
            }
            control.set_caught_up(region.caught_up);
            control.set_drained(region.drained);
            let turn = control.turn(now_ms);
            let is_idle = turn.records.is_empty();
            region.log.extend(turn.records.iter().cloned());
            let (effects, records) = control.persisted(now_ms, turn).expect("the group goes on");
            if !records.is_empty() {
                region.log = records;
            }
            let live: Vec<u16> = control.members().live().map(|(peer, _)| peer).collect();
            for effect in effects {
                match effect {
                    ControlEffect::Broadcast(bytes) => live
                        .iter()
                        .filter(|&&peer| peer != id)
                        .for_each(|&peer| self.send(id, peer, Packet::Heartbeat(bytes.clone()))),
                    ControlEffect::Raft(to, bytes) => self.send(id, to, Packet::Raft(bytes)),
                    ControlEffect::Changed => {}
                }
            }
            if is_idle {
                return;
            }
        }
    }

    fn send(&mut self, from: u16, to: u16, packet: Packet) {
        self.sent += 1;
        self.packets.insert((self.now_ms + DELAY_MS, self.sent), (from, to, packet));
    }
}

#[test]
fn a_region_is_admitted_when_it_has_caught_up() {
    let mut world = World::three();
    let new = world.join(1, false);
    assert_eq!(new, 3);
    world.until("the new region as a follower", |w| w.control(0).voters().1.contains(&3));
    world.until("its state", |w| w.control(3).state().state_of(3) == Some(RegionState::Recovering));
    (0..5_000).for_each(|_| world.step());
    assert_eq!(world.status(0, 3), Some(MemberStatus::Joining), "it has not caught up");
    world.regions.get_mut(&3).unwrap().caught_up = true;
    world.until("the admission", |w| w.status(3, 3) == Some(MemberStatus::Active));
    assert_eq!(
        world.control(3).voters().0,
        [0, 1, 2].into(),
        "four voters bear no more than three"
    );
    assert_eq!(world.primary(), Some(0));
    let next = world.join(3, true);
    world.until("five voters", |w| (0..5).all(|id| w.control(id).voters().0.len() == 5));
    assert_eq!(world.status(0, next), Some(MemberStatus::Active));
    assert_eq!(world.control(0).config().priority, [0, 1, 2, 3, 4]);
}

#[test]
fn a_region_comes_back_to_the_members_that_it_knew() {
    let mut world = World::three();
    world.join(0, true);
    world.until("the admission", |w| w.status(3, 3) == Some(MemberStatus::Active));
    for id in [0, 3] {
        world.kill(id);
        (0..2_000).for_each(|_| world.step());
        world.start(id);
        assert!(world.control(id).members().status(3).is_some(), "from its own log");
        world.until("its return", |w| {
            (0..4).all(|at| w.control(at).state().state_of(id) == Some(RegionState::Up))
        });
    }
}

#[test]
fn the_primary_leaves_after_it_has_handed_everything_over() {
    let mut world = World::three();
    world.join(0, true);
    world.until("the admission", |w| w.status(3, 3) == Some(MemberStatus::Active));
    let is = |id: u16, status| move |s: &ControlState| s.members.status(id) == Some(status);
    world.change(1, &MemberChange::Leave { region: 0 }, is(0, MemberStatus::Leaving));
    world.until("another primary", |w| w.primary() == Some(1));
    (0..3_000).for_each(|_| world.step());
    assert_eq!(world.status(1, 0), Some(MemberStatus::Leaving), "it has not handed over");
    world.regions.get_mut(&0).unwrap().drained = true;
    world.until("it sees that it has left", |w| w.status(0, 0) == Some(MemberStatus::Left));
    assert_eq!(world.control(0).voters().0, [1, 2, 3].into(), "it gave its vote away before");
    // So the others bear the next loss at once.
    world.kill(0);
    world.kill(1);
    world.until("the loss is noticed", |w| {
        w.control(3).state().state_of(1) == Some(RegionState::Down)
    });
    world.start(1);
    world.until("it is gone for all", |w| (1..4).all(|id| !w.control(id).voters().1.contains(&0)));
    assert!(world.control(1).state().state_of(0).is_none());
}

#[test]
fn the_leader_of_the_group_can_leave() {
    let mut world = World::three();
    let leader = world.leader().expect("there is one");
    let at = (leader + 1) % 3;
    let change = MemberChange::Leave { region: leader };
    world.change(at, &change, |s| s.members.status(leader) == Some(MemberStatus::Leaving));
    world.regions.get_mut(&leader).unwrap().drained = true;
    world.until("it has left", |w| w.status(at, leader) == Some(MemberStatus::Left));
    world.until("two voters", |w| w.control(at).voters().0.len() == 2);
    assert_ne!(world.leader(), Some(leader));
}

#[test]
fn the_dead_are_not_waited_for_and_do_not_come_back() {
    let mut world = World::three();
    let dead = MemberChange::Dead { region: 2 };
    assert!(
        world
            .regions
            .get_mut(&0)
            .unwrap()
            .control
            .as_mut()
            .unwrap()
            .propose_member(dead.clone())
            .unwrap_err()
            .contains("is not down")
    );
    world.kill(2);
    world.until("it is down", |w| w.control(0).state().state_of(2) == Some(RegionState::Down));
    world.change(0, &dead, |s| s.members.status(2) == Some(MemberStatus::Dead));
    world.until("two voters", |w| w.control(1).voters().0 == [0, 1].into());
    world.start(2);
    (0..10_000).for_each(|_| world.step());
    assert_eq!(world.status(1, 2), Some(MemberStatus::Dead));
    assert!(
        world
            .control(2)
            .health(world.now_ms)
            .reasons
            .iter()
            .any(|r| r.to_string().contains("cut off"))
    );
    let replacement = world.join(0, true);
    assert_eq!(replacement, 3, "the ordinal of the dead is used up");
    world.until("three voters", |w| w.control(0).voters().0 == [0, 1, 3].into());
}

#[test]
fn nobody_is_declared_dead_whose_loss_the_group_does_not_bear() {
    let mut world = World::three();
    let propose = |world: &mut World, region| {
        let control = world.regions.get_mut(&0).unwrap().control.as_mut().unwrap();
        control.propose_member(MemberChange::Dead { region })
    };
    let is_down = |w: &World, id| w.control(0).state().state_of(id) == Some(RegionState::Down);
    // Who is back counts as down for a while, longer each time, and votes already.
    for _ in 0..3 {
        world.until("it is up", |w| !is_down(w, 1));
        world.kill(1);
        world.until("it is down", |w| is_down(w, 1));
        world.start(1);
    }
    world.kill(2);
    world.until("the other one is down", |w| is_down(w, 2));
    assert_eq!(propose(&mut world, 2), Ok(()));
    world.until("it is dead", |w| w.status(0, 2) == Some(MemberStatus::Dead));
    assert!(is_down(&world, 1));
    assert_eq!(world.control(0).voters().0, [0, 1, 2].into(), "its vote has not moved yet");
    let refused = propose(&mut world, 1).unwrap_err();
    assert!(refused.contains("no majority"), "{refused}");
    // A third region changes that.
    world.join(0, true);
    world.until("its admission", |w| w.status(0, 3) == Some(MemberStatus::Active));
    world.until("three voters", |w| w.control(0).voters().0 == [0, 1, 3].into());
    world.kill(1);
    world.until("it is down", |w| is_down(w, 1));
    let dead = MemberChange::Dead { region: 1 };
    world.change(0, &dead, |s| s.members.status(1) == Some(MemberStatus::Dead));
}

#[test]
fn who_was_away_finds_the_others_by_what_a_peer_tells() {
    let mut world = World::three();
    world.kill(2);
    world.join(0, true);
    world.until("the admission", |w| w.status(0, 3) == Some(MemberStatus::Active));
    let told = world.control(0).state().encode();
    world.start(2);
    let away = world.regions.get_mut(&2).unwrap().control.as_mut().unwrap();
    assert!(away.members().status(3).is_none());
    away.learn(&told).expect("it is a state");
    assert!(away.members().status(3).is_some());
    assert!(away.state().members.status(3).is_none(), "nothing is decided by hearsay");
    assert!(away.learn(b"nonsense").is_err());
}
