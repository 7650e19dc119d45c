//! Well-formed lies: whatever an authenticated peer says, the group answers with an error or goes
//! on; it does not panic. (The protocol library alone does, on several of these.)

use proptest::prelude::*;

use crate::codec::{Body, Entry, Mark, Message, Rejection};
use crate::{Error, Group, GroupConfig, Recovered};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0u64..6, 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => (0u32..64).prop_map(|n| 1 << n)]
}

fn mark() -> impl Strategy<Value = Mark> {
    (number(), number()).prop_map(|(index, term)| Mark { index, term })
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..4)
}

fn body() -> impl Strategy<Value = Body> {
    let entries = proptest::collection::vec(
        (number(), data()).prop_map(|(term, data)| Entry { term, data }),
        0..4,
    );
    let rejection = proptest::option::of(
        (number(), number())
            .prop_map(|(hint_index, hint_term)| Rejection { hint_index, hint_term }),
    );
    let flag = any::<bool>;
    prop_oneof![
        1 => proptest::collection::vec(data(), 0..3).prop_map(|data| Body::Propose { data }),
        4 => (number(), number(), number(), entries).prop_map(|(prev_index, prev_term, commit, entries)| {
            Body::Append { prev_index, prev_term, commit, entries }
        }),
        3 => (number(), number(), rejection)
            .prop_map(|(index, commit, rejected)| Body::AppendResponse { index, commit, rejected }),
        2 => (flag(), flag(), number(), number(), mark()).prop_map(
            |(is_pre, is_transfer, last_index, last_term, commit)| {
                Body::Vote { is_pre, is_transfer, last_index, last_term, commit }
            }
        ),
        3 => (flag(), flag(), mark())
            .prop_map(|(is_pre, is_rejected, commit)| Body::VoteResponse { is_pre, is_rejected, commit }),
        2 => number().prop_map(|commit| Body::Heartbeat { commit }),
        1 => number().prop_map(|commit| Body::HeartbeatResponse { commit }),
        2 => (mark(), data()).prop_map(|(last, state)| Body::Snapshot { last, state }),
        1 => Just(Body::TimeoutNow),
    ]
}

/// One turn: a message, or time passing.
#[derive(Debug, Clone)]
enum Turn {
    Message(u16, Message),
    Pass(u64),
    Propose,
    Compact,
    Restart,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        12 => (0u16..4, number(), body())
            .prop_map(|(from, term, body)| Turn::Message(from, Message { term, body })),
        3 => (0u64..900).prop_map(Turn::Pass),
        1 => Just(Turn::Propose),
        1 => Just(Turn::Compact),
        1 => Just(Turn::Restart),
    ]
}

/// Region 1 of three, with its control log.
struct Victim {
    group: Group,
    log: Vec<Vec<u8>>,
    applied: u64,
    now_ms: u64,
}

impl Victim {
    fn start(log: Vec<Vec<u8>>, now_ms: u64) -> Self {
        let recovered = Recovered::from_records(&log).expect("own log is readable");
        let applied = recovered.snapshot().map_or(0, |(index, _)| index);
        let config = GroupConfig::new(1, vec![0, 1, 2], 50);
        let group = Group::new(config, recovered).expect("own log is accepted");
        let mut victim = Self { group, log, applied, now_ms };
        victim.settle();
        victim
    }

    fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Message(from, message) => {
                let bytes = message.encode().expect("small");
                let result = self.group.step(from, &bytes);
                let is_stranger = from == 1 || from > 2;
                assert_eq!(is_stranger, result == Err(Error::UnknownPeer(from)), "{result:?}");
            }
            Turn::Pass(ms) => {
                self.now_ms += ms;
                self.group.tick(self.now_ms);
            }
            Turn::Propose => drop(self.group.propose(vec![7])),
            Turn::Compact => {
                if let Ok(log) = self.group.compact(self.applied, vec![1]) {
                    self.log = log;
                }
            }
            Turn::Restart => *self = Self::start(std::mem::take(&mut self.log), self.now_ms),
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(ready) = self.group.ready() {
            self.log.extend(ready.records().iter().cloned());
            let output = self.group.persisted(ready).expect("is outstanding");
            for (to, bytes) in output.messages {
                assert!(to != 1 && Message::decode(&bytes).is_some());
            }
            if let Some(snapshot) = output.snapshot {
                assert!(snapshot.index > self.applied);
                self.applied = snapshot.index;
            }
            for (index, _) in output.committed {
                assert!(index > self.applied, "{index} again");
                self.applied = index;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn lies_are_refused_or_survived(turns in proptest::collection::vec(turn(), 1..60)) {
        let mut victim = Victim::start(Vec::new(), 0);
        for turn in turns {
            victim.take(turn);
        }
    }
}

#[test]
fn a_region_that_lost_its_log_is_told_so() {
    let mut victim = Victim::start(Vec::new(), 0);
    let heartbeat = Message { term: 3, body: Body::Heartbeat { commit: 9 } };
    let result = victim.group.step(0, &heartbeat.encode().expect("small"));
    assert_eq!(result, Err(Error::LostLog { committed: 9, last: 0 }));
}

#[test]
fn limits_hold_for_what_the_group_is_given() {
    let mut victim = Victim::start(Vec::new(), 0);
    let too_large = |result| matches!(result, Err(Error::TooLarge { .. }));
    assert!(too_large(victim.group.step(0, &vec![0; crate::MAX_MESSAGE_BYTES + 1])));
    assert!(too_large(victim.group.propose(vec![0; crate::MAX_PROPOSAL_BYTES + 1])));
    assert_eq!(victim.group.propose(Vec::new()), Err(Error::EmptyProposal));
    assert_eq!(victim.group.propose(vec![1]), Err(Error::NoLeader));
    assert!(matches!(victim.group.step(0, b"noise"), Err(Error::Invalid { from: 0, .. })));
}
