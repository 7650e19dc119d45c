//! What the control group has agreed on, and the entries that change it.
//!
//! [`ControlState::apply`] is a pure function of the state and an entry: every region that applies
//! the same entries holds the same state.

use std::collections::{BTreeMap, BTreeSet};

use meridian_codec::control;
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_DECISION_BYTES, MAX_REGIONS, MAX_STATE_BYTES};
use crate::members::{Member, MemberAddresses, MemberChange, MemberError, MemberStatus, Members};
use crate::{Error, FailoverConfig, Result};

/// First byte of a [`Decision`].
const DECISION_VERSION: u8 = 1;
/// First byte of a [`MemberEntry`].
const MEMBER_VERSION: u8 = 2;
/// First byte of a stored state; before it had members it was 1.
const STATE_VERSION: u8 = 2;
/// See [`STATE_VERSION`].
const STATE_VERSION_BEFORE_MEMBERS: u8 = 1;

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
    /// It is new and has not been heard yet.
    Joined,
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
    /// Every watched region: the live members.
    pub regions: BTreeMap<u16, RegionStatus>,
    /// The region that holds the primary role.
    pub primary: u16,
    /// The epoch that gave it the role.
    pub primary_since: u64,
    /// Who belongs to the cluster, and who did.
    pub members: Members,
}

/// A state as it was stored before it had members.
#[derive(Debug, Deserialize)]
struct StateBeforeMembers {
    epoch: u64,
    regions: BTreeMap<u16, RegionStatus>,
    primary: u16,
    primary_since: u64,
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

/// An entry of the control group that changes who belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    /// The epoch of the state that it was decided on.
    pub based_on: u64,
    /// What changes.
    pub change: MemberChange,
}

impl MemberEntry {
    /// The entry's bytes.
    pub fn encode(&self) -> Vec<u8> {
        versioned(MEMBER_VERSION, self)
    }

    /// `None` for bytes that are not exactly one such entry.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        unversioned(MEMBER_VERSION, bytes, MAX_DECISION_BYTES)
    }
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
        versioned(DECISION_VERSION, self)
    }

    /// `None` for bytes that are not exactly one decision.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        unversioned(DECISION_VERSION, bytes, MAX_DECISION_BYTES)
    }
}

impl ControlState {
    /// The state before the first decision: everybody up, the first choice primary. The regions
    /// are called `region-0` and so on.
    pub fn initial(config: &FailoverConfig) -> Result<Self> {
        let founder = |&region: &u16| {
            (region, Member::founder(format!("region-{region}"), MemberAddresses::default()))
        };
        Self::founding(config, config.regions.iter().map(founder).collect())
    }

    /// The same with the regions' names and addresses.
    pub fn founding(config: &FailoverConfig, members: BTreeMap<u16, Member>) -> Result<Self> {
        config.validate()?;
        if !members.keys().eq(config.regions.iter().collect::<BTreeSet<_>>()) {
            return Err(Error::State("founders are not the configured regions"));
        }
        let status =
            RegionStatus { state: RegionState::Up, cause: Cause::Initial, since: 0, flaps: 0 };
        Ok(Self {
            epoch: 0,
            regions: config.regions.iter().map(|&region| (region, status)).collect(),
            primary: config.priority.first().copied().unwrap_or(config.id),
            primary_since: 0,
            members: Members::founding(members),
        })
    }

    /// Gives a state that was stored before there were members those that the topology names.
    pub fn adopt_founders(&mut self, founding: &ControlState) {
        if self.members.is_empty() {
            self.members.clone_from(&founding.members);
        }
    }

    /// Applies a committed entry. Changes nothing unless it answers [`Applied::Epoch`].
    pub fn apply(&mut self, entry: &[u8]) -> Applied {
        let (based_on, next) = if let Some(decision) = Decision::decode(entry) {
            (decision.based_on, self.after(&decision))
        } else if let Some(entry) = MemberEntry::decode(entry) {
            (entry.based_on, self.after_member(&entry.change).ok())
        } else {
            return Applied::Invalid;
        };
        if based_on != self.epoch {
            return Applied::Stale;
        }
        let Some(next) = next else { return Applied::Invalid };
        *self = next;
        Applied::Epoch(self.epoch)
    }

