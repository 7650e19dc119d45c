//! What the list of members means for this node: whom the mesh connects to, what the executor and
//! the shipper are told, and requests of operators that change the list.

use std::collections::BTreeMap;

use anyhow::Result;
use meridian_clock::Origin;
use meridian_failover::{ControlState, Member, MemberChange, MemberError, MemberStatus, Members};
use meridian_mesh::{PeerConfig, Refusal, RetiredPeer};
use tokio::sync::oneshot;

use super::limits::{MEMBER_PATIENCE_MS, MEMBER_RETRY_MS};

/// How this region belongs to the cluster, as far as clients notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It gets the data; clients wait.
    Joining,
    /// It serves.
    #[default]
    Serving,
    /// It takes no more writes.
    Leaving,
}

/// What the executor is told of the members.
#[derive(Clone, Debug)]
pub struct Company {
    /// The other regions.
    pub peers: Vec<Origin>,
    /// Ordinals that have been handed out.
    pub handed_out: u16,
    /// Names of those that live.
    pub names: BTreeMap<Origin, String>,
    /// How this region belongs.
    pub standing: Standing,
}

/// Why a node ends for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It has left in order.
    Left,
    /// It was declared dead; by whose word this node knows.
    Dead(String),
}

/// This region among the members.
pub struct Roster {
    /// This region's ordinal.
    pub me: u16,
    /// Addresses that go before those of the list, by name.
    pub addresses: BTreeMap<String, String>,
}

impl Roster {
    /// Whom to connect to.
    pub fn peers(&self, members: &Members) -> Vec<PeerConfig> {
        let others = members.live().filter(|(ordinal, _)| *ordinal != self.me);
        others
            .map(|(ordinal, member)| PeerConfig {
                ordinal,
                name: member.name.clone(),
                address: self.address(member),
            })
            .collect()
    }

    /// Whom to refuse for good. Those that a newer member has replaced by name are left out: their
    /// name is somebody's.
    pub fn retired(&self, members: &Members) -> Vec<RetiredPeer> {
        let retired = members.iter().filter(|(_, member)| !member.status.is_live());
        let latest = retired.filter(|(ordinal, member)| {
            members.named(&member.name).is_some_and(|(latest, _)| latest == *ordinal)
        });
        latest
            .map(|(ordinal, member)| RetiredPeer {
                ordinal,
                name: member.name.clone(),
                address: self.address(member),
                why: match member.status {
                    MemberStatus::Left => Refusal::HasLeft,
                    _ => Refusal::DeclaredDead,
                },
            })
            .collect()
    }

    /// What the executor is told.
    pub fn company(&self, members: &Members) -> Company {
        let live: BTreeMap<Origin, String> =
            members.live().map(|(o, member)| (Origin(o), member.name.clone())).collect();
        Company {
            peers: live.keys().copied().filter(|origin| origin.0 != self.me).collect(),
            handed_out: members.next_ordinal(),
            names: live,
            standing: match members.status(self.me) {
                Some(MemberStatus::Joining) => Standing::Joining,
                Some(MemberStatus::Leaving) => Standing::Leaving,
                _ => Standing::Serving,
            },
        }
    }

    fn address(&self, member: &Member) -> String {
        self.addresses.get(&member.name).unwrap_or(&member.addresses.mesh).clone()
    }
}

/// A request of an operator that waits for its decision.
pub struct Request {
    change: MemberChange,
    reply: oneshot::Sender<Result<ControlState, String>>,
    /// When it is proposed again, and when it is given up.
    due_ms: u64,
    until_ms: u64,
}

/// What becomes of a request now.
pub enum Verdict {
    /// It has been answered.
    Answered,
    /// It is to be proposed.
    Propose(Request, MemberChange),
    /// It waits.
    Wait(Request),
}

impl Request {
    /// A request that arrives at `now_ms`.
    pub fn new(
        change: MemberChange,
        now_ms: u64,
        reply: oneshot::Sender<Result<ControlState, String>>,
    ) -> Request {
        Request { change, reply, due_ms: now_ms, until_ms: now_ms + MEMBER_PATIENCE_MS }
    }

