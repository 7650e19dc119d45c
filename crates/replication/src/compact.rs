//! The key-compacted log: catching up costs what changed, not what happened (rule R7).
//!
//! Of consecutive frames of one origin in one partition, operations are left out that later ones
//! supersede: an assignment after an assignment, everything before a clear, all but the newest sum
//! of a counter. The operation that stays takes over the cuts of those that go, or a concurrent
//! increment that a dropped reset had observed would come back. What is left becomes a bundle,
//! whose groups keep the vectors that their authors had seen ([`meridian_store::Group`]).
//!
//! # Which frames may be joined
//!
//! A bundle is applied whole, so it waits for everything that its *last* frame waits for. Were
//! that more than its first frame waits for, two origins' bundles could wait for each other for
//! ever: each needs a part of the other. So a frame joins only if what its author had seen beyond
//! the first frame's vector is with the receiver already. Then, of all frames that a receiver
//! lacks, one that depends on no other is always the first of its bundle and can be applied.

use std::collections::{BTreeMap, btree_map::Entry};

use meridian_clock::{Dot, Origin, Time, VersionVector};
use meridian_codec::Malformed;
use meridian_crdt::{Action, Cut, Element, ElementKey, Op, OpReader, encode_op};
use meridian_store::{BundleWriter, Frame, FrameHeader};

use crate::limits::{MAX_BUNDLE_BYTES, MAX_FOLDED_CUTS};

/// Rules that are off, for tests of the tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionAblations {
    /// R7: the cuts of what is dropped are dropped too.
    pub drop_folds: bool,
    /// Every operation gets the vector of the bundle.
    pub widen_context: bool,
}

/// What has been joined so far.
struct Run<'a> {
    header: FrameHeader,
    /// What the first frame waits for, and what the receiver has anyway.
    allowed: VersionVector,
    /// The frames and their bytes.
    frames: Vec<(Frame<'a>, &'a [u8])>,
    bytes: usize,
}

/// Joins frames of many origins and partitions, given in the order of a log, into fewer. Frames
/// of one origin and partition stay in order. `has` tells what the receiver has of a partition.
///
/// # Errors
/// [`Malformed`] when a frame cannot be read.
pub fn compact<'a>(
    frames: impl IntoIterator<Item = &'a [u8]>,
    has: impl Fn(u16) -> VersionVector,
    ablations: CompactionAblations,
) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut open: BTreeMap<(u16, Origin), Run<'a>> = BTreeMap::new();
    let mut out = Vec::new();
    for bytes in frames {
        let frame = Frame::decode(bytes)?;
        let place = (frame.header.partition, frame.header.origin);
        match open.entry(place) {
            Entry::Vacant(place) => {
                place.insert(Run::new(frame, bytes, &has));
            }
            Entry::Occupied(mut run) => {
                if !run.get().takes(&frame, bytes.len()) {
                    let full = run.insert(Run::new(frame, bytes, &has));
                    out.push(full.finish(ablations)?);
                } else {
                    run.get_mut().add(frame, bytes);
                }
            }
        }
    }
    for run in open.into_values() {
        out.push(run.finish(ablations)?);
    }
    Ok(out)
}

impl<'a> Run<'a> {
    fn new(frame: Frame<'a>, bytes: &'a [u8], has: impl Fn(u16) -> VersionVector) -> Run<'a> {
        let header = frame.header.clone();
        let mut allowed = has(header.partition);
        allowed.join(&header.seen);
        Run { header, allowed, frames: vec![(frame, bytes)], bytes: bytes.len() }
    }

    fn takes(&self, frame: &Frame<'_>, bytes: usize) -> bool {
        frame.header.previous == self.header.last
            && self.allowed.dominates(&frame.header.seen)
            && self.bytes + bytes <= MAX_BUNDLE_BYTES
    }

    fn add(&mut self, frame: Frame<'a>, bytes: &'a [u8]) {
        self.header.last = frame.header.last;
        self.header.seen.join(&frame.header.seen);
        self.frames.push((frame, bytes));
        self.bytes += bytes.len();
    }

    fn finish(self, ablations: CompactionAblations) -> Result<Vec<u8>, Malformed> {
        if let [only] = self.frames.as_slice() {
            // Alone it stays what it was.
            return Ok(only.1.to_vec());
        }
        let (mut ops, mut vectors) = (Vec::new(), Vec::<VersionVector>::new());
        for (frame, _) in &self.frames {
            let (mut groups, mut last) = (frame.groups(), frame.header.previous);
            while let Some(group) = groups.next()? {
                if vectors.last() != Some(&group.seen) {
                    vectors.push(group.seen);
                }
                let mut reader = OpReader::new(group.ops, frame.header.origin, last);
                while let Some((dot, op)) = reader.next()? {
                    ops.push(Listed { dot, op, seen: vectors.len() - 1, is_kept: true });
                }
                last = reader.last();
            }
        }
        drop_superseded(&mut ops, ablations);
        Ok(write(self.header, &ops, &vectors, ablations))
    }
}

