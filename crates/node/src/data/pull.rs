//! Who is asked for whose frames, and what is done when they do not come: ask again, ask somebody
//! else, and in the end have the state itself repaired.

use std::collections::{BTreeMap, BTreeSet};

use meridian_clock::{Origin, VersionVector};
use meridian_codec::Malformed;
use meridian_crdt::ElementKey;
use meridian_replication::{
    PeerView, Subscribe, Vectors,
    repair::{Refusal, RepairMessage},
};

use super::{DataEffect, DataNode, Peer};
use crate::{
    limits::{MAX_DIVERGENT_NAMES, STALLED_AFTER_MS, STALLED_AFTER_MS_MAX},
    repair::{
        Repaired,
        choice::{Candidate, Choice, nearest},
    },
    wire::PeerMessage,
};

impl DataNode {
    /// Chooses upstreams again and subscribes where the choice changed, or where one of `again`
    /// comes from.
    pub(super) fn reroute(&mut self, again: Option<&BTreeSet<Origin>>) {
        let me = self.engine.stage().me();
        let mine = self.engine.stage().vectors();
        let view = |(peer, state): (&Origin, &Peer)| {
            let view = PeerView {
                silent_ms: self.listened_ms - state.heard_ms,
                round_trip_ms: self.round_trips.get(peer).copied().unwrap_or(0),
                vectors: state.vectors.clone(),
            };
            (*peer, view)
        };
        let up = self.peers.iter().filter(|(_, p)| p.version.is_some()).map(view).collect();
        let barred = |origin: &&Origin| !self.clocks.holds.is_barred(**origin);
        let origins: BTreeSet<Origin> = self.origins.iter().filter(barred).copied().collect();
        self.upstreams = self.router.route(self.listened_ms, me, &origins, &mine, &up);
        for (peer, origins) in self.upstreams.clone() {
            let Some(state) = self.peers.get_mut(&peer) else { continue };
            let missed = again.is_some_and(|again| !again.is_disjoint(&origins));
            if state.subscribed == origins && !missed {
                continue;
            }
            state.number += 1;
            state.subscribed.clone_from(&origins);
            let origins: Vec<Origin> = origins.into_iter().collect();
            self.inbox.resubscribed(&origins);
            let vectors = Vectors::pack(&mine);
            let request = Subscribe { number: state.number, origins, vectors };
            let (session, message) = (state.session, PeerMessage::Subscribe(request));
            self.effects.push(DataEffect::Send { peer, session, message });
        }
    }

    /// The safety net under every lost message: a peer has what is missing here, and nothing comes
    /// from it. Then it is asked again.
    pub(super) fn find_stalled(&mut self, now_ms: u64) {
        let mine = self.engine.stage().vectors();
        let mut unmoved = Vec::new();
        for (origin, peer) in &mut self.peers {
            let has_more = peer.vectors.iter().zip(&mine).any(|(theirs, mine)| {
                peer.subscribed.iter().any(|o| theirs.get(*o) > mine.get(*o))
            });
            let is_moving = !has_more || peer.batches != peer.batches_seen;
            match peer.stalled_at_ms.filter(|_| !is_moving) {
                None => {
                    peer.batches_seen = peer.batches;
                    peer.patience_ms = STALLED_AFTER_MS;
                    peer.stalled_at_ms = Some(now_ms + STALLED_AFTER_MS);
                }
                Some(at_ms) if now_ms >= at_ms => {
                    if peer.patience_ms > STALLED_AFTER_MS {
                        unmoved.push(*origin);
                    }
                    peer.patience_ms = (2 * peer.patience_ms).min(STALLED_AFTER_MS_MAX);
                    peer.stalled_at_ms = Some(now_ms + peer.patience_ms);
                    self.missed.extend(&peer.subscribed);
                }
                Some(_) => {}
            }
        }
        for peer in unmoved {
            self.want_repair(peer);
        }
    }

    /// A peer's log does not lead on from what is here.
    pub(super) fn behind(&mut self, from: Origin, number: u64, partitions: &[u16]) {
        if self.peers.get(&from).is_some_and(|p| p.number == number) {
            let all = self.engine.stage().partitions();
            for partition in partitions.iter().filter(|p| **p < all) {
                self.repairs.want(*partition, from);
            }
        }
    }

    /// A peer was asked again for what it has, and nothing came.
    fn want_repair(&mut self, peer: Origin) {
        let Some(state) = self.peers.get(&peer) else { return };
        let quarantined = self.inbox.quarantined();
        let asked = || state.subscribed.iter().filter(|o| !quarantined.contains(o));
        for (number, theirs) in (0..).zip(&state.vectors) {
            let mine = &self.engine.stage().partition(number).vector;
            if asked().any(|o| theirs.get(*o) > mine.get(*o)) {
                self.repairs.want(number, peer);
            }
        }
    }