    /// Looks at the agreed state.
    pub fn judge(mut self, state: &ControlState, now_ms: u64) -> Verdict {
        let answer = match state.after_member(&self.change) {
            _ if is_made(&self.change, &state.members) => Some(Ok(state.clone())),
            // The role moves by itself; until then this cannot be decided.
            Err(error @ MemberError::IsPrimary(_)) if now_ms < self.until_ms => {
                let _ = error;
                None
            }
            Err(error) => Some(Err(error.to_string())),
            Ok(_) if now_ms >= self.until_ms => {
                Some(Err("no majority of the regions has decided on it in time".to_owned()))
            }
            Ok(_) => None,
        };
        if let Some(answer) = answer {
            // Nobody waits any more when the connection is gone.
            let _ = self.reply.send(answer);
            return Verdict::Answered;
        }
        if now_ms < self.due_ms {
            return Verdict::Wait(self);
        }
        self.due_ms = now_ms + MEMBER_RETRY_MS;
        let change = self.change.clone();
        Verdict::Propose(self, change)
    }
}

/// Whether the list shows what was asked for.
fn is_made(change: &MemberChange, members: &Members) -> bool {
    let is = |region: u16, wanted: &[MemberStatus]| {
        members.status(region).is_some_and(|status| wanted.contains(&status))
    };
    match change {
        MemberChange::Add { name, token, .. } => members.joined_as(name, *token).is_some(),
        MemberChange::Admit { region } => is(*region, &[MemberStatus::Active]),
        MemberChange::Leave { region } => is(*region, &[MemberStatus::Leaving, MemberStatus::Left]),
        MemberChange::Left { region } => is(*region, &[MemberStatus::Left]),
        MemberChange::Dead { region } => is(*region, &[MemberStatus::Dead]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_failover::{FailoverConfig, MemberAddresses, MemberEntry, RegionState};

    fn state() -> ControlState {
        let member = |n: u16| {
            let mesh = format!("10.0.0.{n}:7400");
            let addresses = MemberAddresses { mesh, ..MemberAddresses::default() };
            (n, Member::founder(format!("r{n}"), addresses))
        };
        let config = FailoverConfig::new(0, vec![0, 1, 2]);
        ControlState::founding(&config, (0..3).map(member).collect()).unwrap()
    }

    fn apply(state: &mut ControlState, change: MemberChange) {
        let entry = MemberEntry { based_on: state.epoch, change };
        assert!(matches!(state.apply(&entry.encode()), meridian_failover::Applied::Epoch(_)));
    }

    #[test]
    fn the_dead_are_refused_until_their_name_is_used_again() {
        let mut state = state();
        let roster = Roster { me: 0, addresses: BTreeMap::from([("r1".into(), "wan:1".into())]) };
        assert_eq!(roster.peers(&state.members)[0].address, "wan:1");
        state.regions.get_mut(&2).unwrap().state = RegionState::Down;
        apply(&mut state, MemberChange::Dead { region: 2 });
        assert_eq!(roster.peers(&state.members).len(), 1);
        let retired = roster.retired(&state.members);
        assert_eq!((retired[0].ordinal, retired[0].why), (2, Refusal::DeclaredDead));
        let addresses = MemberAddresses {
            mesh: "10.0.0.2:7400".into(),
            clients: vec![[10, 0, 0, 2].into()],
            ..MemberAddresses::default()
        };
        apply(&mut state, MemberChange::Add { name: "r2".into(), token: 1, addresses });
        assert_eq!(roster.retired(&state.members), []);
        assert_eq!(roster.peers(&state.members)[1].ordinal, 3);
        let company = Roster { me: 3, addresses: BTreeMap::new() }.company(&state.members);
        assert_eq!(company.standing, Standing::Joining);
        assert_eq!((company.peers, company.handed_out), (vec![Origin(0), Origin(1)], 4));
    }

    #[test]
    fn a_request_is_answered_when_the_list_shows_it() {
        let mut state = state();
        let (reply, mut answer) = oneshot::channel();
        let request = Request::new(MemberChange::Leave { region: 1 }, 0, reply);
        let Verdict::Propose(request, change) = request.judge(&state, 0) else { panic!("at once") };
        let Verdict::Wait(request) = request.judge(&state, 1) else { panic!("not twice") };
        apply(&mut state, change);
        assert!(matches!(request.judge(&state, 2), Verdict::Answered));
        assert!(answer.try_recv().unwrap().is_ok());
        let (reply, mut answer) = oneshot::channel();
        let request = Request::new(MemberChange::Dead { region: 2 }, 0, reply);
        assert!(matches!(request.judge(&state, 0), Verdict::Answered));
        assert!(answer.try_recv().unwrap().unwrap_err().contains("not down"));
    }
}
