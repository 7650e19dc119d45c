//! The side that takes over.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use meridian_clock::{Origin, VersionVector};
use meridian_codec::{Malformed, Reader};
use meridian_crdt::ElementKey;
use meridian_keyspace::{Stage, View, slot_of};
use meridian_replication::{
    Decoder, Symbol,
    limits::MAX_SYMBOLS,
    repair::{
        ALL_GROUPS, GROUPS, PackedVector, RepairMessage, item_of, put_runs, read_sums, run_sums,
    },
};
use meridian_store::{MAX_FRAME_BYTES, RepairElement, RepairHeader};

use super::{
    RepairLimits, RepairProgress,
    look::{Counts, Held, Look, News, groups_of, is_among},
    runs_of, slots_in, slots_of,
};
use crate::limits::{MAX_REPAIR_BYTES, REPAIR_PART_BYTES};

/// A key and an element of it.
pub type Name = (Box<[u8]>, ElementKey);

/// What the donor holds.
#[derive(Debug)]
struct Offer {
    vector: VersionVector,
    sums: Sums,
    items: u64,
    news: u64,
    whole: bool,
}

/// What the donor's elements sum to.
#[derive(Debug)]
enum Sums {
    /// Of runs of slots of which so many bits do not count.
    Runs(Vec<(u16, u64)>, u8),
    /// Of groups of slots, as before protocol 4.
    Groups(Vec<u64>),
}

/// What a scrub has found.
#[derive(Clone, Copy, Debug)]
pub struct Comparison<'r> {
    /// Elements that are in this state only here, and their items.
    pub only_here: &'r BTreeMap<Name, u64>,
    /// Items of elements that are in that state only there.
    pub only_there: &'r [u64],
    /// What had been seen here before and after the own elements were looked at.
    pub looked: &'r [VersionVector; 2],
    /// What had been seen there.
    pub theirs: &'r VersionVector,
}

/// How far it is.
#[derive(Debug)]
enum Phase {
    /// The donor was asked.
    Asked,
    /// The own slots are being summed up.
    Looking,
    /// The elements of those that differ are being looked at: which groups they are, for the donor,
    /// and which are still to be looked at.
    Selecting(u64, Vec<u16>),
    /// Symbols are to come.
    Comparing(Box<Decoder>, u64),
    /// It is known what differs; a scrub looks at that before it goes on.
    Compared,
    /// Elements are to come.
    Fetching,
    /// All is here.
    Complete,
}

/// One partition that is being taken over.
#[derive(Debug)]
pub struct Receipt {
    limits: RepairLimits,
    number: u64,
    partition: u16,
    donor: Origin,
    look: Look,
    /// It only looks whether two regions that have seen the same hold the same.
    scrub: bool,
    phase: Phase,
    offer: Option<Offer>,
    /// Slots that are still to be looked at.
    slots: Range<u16>,
    /// What each slot sums to.
    sums: Vec<(u16, u64)>,
    /// Runs of slots that differ.
    differ: Vec<u16>,
    /// The own elements of those, by item once all have been looked at.
    own: Vec<Held>,
    /// What of them the donor has not seen.
    news: News,
    /// Symbols that came before they could be used.
    early: Vec<(u64, u64, Vec<Symbol>)>,
    /// Elements that are held here and not there, as far as is known, and their items.
    only_here: BTreeMap<Name, u64>,
    /// Items that are held there and not here.
    only_there: Vec<u64>,
    /// What had been seen here before and after the own elements were looked at.
    looked: [VersionVector; 2],
    /// About how many symbols it will take.
    guess: u64,
    expected: u64,
    /// The stream's bytes that are not yet a whole element.
    stream: Vec<u8>,
    /// Elements that came, encoded, in portions of a part.
    bodies: Vec<Vec<u8>>,
    received: u64,
    bytes: u64,
    granted: u64,
    stream_bytes: u64,
    said: Vec<RepairMessage>,
    failed: bool,
    since_ms: u64,
    heard_ms: u64,
}