    /// A message of a repair. Who has lost writes of its own gives none: it holds what others do not
    /// count as its history, and nobody may take that over.
    pub(super) fn repair_message(
        &mut self,
        from: Origin,
        session: u64,
        message: RepairMessage,
        version: u16,
    ) -> Result<(), Malformed> {
        let stage = self.engine.stage();
        if let RepairMessage::Open { number, partition, vector, .. } = &message
            && *partition < stage.partitions()
        {
            let vector = vector.unpack()?;
            let may = self.clocks.may_repair(&self.engine, from, *partition, &vector);
            if !may {
                self.weigh_claims();
            }
            if !may || self.clocks.is_outlived() {
                let refuse = RepairMessage::Refuse { number: *number, reason: Refusal::Busy };
                let message = PeerMessage::Repair(refuse);
                self.effects.push(DataEffect::Send { peer: from, session, message });
                return Ok(());
            }
        }
        self.repairs.message(self.engine.stage_mut(), from, message, version, self.now_ms)
    }

    /// A portion of the repairs, and what they bring.
    pub(super) fn repair(&mut self) {
        let (peers, ways, now_ms) = (&self.peers, &self.round_trips, self.now_ms);
        let forked = self.inbox.quarantined();
        let stage = self.engine.stage_mut();
        if self.repairs.outstanding() > 0 {
            let mine = stage.vectors();
            self.repairs.tick(stage, now_ms, |peer, number, is_patient| {
                let mine = mine.get(usize::from(number));
                mine.map_or(Choice::Nobody, |mine| {
                    choose_donor((peers, forked), ways, (number, mine), peer, is_patient)
                })
            });
        } else {
            self.repairs.tick(stage, now_ms, |_, _, _| Choice::Nobody);
        }
        if self.repairs.is_active() {
            let durable = self.engine.durable_vectors().to_vec();
            let repaired = self.repairs.work(self.engine.stage_mut(), &durable, now_ms);
            for Repaired { partition, donor, parts, divergent } in repaired {
                self.tell_divergent(donor, partition, &divergent);
                let me = self.engine.stage().me();
                let before = self.engine.stage().partition(partition).vector.get(me);
                let applied =
                    self.engine.apply_repair(&parts).map_err(|e| e.to_string()).and_then(|()| {
                        let vector = &self.engine.stage().partition(partition).vector;
                        let event = self.inbox.next(partition, vector);
                        self.follow(partition, event).map_err(|e| e.to_string())
                    });
                if let Err(reason) = applied {
                    let session = self.peers.get(&donor).map_or(0, |p| p.session);
                    self.effects.push(DataEffect::Disconnect { peer: donor, session, reason });
                }
                let after = self.engine.stage().partition(partition).vector.get(me);
                self.clocks.regained(partition, before, after);
                // What came meanwhile was not taken.
                self.missed.extend(self.origins.iter().copied());
            }
        }
        for (peer, message) in self.repairs.take_said() {
            if let Some(state) = self.peers.get(&peer) {
                let (session, message) = (state.session, PeerMessage::Repair(message));
                self.effects.push(DataEffect::Send { peer, session, message });
            }
        }
    }

    fn tell_divergent(&mut self, peer: Origin, partition: u16, names: &[(Box<[u8]>, ElementKey)]) {
        if !names.is_empty() {
            let some = names.iter().take(MAX_DIVERGENT_NAMES).map(|(key, _)| key.to_vec());
            let (keys, count) = (some.collect(), names.len());
            self.effects.push(DataEffect::Diverged { peer, partition, keys, count });
        }
    }
}

/// Who gives a partition that is wanted from `asked`.
fn choose_donor(
    (peers, forked): (&BTreeMap<Origin, Peer>, &BTreeSet<Origin>),
    ways: &BTreeMap<Origin, u64>,
    (number, mine): (u16, &VersionVector),
    asked: Origin,
    is_patient: bool,
) -> Choice {
    let Some(state) = peers.get(&asked).filter(|p| p.can_give(asked, forked)) else {
        return Choice::Nobody;
    };
    let place = usize::from(number);
    let others = peers.iter().filter(|(peer, state)| state.can_give(**peer, forked));
    let all: Vec<_> = others.map(|(peer, state)| candidate(ways, *peer, state, place)).collect();
    // Who does not say what it has may be nearer.
    if is_patient && !ways.is_empty() && all.iter().any(Option::is_none) {
        return Choice::Later;
    }
    match candidate(ways, asked, state, place) {
        None => Choice::From(asked),
        Some(wished) if mine.dominates(wished.vector) => Choice::Nobody,
        Some(wished) => {
            let all: Vec<_> = all.into_iter().flatten().collect();
            Choice::From(nearest(&wished, mine, &all))
        }
    }
}

fn candidate<'a>(
    ways: &BTreeMap<Origin, u64>,
    peer: Origin,
    state: &'a Peer,
    place: usize,
) -> Option<Candidate<'a>> {
    let vector = state.vectors.get(place)?;
    Some(Candidate { peer, round_trip_ms: ways.get(&peer).copied(), vector })
}
