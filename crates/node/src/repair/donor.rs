//! The side that has what the other lacks.

use std::{collections::VecDeque, ops::Range};

use meridian_clock::VersionVector;
use meridian_codec::Malformed;
use meridian_keyspace::{Frozen, Stage, View};
use meridian_replication::{
    Coder, Symbol,
    repair::{ALL_GROUPS, PackedVector, RepairMessage, put_sums, read_runs, run_sums, shift_for},
};
use meridian_store::RepairElement;

use super::{
    RepairLimits, lasting_form,
    look::{Counts, Held, Look, News, groups_of, is_among},
    runs_of, slots_in, slots_of, without_values,
};

/// One partition that is being given to one peer.
#[derive(Debug)]
pub struct Donation {
    limits: RepairLimits,
    number: u64,
    partition: u16,
    look: Look,
    /// Only what lasts counts.
    lasting: bool,
    /// The receiver compares slot by slot, and not groups of slots.
    by_slot: bool,
    /// What the receiver had seen.
    theirs: VersionVector,
    /// Slots that are still to be looked at.
    slots: Range<u16>,
    /// What each slot sums to.
    sums: Vec<(u16, u64)>,
    /// How long the runs of slots are that were offered.
    shift: u8,
    items: u64,
    news: News,
    offered: bool,
    whole: bool,
    /// What the receiver wants symbols of, until there are some.
    selection: Option<Selection>,
    /// The elements of the slots that were selected, by item; if everything is wanted, those of the
    /// slot that is on its way.
    held: Vec<Held>,
    coder: Option<(u64, Coder)>,
    /// What is to be sent.
    queue: Queue,
    /// Bytes of the stream that have not filled a piece.
    stream: Vec<u8>,
    sent: u64,
    granted: u64,
    finished: bool,
    answers: Vec<RepairMessage>,
    heard_ms: u64,
}

/// Slots whose elements are wanted as symbols.
#[derive(Debug)]
struct Selection {
    /// As a set of groups, for the answer.
    groups: u64,
    /// Those that are still to be looked at, from the last on.
    slots: Vec<u16>,
    wanted: Wanted,
    news: News,
}

/// How many symbols.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Upto(u64),
    /// As many as it takes, with so many elements of the receiver that are not known here.
    Enough(u64),
}

/// What the receiver has asked for.
#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<u64>,
    /// With everything wanted: the slots that are still to be sent, and the next of `held`.
    slots: Range<u16>,
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
    /// It compares slot by slot.
    pub by_slot: bool,
}

