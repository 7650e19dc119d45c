//! A region's turn: what is due, one commit, replies to clients.

use meridian_clock::{Dot, Time};
use meridian_keyspace::slot_of;
use meridian_resp::Value;
use meridian_store::{Frame, RepairPart, Storage};

use super::{Event, World};
use crate::{
    ablation::Ablation,
    client::{Client, Promise, Sent, complaint, show},
    control_log::Outcome,
    history::Note,
    lockstep::Lockstep,
    plan::{Family, MS},
    region::Region,
    workload::{Command, family_of},
};

/// What a region answers to writes when it knows that it has lost some.
const LOST: &[u8] = b"READONLY this region has lost writes";

/// The control plane moves this often.
const CONTROL_EVERY_US: u64 = 10 * MS;

/// The log is cut short in one of so many thousand turns.
const RELEASES: u64 = 100;

/// A primary looks at a key that is in use, whether it has expired, in so many turns of a
/// thousand.
const SWEEPS: u64 = 150;

/// A client that finds its region dead tries again after this long.
const RECONNECT_US: u64 = 50 * MS;

impl World {
    /// Everything that is due in a region. Nothing is done where nothing is: a region that stood
    /// still since its last turn, and for which no time has come, costs no more than this look.
    pub(super) fn turn(&mut self, place: usize) -> Result<(), String> {
        self.look_after_clocks(place)?;
        let (now_us, releases) = (self.now_us, self.plan.releases() > 0);
        let primary = self.is_primary(place);
        let here = &mut self.places[place];
        let steady_ms = here.clocks.steady_ms(now_us);
        let turns = &mut here.turns;
        let release = releases && turns.chance(RELEASES);
        let slot = (primary && turns.chance(SWEEPS)).then(|| slot_of(&turns.pick(&self.keys)));
        let is_due = here.process.as_ref().is_some_and(|process| {
            let control = process.control.is_some() && now_us >= here.control_due_us;
            control || steady_ms >= process.node.idle_until_ms()
        });
        if !is_due && !here.stirred && !release && slot.is_none() {
            return Ok(());
        }
        self.control_turn(place)?;
        let primary = self.is_primary(place);
        let founders = match self.plan.off {
            Some(Ablation::SettleWithoutNewcomers) => self.plan.regions(),
            _ => u64::MAX,
        };
        let Some(process) = self.process(place) else { return Ok(()) };
        let (before, now) = (process.written(), process.node.engine().stage().now());
        let waiting = process.residue();
        process.node.tick(steady_ms, primary);
        let collected = waiting.saturating_sub(process.residue());
        if let Some(slot) = slot.filter(|_| !process.node.clocks().refuses_writes()) {
            // As if the sweep had come round to it: a full round takes longer than most runs.
            let mut peers = process.config.peers.clone();
            peers.retain(|peer| u64::from(peer.0) < founders);
            let stage = process.node.engine_mut().stage_mut();
            stage.expire_slot(slot, stage.now(), &peers);
        }
        let released = release && process.release()?;
        let is_complete = process.node.lags().count() == process.config.peers.len();
        self.counts.residues += collected as u64;
        self.counts.releases += u64::from(released);
        self.counts.releases_without_a_peer += u64::from(released && !is_complete);
        self.note_writes(place, &before, now, true);
        self.end_turn(place)
    }

    /// Ends the turn of a region now, or leaves it to a later event.
    pub(super) fn maybe_end_turn(&mut self, place: usize) -> Result<(), String> {
        if self.places[place].turns.chance(self.plan.commits()) {
            self.end_turn(place)
        } else {
            Ok(())
        }
    }

    /// One commit, and what may leave after it.
    pub(crate) fn end_turn(&mut self, place: usize) -> Result<(), String> {
        let Some(process) = self.process(place) else { return Ok(()) };
        let turn = process.end_turn()?;
        let is_outlived = process.node.clocks().is_outlived();
        self.committed(place, &turn.frames)?;
        self.places[place].knows_its_loss |= is_outlived;
        self.send_effects(place, turn.effects)?;
        self.ship(place)?;
        self.deliver_replies(place)?;
        // What found no room on its lane is tried again.
        let here = &mut self.places[place];
        here.stirred = here.process.as_ref().is_some_and(Region::has_to_ship);
        Ok(())
    }

