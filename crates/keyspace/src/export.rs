//! What a checkpoint must write: derived from the log, so that commands pay nothing for it.
//!
//! A stretch of the log names every element that changed in it ([`Touched`]); the elements are
//! then read as they stand. They may be newer than the stretch, never older, and replaying the
//! log from the stretch's end over them gives the same state (every operation is idempotent in
//! log order).

use std::collections::{BTreeMap, BTreeSet};

use meridian_clock::{Origin, Time, VersionVector};
use meridian_codec::Malformed;
use meridian_crdt::{Action, Element, ElementKey, Object, OpReader, encode_stored};
use meridian_store::{Entry, Frame, RepairPart, element_key, key_prefix};

use crate::stage::Stage;

/// Which elements of a key changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TouchedKey {
    /// The key was cleared: all its stored elements go, then what is there is written.
    pub cleared: bool,
    /// Elements that changed.
    pub elements: BTreeSet<ElementKey>,
}

/// What changed in a stretch of the log, and the vectors at its end.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Changed keys, by partition and key.
    pub keys: BTreeMap<(u16, Vec<u8>), TouchedKey>,
    /// What each partition had seen at the end of the stretch.
    pub vectors: Vec<VersionVector>,
    bytes: usize,
}

impl Touched {
    /// Begins a stretch at a position whose vectors are known.
    #[must_use]
    pub fn new(vectors: Vec<VersionVector>) -> Touched {
        Touched { keys: BTreeMap::new(), vectors, bytes: 0 }
    }

    /// Adds one log entry.
    ///
    /// # Errors
    /// [`Malformed`] when a frame cannot be read, which a checked log does not contain.
    pub fn add(&mut self, entry: &Entry<'_>) -> Result<(), Malformed> {
        for bytes in entry.frames() {
            if RepairPart::is_one(bytes) {
                self.add_repair(&RepairPart::decode(bytes)?)?;
                continue;
            }
            let frame = Frame::decode(bytes)?;
            let header = &frame.header;
            let vector = self
                .vectors
                .get_mut(usize::from(header.partition))
                .ok_or(Malformed("frame for a partition that does not exist"))?;
            vector.raise(header.origin, header.last);
            self.add_ops(header.partition, header.origin, &frame)?;
        }
        Ok(())
    }

    fn add_repair(&mut self, repair: &RepairPart<'_>) -> Result<(), Malformed> {
        let number = repair.header.partition;
        let vector = self
            .vectors
            .get_mut(usize::from(number))
            .ok_or(Malformed("repair of a partition that does not exist"))?;
        if repair.header.last {
            vector.join(&repair.header.seen);
        }
        for element in repair.elements() {
            let element = element?;
            let key = self.keys.entry((number, element.key.to_vec())).or_default();
            key.elements.insert(ElementKey::decode(element.element)?);
            self.bytes += element.key.len() + 128;
        }
        Ok(())
    }

    /// Roughly how much memory the collected names take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn add_ops(&mut self, part: u16, origin: Origin, frame: &Frame<'_>) -> Result<(), Malformed> {
        let (mut groups, mut last) = (frame.groups(), frame.header.previous);
        while let Some(group) = groups.next()? {
            last = self.add_group(part, OpReader::new(group.ops, origin, last))?;
        }
        Ok(())
    }

    /// Adds the operations of one group; the stamp of the last one.
    fn add_group(&mut self, part: u16, mut reader: OpReader<'_>) -> Result<Time, Malformed> {
        while let Some((_, op)) = reader.next()? {
            let key = self.keys.entry((part, op.key.to_vec())).or_default();
            key.cleared |= op.fresh;
            self.bytes += op.key.len() + 64;
            match &op.action {
                Action::Clear => key.cleared = true,
                Action::Expire { .. } => {
                    // It also marks the string's own time to live as superseded.
                    key.elements.insert(ElementKey::String);
                    key.elements.insert(ElementKey::Deadlines);
                }
                Action::Assign { element: Element::String, .. } => {
                    key.elements.insert(ElementKey::String);
                    key.elements.insert(ElementKey::Deadlines);
                }
                Action::Assign { element, .. }
                | Action::Remove { element }
                | Action::Incr { element, .. } => {
                    key.elements.insert(ElementKey::of(*element));
                    self.bytes += 64;
                }
            }
        }
        Ok(reader.last())
    }
}

/// What the checkpoint must do about one touched key: prefixes to clear, then puts.
pub type ElementWrites = (Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// Reads a touched key's elements as they stand.
#[must_use]
pub fn export_element(stage: &Stage, part: u16, key: &[u8], touched: &TouchedKey) -> ElementWrites {
    let empty = Object::default();
    let object = stage.object(key).unwrap_or(&empty);
    let mut puts = Vec::new();
    let mut put = |place: &ElementKey| {
        let mut name = Vec::new();
        place.encode(&mut name);
        puts.push((element_key(part, key, &name), encode_stored(object, place)));
    };
    if !touched.cleared {
        touched.elements.iter().for_each(&mut put);
        return (None, puts);
    }
    let mut all = BTreeSet::new();
    object.each(|element, _| {
        all.insert(ElementKey::of(element));
    });
    if !object.deadlines().is_empty() {
        all.insert(ElementKey::Deadlines);
    }
    all.iter().for_each(&mut put);
    (Some(key_prefix(part, key)), puts)
}
