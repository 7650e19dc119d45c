//! The keys of one slot. One small hash table a slot keeps resizing short, makes SCAN exact and
//! gives digests a natural grain.

use foldhash::fast::FixedState;
use hashbrown::{HashMap, hash_map::EntryRef};
use meridian_clock::Time;
use meridian_crdt::{ElementKey, Object, encode_cell, encode_deadlines};
use xxhash_rust::xxh3::Xxh3;

use crate::{key::Key, mirror::RESERVED_PREFIX};

/// Keys of the end-to-end checks. They change several times a second in every region, so that a
/// digest over them would never be equal while the cluster is alive.
pub const CHECK_PREFIX: &[u8] = b"\0meridian:check:";

/// Keys and objects of one slot.
#[derive(Clone, Debug)]
pub struct SlotTable {
    objects: HashMap<Key, Object, FixedState>,
    /// Keys that show something when no deadline has passed, Meridian's own excluded.
    live: usize,
    /// The digest as last computed, until the next change.
    digest: Option<u64>,
    /// What the elements sum to for whoever compares with this seed, until the next change.
    sum: Option<(u64, SlotSum)>,
}

/// What the elements of a slot sum to, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotSum {
    /// The wrapping sum of what stands for each element.
    pub sum: u64,
    /// Elements.
    pub items: u64,
}

impl SlotTable {
    /// An empty table; `seed` keys its hash function, so that clients cannot choose collisions.
    #[must_use]
    pub fn new(seed: u64) -> SlotTable {
        let objects = HashMap::with_hasher(FixedState::with_seed(seed));
        SlotTable { objects, live: 0, digest: Some(0), sum: None }
    }

    /// The object under a key, whatever it shows.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&Object> {
        self.objects.get(key)
    }

    /// Changes the object under a key; one that is left empty goes.
    #[inline]
    pub fn change<T>(&mut self, key: &[u8], change: impl FnOnce(&mut Object) -> T) -> T {
        (self.digest, self.sum) = (None, None);
        let counts = !key.starts_with(RESERVED_PREFIX);
        let seen = |object: &Object| counts && object.visible(Time::ZERO).is_some();
        match self.objects.entry_ref(key) {
            EntryRef::Occupied(mut entry) => {
                let object = entry.get_mut();
                let before = seen(object);
                let result = change(object);
                let after = seen(object);
                self.live = self.live + usize::from(after) - usize::from(before);
                if object.is_empty() {
                    entry.remove();
                }
                result
            }
            EntryRef::Vacant(entry) => {
                let mut object = Object::default();
                let result = change(&mut object);
                if !object.is_empty() {
                    self.live += usize::from(seen(&object));
                    entry.insert(object);
                }
                result
            }
        }
    }

    /// How many keys show something, those that have expired but not been reclaimed included and
    /// Meridian's own excluded.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// How many objects are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// All keys and objects, in no particular order but the same one for the same history.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Object)> {
        self.objects.iter().map(|(key, object)| (key.as_bytes(), object))
    }

    /// What the elements sum to under this seed, if nothing has changed since that was noted.
    #[must_use]
    pub fn known_sum(&self, seed: u64) -> Option<SlotSum> {
        self.sum.filter(|(of, _)| *of == seed).map(|(_, sum)| sum)
    }

    /// Notes what the elements sum to as they are now.
    pub fn note_sum(&mut self, seed: u64, sum: SlotSum) {
        self.sum = Some((seed, sum));
    }

    /// Whether nothing has changed since the digest was last taken, so that it costs nothing.
    #[must_use]
    pub fn is_digest_known(&self) -> bool {
        self.digest.is_some()
    }

    /// A digest of all that is held: equal in two regions that have applied the same operations.
    pub fn digest(&mut self) -> u64 {
        if let Some(digest) = self.digest {
            return digest;
        }
        let lasting = self.iter().filter(|(key, _)| !key.starts_with(CHECK_PREFIX));
        let digest = lasting.map(|(k, o)| object_digest(k, o)).fold(0, u64::wrapping_add);
        self.digest = Some(digest);
        digest
    }
}

/// The digest of one key: a sum over its elements, so that their order does not matter.
#[must_use]
pub fn object_digest(key: &[u8], object: &Object) -> u64 {
    let mut sum = 0u64;
    let mut add = |element: ElementKey, value: &[u8]| {
        let mut hash = Xxh3::new();
        hash.update(&(key.len() as u64).to_le_bytes());
        hash.update(key);
        let mut name = Vec::new();
        element.encode(&mut name);
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(&name);
        hash.update(value);
        sum = sum.wrapping_add(hash.digest());
    };
    let mut bytes = Vec::new();
    object.each(|element, cell| {
        let holds = cell.regs().next().is_some() || cell.rows().iter().any(|r| r.is_live());
        if holds {
            bytes.clear();
            encode_cell(&mut bytes, cell, false);
            add(ElementKey::of(element), &bytes);
        }
    });
    if !object.deadlines().is_empty() {
        bytes.clear();
        encode_deadlines(&mut bytes, object.deadlines());
        add(ElementKey::Deadlines, &bytes);
    }
    sum
}
