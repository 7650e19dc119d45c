//! State repair: a region that is behind where no log leads any more, or that has nothing yet,
//! takes over what another one holds, at the cost of the difference.
//!
//! Each side of a repair is a small machine: [`receiver`] asks, compares and applies; [`donor`]
//! freezes a partition and answers. What costs time (looking at every element of a partition) is
//! done in portions, so that commands wait only briefly. See `meridian_replication::repair` for the
//! conversation.

pub(crate) mod choice;
mod donor;
mod limits;
mod look;
mod receiver;
mod scrub;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use meridian_clock::{Origin, VersionVector};
use meridian_codec::Malformed;
use meridian_crdt::{ElementKey, Row, Stored, decode_stored, encode_cell};
use meridian_keyspace::{CHECK_PREFIX, SLOTS, Stage};
use meridian_replication::{
    SLOT_SUMS_SINCE,
    repair::{Refusal, RepairMessage, item_of},
};

use crate::limits::{
    MAX_DONATIONS, MAX_RECEIVING, REPAIR_AGAIN_MS, STAND_IN_EVERY_MS, STAND_IN_PATIENCE_MS,
};
use choice::Choice;
use donor::{Asked, Donation};
pub use limits::RepairLimits;
use receiver::{Name, Receipt, Request};
use scrub::Scrubs;

/// What is said to whom. The shell picks the lane.
pub type Said = (Origin, RepairMessage);

/// How far a repair of one partition is, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairProgress {
    /// The partition.
    pub partition: u16,
    /// Who gives.
    pub donor: Origin,
    /// What is being done, in a word.
    pub phase: &'static str,
    /// Elements that have come.
    pub received: u64,
    /// Elements that are to come, as far as is known.
    pub expected: u64,
    /// Bytes that have come.
    pub bytes: u64,
    /// Since when, in milliseconds of the node's steady clock.
    pub since_ms: u64,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairCounts {
    /// Repairs that were begun.
    pub begun: u64,
    /// Repairs that were applied.
    pub completed: u64,
    /// Repairs that found nothing different.
    pub equal: u64,
    /// Repairs that were given up; each is begun again.
    pub failed: u64,
    /// Bytes received for repairs: symbols and elements.
    pub received_bytes: u64,
    /// Elements received.
    pub received_elements: u64,
    /// Symbols asked for, in messages: by a repair whose donor did not know how many it takes.
    pub symbol_requests: u64,
    /// Repairs served to other regions.
    pub served: u64,
    /// Bytes sent for them.
    pub sent_bytes: u64,
    /// Scrubs that were carried through: partitions compared with another region's.
    pub scrubbed: u64,
    /// Scrubs that could not say anything: too much was on its way, or the other side was busy.
    pub scrubs_inconclusive: u64,
    /// Elements that differed although both regions had seen the same.
    pub divergent: u64,
}

/// A repair that is wanted and not yet begun.
#[derive(Clone, Copy, Debug)]
struct Wish {
    /// Who is known to have what is missing.
    donor: Origin,
    not_before_ms: u64,
    /// When it was looked at first.
    since_ms: Option<u64>,
}

/// All repairs of a node, both sides.
#[derive(Debug, Default)]
pub struct Repairs {
    limits: RepairLimits,
    wanted: BTreeMap<u16, Wish>,
    /// When somebody nearer last gave in the place of who was asked first, by partition.
    stood_in: BTreeMap<u16, u64>,
    receiving: BTreeMap<u16, Receipt>,
    donating: BTreeMap<(Origin, u64), Donation>,
    scrubs: Scrubs,
    /// What keyed the items of the last repair of a partition, on whichever side: what slots sum to
    /// is remembered for that.
    seeds: BTreeMap<u16, u64>,
    number: u64,
    said: Vec<Said>,
    counts: RepairCounts,
}

/// A repair whose elements have all come.
#[derive(Debug)]
pub struct Repaired {
    /// The partition.
    pub partition: u16,
    /// Who gave.
    pub donor: Origin,
    /// The parts of the repair, encoded; to be applied in one commit.
    pub parts: Vec<Vec<u8>>,
    /// Found by a scrub: elements that differed although both regions had seen the same.
    pub divergent: Vec<Name>,
}

impl Repairs {
    /// Goes by other limits than the default ones. Only at the start.
    pub fn set_limits(&mut self, limits: RepairLimits) {
        self.limits = limits;
    }