impl Receipt {
    /// Asks a donor for a repair: its number, and what keys the items.
    pub fn open(
        (number, seed): (u64, u64),
        partition: u16,
        donor: Origin,
        stage: &Stage,
        limits: RepairLimits,
        now_ms: u64,
    ) -> (Receipt, RepairMessage) {
        Receipt::ask((number, seed), partition, donor, false, stage, limits, now_ms)
    }

    /// Asks another region what it holds, to compare.
    pub fn scrub(
        number: u64,
        partition: u16,
        donor: Origin,
        stage: &Stage,
        limits: RepairLimits,
        now_ms: u64,
    ) -> (Receipt, RepairMessage) {
        // The items of one scrub are compared with those of the next.
        let seed = item_of(0, b"repair", &partition.to_le_bytes(), &stage.salt());
        Receipt::ask((number, seed), partition, donor, true, stage, limits, now_ms)
    }

    fn ask(
        (number, seed): (u64, u64),
        partition: u16,
        donor: Origin,
        scrub: bool,
        stage: &Stage,
        limits: RepairLimits,
        now_ms: u64,
    ) -> (Receipt, RepairMessage) {
        let counts = Counts::between(true, scrub, stage);
        let vector = PackedVector::pack(&stage.partition(partition).vector);
        let mut receipt = Receipt {
            limits,
            number,
            partition,
            donor,
            look: Look { view: View::Now, seed, counts },
            scrub,
            phase: Phase::Asked,
            offer: None,
            slots: slots_of(stage, partition),
            sums: Vec::new(),
            differ: Vec::new(),
            own: Vec::new(),
            news: News::default(),
            early: Vec::new(),
            only_here: BTreeMap::new(),
            only_there: Vec::new(),
            looked: Default::default(),
            guess: 0,
            expected: 0,
            stream: Vec::new(),
            bodies: vec![Vec::new()],
            received: 0,
            bytes: 0,
            granted: 0,
            stream_bytes: 0,
            said: Vec::new(),
            failed: false,
            since_ms: now_ms,
            heard_ms: now_ms,
        };
        if stage.ablations().repair_looks_early {
            receipt.look_early(stage);
        }
        (receipt, RepairMessage::Open { number, partition, seed, vector, lasting: scrub })
    }

    /// Which repair.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The partition.
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// Who gives.
    pub fn donor(&self) -> Origin {
        self.donor
    }

    /// When the donor was last heard.
    pub fn heard_ms(&self) -> u64 {
        self.heard_ms
    }

    /// Bytes that have come.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Elements that have come.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Elements that are in this state only here.
    pub fn only_here(&self) -> &BTreeMap<Name, u64> {
        &self.only_here
    }

    /// Whether there is something to do now.
    pub fn has_work(&self) -> bool {
        let looks = matches!(self.phase, Phase::Looking | Phase::Selecting(..));
        looks || matches!(self.phase, Phase::Compared | Phase::Complete) || !self.said.is_empty()
    }

    /// It cannot be completed and must begin again.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// All that is needed is here.
    pub fn is_complete(&self) -> bool {
        matches!(self.phase, Phase::Complete)
    }

    /// Nothing differed.
    pub fn is_equal(&self) -> bool {
        self.received == 0 && self.only_here.is_empty()
    }

    /// For the operator.
    pub fn progress(&self) -> RepairProgress {
        let phase = match self.phase {
            Phase::Asked => "asked",
            Phase::Looking | Phase::Selecting(..) | Phase::Comparing(..) | Phase::Compared => {
                "comparing"
            }
            Phase::Fetching => "fetching",
            Phase::Complete => "applying",
        };
        RepairProgress {
            partition: self.partition,
            donor: self.donor,
            phase,
            received: self.received,
            expected: self.expected,
            bytes: self.bytes,
            since_ms: self.since_ms,
        }
    }