    /// Frames are in a region's log.
    pub(super) fn committed(&mut self, place: usize, frames: &[Vec<u8>]) -> Result<(), String> {
        let me = self.places[place].config.origin;
        for bytes in frames {
            self.trace.mix_bytes(bytes);
            if RepairPart::is_one(bytes) {
                self.learn_repair(place, bytes)?;
                let here = &mut self.places[place];
                // The other library cannot be repaired: it is given what the region has now.
                here.sets = Lockstep::rebuilt(&self.history, &here.appended);
                continue;
            }
            let frame = Frame::decode(bytes).map_err(|e| e.to_string())?;
            let header = &frame.header;
            self.trace.line(self.now_us, || format!("{place} logs {header:?}"));
            if header.origin == me && self.places[place].relapsed {
                if self.places[place].knows_its_loss {
                    return Err(format!("region {place} writes although it has lost writes"));
                }
                self.places[place].forked = true;
                continue;
            }
            if header.origin == me {
                self.history.learn(&frame)?;
            }
            self.counts.bundles += u64::from(frame.is_bundle);
            let here = &mut self.places[place];
            here.sets.apply(&frame)?;
            here.appended[usize::from(header.partition)].raise(header.origin, header.last);
        }
        self.counts.operations = self.history.operations;
        let here = &mut self.places[place];
        if let Some(process) = &here.process {
            here.logged = process.storage.bounds().1;
        }
        self.schedule_sync(place);
        Ok(())
    }

    /// A repair is in a region's log: with its last part the region has what the donor had.
    pub(super) fn learn_repair(&mut self, place: usize, bytes: &[u8]) -> Result<(), String> {
        let part = RepairPart::decode(bytes).map_err(|e| e.to_string())?;
        self.trace.line(self.now_us, || format!("{place} logs a repair {:?}", part.header));
        if part.header.last {
            self.counts.repairs += 1;
            self.counts.repairs_under_load += u64::from(!self.calm);
            let appended = &mut self.places[place].appended;
            appended[usize::from(part.header.partition)].join(&part.header.seen);
            self.regains(place, &part.header.seen);
        }
        Ok(())
    }

    /// Notes when the operations were written that a region has made since `before`.
    fn note_writes(
        &mut self,
        place: usize,
        before: &[Time],
        now: Time,
        swept: bool,
    ) -> Vec<(u16, Dot)> {
        let me = self.places[place].config.origin;
        if self.places[place].relapsed {
            // Of another history, which ends here.
            return Vec::new();
        }
        let Some(process) = self.places[place].process.as_ref() else { return Vec::new() };
        let mut wrote = Vec::new();
        for (number, before) in (0..self.plan.partitions() as u16).zip(before) {
            let upto = process.node.engine().stage().partition(number).vector.get(me);
            if upto > *before {
                self.history.note(number, me, Note { upto, now, swept });
                self.counts.sweeps += u64::from(swept);
                wrote.push((number, Dot::new(upto, me)));
            }
        }
        wrote
    }

    /// A client sends what it wants to, and will again.
    pub(super) fn client(&mut self, slot: usize) -> Result<(), String> {
        if self.calm {
            return Ok(());
        }
        self.leave_the_gone(slot);
        let place = self.homes[slot];
        if self.places[place].process.is_none() {
            self.add(RECONNECT_US, Event::Client(slot));
            return Ok(());
        }
        let think_us = self.workloads[slot].think_us();
        self.add(think_us, Event::Client(slot));
        if self.travels(slot) {
            return self.maybe_end_turn(place);
        }
        self.connect(slot);
        for command in self.workloads[slot].next() {
            self.execute(slot, command);
        }
        self.maybe_end_turn(place)
    }

    pub(super) fn connect(&mut self, slot: usize) {
        if self.clients[slot].is_some() {
            return;
        }
        let (place, id) = (self.homes[slot], self.next_client);
        self.next_client += 1;
        if let Some(process) = self.process(place) {
            process.node.engine_mut().connect(id, format!("10.0.0.{slot}:1"));
            self.clients[slot] = Some(Client::new(id));
        }
    }

    /// A client's command is executed. Gives the last operation of each partition that it wrote.
    pub(super) fn execute(&mut self, slot: usize, command: Command) -> Vec<(u16, Dot)> {
        let place = self.homes[slot];
        let Some(id) = self.clients[slot].as_ref().map(|c| c.id) else { return Vec::new() };
        let Some(process) = self.process(place) else { return Vec::new() };
        let before = process.written();
        let engine = process.node.engine_mut();
        let now = engine.stage().now();
        let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        engine.execute(id, &args);
        self.counts.commands += 1;
        let wrote = self.note_writes(place, &before, now, false);
        self.trace
            .line(self.now_us, || format!("{place} client {id} {} {wrote:?}", show(&command)));
        if let Some(client) = self.clients[slot].as_mut() {
            client.sent(Sent { command, wrote: wrote.clone() });
        }
        wrote
    }

    /// Clients read what has been released to them.
    pub(super) fn deliver_replies(&mut self, place: usize) -> Result<(), String> {
        let Some(process) = self.process(place) else { return Ok(()) };
        let output = process.take_output();
        if output.is_empty() {
            return Ok(());
        }
        for (id, bytes) in output {
            self.trace.mix_bytes(&bytes);
            let Some(slot) = self.slot_of(id) else { continue };
            let Some(client) = self.clients[slot].as_mut() else { continue };
            for (sent, value) in client.received(&bytes)? {
                self.counts.replies += 1;
                self.replied(slot, sent, &value)?;
            }
        }
        Ok(())
    }

