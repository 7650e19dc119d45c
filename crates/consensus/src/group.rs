//! One region's member of the group: the state machine and its durable output.

use std::collections::{BTreeMap, BTreeSet};

use raft::{Config, ProgressState, RawNode, SnapshotStatus, StateRole};
use slog::{Discard, Logger, o};

use crate::codec::{self, HardStateRecord, Identity, Mark, Message, Record, SnapshotRecord};
use crate::conf::{self, Conf, ConfChange};
use crate::limits::{
    LOG_BYTES_BEFORE_COMPACTION, MAX_APPEND_BYTES, MAX_COMMITTED_BYTES_PER_READY,
    MAX_INFLIGHT_APPENDS, MAX_MESSAGE_BYTES, MAX_PROPOSAL_BYTES, MAX_STATE_BYTES,
    MAX_TICKS_PER_CALL, MAX_UNCOMMITTED_BYTES, MAX_WAITING_MESSAGES,
};
use crate::store::{LogStore, chunked, from_raft, raft_id, region};
use crate::{Error, GroupConfig, Recovered, Result, translate, validate};

/// A member of the group. Deterministic: the same calls give the same output.
pub struct Group {
    config: GroupConfig,
    node: RawNode<LogStore>,
    /// The voters in the order in which they should lead.
    ranks: Vec<u16>,
    /// Regions whose messages are taken beside those of the configuration: one that is new to the
    /// group may lead it before this region has applied that it is part of it.
    known: BTreeSet<u16>,
    /// Caller's time up to which ticks were counted.
    ticked_ms: Option<u64>,
    ticks: u64,
    /// The log does not say yet whose it is.
    is_identity_unsaved: bool,
    /// Number of the [`Ready`] that is not persisted yet; at most one.
    outstanding: Option<u64>,
    /// The last leader heard of: its successors' ranks do not count it.
    last_leader: Option<u16>,
    /// An election was lost or went unanswered since a leader was last known.
    is_retry: bool,
    is_quorum_visible: bool,
    /// By peer, the tick at which a snapshot on its way counts as lost.
    snapshot_deadlines: BTreeMap<u16, u64>,
    applied: u64,
}

/// What must be durable before the rest of a turn may be seen by anyone. The messages and the
/// committed entries inside are reached through [`Group::persisted`] only.
#[must_use = "the group stands still until its output is persisted"]
#[derive(Debug)]
pub struct Ready {
    number: u64,
    records: Vec<Vec<u8>>,
    must_sync: bool,
    output: Output,
}

/// What a turn set free.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Output {
    /// Bytes for other regions. They may be lost, doubled or reordered.
    pub messages: Vec<(u16, Vec<u8>)>,
    /// State that replaces the application's, before `committed` is applied.
    pub snapshot: Option<Snapshot>,
    /// Entries to apply with their indices, ascending; the same in every region.
    pub committed: Vec<(u64, Vec<u8>)>,
}

/// The application's state after the entry `index`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry that the state includes.
    pub index: u64,
    /// The caller's own bytes, as given to [`Group::compact`].
    pub state: Vec<u8>,
}

/// A member's role in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would win an election.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// A member's state, for metrics and decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Role in `term`.
    pub role: Role,
    /// Present term.
    pub term: u64,
    /// Leader of the term, where known.
    pub leader: Option<u16>,
    /// Last index known to be committed.
    pub commit: u64,
    /// Last index handed out as committed.
    pub applied: u64,
    /// Last index of the log.
    pub last_index: u64,
    /// Bytes of entries in the log.
    pub log_bytes: usize,
}

impl Ready {
    /// Records to append to the control log, in this order.
    pub fn records(&self) -> &[Vec<u8>] {
        &self.records
    }

    /// Whether the records must be fsynced. Otherwise a crash may lose them without harm.
    pub fn must_sync(&self) -> bool {
        self.must_sync
    }
}

