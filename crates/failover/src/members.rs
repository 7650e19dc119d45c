//! Who belongs to the cluster: the replicated list of regions, and the changes that it allows.
//!
//! An ordinal is handed out once and never again, because it is part of every stamp that its
//! region has written (rule R5). So a region that leaves or is declared dead stays in the list
//! for ever, as the mark that its ordinal is used up; its name may be taken by a new region.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_ADDRESS_BYTES, MAX_ADDRESSES, MAX_MEMBERS, MAX_REGIONS};
use crate::topology::is_label;

/// How a region belongs to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberStatus {
    /// It has an ordinal and gets the data; nobody is sent to it and it holds no role.
    Joining,
    /// A full member.
    Active,
    /// It takes no more writes and hands over what the others do not have yet.
    Leaving,
    /// It has left in order: the others have all that it wrote.
    Left,
    /// An operator has declared it dead. What only it had can be salvaged, not shipped.
    Dead,
}

impl MemberStatus {
    /// Whether the region takes part: the others connect to it and wait for it.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, MemberStatus::Joining | MemberStatus::Active | MemberStatus::Leaving)
    }

    /// The word for it, as operators see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MemberStatus::Joining => "joining",
            MemberStatus::Active => "active",
            MemberStatus::Leaving => "leaving",
            MemberStatus::Left => "left",
            MemberStatus::Dead => "dead",
        }
    }
}

/// Where a region is found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAddresses {
    /// Under which `host:port` the other regions reach its mesh.
    pub mesh: String,
    /// Where Redis clients connect.
    pub redis: Option<SocketAddr>,
    /// Health, metrics, status.
    pub admin: Option<SocketAddr>,
    /// Its DNS server.
    pub dns: Option<SocketAddr>,
    /// What DNS answers for it.
    pub clients: Vec<IpAddr>,
}

/// A region of the cluster, or one that was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name: a DNS label, unique among live members.
    pub name: String,
    /// How it belongs.
    pub status: MemberStatus,
    /// The epoch that brought the status.
    pub since: u64,
    /// Whether the topology file named it when the cluster began.
    pub is_founder: bool,
    /// Chosen by the joining node and kept in its directory: asking twice gives one ordinal, and
    /// a second directory does not get the first one's.
    pub token: u64,
    /// Where it is found.
    pub addresses: MemberAddresses,
}

impl Member {
    /// A region that the topology file names.
    #[must_use]
    pub fn founder(name: String, addresses: MemberAddresses) -> Member {
        let status = MemberStatus::Active;
        Member { name, status, since: 0, is_founder: true, token: 0, addresses }
    }
}

/// Every ordinal that was ever handed out, and whose it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The next ordinal to hand out.
    next: u16,
    by_ordinal: BTreeMap<u16, Member>,
}

/// A change of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// A new region; it gets the next ordinal and is joining.
    Add {
        /// Its name.
        name: String,
        /// See [`Member::token`].
        token: u64,
        /// Where it is found.
        addresses: MemberAddresses,
    },
    /// It has what the others have: joining becomes active.
    Admit {
        /// Whose.
        region: u16,
    },
    /// It is to leave: active becomes leaving.
    Leave {
        /// Whose.
        region: u16,
    },
    /// All that it wrote is with the others: leaving becomes left.
    Left {
        /// Whose.
        region: u16,
    },
    /// An operator says that it will not come back.
    Dead {
        /// Whose.
        region: u16,
    },
}

/// Why a change of the list is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// A name that is no DNS label in lower case.
    #[error("{0:?} is not a name: 1 to 63 of a-z, 0-9 and '-', not first or last '-'")]
    BadName(String),
    /// An address that is missing, too long or too many of them.
    #[error("addresses of {0}: a mesh host:port and 1 to {MAX_ADDRESSES} client addresses")]
    BadAddresses(String),
    /// A live member has the name.
    #[error("there is a region {0} already; if it is gone for good: meridian region dead {0}")]
    NameTaken(String),
    /// A live member is found at the address.
    #[error("{0} is reached at that mesh address already")]
    AddressTaken(String),
    /// No ordinal is left; each is used once.
    #[error("all {MAX_MEMBERS} ordinals have been handed out")]
    NoOrdinal,
    /// Too many live members.
    #[error("a cluster has at most {MAX_REGIONS} regions at once")]
    Full,
    /// No such region.
    #[error("there is no region {0}")]
    Unknown(String),
    /// The change does not follow on how the region belongs.
    #[error("region {name} is {is}: it cannot become {wanted}")]
    NotNow {
        /// Its name.
        name: String,
        /// How it belongs.
        is: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The region holds the primary role.
    #[error("region {0} holds the primary role; it moves to another one first")]
    IsPrimary(String),
    /// A majority hears the region.
    #[error("region {0} is not down; it can leave: meridian region leave {0}")]
    NotDown(String),
    /// Nobody would be left.
    #[error("region {0} is the last one that serves")]
    LastOne(String),
}

