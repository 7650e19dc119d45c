//! What a region remembers of its group after a crash.

use crate::codec::{Identity, Record};
use crate::conf::Conf;
use crate::store::LogStore;
use crate::{Error, GroupConfig, Result};

/// The control log, read back. Empty for a region that starts for the first time.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    pub(crate) identity: Option<Identity>,
    pub(crate) store: LogStore,
}

impl Recovered {
    /// Replays the records of a control log in the order in which they were written. The log's
    /// own checksums are the caller's; a lost tail is fine, a hole is not.
    pub fn from_records<I>(records: I) -> Result<Self>
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        let mut recovered = Self::default();
        for (position, bytes) in records.into_iter().enumerate() {
            let corrupt =
                |reason: &str| Error::CorruptLog { record: position, reason: reason.to_owned() };
            let record =
                Record::decode(bytes.as_ref()).ok_or_else(|| corrupt("does not decode"))?;
            recovered.replay(record).map_err(corrupt)?;
        }
        recovered.settle();
        Ok(recovered)
    }

    /// The application's state at the last snapshot, with its index. Entries committed after it
    /// come out of the group again.
    pub fn snapshot(&self) -> Option<(u64, &[u8])> {
        let snapshot = &self.store.snapshot;
        let state = Conf::unwrap(&snapshot.state).map_or(snapshot.state.as_slice(), |(_, s)| s);
        (snapshot.last.index > 0).then_some((snapshot.last.index, state))
    }

    /// Whether there was nothing to recover.
    pub fn is_empty(&self) -> bool {
        self.identity.is_none()
    }

    pub(crate) fn check_identity(&self, config: &GroupConfig) -> Result<()> {
        match &self.identity {
            Some(log) if log.id != config.id => {
                Err(Error::IdentityChanged { log_id: log.id, id: config.id })
            }
            _ => Ok(()),
        }
    }

    fn replay(&mut self, record: Record) -> Result<(), &'static str> {
        if let Some(identity) = record.identity {
            if self.identity.as_ref().is_some_and(|known| *known != identity) {
                return Err("names a second identity");
            }
            self.identity = Some(identity);
        }
        if self.identity.is_none() {
            return Err("comes before the log's identity");
        }
        if let Some(snapshot) = record.snapshot {
            if Conf::unwrap(&snapshot.state).is_none() {
                return Err("holds a snapshot of an impossible group");
            }
            if snapshot.last.index < self.store.snapshot.last.index {
                return Err("holds an older snapshot than one before it");
            }
            self.store.install(snapshot);
        }
        if !record.entries.is_empty() {
            if record.first_index <= self.store.hard_state.commit {
                return Err("replaces committed entries");
            }
            if !self.store.append(record.first_index, record.entries) {
                return Err("leaves a gap in the entries");
            }
        }
        if let Some(hard_state) = record.hard_state {
            if hard_state.term < self.store.hard_state.term {
                return Err("goes back to an earlier term");
            }
            if hard_state.commit > self.store.last_index() {
                return Err("commits entries that are missing");
            }
            self.store.hard_state = hard_state;
        }
        Ok(())
    }

    /// A tail torn between the entries of a turn and its hard state leaves entries of a term that
    /// the hard state does not know. This region cannot have voted in that term, or the vote would
    /// have been persisted before: entering the term without a vote is safe.
    fn settle(&mut self) {
        let last_term = self.store.term_at(self.store.last_index()).unwrap_or(0);
        if last_term > self.store.hard_state.term {
            self.store.hard_state.term = last_term;
            self.store.hard_state.vote = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Entry, HardStateRecord};

    fn identity() -> Option<Identity> {
        Some(Identity { id: 1, voters: vec![0, 1, 2] })
    }

    fn entries(first_index: u64, terms: &[u64]) -> Record {
        let entries = terms.iter().map(|&term| Entry { term, data: vec![1] }).collect();
        Record { identity: identity(), first_index, entries, ..Record::default() }
    }

    fn hard_state(term: u64, commit: u64) -> Record {
        let hard_state = Some(HardStateRecord { term, vote: Some(1), commit });
        Record { identity: identity(), hard_state, ..Record::default() }
    }

    fn replay(records: &[Record]) -> Result<Recovered> {
        Recovered::from_records(records.iter().map(|record| record.encode().expect("fits")))
    }

    #[test]
    fn a_torn_turn_enters_the_term_of_its_entries_without_a_vote() {
        let recovered = replay(&[hard_state(3, 0), entries(1, &[3, 5])]).expect("valid");
        assert_eq!(recovered.store.hard_state, HardStateRecord { term: 5, vote: None, commit: 0 });
    }

    #[test]
    fn contradictions_are_found_and_named() {
        let reason = |records: &[Record]| match replay(records) {
            Err(Error::CorruptLog { record, reason }) => (record, reason),
            other => panic!("accepted: {other:?}"),
        };
        assert_eq!(reason(&[entries(2, &[1])]).1, "leaves a gap in the entries");
        assert_eq!(reason(&[hard_state(1, 1)]).1, "commits entries that are missing");
        assert_eq!(
            reason(&[hard_state(2, 0), hard_state(1, 0)]),
            (1, "goes back to an earlier term".into())
        );
        let committed = [entries(1, &[1, 1]), hard_state(1, 2), entries(2, &[2])];
        assert_eq!(reason(&committed), (2, "replaces committed entries".into()));
        assert_eq!(reason(&[Record::default()]).1, "comes before the log's identity");
        let garbage = Recovered::from_records([b"not a record"]);
        assert!(matches!(garbage, Err(Error::CorruptLog { record: 0, .. })));
    }

    #[test]
    fn a_log_of_another_identity_is_refused() {
        let recovered = replay(&[hard_state(1, 0)]).expect("valid");
        let check = |id, voters| recovered.check_identity(&GroupConfig::new(id, voters, 50));
        assert_eq!(check(1, vec![2, 1, 0]), Ok(()), "ranks are not part of the identity");
        assert_eq!(check(1, vec![0, 1]), Ok(()), "who votes is in the log");
        let other = Err(Error::IdentityChanged { log_id: 1, id: 2 });
        assert_eq!(check(2, vec![0, 1, 2]), other);
    }
}