impl Group {
    /// A member that goes on from what its control log held.
    pub fn new(config: GroupConfig, recovered: Recovered) -> Result<Self> {
        config.validate()?;
        recovered.check_identity(&config)?;
        let is_identity_unsaved = recovered.identity.is_none();
        let mut store = recovered.store;
        if store.conf_index == 0 && store.conf == Conf::default() {
            // No snapshot tells it: the group is as it began. What the log began with counts, even
            // if the topology file has changed since.
            store.conf = match &recovered.identity {
                Some(identity) => Conf::of_voters(&identity.voters),
                None => Conf::of_voters(&config.voters),
            };
        }
        let applied = store.snapshot.last.index;
        let raft_config = raft_config(&config, applied);
        let logger = Logger::root(Discard, o!());
        let node = RawNode::new(&raft_config, store, &logger).map_err(raft_error)?;
        let mut group = Self {
            ranks: config.voters.clone(),
            known: config.voters.iter().copied().collect(),
            config,
            node,
            ticked_ms: None,
            ticks: 0,
            is_identity_unsaved,
            outstanding: None,
            last_leader: None,
            is_retry: false,
            is_quorum_visible: true,
            snapshot_deadlines: BTreeMap::new(),
            applied,
        };
        group.rank_election();
        Ok(group)
    }

    /// Moves the group's clock to `now_ms` (the caller's monotonic milliseconds). After a pause
    /// it moves by [`MAX_TICKS_PER_CALL`] ticks only.
    pub fn tick(&mut self, now_ms: u64) {
        let tick_ms = self.config.timing.tick_ms;
        let ticked_ms = *self.ticked_ms.get_or_insert(now_ms);
        let due = now_ms.saturating_sub(ticked_ms) / tick_ms;
        self.ticked_ms = Some(match due > MAX_TICKS_PER_CALL {
            true => now_ms,
            false => ticked_ms + due * tick_ms,
        });
        for _ in 0..due.min(MAX_TICKS_PER_CALL) {
            self.tick_once();
        }
    }

    /// Takes a message from region `from`, which the link has authenticated.
    pub fn step(&mut self, from: u16, bytes: &[u8]) -> Result<()> {
        let is_known = self.known.contains(&from) || self.conf().contains(from);
        if from == self.config.id || !is_known {
            return Err(Error::UnknownPeer(from));
        }
        if bytes.len() > MAX_MESSAGE_BYTES {
            let limit = MAX_MESSAGE_BYTES;
            return Err(Error::TooLarge { what: "message", bytes: bytes.len(), limit });
        }
        let message =
            Message::decode(bytes).ok_or(Error::Invalid { from, reason: "does not decode" })?;
        validate::check(from, &message, &self.node)?;
        self.check_not_congested()?;
        if self.is_pointless(from, &message) {
            return Ok(());
        }
        let message = translate::incoming(from, self.config.id, message, &self.node.store().conf);
        let result = self.node.step(message);
        self.rank_election();
        match result {
            Ok(()) | Err(raft::Error::ProposalDropped) => Ok(()),
            Err(error) => Err(raft_error(error)),
        }
    }

