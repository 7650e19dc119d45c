//! Proof of sameness: at a low rate every partition is compared with another region's. What
//! differs is mostly on its way. What is held there and not here in three looks, although each side had
//! by each look seen all that the other had had at the one before, is a fault: memory that lied, a
//! defect. It is named, and both sides keep what either holds.
//!
//! Why that is strict. A write, a row of increments or a deadline that an element held there in all
//! three looks had been seen here by the second. If it was not held here then, nor in the third, in an
//! element that was the same both times, an operation seen here by the second look had removed it, or
//! changed its state. That operation had been seen there by the third look, and must have removed or
//! changed it there too.
//!
//! That something is held here and not there says nothing of the kind: it may have come to that side
//! and gone again since the second look, which leaves the element there as it was. If it is a fault,
//! the other side finds it.

use std::collections::BTreeMap;

use meridian_clock::{Origin, VersionVector};
use meridian_crdt::decode_stored;
use meridian_keyspace::Stage;
use meridian_replication::repair::{RepairMessage, item_of};

use super::{
    Name, Receipt, Repaired, Repairs,
    receiver::{Comparison, Request},
};
use crate::limits::MAX_SCRUB_DIFFERENCES;

/// In so many looks in a row a difference must be there.
const LOOKS: u8 = 3;

/// What the last scrub of a partition against a region found.
#[derive(Debug, Default)]
struct Look {
    only_here: BTreeMap<Name, u64>,
    /// Items, and in how many looks in a row each was there.
    only_there: BTreeMap<u64, u8>,
    /// What had been seen here when the look ended, and there.
    ours: VersionVector,
    theirs: VersionVector,
}

/// The scrub that is under way, and what the last ones found.
#[derive(Debug, Default)]
pub struct Scrubs {
    current: Option<Receipt>,
    last: BTreeMap<(Origin, u16), Look>,
    /// Counts the scrubs, to go round all regions and partitions.
    next: u64,
}

impl Scrubs {
    pub fn current(&self) -> Option<&Receipt> {
        self.current.as_ref()
    }

    pub fn current_mut(&mut self) -> Option<&mut Receipt> {
        self.current.as_mut()
    }
}

impl Look {
    /// `before` is the last look, if both sides had by now seen what the other had then.
    fn of(comparison: &Comparison<'_>, before: Option<&Look>) -> Look {
        let most = MAX_SCRUB_DIFFERENCES;
        let count = |item: &u64| {
            let times = before.and_then(|look| look.only_there.get(item)).copied().unwrap_or(0);
            (*item, times.saturating_add(1))
        };
        Look {
            only_here: comparison
                .only_here
                .iter()
                .take(most)
                .map(|(name, item)| (name.clone(), *item))
                .collect(),
            only_there: comparison.only_there.iter().take(most).map(count).collect(),
            ours: comparison.looked[1].clone(),
            theirs: comparison.theirs.clone(),
        }
    }

    /// The item of an element that was only here, or none if it was not; nothing if that is not
    /// known, because too much was.
    fn held(&self, name: &Name) -> Option<Option<u64>> {
        let item = self.only_here.get(name).copied();
        (item.is_some() || self.only_here.len() < MAX_SCRUB_DIFFERENCES).then_some(item)
    }

    /// Items that have been there, and not here, for long enough to be a fault.
    fn persistent(&self) -> Vec<u64> {
        let there = self.only_there.iter().filter(|(_, times)| **times >= LOOKS);
        there.map(|(item, _)| *item).collect()
    }

    /// Each side has by now seen all that the other had at this look.
    fn is_settled(&self, now: &Comparison<'_>) -> bool {
        now.looked[0].dominates(&self.theirs) && now.theirs.dominates(&self.ours)
    }
}

/// Whether an element holds something there that it does not hold here in the same state.
fn lacks(stage: &Stage, (key, place): &Name, theirs: &[u8]) -> bool {
    let Ok(theirs) = decode_stored(place, theirs) else { return false };
    let ours = stage.stored(key, place).and_then(|ours| decode_stored(place, &ours).ok());
    !ours.is_some_and(|ours| ours.holds(&theirs))
}

impl Repairs {
    /// Begins the next scrub if none is under way: a partition against one of these regions.
    pub fn scrub(&mut self, stage: &Stage, peers: &[Origin], now_ms: u64) {
        if self.scrubs.current.is_some() || peers.is_empty() {
            return;
        }
        let partitions = u64::from(stage.partitions());
        let peer = peers[(self.scrubs.next / partitions % peers.len() as u64) as usize];
        let partition = (self.scrubs.next % partitions) as u16;
        self.scrubs.next += 1;
        if self.is_wanted(partition) {
            return;
        }
        self.number += 1;
        // The items of one scrub are compared with those of the next.
        let seed = item_of(0, b"repair", &partition.to_le_bytes(), &stage.salt());
        let request = Request { number: self.number, seed, partition, donor: peer, scrub: true };
        let (receipt, open) = Receipt::ask(request, stage, self.limits, now_ms);
        self.scrubs.current = Some(receipt);
        self.said.push((peer, open));
    }

    pub(super) fn end_scrub(&mut self) {
        if let Some(receipt) = self.scrubs.current.take() {
            self.said.push((receipt.donor(), RepairMessage::Close { number: receipt.number() }));
        }
    }

    /// A portion of the scrub that is under way. Something, if it has found a fault.
    pub(super) fn work_scrub(&mut self, stage: &mut Stage, budget: &mut usize) -> Option<Repaired> {
        let receipt = self.scrubs.current.as_mut()?;
        let donor = receipt.donor();
        let said = receipt.work(stage, budget);
        self.said.extend(said.into_iter().map(|m| (donor, m)));
        if receipt.has_failed() {
            self.end_scrub();
            self.counts.scrubs_inconclusive += 1;
            return None;
        }
        let place = (donor, receipt.partition());
        if let Some(comparison) = receipt.compared() {
            self.counts.scrubbed += 1;
            let before = self.scrubs.last.get(&place).filter(|l| l.is_settled(&comparison));
            let look = Look::of(&comparison, before);
            let there = look.persistent();
            if there.is_empty() {
                self.scrubs.last.insert(place, look);
                self.end_scrub();
                return None;
            }
            // Which elements are they? The look before stays: it says what was here then.
            receipt.fetch(&there);
            let said = receipt.work(stage, budget);
            self.said.extend(said.into_iter().map(|m| (donor, m)));
            return None;
        }
        if !receipt.is_complete() {
            return None;
        }
        let receipt = self.scrubs.current.take()?;
        self.said.push((donor, RepairMessage::Close { number: receipt.number() }));
        let before = self.scrubs.last.remove(&place).unwrap_or_default();
        let (now, look) = (receipt.only_here().clone(), receipt.look());
        let (parts, divergent) = receipt.into_union(|name, theirs| {
            let item = now.get(name).copied();
            before.held(name) == Some(item)
                && look.item(stage, &name.0, &name.1) == item
                && lacks(stage, name, theirs)
        });
        self.counts.divergent += divergent.len() as u64;
        if divergent.is_empty() {
            return None;
        }
        Some(Repaired { partition: place.1, donor, parts, divergent })
    }
}
