//! The side that takes over.

use std::{collections::BTreeMap, ops::Range};

use meridian_clock::{Origin, VersionVector};
use meridian_codec::{Malformed, Reader};
use meridian_crdt::{ElementKey, encode_stored};
use meridian_keyspace::Stage;
use meridian_replication::{
    Decoder, Symbol,
    limits::MAX_SYMBOLS,
    repair::{ALL_GROUPS, GROUPS, PackedVector, RepairMessage, group_of, item_of},
};
use meridian_store::{MAX_FRAME_BYTES, RepairElement, RepairHeader};

use super::{RepairLimits, RepairProgress, is_news, lasting_form, slots_in, slots_of};
use crate::limits::{MAX_REPAIR_BYTES, REPAIR_PART_BYTES};

/// One element that is held here.
#[derive(Debug)]
struct Own {
    item: u64,
    group: u8,
    key: Box<[u8]>,
    place: ElementKey,
}

/// A key and an element of it.
pub type Name = (Box<[u8]>, ElementKey);

/// What the donor holds.
#[derive(Debug)]
struct Offer {
    vector: VersionVector,
    sums: Vec<u64>,
    items: u64,
    news: u64,
    whole: bool,
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
    /// The own elements are being looked at.
    Looking,
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
    seed: u64,
    /// It only looks whether two regions that have seen the same hold the same.
    scrub: bool,
    phase: Phase,
    offer: Option<Offer>,
    /// Slots that are still to be looked at.
    slots: Range<u16>,
    /// By item, once all have been looked at.
    own: Vec<Own>,
    sums: Vec<u64>,
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
    /// Own elements looked at closely, and how many of them the donor had not seen.
    sampled: (u64, u64),
    failed: bool,
    since_ms: u64,
    heard_ms: u64,
}

impl Receipt {
    /// Asks a donor.
    pub fn open(
        number: u64,
        partition: u16,
        donor: Origin,
        scrub: bool,
        stage: &Stage,
        limits: RepairLimits,
        now_ms: u64,
    ) -> (Receipt, RepairMessage) {
        // The items of one scrub are compared with those of the next.
        let of = if scrub { 0 } else { number };
        let seed = item_of(of, b"repair", &partition.to_le_bytes(), &stage.salt());
        let vector = PackedVector::pack(&stage.partition(partition).vector);
        let mut receipt = Receipt {
            limits,
            number,
            partition,
            donor,
            seed,
            scrub,
            phase: Phase::Asked,
            offer: None,
            slots: slots_of(stage, partition),
            own: Vec::new(),
            sums: vec![0; GROUPS as usize],
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
            sampled: (0, 0),
            failed: false,
            since_ms: now_ms,
            heard_ms: now_ms,
        };
        if stage.ablations().repair_looks_early {
            while let Some(slot) = stage.next_occupied(&mut receipt.slots) {
                receipt.look(stage, slot);
            }
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
        matches!(self.phase, Phase::Looking | Phase::Compared | Phase::Complete)
            || !self.said.is_empty()
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
            Phase::Looking | Phase::Comparing(..) | Phase::Compared => "comparing",
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
                let offer = Offer { vector: vector.unpack()?, sums, items, news, whole };
                self.offered(stage, offer)
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
        if offer.sums.len() != GROUPS as usize {
            return Err(Malformed("offer of a repair without its sums"));
        }
        let newest = offer.vector.iter().map(|(_, time)| time).max().unwrap_or_default();
        if stage.clock().check(newest).is_err() {
            // An honest donor may have followed a clock that is still out of reach from here: it is
            // asked again later, as frames from the future are.
            self.failed = true;
            return Ok(());
        }
        let (whole, items) = (offer.whole, offer.items);
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
    pub fn work(&mut self, stage: &Stage, budget: &mut usize) -> Vec<RepairMessage> {
        if matches!(self.phase, Phase::Looking) {
            while *budget > 0
                && let Some(slot) = stage.next_occupied(&mut self.slots)
            {
                let before = self.own.len();
                self.look(stage, slot);
                *budget = budget.saturating_sub(1 + self.own.len() - before);
            }
            if self.slots.is_empty() {
                self.looked[1] = stage.partition(self.partition).vector.clone();
                self.looked();
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

    fn look(&mut self, stage: &Stage, slot: u16) {
        let group = group_of(slot, slots_in(stage)) as u8;
        let strips = self.scrub || stage.ablations().repair_without_residue;
        let mut name = Vec::new();
        for (key, object) in stage.table(slot).iter() {
            let mut note = |place: ElementKey| {
                name.clear();
                place.encode(&mut name);
                let Some(mut value) = encode_stored(object, &place) else { return };
                if strips {
                    let Some(lasting) = lasting_form(key, &place, &value) else { return };
                    value = lasting;
                }
                let item = item_of(self.seed, key, &name, &value);
                if self.own.len().is_multiple_of(self.limits.sample)
                    && let Some(offer) = &self.offer
                {
                    self.sampled.0 += 1;
                    self.sampled.1 += u64::from(is_news(&place, &value, &offer.vector));
                }
                let sum = &mut self.sums[usize::from(group)];
                *sum = sum.wrapping_add(item);
                self.own.push(Own { item, group, key: key.into(), place });
            };
            object.each(|element, _| note(ElementKey::of(element)));
            if !object.deadlines().is_empty() {
                note(ElementKey::Deadlines);
            }
        }
    }

    /// All own elements have been looked at: which groups differ, and by how much?
    fn looked(&mut self) {
        self.own.sort_unstable_by_key(|own| own.item);
        let Some(offer) = &self.offer else { return };
        let differ = (0..GROUPS as usize).filter(|g| offer.sums[*g] != self.sums[*g]);
        let groups = differ.fold(0u64, |groups, g| groups | 1 << g);
        if groups == 0 {
            self.phase = if self.scrub { Phase::Compared } else { Phase::Complete };
            return;
        }
        // What one side has not seen mostly stands against an older state of it on the other.
        let own_news = self.own.len() as u64 * self.sampled.1 / self.sampled.0.max(1);
        self.guess = 3 * (offer.news + own_news) + self.limits.spare_symbols;
        let early = std::mem::take(&mut self.early);
        if let Some((ALL_GROUPS, 0, symbols)) = early.into_iter().next() {
            self.phase = Phase::Comparing(Box::new(self.decoder(ALL_GROUPS)), ALL_GROUPS);
            self.compare(ALL_GROUPS, 0, &symbols);
            return;
        }
        self.phase = Phase::Comparing(Box::new(self.decoder(groups)), groups);
        let upto = self.guess.min(self.limits.symbols);
        self.said.push(RepairMessage::More { number: self.number, groups, upto });
    }

    fn decoder(&self, groups: u64) -> Decoder {
        let of = self.own.iter().filter(|own| groups >> own.group & 1 == 1);
        Decoder::new(of.map(|own| own.item))
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
