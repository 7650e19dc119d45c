//! What the control group has agreed on, and the entries that change it.
//!
//! [`ControlState::apply`] is a pure function of the state and an entry: every region that applies
//! the same entries holds the same state.

use std::collections::BTreeMap;

use meridian_codec::control;
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_DECISION_BYTES, MAX_REGIONS, MAX_STATE_BYTES};
use crate::{Error, FailoverConfig, Result};

/// First byte of stored states and entries.
const FORMAT_VERSION: u8 = 1;

/// How a region stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RegionState {
    /// Serves.
    Up,
    /// Reachable, but not well: serves when nobody better is there.
    Degraded,
    /// Reachable again, but still catching up with what it missed.
    Recovering,
    /// Unreachable for a majority, or unhealthy by its own account.
    Down,
}

/// Why a region has its state, for humans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The cluster's first state.
    Initial,
    /// A majority did not hear from it.
    Unreachable,
    /// Its own end-to-end checks failed.
    Unhealthy,
    /// Its own end-to-end checks are slow or partly failing.
    Slow,
    /// It is back, with data to catch up.
    Returned,
    /// It is back and well.
    Healthy,
}

/// A region's entry in the control state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionStatus {
    /// How the region stands.
    pub state: RegionState,
    /// Why.
    pub cause: Cause,
    /// The epoch that brought the state.
    pub since: u64,
    /// Times in a row that the region went down soon after it came up.
    pub flaps: u8,
}

/// Agreed by the control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState {
    /// Grows by one with every decision that took effect.
    pub epoch: u64,
    /// Every watched region.
    pub regions: BTreeMap<u16, RegionStatus>,
    /// The region that holds the primary role.
    pub primary: u16,
    /// The epoch that gave it the role.
    pub primary_since: u64,
}

/// One region's new state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Whose state.
    pub region: u16,
    /// The new state.
    pub state: RegionState,
    /// Why.
    pub cause: Cause,
    /// The new count of flaps.
    pub flaps: u8,
}

/// An entry of the control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The epoch of the state that it was decided on.
    pub based_on: u64,
    /// Regions that change.
    pub changes: Vec<Change>,
    /// The new holder of the primary role, if it moves.
    pub primary: Option<u16>,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It took effect and opened this epoch.
    Epoch(u64),
    /// It was decided on another state than the present one.
    Stale,
    /// It names unknown regions, changes nothing, or does not decode.
    Invalid,
}

impl Decision {
    /// The entry's bytes.
    pub fn encode(&self) -> Vec<u8> {
        versioned(self)
    }

    /// `None` for bytes that are not exactly one decision.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        unversioned(bytes, MAX_DECISION_BYTES)
    }
}

impl ControlState {
    /// The state before the first decision: everybody up, the first choice primary.
    pub fn initial(config: &FailoverConfig) -> Result<Self> {
        config.validate()?;
        let status =
            RegionStatus { state: RegionState::Up, cause: Cause::Initial, since: 0, flaps: 0 };
        Ok(Self {
            epoch: 0,
            regions: config.regions.iter().map(|&region| (region, status)).collect(),
            primary: config.priority.first().copied().unwrap_or(config.id),
            primary_since: 0,
        })
    }

    /// Applies a committed entry. Changes nothing unless it answers [`Applied::Epoch`].
    pub fn apply(&mut self, entry: &[u8]) -> Applied {
        let Some(decision) = Decision::decode(entry) else { return Applied::Invalid };
        if decision.based_on != self.epoch {
            return Applied::Stale;
        }
        let next = match self.after(&decision) {
            Some(next) => next,
            None => return Applied::Invalid,
        };
        *self = next;
        Applied::Epoch(self.epoch)
    }

    /// How `region` stands; `None` if it is not part of the cluster.
    pub fn state_of(&self, region: u16) -> Option<RegionState> {
        self.regions.get(&region).map(|status| status.state)
    }

    /// The state's bytes, for a snapshot of the control group.
    pub fn encode(&self) -> Vec<u8> {
        versioned(self)
    }