    /// The state that follows by a change of the members.
    ///
    /// # Errors
    /// Why the change is not possible now, for the operator.
    pub fn after_member(&self, change: &MemberChange) -> Result<Self, MemberError> {
        let mut next = self.clone();
        next.epoch = self.epoch.saturating_add(1);
        let epoch = next.epoch;
        let (region, to) = match change {
            MemberChange::Add { name, token, addresses } => {
                let ordinal = next.members.add(name, *token, addresses, epoch)?;
                let (state, cause) = (RegionState::Down, Cause::Joined);
                let status = RegionStatus { state, cause, since: epoch, flaps: 0 };
                next.regions.insert(ordinal, status);
                return Ok(next);
            }
            MemberChange::Admit { region } => (*region, MemberStatus::Active),
            MemberChange::Leave { region } => (*region, MemberStatus::Leaving),
            MemberChange::Left { region } => (*region, MemberStatus::Left),
            MemberChange::Dead { region } => (*region, MemberStatus::Dead),
        };
        let name = self.members.get(region).map(|member| member.name.clone());
        let name = name.ok_or_else(|| MemberError::Unknown(region.to_string()))?;
        next.members.set(region, to, epoch)?;
        let is_up = self.state_of(region).is_some_and(|state| state != RegionState::Down);
        if to == MemberStatus::Dead && is_up {
            return Err(MemberError::NotDown(name));
        }
        if !to.is_live() {
            if self.primary == region {
                return Err(MemberError::IsPrimary(name));
            }
            next.regions.remove(&region);
        }
        Ok(next)
    }

    /// How `region` stands; `None` if it is not part of the cluster.
    pub fn state_of(&self, region: u16) -> Option<RegionState> {
        self.regions.get(&region).map(|status| status.state)
    }

    /// The state's bytes, for a snapshot of the control group.
    pub fn encode(&self) -> Vec<u8> {
        versioned(STATE_VERSION, self)
    }

    /// Reads a state back and checks it. One that was stored before there were members has none.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let state: Option<Self> = match bytes.first() {
            Some(&STATE_VERSION_BEFORE_MEMBERS) => {
                unversioned(STATE_VERSION_BEFORE_MEMBERS, bytes, MAX_STATE_BYTES)
                    .map(StateBeforeMembers::migrated)
            }
            _ => unversioned(STATE_VERSION, bytes, MAX_STATE_BYTES),
        };
        let state = state.ok_or(Error::State("does not decode"))?;
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
        let live: BTreeSet<u16> = state.members.live().map(|(ordinal, _)| ordinal).collect();
        let is_sound = state.members.is_sound(state.epoch) && state.regions.keys().eq(&live);
        if !state.members.is_empty() && !is_sound {
            return Err(Error::State("its members contradict themselves or its regions"));
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

impl StateBeforeMembers {
    fn migrated(self) -> ControlState {
        let Self { epoch, regions, primary, primary_since } = self;
        ControlState { epoch, regions, primary, primary_since, members: Members::default() }
    }
}

fn versioned<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = vec![version];
    bytes.append(&mut control::encode(value));
    bytes
}