    /// The donor has said something; not a refusal.
    pub fn answered(
        &mut self,
        stage: &Stage,
        message: RepairMessage,
        now_ms: u64,
    ) -> Result<(), Malformed> {
        self.heard_ms = now_ms;
        if self.failed {
            return Ok(());
        }
        match message {
            RepairMessage::Offer { vector, sums, items, news, whole, .. }
                if matches!(self.phase, Phase::Asked) =>
            {
                if sums.len() != GROUPS as usize {
                    return Err(Malformed("offer of a repair without its sums"));
                }
                let (vector, sums) = (vector.unpack()?, Sums::Groups(sums));
                self.offered(stage, Offer { vector, sums, items, news, whole })
            }
            RepairMessage::OfferSlots { vector, shift, sums, items, news, whole, .. }
                if matches!(self.phase, Phase::Asked) =>
            {
                self.bytes += sums.len() as u64;
                if slots_in(stage).checked_shr(shift.into()).unwrap_or_default() == 0 {
                    return Err(Malformed("runs that are longer than the partition"));
                }
                let all = runs_of(stage, self.partition, shift);
                let sums = Sums::Runs(read_sums(&sums, &all)?, shift);
                self.offered(stage, Offer { vector: vector.unpack()?, sums, items, news, whole })
            }
            RepairMessage::Symbols { groups, from, symbols, .. } => {
                self.bytes += symbols.len() as u64;
                let symbols = Symbol::decode_all(&symbols)?;
                if symbols.len() as u64 > MAX_SYMBOLS {
                    return Err(Malformed("too many symbols"));
                }
                match self.phase {
                    Phase::Comparing(..) => self.compare(groups, from, &symbols),
                    _ if self.early.is_empty() => self.early.push((groups, from, symbols)),
                    _ => {}
                }
                Ok(())
            }
            RepairMessage::Elements { from, bytes, last, .. }
                if matches!(self.phase, Phase::Fetching) =>
            {
                if from != self.stream_bytes {
                    // A piece was lost on the way: begin again.
                    self.failed = true;
                    return Ok(());
                }
                self.elements(stage, &bytes, last)
            }
            _ => Err(Malformed("repair answers what was not asked")),
        }
    }

    fn offered(&mut self, stage: &Stage, offer: Offer) -> Result<(), Malformed> {
        let newest = offer.vector.iter().map(|(_, time)| time).max().unwrap_or_default();
        if stage.clock().check(newest).is_err() {
            // An honest donor may have followed a clock that is still out of reach from here: it is
            // asked again later, as frames from the future are.
            self.failed = true;
            return Ok(());
        }
        let (whole, items) = (offer.whole, offer.items);
        let by_slot = matches!(offer.sums, Sums::Runs(..));
        self.look.counts = Counts::between(by_slot, self.scrub, stage);
        self.offer = Some(offer);
        self.phase = Phase::Looking;
        self.looked[0] = stage.partition(self.partition).vector.clone();
        if whole && self.scrub {
            return Err(Malformed("a scrub was offered everything"));
        }
        if whole {
            self.expected = items;
            self.phase = Phase::Fetching;
            let number = self.number;
            self.said.push(RepairMessage::Fetch { number, items: Vec::new(), last: true });
            self.grant();
        }
        Ok(())
    }

    /// Does a portion of what there is to do.
    pub fn work(&mut self, stage: &mut Stage, budget: &mut usize) -> Vec<RepairMessage> {
        if matches!(self.phase, Phase::Looking) {
            while *budget > 0
                && let Some(slot) = stage.next_occupied(&mut self.slots)
            {
                let (sum, cost) = self.look.sum(stage, slot);
                if sum.items > 0 {
                    self.sums.push((slot, sum.sum));
                }
                *budget = budget.saturating_sub(cost);
            }
            if self.slots.is_empty() {
                self.summed_up(stage);
            }
        }
        if let Phase::Selecting(groups, slots) = &mut self.phase {
            while *budget > 0
                && let Some(slot) = slots.pop()
            {
                let before = self.own.len();
                self.look.collect(stage, slot, &mut self.own);
                if let Some(offer) = &self.offer {
                    self.news.look(stage, slot, &offer.vector, 1);
                }
                *budget = budget.saturating_sub(1 + self.own.len() - before);
            }
            if slots.is_empty() {
                let groups = *groups;
                self.looked[1] = stage.partition(self.partition).vector.clone();
                self.looked(groups);
            }
        }
        std::mem::take(&mut self.said)
    }