impl Members {
    /// The list that a cluster begins with.
    #[must_use]
    pub fn founding(by_ordinal: BTreeMap<u16, Member>) -> Members {
        let next = by_ordinal.keys().next_back().map_or(0, |last| last.saturating_add(1));
        Members { next, by_ordinal }
    }

    /// Whether nothing is known yet: a state that was stored before there was such a list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_ordinal.is_empty()
    }

    /// The next ordinal that will be handed out.
    #[must_use]
    pub fn next_ordinal(&self) -> u16 {
        self.next
    }

    /// A member, live or retired.
    #[must_use]
    pub fn get(&self, region: u16) -> Option<&Member> {
        self.by_ordinal.get(&region)
    }

    /// How a region belongs.
    #[must_use]
    pub fn status(&self, region: u16) -> Option<MemberStatus> {
        self.get(region).map(|member| member.status)
    }

    /// Every member, live or retired, by ordinal.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Member)> {
        self.by_ordinal.iter().map(|(ordinal, member)| (*ordinal, member))
    }

    /// Those that take part.
    pub fn live(&self) -> impl Iterator<Item = (u16, &Member)> {
        self.iter().filter(|(_, member)| member.status.is_live())
    }

    /// The live member with this name, else the latest that had it.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<(u16, &Member)> {
        let has_name = |(_, member): &(u16, &Member)| member.name == name;
        self.live().find(has_name).or_else(|| self.iter().filter(has_name).last())
    }

    /// Whether a region may be answered with and hold a role. Before there was a list everybody
    /// could.
    #[must_use]
    pub fn is_active(&self, region: u16) -> bool {
        self.is_empty() || self.status(region) == Some(MemberStatus::Active)
    }

    /// The ordinal that this very join was given before, if it was.
    #[must_use]
    pub fn joined_as(&self, name: &str, token: u64) -> Option<u16> {
        let same = |member: &Member| member.name == name && member.token == token && token != 0;
        self.live().find(|(_, member)| same(member)).map(|(ordinal, _)| ordinal)
    }

    /// Checks the list of a stored state.
    pub(crate) fn is_sound(&self, epoch: u64) -> bool {
        let is_used = |ordinal: &u16| *ordinal < self.next;
        self.by_ordinal.len() <= MAX_MEMBERS
            && usize::from(self.next) <= MAX_MEMBERS
            && self.by_ordinal.keys().all(is_used)
            && self.by_ordinal.values().all(|member| member.since <= epoch)
    }

    /// Adds a region; its ordinal.
    pub(crate) fn add(
        &mut self,
        name: &str,
        token: u64,
        addresses: &MemberAddresses,
        epoch: u64,
    ) -> Result<u16, MemberError> {
        if !is_label(name) || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(MemberError::BadName(name.chars().take(64).collect()));
        }
        let mesh = &addresses.mesh;
        let is_found = mesh.contains(':') && mesh.len() <= MAX_ADDRESS_BYTES;
        if !is_found || addresses.clients.is_empty() || addresses.clients.len() > MAX_ADDRESSES {
            return Err(MemberError::BadAddresses(name.to_owned()));
        }
        if let Some((_, other)) = self.live().find(|(_, other)| other.addresses.mesh == *mesh) {
            return Err(match other.name == name {
                true => MemberError::NameTaken(name.to_owned()),
                false => MemberError::AddressTaken(other.name.clone()),
            });
        }
        if self.live().any(|(_, other)| other.name == name) {
            return Err(MemberError::NameTaken(name.to_owned()));
        }
        if usize::from(self.next) >= MAX_MEMBERS {
            return Err(MemberError::NoOrdinal);
        }
        if self.live().count() >= MAX_REGIONS {
            return Err(MemberError::Full);
        }
        let ordinal = self.next;
        self.next += 1;
        let member = Member {
            name: name.to_owned(),
            status: MemberStatus::Joining,
            since: epoch,
            is_founder: false,
            token,
            addresses: addresses.clone(),
        };
        self.by_ordinal.insert(ordinal, member);
        Ok(ordinal)
    }

    /// Changes how a region belongs, if that follows on how it belongs now.
    pub(crate) fn set(
        &mut self,
        region: u16,
        to: MemberStatus,
        epoch: u64,
    ) -> Result<(), MemberError> {
        let others_serve = self
            .iter()
            .any(|(other, member)| other != region && member.status == MemberStatus::Active);
        let member = self.by_ordinal.get_mut(&region);
        let member = member.ok_or_else(|| MemberError::Unknown(region.to_string()))?;
        let follows = match to {
            MemberStatus::Joining => false,
            MemberStatus::Active => member.status == MemberStatus::Joining,
            MemberStatus::Leaving => member.status == MemberStatus::Active,
            MemberStatus::Left => member.status == MemberStatus::Leaving,
            MemberStatus::Dead => member.status.is_live(),
        };
        if !follows {
            let (name, is, wanted) = (member.name.clone(), member.status.as_str(), to.as_str());
            return Err(MemberError::NotNow { name, is, wanted });
        }
        if matches!(to, MemberStatus::Leaving | MemberStatus::Dead) && !others_serve {
            return Err(MemberError::LastOne(member.name.clone()));
        }
        member.status = to;
        member.since = epoch;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(port: u16) -> MemberAddresses {
        MemberAddresses {
            mesh: format!("127.0.0.1:{port}"),
            clients: vec![[127, 0, 0, 1].into()],
            ..MemberAddresses::default()
        }
    }

    fn three() -> Members {
        let founder = |n: u16| (n, Member::founder(format!("r{n}"), addresses(n)));
        Members::founding((0..3).map(founder).collect())
    }

    #[test]
    fn an_ordinal_is_never_handed_out_twice() {
        let mut members = three();
        assert_eq!(members.add("new", 7, &addresses(9), 1), Ok(3));
        assert_eq!(members.joined_as("new", 7), Some(3));
        assert_eq!(members.joined_as("new", 8), None);
        let taken = Err(MemberError::NameTaken("new".into()));
        assert_eq!(members.add("new", 8, &addresses(10), 2), taken);
        assert_eq!(members.set(3, MemberStatus::Dead, 3), Ok(()));
        assert_eq!(members.joined_as("new", 7), None, "the dead do not come back");
        assert_eq!(members.add("new", 9, &addresses(9), 4), Ok(4));
        assert_eq!(members.named("new").map(|(ordinal, _)| ordinal), Some(4));
        assert_eq!(members.status(3), Some(MemberStatus::Dead));
    }

    #[test]
    fn the_list_ends_with_the_ordinals() {
        let mut members = three();
        for ordinal in 3..MAX_MEMBERS as u16 {
            assert_eq!(members.add("new", 1, &addresses(9), 1), Ok(ordinal));
            members.set(ordinal, MemberStatus::Dead, 1).expect("it was joining");
        }
        assert_eq!(members.add("new", 1, &addresses(9), 1), Err(MemberError::NoOrdinal));
        assert!(members.is_sound(1) && !members.is_sound(0));
    }

    #[test]
    fn only_so_many_live_at_once() {
        let mut members = three();
        for n in 3..MAX_REGIONS as u16 {
            let name = format!("n{n}");
            assert!(members.add(&name, 1, &addresses(n), 1).is_ok());
        }
        assert_eq!(members.add("more", 1, &addresses(99), 1), Err(MemberError::Full));
    }

    #[test]
    fn hostile_names_and_addresses_are_refused() {
        let mut members = three();
        for bad in ["", "A", "a.b", "-a", &"x".repeat(64), "ü"] {
            assert!(matches!(members.add(bad, 1, &addresses(9), 1), Err(MemberError::BadName(_))));
        }
        let with = |mesh: &str, clients: usize| MemberAddresses {
            mesh: mesh.to_owned(),
            clients: vec![[10, 0, 0, 1].into(); clients],
            ..MemberAddresses::default()
        };
        let long = format!("{}:1", "x".repeat(MAX_ADDRESS_BYTES));
        for bad in [with("host", 1), with("h:1", 0), with("h:1", MAX_ADDRESSES + 1), with(&long, 1)]
        {
            assert!(matches!(members.add("n", 1, &bad, 1), Err(MemberError::BadAddresses(_))));
        }
        let taken = members.add("n", 1, &addresses(1), 1);
        assert_eq!(taken, Err(MemberError::AddressTaken("r1".into())));
        assert_eq!(members.next_ordinal(), 3, "a refused region uses no ordinal");
    }

    #[test]
    fn a_region_goes_one_way() {
        use MemberStatus::{Active, Dead, Joining, Leaving, Left};
        let mut members = three();
        let ordinal = members.add("new", 1, &addresses(9), 1).expect("room");
        for (to, follows) in [
            (Leaving, false),
            (Left, false),
            (Joining, false),
            (Active, true),
            (Active, false),
            (Left, false),
            (Leaving, true),
            (Active, false),
            (Left, true),
            (Dead, false),
            (Active, false),
        ] {
            let before = members.clone();
            assert_eq!(members.set(ordinal, to, 2).is_ok(), follows, "{to:?}");
            assert_eq!(members != before, follows);
        }
        assert!(members.set(9, Dead, 2).is_err());
    }

    #[test]
    fn somebody_always_serves() {
        use MemberStatus::{Dead, Leaving};
        let mut members = three();
        assert_eq!(members.set(0, Leaving, 1), Ok(()));
        assert_eq!(members.set(1, Dead, 1), Ok(()));
        assert_eq!(members.set(2, Leaving, 1), Err(MemberError::LastOne("r2".into())));
        assert_eq!(members.set(2, Dead, 1), Err(MemberError::LastOne("r2".into())));
    }
}
