//! Messages that no correct peer sends are refused before the protocol library sees them: it
//! answers some of them with a panic.

use raft::{RawNode, StateRole};

use crate::codec::{Body, Entry, Mark, Message, Rejection};
use crate::conf::{self, Conf, ConfChange};
use crate::limits::{
    MAX_APPEND_ENTRIES, MAX_INDEX, MAX_PROPOSAL_BYTES, MAX_SNAPSHOT_BYTES, MAX_TERM,
};
use crate::store::{LogStore, region};
use crate::{Error, Result};

/// Checks a decoded message from voter `from` against itself and against our state.
pub(crate) fn check(from: u16, message: &Message, node: &RawNode<LogStore>) -> Result<()> {
    check_shape(message).map_err(|reason| Error::Invalid { from, reason })?;
    check_against_state(from, message, node)
}

fn check_shape(message: &Message) -> Result<(), &'static str> {
    let is_proposal = matches!(message.body, Body::Propose { .. });
    require(is_proposal == (message.term == 0), "term zero is for proposals only")?;
    check_term(message.term)?;
    match &message.body {
        Body::Propose { data } => {
            require(data.len() == 1, "a forwarded proposal is one entry")?;
            require(data.iter().all(|d| !d.is_empty()), "empty proposal")?;
            require(data.iter().all(|d| d.len() <= MAX_PROPOSAL_BYTES), "proposal too large")?;
            require(!data.iter().any(|d| conf::is_change(d)), "only the leader changes the group")
        }
        Body::Append { prev_index, prev_term, commit, entries } => {
            check_mark(Mark { index: *prev_index, term: *prev_term }, message.term)?;
            check_index(*commit)?;
            check_entries(*prev_term, message.term, entries)
        }
        Body::AppendResponse { index, commit, rejected } => {
            check_index(*index)?;
            check_index(*commit)?;
            rejected.map_or(Ok(()), |Rejection { hint_index, hint_term }| {
                check_index(hint_index)?;
                check_term(hint_term)
            })
        }
        Body::Vote { last_index, last_term, commit, .. } => {
            check_mark(Mark { index: *last_index, term: *last_term }, message.term)?;
            require(*last_term < message.term, "a candidate's log is older than its term")?;
            check_mark(*commit, message.term)
        }
        Body::VoteResponse { commit, .. } => check_mark(*commit, MAX_TERM),
        Body::Heartbeat { commit } | Body::HeartbeatResponse { commit } => check_index(*commit),
        Body::Snapshot { last, state } => {
            check_mark(*last, message.term)?;
            require(last.index > 0 && last.term > 0, "a snapshot of nothing")?;
            require(state.len() <= MAX_SNAPSHOT_BYTES, "snapshot too large")?;
            require(Conf::unwrap(state).is_some(), "a snapshot of an impossible group")
        }
        Body::TimeoutNow => Ok(()),
    }
}

fn check_entries(prev_term: u64, leader_term: u64, entries: &[Entry]) -> Result<(), &'static str> {
    require(entries.len() <= MAX_APPEND_ENTRIES, "too many entries")?;
    let mut last_term = prev_term;
    for entry in entries {
        require(entry.term > 0 && entry.term >= last_term, "entry terms decrease")?;
        require(entry.data.len() <= MAX_PROPOSAL_BYTES, "entry too large")?;
        let is_read = !conf::is_change(&entry.data) || ConfChange::decode(&entry.data).is_some();
        require(is_read, "a change of the group that cannot be read")?;
        last_term = entry.term;
    }
    require(last_term <= leader_term, "an entry from a later term than its leader's")
}

fn check_mark(mark: Mark, term_max: u64) -> Result<(), &'static str> {
    check_index(mark.index)?;
    // The library takes term zero beyond its log for a match with it.
    require((mark.index == 0) == (mark.term == 0), "a log position without a term")?;
    require(mark.term <= term_max, "a log position from the future")
}

fn check_index(index: u64) -> Result<(), &'static str> {
    require(index <= MAX_INDEX, "index out of range")
}

fn check_term(term: u64) -> Result<(), &'static str> {
    require(term <= MAX_TERM, "term out of range")
}

fn check_against_state(from: u16, message: &Message, node: &RawNode<LogStore>) -> Result<()> {
    let raft = &node.raft;
    let invalid = |reason| Err(Error::Invalid { from, reason });
    if message.term < raft.term {
        return Ok(());
    }
    let is_present = message.term == raft.term;
    let last = raft.raft_log.last_index();
    match message.body {
        Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot { .. }
            if is_present && region(raft.leader_id).is_some_and(|leader| leader != from) =>
        {
            return invalid("a second leader in one term");
        }
        Body::Snapshot { last: Mark { index, term }, .. }
            if index == raft.raft_log.committed && !raft.raft_log.match_term(index, term) =>
        {
            return invalid("a snapshot that contradicts what is committed");
        }
        Body::AppendResponse { index, rejected, .. }
            if is_present
                && raft.state == StateRole::Leader
                && (index > last || rejected.is_some_and(|r| r.hint_index > last)) =>
        {
            return invalid("acknowledges entries that its leader does not have");
        }
        _ => {}
    }
    if let Body::Heartbeat { commit } = message.body {
        // A leader heartbeats no further than what the follower acknowledged.
        if commit > last {
            return Err(Error::LostLog { committed: commit, last });
        }
    }
    Ok(())
}

fn require(holds: bool, reason: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(reason) }
}
