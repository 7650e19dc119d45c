//! Local operations: each is given what its author sees, stamped, encoded and applied.

use meridian_clock::{Dot, Origin, Time};
use meridian_crdt::{Action, Context, Cut, Element, ElementKey, Object, Op};
use meridian_store::partition_of_key;

use super::Stage;
use crate::{
    ablations::Ablations,
    conflicts::{Losses, Touch, losses},
    limits::{FRAME_TARGET_BYTES, MAX_COMMAND_BYTES, MAX_CUT_BYTES},
    slot::slot_of,
};

impl Stage {
    /// Performs one local operation.
    ///
    /// When nothing under the key is visible but remains of an expired life are held, the
    /// operation clears them first, here and everywhere; so does a string that is written over
    /// other types, as SET does.
    #[inline]
    pub fn write(&mut self, key: &[u8], action: Action<'_>) {
        self.decide(key, |_, _| Some(action));
    }

    /// Performs the operation that `choose` decides on when it sees what is held under the key
    /// and the dot that the operation will have; all in one look-up. False if it chose none.
    #[inline]
    pub fn decide<'a>(
        &mut self,
        key: &'a [u8],
        choose: impl FnOnce(&Object, Dot) -> Option<Action<'a>>,
    ) -> bool {
        match self.attempt(key, true, choose) {
            Attempt::Declined => false,
            Attempt::Done => true,
            Attempt::TooManyCuts(action) => {
                self.write_in_parts(key, action);
                true
            }
        }
    }

    /// Performs an operation that resets too many counters for one record: each of them is
    /// removed by an operation of its own first.
    fn write_in_parts(&mut self, key: &[u8], action: Action<'_>) {
        let (me, mut counters) = (self.me, Vec::new());
        if let Some(object) = self.object(key) {
            object.each(|element, cell| {
                if cell.rows().iter().any(|r| r.origin != me && r.is_live()) {
                    counters.push(ElementKey::of(element));
                }
            });
        }
        for element in counters.iter().filter_map(ElementKey::element) {
            self.attempt(key, false, |_, _| Some(Action::Remove { element }));
        }
        self.attempt(key, true, |_, _| Some(action));
    }

    /// With `lives`, the operation may begin a new life of the key.
    #[inline]
    fn attempt<'a>(
        &mut self,
        key: &'a [u8],
        lives: bool,
        choose: impl FnOnce(&Object, Dot) -> Option<Action<'a>>,
    ) -> Attempt<'a> {
        let slot = slot_of(key);
        let number = partition_of_key(slot, self.partitions);
        let (me, seed, now, ablations) = (self.me, self.seed, self.clock.now(), self.ablations);
        // The stamp is taken only if there is an operation to stamp.
        let mut clock = self.clock.clone();
        let dot = Dot::new(clock.tick(), me);
        let part = &mut self.parts[usize::from(number)];
        let first = part.open_bytes() == 0;
        // Only a key that holds a loss can see one end by a local operation.
        let watched = self.conflicts.holds(slot, key);
        let mut before: Option<(Touch, Losses)> = None;
        let (entry, advanced) = (&mut self.entry, &mut self.advanced);
        let frozen = &mut self.frozen;
        let effect = self.tables[usize::from(slot)].change(key, |object| {
            let action = choose(object, dot).ok_or(Attempt::Declined)?;
            let mut op = Op::new(key, action);
            let names = if object.is_empty() {
                Vec::new()
            } else {
                prepare(object, &mut op, lives, now, me)
            };
            if names.iter().map(OwnedCut::bytes).sum::<usize>() > MAX_CUT_BYTES {
                return Err(Attempt::TooManyCuts(op.action));
            }
            // Cuts name elements of the object that the operation is about to change.
            let mut op = Op { cuts: names.iter().map(OwnedCut::borrow).collect(), ..op };
            ablate(&mut op, ablations);
            // Commands keep within their frame; should one not, a frame too many is better than
            // one that nobody can read.
            if part.open_bytes() + op_bytes(&op) > MAX_COMMAND_BYTES
                && part.close(number, me, entry)
            {
                advanced.push((number, me, part.vector.get(me)));
            }
            part.push(&op, dot);
            if !frozen.is_empty()
                && let Some(frozen) = frozen.get_mut(&number)
            {
                frozen.note(slot, object, &op);
            }
            if watched {
                let touch = Touch::of(&op);
                let losses = losses(object, &touch);
                before = Some((touch, losses));
            }
            Ok(object.apply(&op, &Context { seen: &part.vector, dot }, me, seed))
        });
        let effect = match effect {
            Ok(effect) => effect,
            Err(attempt) => return attempt,
        };
        part.vector.set(me, dot.time);
        self.clock = clock;
        self.ops_applied += 1;
        if first {
            self.open.push(number);
        }
        if let Some((touch, losses)) = before {
            self.settle_conflicts(key, losses, &touch, Some(dot));
        }
        if effect.residue || !self.watched.is_empty() {
            self.after(key, slot, number, effect);
        }
        Attempt::Done
    }

    /// How many bytes the current command may still write to the key's partition.
    #[must_use]
    pub fn room(&self, key: &[u8]) -> usize {
        MAX_COMMAND_BYTES.saturating_sub(self.partition(self.partition_of(key)).open_bytes())
    }

    /// Ends a command: a frame that has grown large enough is closed, so that no frame exceeds
    /// its limit and no command is split.
    pub fn end_command(&mut self) {
        if self.open.len() == 1 && self.partition(self.open[0]).open_bytes() < FRAME_TARGET_BYTES {
            return;
        }
        let large = |s: &Stage, p: u16| s.partition(p).open_bytes() >= FRAME_TARGET_BYTES;
        let full: Vec<u16> = self.open.iter().copied().filter(|p| large(self, *p)).collect();
        for number in full {
            self.close(number);
        }
    }
}