    /// Reads a state back and checks it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let state: Self =
            unversioned(bytes, MAX_STATE_BYTES).ok_or(Error::State("does not decode"))?;
        if state.regions.is_empty() || state.regions.len() > MAX_REGIONS {
            return Err(Error::State("names too many regions, or none"));
        }
        if !state.regions.contains_key(&state.primary) {
            return Err(Error::State("its primary is not a region"));
        }
        if state.regions.values().any(|r| r.since > state.epoch)
            || state.primary_since > state.epoch
        {
            return Err(Error::State("names an epoch of the future"));
        }
        Ok(state)
    }

    /// The state that follows by `decision`; `None` if it is not valid here.
    fn after(&self, decision: &Decision) -> Option<Self> {
        if decision.changes.is_empty() && decision.primary.is_none() {
            return None;
        }
        let mut next = self.clone();
        next.epoch = self.epoch.checked_add(1)?;
        for change in &decision.changes {
            let status = next.regions.get_mut(&change.region)?;
            let Change { state, cause, flaps, .. } = *change;
            *status = RegionStatus { state, cause, since: next.epoch, flaps };
        }
        if let Some(primary) = decision.primary {
            next.regions.get(&primary)?;
            next.primary = primary;
            next.primary_since = next.epoch;
        }
        Some(next)
    }
}

fn versioned<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT_VERSION];
    bytes.append(&mut control::encode(value));
    bytes
}

fn unversioned<T: serde::de::DeserializeOwned>(bytes: &[u8], limit: usize) -> Option<T> {
    let (&version, rest) = bytes.split_first()?;
    if version != FORMAT_VERSION || bytes.len() > limit {
        return None;
    }
    control::decode(rest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> ControlState {
        ControlState::initial(&FailoverConfig::new(0, vec![0, 1, 2])).unwrap()
    }

    fn down(region: u16) -> Change {
        Change { region, state: RegionState::Down, cause: Cause::Unreachable, flaps: 1 }
    }

    fn apply(
        state: &mut ControlState,
        based_on: u64,
        changes: &[Change],
        to: Option<u16>,
    ) -> Applied {
        state.apply(&Decision { based_on, changes: changes.to_vec(), primary: to }.encode())
    }

    #[test]
    fn a_decision_opens_the_next_epoch_and_a_stale_one_changes_nothing() {
        let mut state = state();
        assert_eq!(apply(&mut state, 0, &[down(0)], Some(1)), Applied::Epoch(1));
        assert_eq!((state.primary, state.primary_since), (1, 1));
        assert_eq!(state.regions[&0].since, 1);
        let before = state.clone();
        assert_eq!(apply(&mut state, 0, &[down(1)], None), Applied::Stale);
        assert_eq!(apply(&mut state, 2, &[down(1)], None), Applied::Stale);
        assert_eq!(apply(&mut state, 1, &[down(9)], None), Applied::Invalid);
        assert_eq!(apply(&mut state, 1, &[down(1)], Some(9)), Applied::Invalid);
        assert_eq!(apply(&mut state, 1, &[], None), Applied::Invalid);
        assert_eq!(state.apply(b"garbage"), Applied::Invalid);
        assert_eq!(state, before);
    }

    #[test]
    fn states_come_back_as_they_were_and_nonsense_is_refused() {
        let mut state = state();
        apply(&mut state, 0, &[down(2)], None);
        assert_eq!(ControlState::decode(&state.encode()), Ok(state.clone()));
        state.primary = 7;
        assert!(ControlState::decode(&state.encode()).is_err());
        state.primary = 0;
        state.primary_since = 99;
        assert!(ControlState::decode(&state.encode()).is_err());
    }

    #[test]
    fn the_largest_state_and_decision_fit_their_limits() {
        let regions: Vec<u16> = (u16::MAX - MAX_REGIONS as u16..u16::MAX).collect();
        let mut state =
            ControlState::initial(&FailoverConfig::new(regions[0], regions.clone())).unwrap();
        state.epoch = u64::MAX - 1;
        let changes: Vec<_> = regions.iter().map(|&region| down(region)).collect();
        assert_eq!(
            apply(&mut state, u64::MAX - 1, &changes, Some(regions[1])),
            Applied::Epoch(u64::MAX)
        );
        assert!(ControlState::decode(&state.encode()).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_entries_never_panic_and_epochs_only_grow(
            entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)
        ) {
            let mut state = state();
            for entry in entries {
                let before = state.epoch;
                state.apply(&entry);
                prop_assert!(state.epoch == before || state.epoch == before + 1);
            }
        }
    }
}