    /// A partition should be repaired from a peer.
    pub fn want(&mut self, partition: u16, donor: Origin) {
        if !self.receiving.contains_key(&partition) {
            self.wanted.entry(partition).or_insert(Wish {
                donor,
                not_before_ms: 0,
                since_ms: None,
            });
        }
    }

    /// Whether remote frames of the partition must not be applied (rule R3).
    #[must_use]
    pub fn is_paused(&self, partition: u16) -> bool {
        self.receiving.contains_key(&partition)
    }

    /// Whether a repair of the partition is wanted or under way.
    #[must_use]
    pub fn is_wanted(&self, partition: u16) -> bool {
        self.wanted.contains_key(&partition) || self.is_paused(partition)
    }

    /// Partitions for which a repair is wanted or under way.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.wanted.len() + self.receiving.len()
    }

    /// Whether anything is going on, on either side.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.receiving.is_empty() || !self.donating.is_empty() || self.scrubs.current().is_some()
    }

    /// Whether there is work to do without anything arriving.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.receiving.values().any(Receipt::has_work)
            || self.donating.values().any(Donation::has_work)
            || self.scrubs.current().is_some_and(Receipt::has_work)
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> RepairCounts {
        self.counts
    }

    /// The repairs that are under way here.
    pub fn progress(&self) -> impl Iterator<Item = RepairProgress> + '_ {
        self.receiving.values().map(Receipt::progress)
    }

    /// What is to be said since the last call.
    pub fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    /// A peer's session is over: nothing more comes from it, or is sent to it.
    pub fn peer_down(&mut self, stage: &mut Stage, peer: Origin, now_ms: u64) {
        let lost: Vec<u16> =
            self.receiving.values().filter(|r| r.donor() == peer).map(Receipt::partition).collect();
        for partition in lost {
            self.give_up(partition, now_ms);
        }
        if self.scrubs.current().is_some_and(|r| r.donor() == peer) {
            self.end_scrub();
        }
        self.wanted.retain(|_, wish| wish.donor != peer);
        let over: Vec<_> = self.donating.keys().filter(|(p, _)| *p == peer).copied().collect();
        for place in over {
            self.end_donation(stage, place);
        }
    }

    /// Begins what is wanted and may be begun, and gives up what does not move. `choose` says who
    /// gives instead of a peer, and is told whether it may wait for more to be known.
    pub fn tick(
        &mut self,
        stage: &mut Stage,
        now_ms: u64,
        mut choose: impl FnMut(Origin, u16, bool) -> Choice,
    ) {
        let late: Vec<u16> = self
            .receiving
            .values()
            .filter(|r| now_ms >= r.heard_ms() + self.limits.patience_ms)
            .map(Receipt::partition)
            .collect();
        for partition in late {
            self.give_up(partition, now_ms);
        }
        let stuck = |r: &Receipt| now_ms >= r.heard_ms() + self.limits.patience_ms;
        if self.scrubs.current().is_some_and(stuck) {
            self.end_scrub();
            self.counts.scrubs_inconclusive += 1;
        }
        let forgotten: Vec<_> = self
            .donating
            .iter()
            .filter(|(_, d)| now_ms >= d.heard_ms() + self.limits.patience_ms)
            .map(|(place, _)| *place)
            .collect();
        for place in forgotten {
            self.end_donation(stage, place);
        }
        let due: Vec<(u16, Origin, bool)> = self
            .wanted
            .iter_mut()
            .filter(|(_, wish)| now_ms >= wish.not_before_ms)
            .map(|(partition, wish)| {
                let since_ms = *wish.since_ms.get_or_insert(now_ms);
                (*partition, wish.donor, now_ms < since_ms + STAND_IN_PATIENCE_MS)
            })
            .collect();
        for (partition, donor, is_patient) in due {
            match choose(donor, partition, is_patient) {
                Choice::Nobody => {
                    self.wanted.remove(&partition);
                }
                Choice::From(nearest) if self.receiving.len() < MAX_RECEIVING => {
                    self.wanted.remove(&partition);
                    let from = self.stand_in(partition, donor, nearest, now_ms);
                    self.begin(stage, partition, from, now_ms);
                }
                Choice::From(_) | Choice::Later => {}
            }
        }
    }

    /// The nearest, unless it did not help the last time.
    fn stand_in(&mut self, partition: u16, asked: Origin, nearest: Origin, now_ms: u64) -> Origin {
        let last = self.stood_in.get(&partition);
        if asked == nearest || last.is_some_and(|ms| now_ms < ms + STAND_IN_EVERY_MS) {
            return asked;
        }
        self.stood_in.insert(partition, now_ms);
        nearest
    }

    /// Does a portion of what takes time. `durable` is what each partition has on disk: nothing of
    /// a frozen partition leaves before all that it had seen is (rule R6).
    pub fn work(
        &mut self,
        stage: &mut Stage,
        durable: &[VersionVector],
        now_ms: u64,
    ) -> Vec<Repaired> {
        let mut budget = self.limits.scan_elements;
        let mut lost = Vec::new();
        for (place, donation) in &mut self.donating {
            let said = donation.work(stage, durable, &mut budget);
            let is_lost = said.is_none();
            for message in said.unwrap_or_default() {
                if let RepairMessage::Elements { bytes, .. }
                | RepairMessage::Symbols { symbols: bytes, .. } = &message
                {
                    self.counts.sent_bytes += bytes.len() as u64;
                }
                self.said.push((place.0, message));
            }
            if is_lost {
                lost.push(*place);
            }
        }
        for place in lost {
            let refuse = RepairMessage::Refuse { number: place.1, reason: Refusal::Changed };
            self.said.push((place.0, refuse));
            self.end_donation(stage, place);
        }
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for receipt in self.receiving.values_mut() {
            let said = receipt.work(stage, &mut budget);
            let asks = |m: &&RepairMessage| matches!(m, RepairMessage::More { .. });
            self.counts.symbol_requests += said.iter().filter(asks).count() as u64;
            self.said.extend(said.into_iter().map(|m| (receipt.donor(), m)));
            if receipt.is_complete() {
                done.push(receipt.partition());
            } else if receipt.has_failed() {
                failed.push(receipt.partition());
            }
        }
        for partition in failed {
            self.give_up(partition, now_ms);
        }
        let mut repaired = Vec::new();
        for partition in done {
            let Some(receipt) = self.receiving.remove(&partition) else { continue };
            let close = RepairMessage::Close { number: receipt.number() };
            self.said.push((receipt.donor(), close));
            self.counts.completed += 1;
            self.counts.equal += u64::from(receipt.is_equal());
            self.counts.received_elements += receipt.received();
            let (donor, parts) = (receipt.donor(), receipt.into_parts(stage));
            repaired.push(Repaired { partition, donor, parts, divergent: Vec::new() });
        }
        repaired.extend(self.work_scrub(stage, &mut budget));
        repaired
    }

    /// A peer that speaks protocol `version` says something about a repair.
    ///
    /// # Errors
    /// [`Malformed`] when it breaks the rules.
    pub fn message(
        &mut self,
        stage: &mut Stage,
        from: Origin,
        message: RepairMessage,
        version: u16,
        now_ms: u64,
    ) -> Result<(), Malformed> {
        if message.is_answer() {
            return self.answer(stage, from, message, now_ms);
        }
        let place = (from, message.number());
        match message {
            RepairMessage::Open { number, partition, seed, vector, lasting } => {
                if partition >= stage.partitions() {
                    return Err(Malformed("repair of a partition that does not exist"));
                }
                let theirs = vector.unpack()?;
                if !lasting {
                    self.make_way(stage, partition);
                }
                let taken = self.donating.len() >= MAX_DONATIONS
                    || self.donating.contains_key(&place)
                    || stage.frozen(partition).is_some();
                if taken {
                    let refuse = RepairMessage::Refuse { number, reason: Refusal::Busy };
                    self.said.push((from, refuse));
                    return Ok(());
                }
                stage.freeze(partition);
                self.counts.served += 1;
                let by_slot = version >= SLOT_SUMS_SINCE;
                if !lasting {
                    self.seeds.insert(partition, seed);
                }
                let asked = Asked { number, partition, seed, theirs, lasting, by_slot };
                let donation = Donation::new(asked, stage, self.limits, now_ms);
                self.donating.insert(place, donation);
            }
            RepairMessage::Close { .. } => self.end_donation(stage, place),
            message => match self.donating.get_mut(&place) {
                Some(donation) => donation.asked(stage, message, now_ms)?,
                None => {
                    let number = place.1;
                    let refuse = RepairMessage::Refuse { number, reason: Refusal::Unknown };
                    self.said.push((from, refuse));
                }
            },
        }
        Ok(())
    }

    /// Whoever lacks something goes before whoever only compares: a scrub that stands in the way
    /// of a repair is refused, and comes round again.
    fn make_way(&mut self, stage: &mut Stage, partition: u16) {
        let is_full = self.donating.len() >= MAX_DONATIONS;
        let in_the_way = |d: &Donation| d.is_scrub() && (is_full || d.partition() == partition);
        let scrubs: Vec<_> =
            self.donating.iter().filter(|(_, d)| in_the_way(d)).map(|(place, _)| *place).collect();
        for place in scrubs {
            let refuse = RepairMessage::Refuse { number: place.1, reason: Refusal::Busy };
            self.said.push((place.0, refuse));
            self.end_donation(stage, place);
        }
    }

    fn answer(
        &mut self,
        stage: &Stage,
        from: Origin,
        message: RepairMessage,
        now_ms: u64,
    ) -> Result<(), Malformed> {
        let number = message.number();
        let is_it = |r: &&mut Receipt| r.number() == number && r.donor() == from;
        if let Some(receipt) = self.scrubs.current_mut().filter(is_it) {
            if let RepairMessage::Refuse { .. } = message {
                self.end_scrub();
                self.counts.scrubs_inconclusive += 1;
                return Ok(());
            }
            return receipt.answered(stage, message, now_ms);
        }
        let Some(receipt) = self.receiving.values_mut().find(is_it) else {
            return Ok(());
        };
        if let RepairMessage::Refuse { .. } = message {
            let partition = receipt.partition();
            self.give_up(partition, now_ms);
            return Ok(());
        }
        let before = receipt.bytes();
        receipt.answered(stage, message, now_ms)?;
        self.counts.received_bytes += receipt.bytes() - before;
        Ok(())
    }

    fn begin(&mut self, stage: &Stage, partition: u16, donor: Origin, now_ms: u64) {
        self.number += 1;
        self.counts.begun += 1;
        let number = self.number;
        let new = || item_of(number, b"repair", &partition.to_le_bytes(), &stage.salt());
        let seed = *self.seeds.entry(partition).or_insert_with(new);
        let request = Request { number, seed, partition, donor, scrub: false };
        let (receipt, open) = Receipt::ask(request, stage, self.limits, now_ms);
        self.receiving.insert(partition, receipt);
        self.said.push((donor, open));
    }

    /// Begins again later, from the same donor if it is still there.
    fn give_up(&mut self, partition: u16, now_ms: u64) {
        let Some(receipt) = self.receiving.remove(&partition) else { return };
        self.counts.failed += 1;
        self.seeds.remove(&partition);
        let donor = receipt.donor();
        self.said.push((donor, RepairMessage::Close { number: receipt.number() }));
        let not_before_ms = now_ms + REPAIR_AGAIN_MS;
        self.wanted.insert(partition, Wish { donor, not_before_ms, since_ms: None });
    }

    fn end_donation(&mut self, stage: &mut Stage, place: (Origin, u64)) {
        if let Some(donation) = self.donating.remove(&place) {
            stage.thaw(donation.partition());
        }
    }
}

