//! Who votes: a pure policy that takes the control group one step closer to what the members ask
//! for.
//!
//! A new region gets the control group's log without a vote (a learner). Once it is active it is
//! given one while there are fewer voters than the largest odd number that the active regions and
//! [`VOTERS_MAX`] allow: an even number bears no more losses than the odd one below it, and every
//! voter makes a decision slower. Regions that the topology file names vote from the beginning.
//! Who is dead loses its vote; that needs a majority, its own vote included. Who leaves gives its
//! vote away while it is still there to help with that, and goes on as a learner until it has
//! left: at no time does the group count on somebody who will not come back. It keeps its vote while
//! those who stay are no majority of themselves because one is down.

use std::collections::BTreeSet;

use crate::limits::VOTERS_MAX;
use crate::members::MemberStatus;
use crate::state::{ControlState, RegionState};

/// One change of the control group's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoterStep {
    /// The region gets the log, without a vote, even if it had one.
    AddLearner(u16),
    /// The region gets a vote.
    Promote(u16),
    /// The region is no longer part of the group.
    Remove(u16),
}

/// The next step, if one is needed.
#[must_use]
pub fn next_voter_step(
    state: &ControlState,
    voters: &BTreeSet<u16>,
    learners: &BTreeSet<u16>,
) -> Option<VoterStep> {
    let members = &state.members;
    if members.is_empty() {
        return None;
    }
    let is_live = |region: u16| members.status(region).is_some_and(MemberStatus::is_live);
    let is_known = |region: &u16| voters.contains(region) || learners.contains(region);
    let newcomer = members.live().map(|(region, _)| region).find(|region| !is_known(region));
    if let Some(region) = newcomer {
        return Some(VoterStep::AddLearner(region));
    }
    if let Some(&region) = learners.iter().find(|&&region| !is_live(region)) {
        return Some(VoterStep::Remove(region));
    }
    if let Some(&region) = voters.iter().find(|&&region| !is_live(region))
        && voters.len() > 1
    {
        return Some(VoterStep::Remove(region));
    }
    let is_leaving = |region: &&u16| members.status(**region) == Some(MemberStatus::Leaving);
    let leaving = voters.iter().find(is_leaving);
    let staying = voters.len() - voters.iter().filter(is_leaving).count();
    // With one who is down the others could be no majority, and if it never came back there would
    // be none to say so: its vote has to be taken first.
    let is_up = |region: &u16| state.state_of(*region) == Some(RegionState::Up);
    let up = voters.iter().filter(|region| !is_leaving(region) && is_up(region)).count();
    let active = members.live().filter(|(_, m)| m.status == MemberStatus::Active).count();
    let fit =
        |region: &&u16| members.status(**region) == Some(MemberStatus::Active) && is_up(region);
    let wanted = active.min(VOTERS_MAX).saturating_sub(1) / 2 * 2 + 1;
    // First the new vote, then the old one goes; with a full house the other way round.
    let has_room = staying < wanted && voters.len() <= VOTERS_MAX;
    if let Some(&region) = learners.iter().find(fit).filter(|_| has_room) {
        return Some(VoterStep::Promote(region));
    }
    leaving.filter(|_| up > staying / 2).map(|&region| VoterStep::AddLearner(region))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{MemberAddresses, MemberChange};
    use crate::{Applied, FailoverConfig, MemberEntry};

    /// The control group beside a control state.
    struct Group {
        state: ControlState,
        voters: BTreeSet<u16>,
        learners: BTreeSet<u16>,
    }

    impl Group {
        fn of(regions: u16) -> Group {
            let config = FailoverConfig::new(0, (0..regions).collect());
            let state = ControlState::initial(&config).unwrap();
            Group { state, voters: (0..regions).collect(), learners: BTreeSet::new() }
        }

        fn change(&mut self, change: MemberChange) {
            let entry = MemberEntry { based_on: self.state.epoch, change };
            assert!(matches!(self.state.apply(&entry.encode()), Applied::Epoch(_)), "{entry:?}");
        }

        fn join(&mut self) -> u16 {
            let region = self.state.members.next_ordinal();
            let addresses = MemberAddresses {
                mesh: format!("10.0.0.{region}:7400"),
                clients: vec![[10, 0, 0, 1].into()],
                ..MemberAddresses::default()
            };
            self.change(MemberChange::Add { name: format!("new-{region}"), token: 1, addresses });
            region
        }

        fn admit(&mut self, region: u16) {
            self.state.regions.get_mut(&region).unwrap().state = RegionState::Up;
            self.change(MemberChange::Admit { region });
        }

        fn die(&mut self, region: u16) {
            self.state.regions.get_mut(&region).unwrap().state = RegionState::Down;
            self.change(MemberChange::Dead { region });
        }

        /// Takes every step; how many voters there were at the fewest and at the end.
        fn settle(&mut self) -> usize {
            for _ in 0..100 {
                match next_voter_step(&self.state, &self.voters, &self.learners) {
                    None => return self.voters.len(),
                    Some(VoterStep::AddLearner(r)) => {
                        self.voters.remove(&r);
                        assert!(self.learners.insert(r));
                    }
                    Some(VoterStep::Promote(r)) => {
                        assert!(self.learners.remove(&r) && self.voters.insert(r));
                    }
                    Some(VoterStep::Remove(r)) => {
                        assert!(self.learners.remove(&r) || self.voters.remove(&r));
                    }
                }
            }
            panic!("the steps do not end");
        }
    }

    #[test]
    fn votes_are_given_in_pairs_and_to_five_at_most() {
        let mut group = Group::of(3);
        for (active, voters) in [(4, 3), (5, 5), (6, 5), (7, 5)] {
            let region = group.join();
            assert_eq!(group.settle(), group.voters.len());
            assert!(group.learners.contains(&region), "no vote before it is active");
            group.admit(region);
            assert_eq!(group.settle(), voters, "with {active} active regions");
        }
    }

    #[test]
    fn a_learner_takes_the_place_of_the_dead() {
        let mut group = Group::of(3);
        let region = group.join();
        group.admit(region);
        group.settle();
        group.die(2);
        assert_eq!(group.settle(), 3);
        assert_eq!(group.voters, [0, 1, region].into());
        group.die(1);
        assert_eq!(group.settle(), 2, "nobody is left to promote");
    }

    #[test]
    fn who_leaves_gives_its_vote_away_first() {
        let mut group = Group::of(3);
        let region = group.join();
        group.admit(region);
        group.settle();
        group.change(MemberChange::Leave { region: 1 });
        let step = |group: &Group| next_voter_step(&group.state, &group.voters, &group.learners);
        assert_eq!(step(&group), Some(VoterStep::Promote(region)), "never fewer votes than before");
        assert_eq!(group.settle(), 3);
        assert_eq!((group.voters.clone(), group.learners.clone()), ([0, 2, 3].into(), [1].into()));
        group.change(MemberChange::Left { region: 1 });
        assert_eq!(group.settle(), 3);
        assert!(group.learners.is_empty(), "it gets the log until it has left");
        group.change(MemberChange::Leave { region: 2 });
        assert_eq!(group.settle(), 2, "nobody is there to take the vote");
    }

    #[test]
    fn who_leaves_keeps_its_vote_while_the_others_need_it() {
        let mut group = Group::of(3);
        group.change(MemberChange::Leave { region: 1 });
        group.state.regions.get_mut(&0).unwrap().state = RegionState::Down;
        assert_eq!(group.settle(), 3, "0 may never come back, and 2 alone is no majority");
        group.state.primary = 2;
        group.die(0);
        assert_eq!(group.settle(), 1);
        assert_eq!((group.voters.clone(), group.learners.clone()), ([2].into(), [1].into()));

        let mut group = Group::of(5);
        group.change(MemberChange::Leave { region: 1 });
        group.state.regions.get_mut(&0).unwrap().state = RegionState::Down;
        assert_eq!(group.settle(), 4, "three of four are there");
    }

    #[test]
    fn everybody_can_be_replaced() {
        let mut group = Group::of(5);
        for _ in 0..5 {
            let region = group.join();
            group.admit(region);
        }
        group.settle();
        (1..5).for_each(|region| group.change(MemberChange::Leave { region }));
        assert_eq!(group.settle(), 5);
        assert_eq!(group.voters, [0, 5, 6, 7, 8].into());
    }

    #[test]
    fn the_last_voter_stays() {
        let mut group = Group::of(1);
        let region = group.join();
        group.admit(region);
        assert_eq!(group.settle(), 1, "of two either one is enough to stop both");
        group.state.primary = region;
        group.die(0);
        assert_eq!(group.settle(), 2 - 1);
    }
}
