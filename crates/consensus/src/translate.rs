//! Between our messages and the protocol library's.

use raft::CAMPAIGN_TRANSFER;
use raft::eraftpb::{self, MessageType};

use crate::codec::{Body, Mark, Message, Rejection};
use crate::conf::Conf;
use crate::store::{from_raft, raft_id, to_raft, to_raft_snapshot};

/// Our form of an outgoing message; `None` for kinds that never leave a region.
pub(crate) fn outgoing(message: &eraftpb::Message) -> Option<Message> {
    let commit = Mark { index: message.commit, term: message.commit_term };
    let kind = message.get_msg_type();
    let body = match kind {
        MessageType::MsgPropose => {
            Body::Propose { data: message.get_entries().iter().map(|e| e.data.to_vec()).collect() }
        }
        MessageType::MsgAppend => Body::Append {
            prev_index: message.index,
            prev_term: message.log_term,
            commit: message.commit,
            entries: message.get_entries().iter().map(from_raft).collect(),
        },
        MessageType::MsgAppendResponse => Body::AppendResponse {
            index: message.index,
            commit: message.commit,
            rejected: message.reject.then_some(Rejection {
                hint_index: message.reject_hint,
                hint_term: message.log_term,
            }),
        },
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => Body::Vote {
            is_pre: kind == MessageType::MsgRequestPreVote,
            is_transfer: message.context == CAMPAIGN_TRANSFER,
            last_index: message.index,
            last_term: message.log_term,
            commit,
        },
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            Body::VoteResponse {
                is_pre: kind == MessageType::MsgRequestPreVoteResponse,
                is_rejected: message.reject,
                commit,
            }
        }
        MessageType::MsgHeartbeat => Body::Heartbeat { commit: message.commit },
        MessageType::MsgHeartbeatResponse => Body::HeartbeatResponse { commit: message.commit },
        MessageType::MsgSnapshot => {
            let snapshot = message.get_snapshot();
            let metadata = snapshot.get_metadata();
            Body::Snapshot {
                last: Mark { index: metadata.index, term: metadata.term },
                state: snapshot.data.to_vec(),
            }
        }
        MessageType::MsgTimeoutNow => Body::TimeoutNow,
        _ => return None,
    };
    Some(Message { term: message.term, body })
}

/// The library's form of a validated message from region `from` to `to`.
pub(crate) fn incoming(from: u16, to: u16, message: Message, conf: &Conf) -> eraftpb::Message {
    let mut out = eraftpb::Message {
        from: raft_id(from),
        to: raft_id(to),
        term: message.term,
        ..eraftpb::Message::default()
    };
    match message.body {
        Body::Propose { data } => {
            out.set_msg_type(MessageType::MsgPropose);
            let entries = data.into_iter().map(proposed_entry).collect::<Vec<_>>();
            out.set_entries(entries.into());
        }
        Body::Append { prev_index, prev_term, commit, entries } => {
            out.set_msg_type(MessageType::MsgAppend);
            out.index = prev_index;
            out.log_term = prev_term;
            out.commit = commit;
            let entries = (prev_index + 1..).zip(&entries).map(|(index, e)| to_raft(index, e));
            out.set_entries(entries.collect::<Vec<_>>().into());
        }
        Body::AppendResponse { index, commit, rejected } => {
            out.set_msg_type(MessageType::MsgAppendResponse);
            out.index = index;
            out.commit = commit;
            if let Some(rejection) = rejected {
                out.reject = true;
                out.reject_hint = rejection.hint_index;
                out.log_term = rejection.hint_term;
            }
        }
        Body::Vote { is_pre, is_transfer, last_index, last_term, commit } => {
            out.set_msg_type(match is_pre {
                true => MessageType::MsgRequestPreVote,
                false => MessageType::MsgRequestVote,
            });
            out.index = last_index;
            out.log_term = last_term;
            set_commit(&mut out, commit);
            if is_transfer {
                out.context = CAMPAIGN_TRANSFER.into();
            }
        }
        Body::VoteResponse { is_pre, is_rejected, commit } => {
            out.set_msg_type(match is_pre {
                true => MessageType::MsgRequestPreVoteResponse,
                false => MessageType::MsgRequestVoteResponse,
            });
            out.reject = is_rejected;
            set_commit(&mut out, commit);
        }
        Body::Heartbeat { commit } => {
            out.set_msg_type(MessageType::MsgHeartbeat);
            out.commit = commit;
        }
        Body::HeartbeatResponse { commit } => {
            out.set_msg_type(MessageType::MsgHeartbeatResponse);
            out.commit = commit;
        }
        Body::Snapshot { last, state } => {
            out.set_msg_type(MessageType::MsgSnapshot);
            out.set_snapshot(to_raft_snapshot(last, &state, conf));
        }
        Body::TimeoutNow => out.set_msg_type(MessageType::MsgTimeoutNow),
    }
    out
}

fn proposed_entry(data: Vec<u8>) -> eraftpb::Entry {
    eraftpb::Entry { data: data.into(), ..eraftpb::Entry::default() }
}

fn set_commit(message: &mut eraftpb::Message, commit: Mark) {
    message.commit = commit.index;
    message.commit_term = commit.term;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Entry;

    #[test]
    fn every_kind_survives_the_round_trip() {
        let mark = Mark { index: 9, term: 4 };
        let bodies = [
            Body::Propose { data: vec![vec![1], vec![2]] },
            Body::Append {
                prev_index: 5,
                prev_term: 3,
                commit: 5,
                entries: vec![Entry { term: 3, data: vec![] }, Entry { term: 4, data: vec![9] }],
            },
            Body::AppendResponse { index: 7, commit: 5, rejected: None },
            Body::AppendResponse {
                index: 7,
                commit: 5,
                rejected: Some(Rejection { hint_index: 6, hint_term: 2 }),
            },
            Body::Vote {
                is_pre: true,
                is_transfer: false,
                last_index: 9,
                last_term: 4,
                commit: mark,
            },
            Body::Vote {
                is_pre: false,
                is_transfer: true,
                last_index: 9,
                last_term: 4,
                commit: mark,
            },
            Body::VoteResponse { is_pre: true, is_rejected: true, commit: mark },
            Body::VoteResponse { is_pre: false, is_rejected: false, commit: mark },
            Body::Heartbeat { commit: 8 },
            Body::HeartbeatResponse { commit: 8 },
            Body::Snapshot { last: mark, state: vec![1, 2, 3] },
            Body::TimeoutNow,
        ];
        for body in bodies {
            let message = Message { term: 6, body };
            let there = incoming(1, 2, message.clone(), &Conf::of_voters(&[0, 1, 2]));
            assert_eq!((there.from, there.to), (2, 3));
            assert_eq!(outgoing(&there), Some(message));
        }
    }
}