    /// The repair as it goes into the log: elements that are held there, elements that are held
    /// only here, and what the donor had seen.
    pub fn into_parts(mut self, stage: &Stage) -> Vec<Vec<u8>> {
        let Some(offer) = &self.offer else { return Vec::new() };
        let (seen, whole) = (offer.vector.clone(), offer.whole);
        let mut absent = std::mem::take(&mut self.only_here);
        if whole {
            // Whatever is held here and did not come is not held there.
            absent = absent_after(stage, self.partition, &self.bodies);
        }
        for (key, place) in absent.keys() {
            let mut element = Vec::new();
            place.encode(&mut element);
            let body = open_body(&mut self.bodies, key.len());
            RepairElement { key, element: &element, value: None }.encode(body);
        }
        let count = self.bodies.len();
        let part = |(index, body): (usize, &Vec<u8>)| {
            let last = index + 1 == count;
            let (partition, seen) = (self.partition, seen.clone());
            let mut out = Vec::with_capacity(body.len() + 256);
            RepairHeader { partition, seen, last, union: false }.encode(&mut out);
            out.extend_from_slice(body);
            out
        };
        self.bodies.iter().enumerate().map(part).collect()
    }

    /// Looks at everything before the donor has frozen it, which is wrong.
    fn look_early(&mut self, stage: &Stage) {
        while let Some(slot) = stage.next_occupied(&mut self.slots) {
            let before = self.own.len();
            self.look.collect(stage, slot, &mut self.own);
            let sum = self.own[before..].iter().fold(0u64, |sum, own| sum.wrapping_add(own.item));
            if self.own.len() > before {
                self.sums.push((slot, sum));
            }
        }
    }

    /// All own slots have been summed up: which differ?
    fn summed_up(&mut self, stage: &Stage) {
        let Some(offer) = &self.offer else { return };
        let own_slots = self.sums.iter().map(|(slot, _)| *slot);
        let (groups, mut slots): (u64, Vec<u16>) = match &offer.sums {
            Sums::Runs(theirs, shift) => {
                self.differ = differing(&run_sums(&self.sums, *shift), theirs);
                let differs = |slot: &u16| self.differ.binary_search(&(slot >> shift)).is_ok();
                let groups = if self.differ.is_empty() { 0 } else { ALL_GROUPS };
                (groups, own_slots.filter(differs).collect())
            }
            Sums::Groups(theirs) => {
                let ours = groups_of(stage, &self.sums);
                let differ = (0..theirs.len()).filter(|group| ours[*group] != theirs[*group]);
                let groups = differ.fold(0u64, |groups, group| groups | 1 << group);
                // Symbols that came with the offer are of everything.
                let has_early = groups != 0 && self.early.iter().any(|(of, ..)| *of == ALL_GROUPS);
                let groups = if has_early { ALL_GROUPS } else { groups };
                (groups, own_slots.filter(|slot| is_among(stage, groups, *slot)).collect())
            }
        };
        self.sums = Vec::new();
        if groups == 0 {
            self.looked[1] = stage.partition(self.partition).vector.clone();
            self.phase = if self.scrub { Phase::Compared } else { Phase::Complete };
            return;
        }
        if stage.ablations().repair_looks_early {
            self.own.retain(|own| slots.binary_search(&slot_of(&own.key)).is_ok());
            slots.clear();
        }
        slots.reverse();
        self.phase = Phase::Selecting(groups, slots);
    }