/// Slots of a partition.
fn slots_of(stage: &Stage, partition: u16) -> std::ops::Range<u16> {
    let count = slots_in(stage);
    partition * count..(partition + 1) * count
}

/// Runs of slots of a partition.
fn runs_of(stage: &Stage, partition: u16, shift: u8) -> std::ops::Range<u16> {
    let slots = slots_of(stage, partition);
    slots.start >> shift..slots.end >> shift
}

/// How many slots a partition has.
fn slots_in(stage: &Stage) -> u16 {
    SLOTS / stage.partitions()
}

/// An element without the values that whoever has seen so much has, or has removed.
fn without_values(place: &ElementKey, value: Vec<u8>, seen: &VersionVector) -> Vec<u8> {
    let Ok(Stored::Cell(cell)) = decode_stored(place, &value) else { return value };
    if !cell.regs().any(|reg| !reg.value.is_empty() && seen.covers(reg.dot)) {
        return value;
    }
    let mut out = Vec::new();
    encode_cell(&mut out, &cell.without_values(seen), true);
    out
}

/// What lasts of an element: without empty counter rows, which regions drop at different times.
/// None for what has nothing else, and for the keys of the end-to-end checks.
fn lasting_form(key: &[u8], place: &ElementKey, value: &[u8]) -> Option<Vec<u8>> {
    if key.starts_with(CHECK_PREFIX) {
        return None;
    }
    let Ok(Stored::Cell(cell)) = decode_stored(place, value) else {
        return Some(value.to_vec());
    };
    let holds = cell.regs().next().is_some() || cell.rows().iter().any(Row::is_live);
    holds.then(|| {
        let mut out = Vec::new();
        encode_cell(&mut out, &cell, false);
        out
    })
}
