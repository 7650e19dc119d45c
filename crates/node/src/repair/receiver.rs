//! The side that takes over: how far it is, and what it makes of the donor's answers.

mod compare;
mod elements;

use std::{collections::BTreeMap, ops::Range};

use meridian_clock::{Origin, VersionVector};
use meridian_codec::Malformed;
use meridian_crdt::ElementKey;
use meridian_keyspace::{Stage, View};
use meridian_replication::{
    Decoder, Symbol,
    limits::MAX_SYMBOLS,
    repair::{GROUPS, PackedVector, RepairMessage, read_sums},
};

use super::{
    RepairLimits, RepairProgress,
    look::{Counts, Held, Look, News},
    runs_of, slots_in, slots_of,
};

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

/// What a donor is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Which of this region's repairs.
    pub number: u64,
    /// Keys the items.
    pub seed: u64,
    /// The partition.
    pub partition: u16,
    /// Who gives.
    pub donor: Origin,
    /// Only to compare.
    pub scrub: bool,
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
    /// Asks for it.
    pub fn ask(
        request: Request,
        stage: &Stage,
        limits: RepairLimits,
        now_ms: u64,
    ) -> (Receipt, RepairMessage) {
        let Request { number, seed, partition, donor, scrub } = request;
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

    /// How it looks at elements.
    pub fn look(&self) -> Look {
        self.look
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
}
