//! Who takes part in the group, and the entries that change it one region at a time.
//!
//! A change is an entry of the log and takes effect where it is applied (Ongaro 2014, §4.1: with
//! one region at a time any two majorities, before and after, share a voter). Its bytes are our
//! own and begin with a mark that no proposal may begin with, so that the layout of entries is
//! the same as before there were changes; a snapshot carries the configuration of its index.

use std::collections::BTreeSet;

use meridian_codec::control;
use raft::eraftpb::{ConfChange as RaftChange, ConfChangeType, ConfState};
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_CONF_BYTES, MAX_LEARNERS, MAX_VOTERS};
use crate::store::{raft_id, region};

/// First byte of an entry that changes the configuration.
const CHANGE_MARK: u8 = 0xC5;
/// First byte of a snapshot's state that tells its configuration. Without it the state is from
/// before there were changes, and everybody of the group's identity votes.
const STATE_MARK: u8 = 0xC6;

/// A change of who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfChange {
    /// The region gets the log and has no vote, even if it had one.
    AddLearner(u16),
    /// The region gets a vote.
    Promote(u16),
    /// The region takes no part any more.
    Remove(u16),
}

/// Who takes part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conf {
    /// Regions that vote.
    pub voters: BTreeSet<u16>,
    /// Regions that only follow.
    pub learners: BTreeSet<u16>,
}

impl ConfChange {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = vec![CHANGE_MARK];
        bytes.append(&mut control::encode(&self));
        bytes
    }

    /// `None` for bytes that are not exactly one change.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&CHANGE_MARK, rest)) => control::decode(rest).ok(),
            _ => None,
        }
    }

    pub(crate) fn to_raft(self) -> RaftChange {
        let (kind, region) = match self {
            ConfChange::AddLearner(region) => (ConfChangeType::AddLearnerNode, region),
            ConfChange::Promote(region) => (ConfChangeType::AddNode, region),
            ConfChange::Remove(region) => (ConfChangeType::RemoveNode, region),
        };
        let mut change = RaftChange { node_id: raft_id(region), ..RaftChange::default() };
        change.set_change_type(kind);
        change
    }
}

/// Whether an entry's bytes claim to change the configuration.
pub(crate) fn is_change(data: &[u8]) -> bool {
    data.first() == Some(&CHANGE_MARK)
}

impl Conf {
    /// A group in which these vote.
    pub(crate) fn of_voters(voters: &[u16]) -> Conf {
        Conf { voters: voters.iter().copied().collect(), learners: BTreeSet::new() }
    }

    /// Whether the region takes part.
    #[must_use]
    pub fn contains(&self, region: u16) -> bool {
        self.voters.contains(&region) || self.learners.contains(&region)
    }

    /// Whether the change may be made: within the limits, not twice, and somebody goes on voting.
    pub(crate) fn allows(&self, change: ConfChange) -> bool {
        match change {
            ConfChange::AddLearner(region) => {
                let votes = self.voters.contains(&region);
                !self.learners.contains(&region)
                    && self.learners.len() < MAX_LEARNERS
                    && !(votes && self.voters.len() == 1)
            }
            ConfChange::Promote(region) => {
                self.learners.contains(&region) && self.voters.len() < MAX_VOTERS
            }
            ConfChange::Remove(region) => {
                self.learners.contains(&region)
                    || self.voters.contains(&region) && self.voters.len() > 1
            }
        }
    }

    /// Whether this can be a group's configuration: what comes from outside is checked by it.
    pub(crate) fn is_sound(&self) -> bool {
        (1..=MAX_VOTERS).contains(&self.voters.len())
            && self.learners.len() <= MAX_LEARNERS
            && self.voters.is_disjoint(&self.learners)
    }

    pub(crate) fn to_raft(&self) -> ConfState {
        let ids = |set: &BTreeSet<u16>| set.iter().map(|&r| raft_id(r)).collect::<Vec<u64>>();
        ConfState::from((ids(&self.voters), ids(&self.learners)))
    }