/// An operation, and which of the vectors its author had seen.
struct Listed<'a> {
    dot: Dot,
    op: Op<'a>,
    seen: usize,
    is_kept: bool,
}

/// What later operations that stay do to a key, each by its place in the list.
#[derive(Default)]
struct Later {
    /// Everything goes.
    clear: Option<usize>,
    elements: BTreeMap<ElementKey, LaterElement>,
    /// The newest deadline.
    expire: Option<usize>,
}

#[derive(Default)]
struct LaterElement {
    /// A value is written over what was there.
    assign: Option<usize>,
    /// What was there goes.
    remove: Option<usize>,
    /// The newest sum, and the row's birth.
    incr: Option<(usize, Time)>,
}

/// Marks what later operations supersede, and folds its cuts into them.
fn drop_superseded(ops: &mut [Listed<'_>], ablations: CompactionAblations) {
    let mut keys: BTreeMap<&[u8], Later> = BTreeMap::new();
    for index in (0..ops.len()).rev() {
        let (before, after) = ops.split_at_mut(index + 1);
        let listed = &mut before[index];
        let later = keys.entry(listed.op.key).or_default();
        let by = later.supersedes(&listed.op);
        let fold_into = by.map(|by| &mut after[by - index - 1].op.cuts);
        if let Some(cuts) = fold_into
            && (ablations.drop_folds || fold(cuts, &listed.op.cuts))
        {
            listed.is_kept = false;
            continue;
        }
        later.note(index, &listed.op);
    }
}

impl Later {
    /// The operation that makes `op` pointless, if there is one.
    fn supersedes(&self, op: &Op<'_>) -> Option<usize> {
        if self.clear.is_some() || op.fresh {
            // What cleared the whole key itself is made pointless by another clear only.
            return self.clear;
        }
        let at = |element: &Element<'_>| self.elements.get(&ElementKey::of(*element));
        match &op.action {
            Action::Clear => None,
            // It also ends the deadlines that it saw: so must what takes its place.
            Action::Assign { element: element @ Element::String, .. } => at(element)?.assign,
            Action::Assign { element, .. } | Action::Remove { element } => {
                at(element)?.assign.or(at(element)?.remove)
            }
            Action::Incr { element, birth, .. } => {
                let later = at(element)?;
                let newer = later.incr.filter(|(_, newer)| newer >= birth);
                later.assign.or(later.remove).or(newer.map(|(by, _)| by))
            }
            Action::Expire { .. } => {
                at(&Element::String).and_then(|later| later.assign).or(self.expire)
            }
        }
    }

    fn note(&mut self, index: usize, op: &Op<'_>) {
        if op.fresh || op.action == Action::Clear {
            self.clear = Some(index);
            return;
        }
        match &op.action {
            Action::Clear => {}
            Action::Assign { element, .. } => self.at(*element).assign = Some(index),
            Action::Remove { element } => self.at(*element).remove = Some(index),
            Action::Incr { element, birth, .. } => self.at(*element).incr = Some((index, *birth)),
            Action::Expire { .. } => self.expire = Some(index),
        }
    }

    fn at(&mut self, element: Element<'_>) -> &mut LaterElement {
        self.elements.entry(ElementKey::of(element)).or_default()
    }
}

/// Adds cuts to those of the operation that stays: of one row the furthest. False, and nothing
/// done, if they would become too many.
fn fold<'a>(into: &mut Vec<Cut<'a>>, from: &[Cut<'a>]) -> bool {
    if into.len() + from.len() > MAX_FOLDED_CUTS && !from.is_empty() {
        return false;
    }
    for cut in from {
        let same = |c: &&mut Cut<'_>| {
            (c.element, c.origin, c.birth) == (cut.element, cut.origin, cut.birth)
        };
        match into.iter_mut().find(same) {
            Some(held) if held.last < cut.last => *held = *cut,
            Some(_) => {}
            None => into.push(*cut),
        }
    }
    true
}

/// A bundle, also where its operations share one vector: a receiver must be able to tell that its
/// ends are not those of the origin's own frames.
fn write(
    header: FrameHeader,
    ops: &[Listed<'_>],
    vectors: &[VersionVector],
    ablations: CompactionAblations,
) -> Vec<u8> {
    let kept: Vec<&Listed<'_>> = ops.iter().filter(|listed| listed.is_kept).collect();
    let whole = header.seen.clone();
    let mut last = header.previous;
    let mut bundle = BundleWriter::new(header);
    let same = |a: &&Listed<'_>, b: &&Listed<'_>| ablations.widen_context || a.seen == b.seen;
    for group in kept.chunk_by(same) {
        let (mut bytes, mut key) = (Vec::new(), None);
        for listed in group {
            encode_op(&mut bytes, &listed.op, listed.dot, (key, last));
            (key, last) = (Some(listed.op.key), listed.dot.time);
        }
        let seen = if ablations.widen_context { &whole } else { &vectors[group[0].seen] };
        bundle.push(seen, &bytes);
    }
    bundle.finish()
}