fn unversioned<T: serde::de::DeserializeOwned>(
    expected: u8,
    bytes: &[u8],
    limit: usize,
) -> Option<T> {
    let (&version, rest) = bytes.split_first()?;
    if version != expected || bytes.len() > limit {
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
        use std::net::{Ipv6Addr, SocketAddrV6};
        let regions: Vec<u16> = (0..MAX_REGIONS as u16).collect();
        let socket = SocketAddrV6::new(Ipv6Addr::from([255; 16]), u16::MAX, u32::MAX, u32::MAX);
        let addresses = MemberAddresses {
            mesh: "x".repeat(crate::limits::MAX_ADDRESS_BYTES),
            redis: Some(socket.into()),
            admin: Some(socket.into()),
            dns: Some(socket.into()),
            clients: vec![[255u16; 8].into(); crate::limits::MAX_ADDRESSES],
        };
        let member = |n: u16| (n, Member::founder("x".repeat(63), addresses.clone()));
        let config = FailoverConfig::new(regions[0], regions.clone());
        let mut state = ControlState::initial(&config).unwrap();
        let everybody = crate::limits::MAX_MEMBERS as u16;
        let retired = (MAX_REGIONS as u16..everybody).map(member).map(|(n, mut member)| {
            member.status = MemberStatus::Dead;
            member.since = u64::MAX - 1;
            (n, member)
        });
        state.members =
            Members::founding(regions.iter().map(|n| member(*n)).chain(retired).collect());
        state.epoch = u64::MAX - 1;
        let changes: Vec<_> = regions.iter().map(|&region| down(region)).collect();
        assert_eq!(
            apply(&mut state, u64::MAX - 1, &changes, Some(regions[1])),
            Applied::Epoch(u64::MAX)
        );
        assert!(ControlState::decode(&state.encode()).is_ok());
    }

    fn change(state: &mut ControlState, change: MemberChange) -> Applied {
        state.apply(&MemberEntry { based_on: state.epoch, change }.encode())
    }

    fn add(name: &str) -> MemberChange {
        let addresses = MemberAddresses {
            mesh: format!("{name}:7400"),
            clients: vec![[127, 0, 0, 1].into()],
            ..MemberAddresses::default()
        };
        MemberChange::Add { name: name.to_owned(), token: 5, addresses }
    }

    #[test]
    fn a_region_joins_serves_and_leaves() {
        let mut state = state();
        assert_eq!(change(&mut state, add("new")), Applied::Epoch(1));
        assert_eq!(state.state_of(3), Some(RegionState::Down), "nobody has heard it");
        assert!(!state.members.is_active(3));
        assert_eq!(change(&mut state, MemberChange::Admit { region: 3 }), Applied::Epoch(2));
        assert_eq!(change(&mut state, MemberChange::Leave { region: 3 }), Applied::Epoch(3));
        assert_eq!(ControlState::decode(&state.encode()), Ok(state.clone()));
        assert_eq!(change(&mut state, MemberChange::Left { region: 3 }), Applied::Epoch(4));
        assert_eq!(state.state_of(3), None);
        assert_eq!(state.members.status(3), Some(MemberStatus::Left));
        assert_eq!(ControlState::decode(&state.encode()), Ok(state.clone()));
        assert_eq!(change(&mut state, add("new")), Applied::Epoch(5));
        assert_eq!(state.members.joined_as("new", 5), Some(4));
    }

    #[test]
    fn the_living_and_the_primary_are_not_declared_dead() {
        let mut state = state();
        let dead = |region| MemberChange::Dead { region };
        assert!(matches!(state.after_member(&dead(1)), Err(MemberError::NotDown(_))));
        assert_eq!(change(&mut state, dead(1)), Applied::Invalid);
        assert_eq!(apply(&mut state, 0, &[down(0), down(1)], None), Applied::Epoch(1));
        assert!(matches!(state.after_member(&dead(0)), Err(MemberError::IsPrimary(_))));
        assert!(matches!(state.after_member(&dead(9)), Err(MemberError::Unknown(_))));
        assert_eq!(change(&mut state, dead(1)), Applied::Epoch(2));
        assert_eq!(apply(&mut state, 2, &[], Some(2)), Applied::Epoch(3));
        assert_eq!(change(&mut state, dead(0)), Applied::Epoch(4));
        let last = MemberChange::Leave { region: 2 };
        assert!(matches!(state.after_member(&last), Err(MemberError::LastOne(_))));
    }

    #[test]
    fn a_change_is_made_once_however_often_it_is_proposed() {
        let mut state = state();
        let entry = MemberEntry { based_on: 0, change: add("new") }.encode();
        assert_eq!(state.apply(&entry), Applied::Epoch(1));
        assert_eq!(state.apply(&entry), Applied::Stale);
        assert_eq!(state.members.next_ordinal(), 4);
    }

    #[test]
    fn a_state_without_members_gets_the_founders() {
        let founding = state();
        let mut bytes = vec![STATE_VERSION_BEFORE_MEMBERS];
        let fields = (4u64, &founding.regions, founding.primary, founding.primary_since);
        bytes.append(&mut control::encode(&fields));
        let mut state = ControlState::decode(&bytes).expect("the former version");
        assert!(state.members.is_empty() && state.epoch == 4);
        state.adopt_founders(&founding);
        assert_eq!(state.members, founding.members);
        assert_eq!(ControlState::decode(&state.encode()), Ok(state.clone()));
        state.regions.remove(&2);
        assert!(ControlState::decode(&state.encode()).is_err(), "a member that is not watched");
    }

    proptest! {
        #[test]
        fn arbitrary_changes_keep_the_state_sound(
            bytes in proptest::collection::vec((0u8..5, 0u16..8, 0u16..8), 0..40)
        ) {
            let mut state = state();
            for (kind, region, primary) in bytes {
                let region = region % (state.members.next_ordinal() + 1);
                let wanted = match kind {
                    0 => add(&format!("n{region}")),
                    1 => MemberChange::Admit { region },
                    2 => MemberChange::Leave { region },
                    3 => MemberChange::Left { region },
                    _ => MemberChange::Dead { region },
                };
                change(&mut state, wanted);
                let epoch = state.epoch;
                apply(&mut state, epoch, &[down(region)], Some(primary));
                let active = state.members.iter().filter(|(r, _)| state.members.is_active(*r));
                prop_assert!(active.count() > 0);
                prop_assert_eq!(ControlState::decode(&state.encode()), Ok(state.clone()));
            }
        }

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
