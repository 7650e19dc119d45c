//! The read-only keyspace that holds Postgres rows: how a batch of changes enters the stage.
//!
//! Every partition remembers up to which position it has applied the stream, under a reserved
//! key, written in the same frame as the rows. So the position travels to the other regions with
//! the rows that it covers, and whichever region takes over the stream skips, partition by
//! partition, exactly what is already there.

use std::collections::BTreeSet;

use meridian_clock::Time;
use meridian_crdt::{Action, Element, Object};

use crate::{slot::slot_of, stage::Stage};

/// Keys that begin like this hold rows and are written by the tailer only.
pub const MIRROR_PREFIX: &[u8] = b"pg:";

/// Keys that begin like this are Meridian's own; no client sees or writes them.
pub const RESERVED_PREFIX: &[u8] = b"\0meridian:";

/// One change of one mirrored key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorChange {
    /// The hash holds exactly `set` and, of its earlier fields, those in `keep`.
    Upsert {
        /// The row's key.
        key: Vec<u8>,
        /// Fields and their values.
        set: Vec<(Vec<u8>, Vec<u8>)>,
        /// Fields that stay as they are.
        keep: Vec<Vec<u8>>,
    },
    /// The row is gone.
    Delete {
        /// The row's key.
        key: Vec<u8>,
    },
    /// All rows under the prefix are gone.
    Truncate {
        /// The table's prefix.
        prefix: Vec<u8>,
    },
    /// Of all mirrored keys from `from` up to but not including `to`, only `keys` stay.
    Retain {
        /// First key of the range.
        from: Vec<u8>,
        /// First key after it.
        to: Vec<u8>,
        /// The keys that stay.
        keys: BTreeSet<Vec<u8>>,
    },
}

/// The table's name in a mirrored key: `pg:<table>:<key>`.
#[must_use]
pub fn mirror_table(key: &[u8]) -> &[u8] {
    let rest = &key[MIRROR_PREFIX.len()..];
    rest.split(|b| *b == b':').next().unwrap_or_default()
}

impl Stage {
    /// The stream position that a partition has applied, as it was given to
    /// [`Stage::mirror`]; none before the first batch.
    #[must_use]
    pub fn mirror_position(&self, number: u16, stream: &str) -> Option<Vec<u8>> {
        let key = self.position_key(number, stream);
        let object = self.object(&key)?;
        object.string_value(self.now()).map(std::borrow::Cow::into_owned)
    }

    /// Applies one batch and its position, if it carries one, all in the current commit.
    /// `applies` says, given a partition's stored position, whether the batch is news to it.
    pub fn mirror(
        &mut self,
        stream: &str,
        position: Option<&[u8]>,
        changes: &[MirrorChange],
        mut applies: impl FnMut(Option<&[u8]>) -> bool,
    ) {
        let news: Vec<bool> = (0..self.partitions())
            .map(|number| applies(self.mirror_position(number, stream).as_deref()))
            .collect();
        let is_news = |stage: &Stage, key: &[u8]| news[usize::from(stage.partition_of(key))];
        for change in changes {
            match change {
                MirrorChange::Upsert { key, set, keep } if is_news(self, key) => {
                    self.upsert(key, set, keep);
                }
                MirrorChange::Delete { key } if is_news(self, key) => self.drop_key(key),
                MirrorChange::Upsert { .. } | MirrorChange::Delete { .. } => {}
                MirrorChange::Truncate { prefix } => {
                    for key in self.keys_where(|k| k.starts_with(prefix)) {
                        if is_news(self, &key) {
                            self.drop_key(&key);
                        }
                    }
                }
                MirrorChange::Retain { from, to, keys } => {
                    let inside = |key: &[u8]| key >= from.as_slice() && key < to.as_slice();
                    for key in self.keys_where(inside) {
                        if is_news(self, &key) && !keys.contains(&key) {
                            self.drop_key(&key);
                        }
                    }
                }
            }
        }
        for number in (0..self.partitions()).filter(|n| news[usize::from(*n)]) {
            let Some(value) = position else { break };
            let key = self.position_key(number, stream);
            self.write(&key, Action::Assign { element: Element::String, value, ttl: Time::MAX });
        }
        self.end_command();
    }

    fn upsert(&mut self, key: &[u8], set: &[(Vec<u8>, Vec<u8>)], keep: &[Vec<u8>]) {
        let held = |object: &Object| -> Vec<Vec<u8>> {
            object.hash().iter().map(|(name, _)| name.to_vec()).collect()
        };
        let held: Vec<Vec<u8>> = self.object(key).map(held).unwrap_or_default();
        let is_set = |name: &Vec<u8>| set.iter().any(|(set, _)| set == name);
        for name in held.iter().filter(|n| !keep.contains(n) && !is_set(n)) {
            self.write(key, Action::Remove { element: Element::Field(name) });
        }
        for (name, value) in set {
            let element = Element::Field(name);
            self.write(key, Action::Assign { element, value, ttl: Time::MAX });
        }
    }

    fn drop_key(&mut self, key: &[u8]) {
        if self.object(key).is_some() {
            self.write(key, Action::Clear);
        }
    }

    fn keys_where(&self, chosen: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let tables = self.occupied_slots().flat_map(|slot| self.table(slot).iter());
        tables.map(|(key, _)| key).filter(|k| chosen(k)).map(<[u8]>::to_vec).collect()
    }

    /// The reserved key of a partition: its tag is the first number whose slot lies in it.
    fn position_key(&self, number: u16, stream: &str) -> Vec<u8> {
        let tag = (0u32..)
            .find(|n| self.partition_of(n.to_string().as_bytes()) == number)
            .unwrap_or_default();
        let mut key = RESERVED_PREFIX.to_vec();
        key.extend_from_slice(format!("cdc:{stream}:{{{tag}}}").as_bytes());
        debug_assert_eq!(slot_of(&key), slot_of(tag.to_string().as_bytes()));
        key
    }
}