    /// Asks for an entry. It may still get lost with its leader: propose again what did not come
    /// out as committed, in a form that may be applied twice.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<()> {
        if data.is_empty() {
            return Err(Error::EmptyProposal);
        }
        if conf::is_change(&data) {
            return Err(Error::ReservedProposal);
        }
        if data.len() > MAX_PROPOSAL_BYTES {
            let limit = MAX_PROPOSAL_BYTES;
            return Err(Error::TooLarge { what: "proposal", bytes: data.len(), limit });
        }
        self.check_not_congested()?;
        match self.node.propose(Vec::new(), data) {
            Err(raft::Error::ProposalDropped) => Err(Error::NoLeader),
            result => result.map_err(raft_error),
        }
    }

    /// Asks for a change of who takes part; only the leader may, and one change after the other:
    /// while one is under way another comes to nothing.
    pub fn propose_change(&mut self, change: ConfChange) -> Result<()> {
        if !self.is_leader() {
            return Err(Error::NoLeader);
        }
        if !self.conf().allows(change) {
            return Err(Error::BadChange(change));
        }
        self.check_not_congested()?;
        match self.node.propose_conf_change(change.encode(), change.to_raft()) {
            Err(raft::Error::ProposalDropped) => Err(Error::NoLeader),
            result => result.map_err(raft_error),
        }
    }

    /// Whether nothing is in the log that was not handed out.
    pub fn has_applied_all(&self) -> bool {
        self.applied == self.node.raft.raft_log.last_index()
    }

    /// Who takes part, as far as this region has applied the log.
    pub fn conf(&self) -> &Conf {
        &self.node.store().conf
    }

    /// In which order the voters should lead, and which regions may speak to this one beside
    /// those that take part.
    pub fn set_ranks(&mut self, ranks: Vec<u16>, known: BTreeSet<u16>) {
        self.known = known;
        if self.ranks != ranks {
            self.ranks = ranks;
            self.rank_election();
        }
    }

    /// The last index that was handed out as committed and persisted.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The next output, if there is any and the last one was persisted.
    pub fn ready(&mut self) -> Option<Ready> {
        if self.outstanding.is_some() || !(self.node.has_ready() || self.is_identity_unsaved) {
            return None;
        }
        let mut ready = self.node.ready();
        let mut messages = ready.take_messages();
        messages.append(&mut ready.take_persisted_messages());
        let committed = ready.take_committed_entries().into_iter();
        let output = Output {
            messages: messages.iter().filter_map(encoded).collect(),
            snapshot: snapshot_of(&ready).map(|snapshot| {
                let state = Conf::unwrap(&snapshot.state).map_or(&[][..], |(_, state)| state);
                Snapshot { index: snapshot.last.index, state: state.to_vec() }
            }),
            committed: committed.map(|entry| (entry.index, from_raft(&entry).data)).collect(),
        };
        self.watch_snapshots(&messages);
        // What is applied is durable as committed: a restarted region never falls behind what it
        // acted on, so what it promised by an applied entry still binds it.
        let must_sync =
            ready.must_sync() || self.is_identity_unsaved || !output.committed.is_empty();
        let records = self.store_and_record(&ready);
        let number = ready.number();
        self.node.advance_append_async(ready);
        self.outstanding = Some(number);
        Some(Ready { number, records, must_sync, output })
    }

    /// Confirms that the records of `ready` are in the control log (and fsynced, if it asked for
    /// that), and sets its messages and committed entries free.
    ///
    /// When the log cannot be written, end the process instead: a failed fsync is final.
    pub fn persisted(&mut self, ready: Ready) -> Result<Output> {
        if self.outstanding != Some(ready.number) {
            return Err(Error::NotOutstanding(ready.number));
        }
        self.outstanding = None;
        self.node.on_persist_ready(ready.number);
        let mut output = ready.output;
        let last = output.committed.last().map(|(index, _)| *index);
        let last = last.or(output.snapshot.as_ref().map(|snapshot| snapshot.index));
        for (index, data) in output.committed.iter().filter(|(_, data)| conf::is_change(data)) {
            self.apply_change(*index, data)?;
        }
        if let Some(index) = last {
            self.node.advance_apply_to(index);
            self.applied = index;
        }
        // A leader opens its term with an empty entry; it is nobody's to apply.
        output.committed.retain(|(_, data)| !data.is_empty() && !conf::is_change(data));
        Ok(output)
    }

    /// Replaces the log up to `index` by `state`, the application's state after exactly that
    /// entry, and returns the records of a whole new control log. Write them to a new file, fsync,
    /// and put it in the old one's place; a crash before that finds the old log, which is valid.
    pub fn compact(&mut self, index: u64, state: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        if self.outstanding.is_some() || self.is_identity_unsaved {
            return Err(Error::Busy);
        }
        if state.len() > MAX_STATE_BYTES {
            let limit = MAX_STATE_BYTES;
            return Err(Error::TooLarge { what: "state", bytes: state.len(), limit });
        }
        let applied = self.applied;
        let store = self.node.mut_store();
        let snapshot = store.snapshot.last.index;
        let term = match store.term_at(index) {
            Some(term) if index > snapshot && index <= applied && index >= store.conf_index => term,
            _ => return Err(Error::BadCompaction { index, snapshot, applied }),
        };
        let state = store.conf.wrap(&state);
        store.install(SnapshotRecord { last: Mark { index, term }, state });
        let head = Record {
            identity: Some(identity(&self.config)),
            snapshot: Some(store.snapshot.clone()),
            ..Record::default()
        };
        let tail = Record { hard_state: Some(store.hard_state), ..Record::default() };
        let chunks = store.chunks().into_iter().map(entries_record);
        Ok(std::iter::once(head).chain(chunks).chain([tail]).map(|r| record_bytes(&r)).collect())
    }

    /// Whether [`Self::compact`] is due: the log has grown enough; or it has no snapshot yet, so
    /// that what the application began with is known; or the group has changed, so that a region
    /// that joins begins with a snapshot in which it takes part.
    pub fn wants_compaction(&self) -> bool {
        let store = self.node.store();
        let has_begun = self.applied > 0 && store.snapshot.last.index == 0;
        let has_changed = store.conf_index > store.snapshot.last.index;
        has_begun || has_changed || store.entry_bytes() >= LOG_BYTES_BEFORE_COMPACTION
    }

    /// Tells whether this region sees a quorum at all. While it does not, it does not stand for
    /// election: it could not win, and after the cut it would only disturb.
    pub fn set_quorum_visible(&mut self, is_visible: bool) {
        self.is_quorum_visible = is_visible;
    }

    /// Hands leadership to `to`, if this region leads and `to` is another voter.
    pub fn transfer_leadership(&mut self, to: u16) {
        if self.is_leader() && to != self.config.id && self.conf().voters.contains(&to) {
            self.node.transfer_leader(raft_id(to));
            self.rank_election();
        }
    }

    /// This region's ordinal.
    pub fn id(&self) -> u16 {
        self.config.id
    }

    /// The leader of the present term, where known. A cut-off region may name a former one.
    pub fn leader(&self) -> Option<u16> {
        region(self.node.raft.leader_id)
    }

    /// Present term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Whether this region believes to lead. Only a commit proves it.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// State for metrics and decisions.
    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        Status {
            role: match raft.state {
                StateRole::Follower => Role::Follower,
                StateRole::PreCandidate => Role::PreCandidate,
                StateRole::Candidate => Role::Candidate,
                StateRole::Leader => Role::Leader,
            },
            term: raft.term,
            leader: self.leader(),
            commit: raft.raft_log.committed,
            applied: self.applied,
            last_index: raft.raft_log.last_index(),
            log_bytes: self.node.store().entry_bytes(),
        }
    }

    /// Makes a committed change, or leaves it: the same in every region.
    fn apply_change(&mut self, index: u64, data: &[u8]) -> Result<()> {
        let Some(change) = ConfChange::decode(data).filter(|c| self.conf().allows(*c)) else {
            return Ok(());
        };
        let state = self.node.apply_conf_change(&change.to_raft()).map_err(raft_error)?;
        let store = self.node.mut_store();
        store.conf = Conf::from_raft(&state);
        store.conf_index = index;
        self.rank_election();
        Ok(())
    }

    fn tick_once(&mut self) {
        self.ticks += 1;
        let is_gated = !self.is_quorum_visible && !self.is_leader();
        if is_gated || self.check_not_congested().is_err() {
            return;
        }
        self.node.tick();
        self.rank_election();
        let ticks = self.ticks;
        let due = |(&peer, &deadline): (&u16, &u64)| (deadline <= ticks).then_some(peer);
        let lost: Vec<u16> = self.snapshot_deadlines.iter().filter_map(due).collect();
        for peer in lost {
            self.snapshot_deadlines.remove(&peer);
            let progress = self.node.raft.prs().get(raft_id(peer));
            if progress.is_some_and(|progress| progress.state == ProgressState::Snapshot) {
                self.node.report_snapshot(raft_id(peer), SnapshotStatus::Failure);
            }
        }
    }

    /// Honest messages that came too late, or the wrong way.
    fn is_pointless(&self, from: u16, message: &Message) -> bool {
        match message.body {
            // Not passed on: a proposal travels one hop, or it could circle between followers.
            codec::Body::Propose { .. } => !self.is_leader(),
            // Only the leader that is followed hands over; an overtaken word of it does not count.
            codec::Body::TimeoutNow => {
                self.leader() != Some(from) || message.term != self.node.raft.term
            }
            // A region that joins cannot begin with the log's first entries: what the group began
            // with is told by a snapshot only, which the leader is about to have.
            codec::Body::Append { prev_index: 0, .. } => self.conf().voters.is_empty(),
            _ => false,
        }
    }

    /// A disk that does not confirm must not let messages pile up in memory.
    fn check_not_congested(&self) -> Result<()> {
        if self.node.raft.msgs.len() >= MAX_WAITING_MESSAGES { Err(Error::Busy) } else { Ok(()) }
    }

    /// Replaces the library's random election timeout by this region's rank. Called after
    /// everything that may have drawn a new one.
    fn rank_election(&mut self) {
        let raft = &self.node.raft;
        if let Some(leader) = self.leader() {
            self.last_leader = Some(leader);
            self.is_retry = false;
        } else if matches!(raft.state, StateRole::PreCandidate | StateRole::Candidate) {
            self.is_retry = true;
        }
        let ticks = self.config.election_ticks(self.last_leader, &self.ranks, self.is_retry);
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    /// Snapshots are not acknowledged by the link; one that brought no progress in time is sent
    /// again.
    fn watch_snapshots(&mut self, messages: &[raft::eraftpb::Message]) {
        let wait = self.config.timing.ticks(self.config.timing.retry_ms) as u64;
        for message in messages {
            if message.get_msg_type() == raft::eraftpb::MessageType::MsgSnapshot
                && let Some(peer) = region(message.to)
            {
                self.snapshot_deadlines.insert(peer, self.ticks + wait);
            }
        }
    }

    /// Takes what `ready` persists into the in-memory log and returns it as records.
    fn store_and_record(&mut self, ready: &raft::Ready) -> Vec<Vec<u8>> {
        let mut head = Record::default();
        if self.is_identity_unsaved {
            head.identity = Some(identity(&self.config));
            self.is_identity_unsaved = false;
        }
        let store = self.node.mut_store();
        if let Some(snapshot) = snapshot_of(ready) {
            store.install(snapshot.clone());
            head.snapshot = Some(snapshot);
        }
        let mut records = vec![head];
        if let Some(first) = ready.entries().first().map(|entry| entry.index) {
            let entries: Vec<_> = ready.entries().iter().map(from_raft).collect();
            let is_contiguous = store.append(first, entries.clone());
            assert!(is_contiguous, "the protocol never leaves a gap in its log");
            records.extend(chunked(first, entries).into_iter().map(entries_record));
        }
        if let Some(state) = ready.hs() {
            store.hard_state = HardStateRecord {
                term: state.term,
                vote: region(state.vote),
                commit: state.commit,
            };
            records.push(Record { hard_state: Some(store.hard_state), ..Record::default() });
        }
        joined(records).iter().map(record_bytes).collect()
    }
}

