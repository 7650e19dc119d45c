//! The donor's elements as they come, and what becomes of them: parts of a repair for the log.

use std::collections::BTreeMap;

use meridian_clock::VersionVector;
use meridian_codec::{Malformed, Reader};
use meridian_crdt::ElementKey;
use meridian_keyspace::Stage;
use meridian_replication::repair::RepairMessage;
use meridian_store::{MAX_FRAME_BYTES, RepairElement, RepairHeader};

use super::{Name, Phase, Receipt};
use crate::{
    limits::{MAX_REPAIR_BYTES, REPAIR_PART_BYTES},
    repair::slots_of,
};

impl Receipt {
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

    pub(super) fn grant(&mut self) {
        let upto = self.stream_bytes + self.limits.window_bytes;
        if upto >= self.granted + self.limits.window_bytes / 4 {
            self.granted = upto;
            self.said.push(RepairMessage::Grant { number: self.number, bytes: upto });
        }
    }

    pub(super) fn elements(
        &mut self,
        stage: &Stage,
        bytes: &[u8],
        last: bool,
    ) -> Result<(), Malformed> {
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

    /// Elements that a scrub has fetched: those that `confirms` lets pass by their name and stored
    /// form, as a repair that takes nothing away and moves no vector.
    pub fn into_union(
        mut self,
        confirms: impl Fn(&Name, &[u8]) -> bool,
    ) -> (Vec<Vec<u8>>, Vec<Name>) {
        let mut body = Vec::new();
        let mut names = Vec::new();
        for stream in std::mem::take(&mut self.bodies) {
            let mut reader = Reader::new(&stream);
            while let Ok(element) = RepairElement::read(&mut reader) {
                let Ok(place) = ElementKey::decode(element.element) else { continue };
                let name = (element.key.into(), place);
                if confirms(&name, element.value.unwrap_or_default()) {
                    element.encode(&mut body);
                    names.push(name);
                }
            }
        }
        let (partition, seen) = (self.partition, VersionVector::new());
        let mut part = Vec::new();
        RepairHeader { partition, seen, last: true, union: true }.encode(&mut part);
        part.extend_from_slice(&body);
        (vec![part], names)
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
