//! The side that has what the other lacks.

use std::ops::Range;

use meridian_clock::VersionVector;
use meridian_codec::Malformed;
use meridian_crdt::ElementKey;
use meridian_keyspace::{Frozen, Stage};
use meridian_replication::{
    Coder, Symbol,
    repair::{ALL_GROUPS, GROUPS, PackedVector, RepairMessage, group_of, item_of},
};
use meridian_store::RepairElement;

use super::{RepairLimits, is_news, lasting_form, slots_in, slots_of, without_values};

/// One element that the frozen partition holds.
#[derive(Debug)]
struct Held {
    item: u64,
    group: u8,
    key: Box<[u8]>,
    place: ElementKey,
}

/// One partition that is being given to one peer.
#[derive(Debug)]
pub struct Donation {
    limits: RepairLimits,
    number: u64,
    partition: u16,
    seed: u64,
    /// Only what lasts counts.
    lasting: bool,
    /// What the receiver had seen.
    theirs: VersionVector,
    /// Slots that are still to be looked at.
    slots: Range<u16>,
    held: Vec<Held>,
    sums: Vec<u64>,
    /// Elements looked at closely, and how many of them the receiver has not seen.
    sampled: (u64, u64),
    offered: bool,
    whole: bool,
    coder: Option<(u64, Coder)>,
    /// What is to be sent: indices of `held`.
    queue: Queue,
    /// Bytes of the stream that have not filled a piece.
    stream: Vec<u8>,
    sent: u64,
    granted: u64,
    finished: bool,
    answers: Vec<RepairMessage>,
    heard_ms: u64,
}

/// What the receiver has asked for.
#[derive(Debug, Default)]
struct Queue {
    items: std::collections::VecDeque<u64>,
    /// With everything wanted: the next of `held`.
    next: usize,
    complete: bool,
}

/// What a receiver asks for.
#[derive(Debug)]
pub struct Asked {
    /// Which of its repairs.
    pub number: u64,
    /// The partition.
    pub partition: u16,
    /// Keys the items.
    pub seed: u64,
    /// What it has seen.
    pub theirs: VersionVector,
    /// Only what lasts counts.
    pub lasting: bool,
}

impl Donation {
    /// Begins; the partition has just been frozen.
    pub fn new(asked: Asked, stage: &Stage, limits: RepairLimits, now_ms: u64) -> Donation {
        let Asked { number, partition, seed, theirs, lasting } = asked;
        Donation {
            limits,
            number,
            partition,
            seed,
            lasting,
            theirs,
            slots: slots_of(stage, partition),
            held: Vec::new(),
            sums: vec![0; GROUPS as usize],
            sampled: (0, 0),
            offered: false,
            whole: false,
            coder: None,
            queue: Queue::default(),
            stream: Vec::new(),
            sent: 0,
            granted: 0,
            finished: false,
            answers: Vec::new(),
            heard_ms: now_ms,
        }
    }

    /// The partition.
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// Whether the receiver only compares.
    pub fn is_scrub(&self) -> bool {
        self.lasting
    }

    /// When the receiver was last heard.
    pub fn heard_ms(&self) -> u64 {
        self.heard_ms
    }

    /// Whether there is something to do now.
    pub fn has_work(&self) -> bool {
        !self.slots.is_empty() || !self.answers.is_empty() || self.may_send()
    }

    fn may_send(&self) -> bool {
        let some = !self.queue.items.is_empty() || self.queue.complete;
        self.offered && some && !self.finished && self.sent < self.granted
    }

    /// The receiver asks for something.
    pub fn asked(&mut self, message: RepairMessage, now_ms: u64) -> Result<(), Malformed> {
        self.heard_ms = now_ms;
        if !self.offered {
            return Err(Malformed("repair goes on before it was offered"));
        }
        match message {
            RepairMessage::More { groups, upto, .. } => {
                if self.coder.as_ref().is_none_or(|(of, _)| *of != groups) {
                    self.coder = Some((groups, self.coder_of(groups)));
                }
                self.extend(upto);
            }
            RepairMessage::Fetch { items, last, .. } => {
                if self.queue.complete || self.queue.items.len() + items.len() > self.held.len() {
                    return Err(Malformed("repair asks for more than there is"));
                }
                self.queue.items.extend(items);
                self.queue.complete = last;
            }
            RepairMessage::Grant { bytes, .. } => {
                self.granted = bytes.min(self.sent + self.limits.window_bytes);
            }
            _ => return Err(Malformed("not a receiver's message")),
        }
        Ok(())
    }

    /// Does a portion of what there is to do. None: the frozen state is lost.
    pub fn work(
        &mut self,
        stage: &Stage,
        durable: &[VersionVector],
        budget: &mut usize,
    ) -> Option<Vec<RepairMessage>> {
        let frozen = stage.frozen(self.partition).filter(|f| !f.is_lost())?;
        while *budget > 0
            && let Some(slot) = stage.next_occupied(&mut self.slots)
        {
            let before = self.held.len();
            self.look(stage, slot);
            *budget = budget.saturating_sub(1 + self.held.len() - before);
        }
        if !self.slots.is_empty() {
            return Some(Vec::new());
        }
        if !self.offered {
            let on_disk = durable.get(usize::from(self.partition));
            if !on_disk.is_some_and(|v| v.dominates(frozen.vector())) {
                return Some(Vec::new());
            }
            self.offer(frozen);
        }
        if self.may_send() {
            self.send(stage);
        }
        Some(std::mem::take(&mut self.answers))
    }