    fn replied(&mut self, slot: usize, sent: Sent, value: &Value) -> Result<(), String> {
        let relapsed = self.places[self.homes[slot]].relapsed;
        let refused = matches!(value, Value::Error(text) if text.starts_with(LOST));
        if let Some(complaint) = complaint(&sent, value).filter(|_| !(relapsed && refused)) {
            return Err(complaint);
        }
        match sent.command[0].as_slice() {
            b"MERIDIAN.TOKEN" => {
                if matches!(value, Value::Error(_)) {
                    // A region that does not serve yet gives none.
                    self.stay(slot);
                    return Ok(());
                }
                let token = value.as_bytes().ok_or("a token that is no string")?;
                return self.depart(slot, token);
            }
            b"MERIDIAN.AWAIT" => return self.arrive(slot, value),
            _ => {}
        }
        if relapsed {
            return Ok(());
        }
        self.check_read(slot, &sent, value)?;
        self.remember(slot, &sent, value);
        let place = &self.places[self.homes[slot]];
        let durable = place.config.durability == meridian_keyspace::Durability::Always;
        // What a region writes that was declared dead may be lost with it.
        let counts = !self.is_dead(self.homes[slot]);
        for (partition, dot) in sent.wrote.iter().filter(|_| counts) {
            self.promises.push(Promise { partition: *partition, dot: *dot, durable });
        }
        let is_set = matches!(sent.command[0].as_slice(), b"SET" | b"GETSET");
        if let (true, [(_, dot)], Some(client)) =
            (is_set, sent.wrote.as_slice(), self.clients[slot].as_mut())
        {
            client.own.insert(sent.command[1].clone(), *dot);
        }
        Ok(())
    }

    /// Reads never show what the reader's own earlier write has replaced, nor half of what was
    /// written together.
    fn check_read(&self, slot: usize, sent: &Sent, value: &Value) -> Result<(), String> {
        if matches!(value, Value::Simple(_)) {
            // Queued in a transaction.
            return Ok(());
        }
        match sent.command[0].as_slice() {
            b"MGET" => match value.as_array() {
                Some([a, b]) if a != b => {
                    Err(format!("{} answers {value:?}: half a transaction", show(&sent.command)))
                }
                _ => Ok(()),
            },
            b"GET" if family_of(&sent.command[1]) == Family::Strings => {
                let key = &sent.command[1];
                let own = self.clients[slot].as_ref().and_then(|c| c.own.get(key)).copied();
                let (Some(own), Some(read)) = (own, value.as_bytes()) else { return Ok(()) };
                let read = self.history.writer(read);
                let read = read.ok_or_else(|| format!("{value:?} was never written"))?;
                let mine = self.history.records(key).find(|r| r.dot == own);
                match mine.filter(|mine| mine.had_seen(read)) {
                    Some(mine) => Err(format!(
                        "a client that wrote {} to {key:?} then read {read}, which that had replaced",
                        mine.dot
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether a region takes itself for the primary one now.
    pub(crate) fn is_primary(&self, place: usize) -> bool {
        let here = &self.places[place];
        let Some(process) = &here.process else { return false };
        match &process.control {
            Some(plane) => plane.control.is_primary(here.clocks.steady_ms(self.now_us)),
            None => here.primary,
        }
    }

    fn control_turn(&mut self, place: usize) -> Result<(), String> {
        let now_us = self.now_us;
        if now_us < self.places[place].control_due_us {
            return Ok(());
        }
        self.report_data(place);
        let here = &mut self.places[place];
        let now_ms = here.clocks.steady_ms(now_us);
        let Some(process) = here.process.as_mut() else { return Ok(()) };
        let Some(plane) = process.control.as_mut() else { return Ok(()) };
        here.control_due_us = now_us + CONTROL_EVERY_US;
        match plane.turn(now_ms)? {
            Outcome::Done(effects) => self.send_control(place, effects),
            Outcome::MustSync => {
                let (delay_us, life) = (self.places[place].sync_us(), self.places[place].life);
                self.add(delay_us, Event::ControlSynced(place, life));
            }
        }
        self.follow_members(place)
    }

    pub(super) fn control_synced(&mut self, place: usize) -> Result<(), String> {
        let now_ms = self.places[place].clocks.steady_ms(self.now_us);
        let Some(plane) = self.process(place).and_then(|p| p.control.as_mut()) else {
            return Ok(());
        };
        let effects = plane.synced(now_ms)?;
        self.send_control(place, effects);
        self.follow_members(place)
    }
}