    pub(crate) fn from_raft(state: &ConfState) -> Conf {
        let regions = |ids: &[u64]| ids.iter().filter_map(|&id| region(id)).collect();
        Conf { voters: regions(state.get_voters()), learners: regions(state.get_learners()) }
    }

    /// A snapshot's bytes: this configuration and the application's state.
    pub(crate) fn wrap(&self, state: &[u8]) -> Vec<u8> {
        let conf = control::encode(self);
        let length = u16::try_from(conf.len()).unwrap_or(u16::MAX);
        let mut bytes = vec![STATE_MARK];
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&conf);
        bytes.extend_from_slice(state);
        bytes
    }

    /// Takes a snapshot's bytes apart; `None` if they contradict themselves. A snapshot from before
    /// there were changes has no configuration.
    pub(crate) fn unwrap(bytes: &[u8]) -> Option<(Option<Conf>, &[u8])> {
        let Some((&STATE_MARK, rest)) = bytes.split_first() else { return Some((None, bytes)) };
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_le_bytes(*length));
        if length > MAX_CONF_BYTES || length > rest.len() {
            return None;
        }
        let (conf, state) = rest.split_at(length);
        let conf: Conf = control::decode(conf).ok()?;
        conf.is_sound().then_some((Some(conf), state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn conf(voters: &[u16], learners: &[u16]) -> Conf {
        Conf { learners: learners.iter().copied().collect(), ..Conf::of_voters(voters) }
    }

    #[test]
    fn a_snapshot_carries_its_configuration() {
        let conf = conf(&[0, 1, 2], &[7]);
        let bytes = conf.wrap(b"state");
        assert_eq!(Conf::unwrap(&bytes), Some((Some(conf.clone()), b"state".as_slice())));
        assert_eq!(Conf::unwrap(b"\x01old"), Some((None, b"\x01old".as_slice())));
        for end in 1..bytes.len() - 5 {
            assert_eq!(Conf::unwrap(&bytes[..end]), None, "{end}");
        }
        assert_eq!(Conf::unwrap(&Conf::default().wrap(b"")), None, "nobody votes");
        let both = Conf { learners: [1].into(), ..Conf::of_voters(&[1]) };
        assert_eq!(Conf::unwrap(&both.wrap(b"")), None);
        assert_eq!(Conf::from_raft(&conf.to_raft()), conf);
    }

    #[test]
    fn changes_stay_within_the_limits() {
        let group = conf(&[0, 1], &[5]);
        for (change, allowed) in [
            (ConfChange::AddLearner(6), true),
            (ConfChange::AddLearner(5), false),
            (ConfChange::AddLearner(0), true),
            (ConfChange::Promote(5), true),
            (ConfChange::Promote(6), false),
            (ConfChange::Promote(0), false),
            (ConfChange::Remove(0), true),
            (ConfChange::Remove(5), true),
            (ConfChange::Remove(6), false),
        ] {
            assert_eq!(group.allows(change), allowed, "{change:?}");
            assert_eq!(ConfChange::decode(&change.encode()), Some(change));
        }
        assert!(!conf(&[0], &[5]).allows(ConfChange::Remove(0)));
        assert!(!conf(&[0], &[5]).allows(ConfChange::AddLearner(0)));
        let full: Vec<u16> = (0..MAX_VOTERS as u16).collect();
        assert!(!conf(&full, &[50]).allows(ConfChange::Promote(50)));
        let everybody = Conf {
            voters: full.iter().map(|n| u16::MAX - n).collect(),
            learners: (0..MAX_LEARNERS as u16).map(|n| 60_000 - n).collect(),
        };
        assert!(control::encode(&everybody).len() <= MAX_CONF_BYTES);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = ConfChange::decode(&bytes);
            let _ = Conf::unwrap(&bytes);
            let marked = [&[STATE_MARK][..], &bytes].concat();
            let _ = Conf::unwrap(&marked);
        }
    }
}