impl Donation {
    /// Begins; the partition has just been frozen.
    pub fn new(asked: Asked, stage: &Stage, limits: RepairLimits, now_ms: u64) -> Donation {
        let Asked { number, partition, seed, theirs, lasting, by_slot } = asked;
        let counts = Counts::between(by_slot, lasting, stage);
        Donation {
            limits,
            number,
            partition,
            look: Look { view: View::Frozen, seed, counts },
            lasting,
            by_slot,
            // Whoever has nothing gets everything.
            whole: !lasting && theirs.iter().next().is_none(),
            theirs,
            slots: slots_of(stage, partition),
            sums: Vec::new(),
            shift: 0,
            items: 0,
            news: News::default(),
            offered: false,
            selection: None,
            held: Vec::new(),
            coder: None,
            queue: Queue { slots: slots_of(stage, partition), ..Queue::default() },
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
        !self.slots.is_empty()
            || self.selection.is_some()
            || !self.answers.is_empty()
            || self.may_send()
    }

    fn may_send(&self) -> bool {
        let some = !self.queue.items.is_empty() || self.queue.complete;
        self.offered && some && !self.finished && self.sent < self.granted
    }

    /// The receiver asks for something.
    pub fn asked(
        &mut self,
        stage: &Stage,
        message: RepairMessage,
        now_ms: u64,
    ) -> Result<(), Malformed> {
        self.heard_ms = now_ms;
        if !self.offered {
            return Err(Malformed("repair goes on before it was offered"));
        }
        match message {
            RepairMessage::Select { runs, news, .. } => {
                let all = runs_of(stage, self.partition, self.shift);
                let runs = read_runs(&runs, &all)?;
                let slots = self.sums.iter().map(|(slot, _)| *slot);
                let is_selected = |slot: &u16| runs.binary_search(&(slot >> self.shift)).is_ok();
                let slots = slots.filter(is_selected).collect();
                self.select(ALL_GROUPS, slots, Wanted::Enough(news))
            }
            RepairMessage::More { groups, upto, .. } => {
                if self.coder.as_ref().is_some_and(|(of, _)| *of == groups) {
                    self.extend(upto);
                    return Ok(());
                }
                let slots = self.sums.iter().map(|(slot, _)| *slot);
                let slots = slots.filter(|slot| is_among(stage, groups, *slot)).collect();
                self.select(groups, slots, Wanted::Upto(upto))
            }
            RepairMessage::Fetch { items, last, .. } => {
                if self.queue.complete || self.queue.items.len() + items.len() > self.held.len() {
                    return Err(Malformed("repair asks for more than there is"));
                }
                self.queue.items.extend(items);
                self.queue.complete = last;
                Ok(())
            }
            RepairMessage::Grant { bytes, .. } => {
                self.granted = bytes.min(self.sent + self.limits.window_bytes);
                Ok(())
            }
            _ => Err(Malformed("not a receiver's message")),
        }
    }

    fn select(
        &mut self,
        groups: u64,
        mut slots: Vec<u16>,
        wanted: Wanted,
    ) -> Result<(), Malformed> {
        if self.whole || self.queue.complete || !self.queue.items.is_empty() {
            return Err(Malformed("repair compares what it has fetched"));
        }
        slots.reverse();
        self.held.clear();
        self.coder = None;
        self.selection = Some(Selection { groups, slots, wanted, news: News::default() });
        Ok(())
    }

    /// Does a portion of what there is to do. None: the frozen state is lost.
    pub fn work(
        &mut self,
        stage: &mut Stage,
        durable: &[VersionVector],
        budget: &mut usize,
    ) -> Option<Vec<RepairMessage>> {
        stage.frozen(self.partition).filter(|f| !f.is_lost())?;
        while *budget > 0
            && let Some(slot) = stage.next_occupied(&mut self.slots)
        {
            *budget = budget.saturating_sub(self.sum_up(stage, slot));
        }
        if !self.slots.is_empty() {
            return Some(Vec::new());
        }
        if !self.offered {
            let frozen = stage.frozen(self.partition)?;
            let on_disk = durable.get(usize::from(self.partition));
            if !on_disk.is_some_and(|v| v.dominates(frozen.vector())) {
                return Some(Vec::new());
            }
            self.offer(stage, frozen);
        }
        self.look_at_selected(stage, budget);
        if self.may_send() {
            self.send(stage);
        }
        Some(std::mem::take(&mut self.answers))
    }

    /// Adds a slot to the offer. What it cost.
    fn sum_up(&mut self, stage: &mut Stage, slot: u16) -> usize {
        if self.whole {
            let count = self.look.count(stage, slot);
            self.items += count;
            return 1 + count as usize;
        }
        let (sum, cost) = self.look.sum(stage, slot);
        self.items += sum.items;
        if sum.items > 0 {
            self.sums.push((slot, sum.sum));
        }
        self.news.look(stage, slot, &self.theirs, self.limits.sample);
        cost + sum.items as usize / self.limits.sample
    }

    fn offer(&mut self, stage: &Stage, frozen: &Frozen) {
        self.offered = true;
        let (number, items) = (self.number, self.items);
        let (vector, news) = (PackedVector::pack(frozen.vector()), self.news.of(items));
        self.whole |= !self.lasting && news * self.limits.whole_share > items;
        let whole = self.whole;
        self.answers.push(if self.by_slot {
            self.shift = shift_for(items, slots_in(stage));
            let mut sums = Vec::new();
            put_sums(&mut sums, &run_sums(&self.sums, self.shift));
            RepairMessage::OfferSlots {
                number,
                vector,
                shift: self.shift,
                sums,
                items,
                news,
                whole,
            }
        } else {
            let sums = groups_of(stage, &self.sums);
            RepairMessage::Offer { number, vector, sums, items, news, whole }
        });
    }

    fn look_at_selected(&mut self, stage: &Stage, budget: &mut usize) {
        let Some(selection) = &mut self.selection else { return };
        while *budget > 0
            && let Some(slot) = selection.slots.pop()
        {
            let before = self.held.len();
            self.look.collect(stage, slot, &mut self.held);
            selection.news.look(stage, slot, &self.theirs, 1);
            *budget = budget.saturating_sub(1 + self.held.len() - before);
        }
        if !selection.slots.is_empty() {
            return;
        }
        self.held.sort_unstable_by_key(|held| held.item);
        let upto = match selection.wanted {
            Wanted::Upto(upto) => upto,
            // Each one that one side has not seen stands against an older state of it on the other.
            Wanted::Enough(news) => news
                .saturating_add(selection.news.found())
                .saturating_mul(3)
                .saturating_add(self.limits.spare_symbols),
        };
        self.coder = Some((selection.groups, Coder::new(self.held.iter().map(|held| held.item))));
        self.selection = None;
        self.extend(upto);
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
            let done = match self.next_held(stage) {
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

    fn next_held(&mut self, stage: &Stage) -> Option<usize> {
        if self.whole {
            return self.next_of_all(stage);
        }
        while let Some(item) = self.queue.items.pop_front() {
            if let Ok(index) = self.held.binary_search_by_key(&item, |held| held.item) {
                return Some(index);
            }
        }
        None
    }

    /// Goes through all slots; the names of one are held at a time.
    fn next_of_all(&mut self, stage: &Stage) -> Option<usize> {
        while self.queue.next == self.held.len() {
            self.held.clear();
            self.queue.next = 0;
            let slot = stage.next_occupied(&mut self.queue.slots)?;
            self.look.collect(stage, slot, &mut self.held);
        }
        self.queue.next += 1;
        Some(self.queue.next - 1)
    }

    fn append(&mut self, stage: &Stage, index: usize) {
        let held = &self.held[index];
        let Some(mut value) = stage.stored(&held.key, &held.place) else { return };
        if stage.ablations().repair_without_residue {
            value = lasting_form(&held.key, &held.place, &value).unwrap_or_default();
        }
        // A scrub compares what both have seen: there every value counts.
        if !self.lasting && self.theirs.iter().next().is_some() {
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