/// Removes what the switched-off rules would have added.
fn ablate(op: &mut Op<'_>, ablations: Ablations) {
    if ablations.drop_cuts {
        op.cuts.clear();
    }
    if ablations.keep_remains {
        op.fresh = false;
    }
}

/// What became of a local operation.
enum Attempt<'a> {
    /// There is none.
    Declined,
    /// It was performed.
    Done,
    /// It was not: it would reset more counters than one record should hold.
    TooManyCuts(Action<'a>),
}

/// About how many bytes an operation takes in its frame.
fn op_bytes(op: &Op<'_>) -> usize {
    let value = match &op.action {
        Action::Assign { element, value, .. } => element_bytes(*element) + value.len(),
        Action::Remove { element } | Action::Incr { element, .. } => element_bytes(*element),
        Action::Clear | Action::Expire { .. } => 0,
    };
    let cuts = op.cuts.iter().map(|cut| element_bytes(cut.element) + CUT_BYTES).sum::<usize>();
    op.key.len() + value + cuts + CUT_BYTES
}

fn element_bytes(element: Element<'_>) -> usize {
    match element {
        Element::String => 0,
        Element::Field(name) | Element::Member(name) => name.len(),
    }
}

/// What a cut, or the head of an operation, takes at most beside names and values.
const CUT_BYTES: usize = 64;

/// A cut that owns its element's name.
struct OwnedCut {
    element: ElementKey,
    cut: Cut<'static>,
}

impl OwnedCut {
    fn bytes(&self) -> usize {
        self.element.element().map_or(0, element_bytes) + CUT_BYTES
    }

    fn borrow(&self) -> Cut<'_> {
        let element = self.element.element().unwrap_or(Element::String);
        Cut { element, ..self.cut }
    }
}

/// Completes an operation with what its author sees: whether it begins a new life of the key, and
/// which counter rows it resets.
fn prepare(object: &Object, op: &mut Op<'_>, lives: bool, now: Time, me: Origin) -> Vec<OwnedCut> {
    let replaces = matches!(op.action, Action::Assign { element: Element::String, .. })
        && (object.hash().positions() > 0 || object.set().positions() > 0);
    op.fresh = lives && (replaces || (object.has_remains(now) && object.visible(now).is_none()));
    let scope = match &op.action {
        _ if op.fresh => None,
        Action::Clear => None,
        Action::Assign { element, .. } | Action::Remove { element } => Some(*element),
        Action::Incr { .. } | Action::Expire { .. } => return Vec::new(),
    };
    if scope.is_some_and(|e| object.cell(e).is_none_or(|c| c.rows().is_empty())) {
        return Vec::new();
    }
    let mut cuts = Vec::new();
    object.cuts(scope, me, &mut cuts);
    cuts.into_iter()
        .map(|cut| OwnedCut {
            element: ElementKey::of(cut.element),
            cut: Cut { element: Element::String, ..cut },
        })
        .collect()
}
