//! What differs: the own slots are summed up, of those that differ the elements are looked at, and the
//! donor's symbols tell which of them only one side holds.

use std::collections::BTreeSet;

use meridian_keyspace::{Stage, slot_of};
use meridian_replication::{
    Decoder, Symbol,
    repair::{ALL_GROUPS, RepairMessage, put_runs, run_sums},
};

use super::{Comparison, Phase, Receipt, Sums};
use crate::repair::look::{groups_of, is_among};

impl Receipt {
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

    /// Looks at everything before the donor has frozen it, which is wrong.
    pub(super) fn look_early(&mut self, stage: &Stage) {
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

    pub(super) fn compare(&mut self, groups: u64, from: u64, symbols: &[Symbol]) {
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
}

/// Runs that do not sum to the same on both sides, those that only one side has among them.
fn differing(ours: &[(u16, u64)], theirs: &[(u16, u64)]) -> Vec<u16> {
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
        (ours.iter().copied().collect(), theirs.iter().copied().collect());
    let mut runs: Vec<u16> = ours.symmetric_difference(&theirs).map(|(run, _)| *run).collect();
    runs.dedup();
    runs
}