    /// The own elements of what differs have been looked at: now symbols.
    fn looked(&mut self, groups: u64) {
        self.own.sort_unstable_by_key(|own| own.item);
        let Some(offer) = &self.offer else { return };
        let (number, news) = (self.number, self.news.found());
        let decoder = Decoder::new(self.own.iter().map(|own| own.item));
        self.phase = Phase::Comparing(Box::new(decoder), groups);
        if let Sums::Runs(..) = offer.sums {
            let mut runs = Vec::new();
            put_runs(&mut runs, &std::mem::take(&mut self.differ));
            self.said.push(RepairMessage::Select { number, runs, news });
            return;
        }
        // What one side has not seen mostly stands against an older state of it on the other.
        self.guess = offer
            .news
            .saturating_add(news)
            .saturating_mul(3)
            .saturating_add(self.limits.spare_symbols);
        let early = std::mem::take(&mut self.early);
        if let Some((ALL_GROUPS, 0, symbols)) = early.into_iter().next()
            && groups == ALL_GROUPS
        {
            self.compare(ALL_GROUPS, 0, &symbols);
            return;
        }
        let upto = self.guess.min(self.limits.symbols);
        self.said.push(RepairMessage::More { number, groups, upto });
    }

    fn compare(&mut self, groups: u64, from: u64, symbols: &[Symbol]) {
        let Phase::Comparing(decoder, wanted) = &mut self.phase else { return };
        if groups != *wanted || from != decoder.received() {
            return;
        }
        let Some(difference) = decoder.push(symbols) else {
            let received = decoder.received();
            let most =
                2 * (self.own.len() as u64 + self.offer.as_ref().map_or(0, |o| o.items)) + 64;
            if received > most {
                // It should have decoded long ago. Another seed will do.
                self.failed = true;
                return;
            }
            // The donor did not know what is news from here.
            let upto = (received + (received / 2).max(self.limits.spare_symbols)).max(self.guess);
            let upto = upto.min(received + self.limits.symbols);
            self.said.push(RepairMessage::More { number: self.number, groups, upto });
            return;
        };
        for item in &difference.ours {
            if let Ok(at) = self.own.binary_search_by_key(item, |own| own.item) {
                let own = &self.own[at];
                self.only_here.insert((own.key.clone(), own.place.clone()), *item);
            }
        }
        self.own = Vec::new();
        self.only_there = difference.theirs;
        self.phase = Phase::Compared;
        if !self.scrub {
            let items = std::mem::take(&mut self.only_there);
            self.fetch(&items);
        }
    }

    /// Asks for these of the donor's elements.
    pub fn fetch(&mut self, items: &[u64]) {
        self.expected = items.len() as u64;
        if items.is_empty() {
            self.phase = Phase::Complete;
            return;
        }
        let number = self.number;
        let mut chunks = items.chunks(self.limits.items).peekable();
        while let Some(items) = chunks.next() {
            let last = chunks.peek().is_none();
            self.said.push(RepairMessage::Fetch { number, items: items.to_vec(), last });
        }
        self.phase = Phase::Fetching;
        self.grant();
    }