    fn look(&mut self, stage: &Stage, slot: u16) {
        let group = group_of(slot, slots_in(stage));
        let (seed, theirs, sample) = (self.seed, &self.theirs, self.limits.sample);
        let (held, sums, sampled) = (&mut self.held, &mut self.sums, &mut self.sampled);
        let strips = self.lasting || stage.ablations().repair_without_residue;
        let mut name = Vec::new();
        stage.each_stored(slot, |key, place, value| {
            name.clear();
            place.encode(&mut name);
            let stripped = if strips { lasting_form(key, place, value) } else { None };
            if strips && stripped.is_none() {
                return;
            }
            let item = item_of(seed, key, &name, stripped.as_deref().unwrap_or(value));
            if held.len().is_multiple_of(sample) {
                sampled.0 += 1;
                sampled.1 += u64::from(is_news(place, value, theirs));
            }
            sums[group as usize] = sums[group as usize].wrapping_add(item);
            held.push(Held { item, group: group as u8, key: key.into(), place: place.clone() });
        });
    }

    fn offer(&mut self, frozen: &Frozen) {
        self.held.sort_unstable_by_key(|held| held.item);
        self.offered = true;
        let items = self.held.len() as u64;
        let news = items * self.sampled.1 / self.sampled.0.max(1);
        let nothing = self.theirs.iter().next().is_none();
        self.whole = !self.lasting && (nothing || news * self.limits.whole_share > items);
        self.answers.push(RepairMessage::Offer {
            number: self.number,
            vector: PackedVector::pack(frozen.vector()),
            sums: std::mem::take(&mut self.sums),
            items,
            news,
            whole: self.whole,
        });
        if !self.whole && news > 0 {
            // Each one that it has not seen stands against an older state of it over there.
            self.coder = Some((ALL_GROUPS, self.coder_of(ALL_GROUPS)));
            self.extend(3 * news + self.limits.spare_symbols);
        }
    }

    fn coder_of(&self, groups: u64) -> Coder {
        let of = self.held.iter().filter(|held| groups >> held.group & 1 == 1);
        Coder::new(of.map(|held| held.item))
    }

    fn extend(&mut self, upto: u64) {
        let Some((groups, coder)) = &mut self.coder else { return };
        let from = coder.produced();
        let symbols = coder.extend(upto.min(from + self.limits.symbols));
        let mut bytes = Vec::new();
        Symbol::encode_all(&symbols, &mut bytes);
        let (number, groups) = (self.number, *groups);
        self.answers.push(RepairMessage::Symbols { number, groups, from, symbols: bytes });
    }

    /// Fills pieces of the stream as far as the receiver has granted.
    fn send(&mut self, stage: &Stage) {
        while self.sent < self.granted && !self.finished {
            let done = match self.next_held() {
                Some(index) => {
                    self.append(stage, index);
                    false
                }
                None if self.queue.complete => true,
                None => return,
            };
            if done || self.stream.len() >= self.limits.piece_bytes {
                self.flush(done);
            }
        }
    }

    fn next_held(&mut self) -> Option<usize> {
        if self.whole {
            let index = self.queue.next;
            self.queue.next += 1;
            return (index < self.held.len()).then_some(index);
        }
        while let Some(item) = self.queue.items.pop_front() {
            if let Ok(index) = self.held.binary_search_by_key(&item, |held| held.item) {
                return Some(index);
            }
        }
        None
    }

    fn append(&mut self, stage: &Stage, index: usize) {
        let held = &self.held[index];
        let Some(mut value) = stage.stored(&held.key, &held.place) else { return };
        if stage.ablations().repair_without_residue {
            value = lasting_form(&held.key, &held.place, &value).unwrap_or_default();
        }
        // A scrub compares what both have seen: there every value counts.
        if !self.lasting {
            value = without_values(&held.place, value, &self.theirs);
        }
        let mut element = Vec::new();
        held.place.encode(&mut element);
        let at = self.stream.len();
        self.stream.extend_from_slice(&[0; 4]);
        RepairElement { key: &held.key, element: &element, value: Some(&value) }
            .encode(&mut self.stream);
        let length = (self.stream.len() - at - 4) as u32;
        self.stream[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn flush(&mut self, last: bool) {
        let stream = std::mem::take(&mut self.stream);
        self.finished = last;
        let number = self.number;
        let mut pieces = stream.chunks(self.limits.piece_bytes).peekable();
        if pieces.peek().is_none() {
            let (from, bytes) = (self.sent, Vec::new());
            self.answers.push(RepairMessage::Elements { number, from, bytes, last });
        }
        while let Some(piece) = pieces.next() {
            let (from, bytes) = (self.sent, piece.to_vec());
            let last = last && pieces.peek().is_none();
            self.sent += piece.len() as u64;
            self.answers.push(RepairMessage::Elements { number, from, bytes, last });
        }
    }
}