fn raft_config(config: &GroupConfig, applied: u64) -> Config {
    let timing = &config.timing;
    Config {
        id: raft_id(config.id),
        election_tick: timing.ticks(timing.lease_ms),
        heartbeat_tick: timing.ticks(timing.heartbeat_ms),
        applied,
        max_size_per_msg: MAX_APPEND_BYTES as u64,
        max_inflight_msgs: MAX_INFLIGHT_APPENDS,
        check_quorum: true,
        pre_vote: true,
        min_election_tick: timing.ticks(timing.lease_ms),
        max_election_tick: config.election_ticks_max(),
        max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
        max_committed_size_per_ready: MAX_COMMITTED_BYTES_PER_READY,
        ..Config::default()
    }
}

fn identity(config: &GroupConfig) -> Identity {
    Identity { id: config.id, voters: config.voter_set() }
}

fn snapshot_of(ready: &raft::Ready) -> Option<SnapshotRecord> {
    let snapshot = ready.snapshot();
    let metadata = snapshot.get_metadata();
    (!snapshot.is_empty()).then(|| SnapshotRecord {
        last: Mark { index: metadata.index, term: metadata.term },
        state: snapshot.data.to_vec(),
    })
}

fn entries_record((first_index, entries): (u64, Vec<codec::Entry>)) -> Record {
    Record { first_index, entries, ..Record::default() }
}

