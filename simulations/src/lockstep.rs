//! Sets without a time to live, kept a second time by an independent library.
//!
//! Every operation that a region applies is applied to the library's observed-remove set as well,
//! in the same order; both must hold the same members at every look.

use std::collections::{BTreeMap, BTreeSet};

use crdts::{CmRDT, Dot as TheirDot, Orswot, VClock, orswot::Op as SetOp};
use meridian_clock::{Dot, Time, VersionVector};
use meridian_crdt::{Action, Element, Op, OpReader};
use meridian_store::Frame;

use crate::{
    history::History,
    plan::Family,
    spec::{Act, Part, Record},
    workload::family_of,
};

type Members = Orswot<Vec<u8>, u16>;

/// One region's sets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lockstep {
    sets: BTreeMap<Vec<u8>, Members>,
    /// Every member that was ever added, which is what a clear removes from.
    names: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
}

/// What an operation does to a set.
enum Change {
    Add(Vec<u8>),
    Remove(Vec<u8>),
    Clear,
}

impl Lockstep {
    /// The sets of a region that has exactly what `vectors` cover. Stamps order operations as
    /// causality does, so that the order of stamps will do.
    pub fn rebuilt(history: &History, vectors: &[VersionVector]) -> Lockstep {
        let mut sets = Lockstep::default();
        for (key, partition, records) in history.keys() {
            let vector = &vectors[usize::from(partition)];
            for record in records.iter().filter(|r| vector.covers(r.dot)) {
                sets.apply_record(key, record);
            }
        }
        sets
    }

    /// The region has applied a frame.
    pub fn apply(&mut self, frame: &Frame<'_>) -> Result<(), String> {
        let header = &frame.header;
        let (mut groups, mut last) = (frame.groups(), header.previous);
        while let Some(group) = groups.next().map_err(|e| e.to_string())? {
            let mut reader = OpReader::new(group.ops, header.origin, last);
            while let Some((dot, op)) = reader.next().map_err(|e| e.to_string())? {
                if let Some(change) = change_of(&op) {
                    self.change(op.key, dot, &group.seen, change);
                }
            }
            last = reader.last();
        }
        Ok(())
    }

    /// The members of a key.
    pub fn members(&self, key: &[u8]) -> BTreeSet<Vec<u8>> {
        self.sets.get(key).map(|set| set.read().val.into_iter().collect()).unwrap_or_default()
    }

    fn apply_record(&mut self, key: &[u8], record: &Record) {
        let change = match &record.act {
            Act::Assign { part: Part::Member(name), .. } => Change::Add(name.clone()),
            Act::Remove { part: Part::Member(name) } => Change::Remove(name.clone()),
            Act::Clear => Change::Clear,
            _ => return,
        };
        if family_of(key) == Family::Sets {
            self.change(key, record.dot, &record.seen, change);
        }
    }

    fn change(&mut self, key: &[u8], dot: Dot, seen: &VersionVector, change: Change) {
        let names = self.names.entry(key.to_vec()).or_default();
        let set = self.sets.entry(key.to_vec()).or_default();
        let clock = clock_of(dot, seen);
        match change {
            Change::Add(name) => {
                names.insert(name.clone());
                set.apply(SetOp::Rm { clock, members: vec![name.clone()] });
                let dot = TheirDot::new(dot.origin.0, dot.time.0);
                set.apply(SetOp::Add { dot, members: vec![name] });
            }
            Change::Remove(name) => set.apply(SetOp::Rm { clock, members: vec![name] }),
            Change::Clear => {
                set.apply(SetOp::Rm { clock, members: names.iter().cloned().collect() });
            }
        }
    }
}

fn change_of(op: &Op<'_>) -> Option<Change> {
    if family_of(op.key) != Family::Sets {
        return None;
    }
    match &op.action {
        Action::Assign { element: Element::Member(name), .. } => Some(Change::Add(name.to_vec())),
        Action::Remove { element: Element::Member(name) } => Some(Change::Remove(name.to_vec())),
        Action::Clear => Some(Change::Clear),
        _ => None,
    }
}

/// What the author had seen, its own operations included.
fn clock_of(dot: Dot, seen: &VersionVector) -> VClock<u16> {
    let mut own = seen.clone();
    own.set(dot.origin, Time(dot.time.0 - 1));
    let mut clock = VClock::new();
    for (origin, time) in own.iter() {
        clock.apply(TheirDot::new(origin.0, time.0));
    }
    clock
}
