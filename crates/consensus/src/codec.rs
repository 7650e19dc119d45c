//! The one place where a group's bytes are laid out: messages between regions and records of the
//! control log.
//!
//! The protocol library's own types are protobuf, whose decoder has a history of unbounded
//! recursion; nothing from outside ever reaches it. Our mirror is narrower as well: an append
//! cannot carry gaps, a vote cannot carry entries, nobody can propose a membership change.

use meridian_codec::control;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::limits::{MAX_MESSAGE_BYTES, MAX_RECORD_BYTES};
use crate::{Error, Result};

/// First byte of every message and record; raised when the layout changes.
const FORMAT_VERSION: u8 = 1;

/// An entry whose index follows from its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    /// Empty for the entry with which a leader opens its term.
    pub(crate) data: Vec<u8>,
}

/// What regions of a group say to each other. Sender and receiver are known from the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) term: u64,
    pub(crate) body: Body,
}

/// The kinds of message, in the words of the Raft paper (Ongaro 2014, with pre-vote, §9.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Body {
    Propose { data: Vec<Vec<u8>> },
    Append { prev_index: u64, prev_term: u64, commit: u64, entries: Vec<Entry> },
    AppendResponse { index: u64, commit: u64, rejected: Option<Rejection> },
    Vote { is_pre: bool, is_transfer: bool, last_index: u64, last_term: u64, commit: Mark },
    VoteResponse { is_pre: bool, is_rejected: bool, commit: Mark },
    Heartbeat { commit: u64 },
    HeartbeatResponse { commit: u64 },
    Snapshot { last: Mark, state: Vec<u8> },
    TimeoutNow,
}

/// Where a follower's log may still agree with the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejection {
    pub(crate) hint_index: u64,
    pub(crate) hint_term: u64,
}

/// A position in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// One record of the control log. What one turn persists is one record where its size allows, so
/// that a torn tail loses a turn whole; when split, the hard state comes last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) identity: Option<Identity>,
    pub(crate) snapshot: Option<SnapshotRecord>,
    /// Index of the first of `entries`; whatever the log held from there on is replaced.
    pub(crate) first_index: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) hard_state: Option<HardStateRecord>,
}

/// Whose log this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) id: u16,
    /// Ascending.
    pub(crate) voters: Vec<u16>,
}

/// The application's state after `last`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) last: Mark,
    pub(crate) state: Vec<u8>,
}

/// Raft's persistent state beside the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HardStateRecord {
    pub(crate) term: u64,
    pub(crate) vote: Option<u16>,
    pub(crate) commit: u64,
}

impl Message {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encode("message", self, MAX_MESSAGE_BYTES)
    }

    /// `None` for bytes that are not exactly one message.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes, MAX_MESSAGE_BYTES)
    }
}

impl Record {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encode("control log record", self, MAX_RECORD_BYTES)
    }

    /// `None` for bytes that are not exactly one record.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        decode(bytes, MAX_RECORD_BYTES)
    }
}

fn encode<T: Serialize>(what: &'static str, value: &T, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![FORMAT_VERSION];
    bytes.append(&mut control::encode(value));
    if bytes.len() > limit {
        return Err(Error::TooLarge { what, bytes: bytes.len(), limit });
    }
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Option<T> {
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

    fn examples() -> Vec<Body> {
        let mark = Mark { index: 9, term: 4 };
        vec![
            Body::Propose { data: vec![vec![1], vec![]] },
            Body::Append {
                prev_index: 300,
                prev_term: 2,
                commit: 299,
                entries: vec![Entry { term: 3, data: vec![7; 500] }],
            },
            Body::AppendResponse {
                index: 1,
                commit: 1,
                rejected: Some(Rejection { hint_index: 1, hint_term: 1 }),
            },
            Body::Vote {
                is_pre: true,
                is_transfer: false,
                last_index: 8,
                last_term: 2,
                commit: mark,
            },
            Body::VoteResponse { is_pre: false, is_rejected: true, commit: mark },
            Body::Heartbeat { commit: u64::MAX },
            Body::HeartbeatResponse { commit: 0 },
            Body::Snapshot { last: mark, state: vec![0; 1000] },
            Body::TimeoutNow,
        ]
    }

    #[test]
    fn messages_come_back_as_they_were() {
        for body in examples() {
            let message = Message { term: 12, body };
            let bytes = message.encode().expect("fits");
            assert_eq!(Message::decode(&bytes), Some(message));
        }
    }

    #[test]
    fn truncated_and_extended_messages_are_refused() {
        for body in examples() {
            let bytes = Message { term: 12, body }.encode().expect("fits");
            for end in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..end]), None);
            }
            assert_eq!(Message::decode(&[&bytes[..], &[0]].concat()), None);
        }
    }

    #[test]
    fn a_claimed_length_beyond_the_limit_allocates_nothing() {
        // Version, term 1, body 0 (propose), one proposal of 2^62 bytes.
        let mut bytes = vec![FORMAT_VERSION, 1, 0, 1, 253];
        bytes.extend((1u64 << 62).to_le_bytes());
        assert_eq!(Message::decode(&bytes), None);
    }

    #[test]
    fn too_large_to_send_is_an_error() {
        let message =
            Message { term: 1, body: Body::Propose { data: vec![vec![0; MAX_MESSAGE_BYTES]] } };
        assert!(matches!(message.encode(), Err(Error::TooLarge { what: "message", .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Message::decode(&bytes);
            let _ = Record::decode(&bytes);
        }
    }
}