/// One record out of up to three where that stays small: an ordinary turn is durable as a whole
/// or not at all.
fn joined(records: Vec<Record>) -> Vec<Record> {
    let is_small = records.len() <= 3 && records.iter().all(|record| record.snapshot.is_none());
    if !is_small {
        return records.into_iter().filter(|record| *record != Record::default()).collect();
    }
    let whole = records.into_iter().fold(Record::default(), |whole, part| Record {
        identity: whole.identity.or(part.identity),
        snapshot: None,
        first_index: whole.first_index.max(part.first_index),
        entries: if whole.entries.is_empty() { part.entries } else { whole.entries },
        hard_state: whole.hard_state.or(part.hard_state),
    });
    if whole == Record::default() { Vec::new() } else { vec![whole] }
}

fn record_bytes(record: &Record) -> Vec<u8> {
    record.encode().expect("limits.rs asserts that a chunk or a snapshot fits a record")
}

fn encoded(message: &raft::eraftpb::Message) -> Option<(u16, Vec<u8>)> {
    let to = region(message.to)?;
    let bytes = translate::outgoing(message)?.encode();
    Some((to, bytes.expect("limits.rs asserts that an append or a snapshot fits a message")))
}

fn raft_error(error: raft::Error) -> Error {
    Error::Raft(error.to_string())
}