    /// What a scrub has found, once it has compared.
    pub fn compared(&self) -> Option<Comparison<'_>> {
        let offer = self.offer.as_ref().filter(|_| matches!(self.phase, Phase::Compared))?;
        Some(Comparison {
            only_here: &self.only_here,
            only_there: &self.only_there,
            looked: &self.looked,
            theirs: &offer.vector,
        })
    }

    /// Elements that a scrub has fetched: those that `still` confirms, as a repair that takes
    /// nothing away and moves no vector.
    pub fn into_union(
        mut self,
        still: impl Fn(&[u8], &ElementKey) -> bool,
    ) -> (Vec<Vec<u8>>, Vec<Name>) {
        let mut body = Vec::new();
        let mut names = Vec::new();
        for stream in std::mem::take(&mut self.bodies) {
            let mut reader = Reader::new(&stream);
            while let Ok(element) = RepairElement::read(&mut reader) {
                let Ok(place) = ElementKey::decode(element.element) else { continue };
                if still(element.key, &place) {
                    element.encode(&mut body);
                    names.push((element.key.into(), place));
                }
            }
        }
        let (partition, seen) = (self.partition, VersionVector::new());
        let mut part = Vec::new();
        RepairHeader { partition, seen, last: true, union: true }.encode(&mut part);
        part.extend_from_slice(&body);
        (vec![part], names)
    }

    fn grant(&mut self) {
        let upto = self.stream_bytes + self.limits.window_bytes;
        if upto >= self.granted + self.limits.window_bytes / 4 {
            self.granted = upto;
            self.said.push(RepairMessage::Grant { number: self.number, bytes: upto });
        }
    }

    fn elements(&mut self, stage: &Stage, bytes: &[u8], last: bool) -> Result<(), Malformed> {
        self.bytes += bytes.len() as u64;
        self.stream_bytes += bytes.len() as u64;
        if self.stream_bytes > MAX_REPAIR_BYTES {
            return Err(Malformed("repair of one partition is too large"));
        }
        self.stream.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((length, rest)) = self.stream[at..].split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > MAX_FRAME_BYTES - REPAIR_PART_BYTES {
                return Err(Malformed("element of a repair is too large"));
            }
            let Some(body) = rest.get(..length) else { break };
            let mut reader = Reader::new(body);
            let element = RepairElement::read(&mut reader)?;
            let place = ElementKey::decode(element.element)?;
            if !reader.is_empty() || stage.partition_of(element.key) != self.partition {
                return Err(Malformed("element that does not belong to the repair"));
            }
            if !self.scrub {
                // Held here in another state: not only here, that is.
                self.only_here.remove(&(element.key.into(), place));
            }
            open_body(&mut self.bodies, length).extend_from_slice(body);
            self.received += 1;
            at += 4 + length;
        }
        self.stream.drain(..at);
        if last {
            if !self.stream.is_empty() {
                return Err(Malformed("repair ends inside an element"));
            }
            if self.received != self.expected {
                // A part of what was asked for was lost on the way there.
                self.failed = true;
                return Ok(());
            }
            self.phase = Phase::Complete;
        } else {
            self.grant();
        }
        Ok(())
    }
}

/// Runs that do not sum to the same on both sides, those that only one side has among them.
fn differing(ours: &[(u16, u64)], theirs: &[(u16, u64)]) -> Vec<u16> {
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
        (ours.iter().copied().collect(), theirs.iter().copied().collect());
    let mut runs: Vec<u16> = ours.symmetric_difference(&theirs).map(|(run, _)| *run).collect();
    runs.dedup();
    runs
}

/// The last portion, or a new one if it is full.
fn open_body(bodies: &mut Vec<Vec<u8>>, room: usize) -> &mut Vec<u8> {
    let full = bodies.last().is_none_or(|b| !b.is_empty() && b.len() + room > REPAIR_PART_BYTES);
    if full {
        bodies.push(Vec::new());
    }
    let at = bodies.len() - 1;
    &mut bodies[at]
}

/// Elements of a partition that are held here and not among those that came.
fn absent_after(stage: &Stage, partition: u16, bodies: &[Vec<u8>]) -> BTreeMap<Name, u64> {
    let mut absent = BTreeMap::new();
    let mut slots = slots_of(stage, partition);
    while let Some(slot) = stage.next_occupied(&mut slots) {
        for (key, object) in stage.table(slot).iter() {
            object.each(|element, _| {
                absent.insert((Box::from(key), ElementKey::of(element)), 0);
            });
            if !object.deadlines().is_empty() {
                absent.insert((Box::from(key), ElementKey::Deadlines), 0);
            }
        }
    }
    if absent.is_empty() {
        return absent;
    }
    for body in bodies {
        let mut reader = Reader::new(body);
        while let Ok(element) = RepairElement::read(&mut reader) {
            if let Ok(place) = ElementKey::decode(element.element) {
                absent.remove(&(Box::from(element.key), place));
            }
        }
    }
    absent
}
