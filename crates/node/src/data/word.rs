//! What regions tell each other of themselves: greetings, what each has on disk, the time.

use meridian_clock::{Origin, VersionVector};
use meridian_codec::Malformed;
use meridian_replication::{Hello, Vectors, Watermark};

use super::{DataEffect, DataNode, LastWord, PeerLag};
use crate::{clocks, wire::PeerMessage};

impl DataNode {
    pub(super) fn greet(&mut self, from: Origin, hello: &Hello) -> Result<(), String> {
        hello.check(&self.hello(hello.version))?;
        if hello.origin != from {
            return Err(format!("peer {from} claims ordinal {}", hello.origin));
        }
        let spoken = self.versions.agree(from, hello.version)?;
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.version = Some(spoken);
            // It was upgraded, and was greeted as what it had been.
            if peer.greeting < spoken {
                peer.greeting = spoken;
                let session = peer.session;
                let message = PeerMessage::Hello(self.hello(spoken));
                self.effects.push(DataEffect::Send { peer: from, session, message });
            }
        }
        self.reroute(None);
        Ok(())
    }

    pub(super) fn hello(&self, version: u16) -> Hello {
        Hello {
            version,
            cluster: self.config.cluster.clone(),
            origin: self.engine.stage().me(),
            partitions: self.engine.stage().partitions(),
        }
    }

    pub(super) fn watermark(&mut self, from: Origin, mark: &Watermark) -> Result<(), Malformed> {
        let partitions = self.engine.stage().partitions();
        let vectors = mark.vectors.unpack(partitions)?;
        if !self.clocks.believes(&self.engine, from, &vectors) {
            self.weigh_claims();
            return Ok(());
        }
        let now = clocks::promise(&self.engine, mark);
        let me = self.engine.stage().me();
        let mut behind = false;
        for (number, theirs) in (0..partitions).zip(&vectors) {
            self.origins.extend(theirs.iter().map(|(origin, _)| origin));
            let part = self.engine.stage_mut().partition_mut(number);
            // Only once all that the peer had written is here does its word count (FIFO).
            let believed = self.config.ablations.believe_early;
            if believed || part.vector.get(from) >= theirs.get(from) {
                part.learn(from, theirs);
                part.promise(from, now);
            }
            behind |= !part.vector.dominates(theirs);
        }
        let ours = self.engine.stage().vectors();
        let [behind_it, behind_us] = self.meters.entry(from).or_default();
        let behind_ms = behind_it.measure(from, now, &vectors, &ours);
        let my_now = self.engine.stage().clock().now();
        let unacknowledged_ms = behind_us.measure(me, my_now, &ours, &vectors);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.lag = PeerLag { behind_ms, unacknowledged_ms };
            if peer.vectors.is_empty() {
                peer.target = behind.then(|| vectors.clone());
            }
            let reached = |target: &Vec<VersionVector>| {
                ours.iter().zip(target).all(|(mine, theirs)| mine.dominates(theirs))
            };
            peer.target = peer.target.take().filter(|t| !reached(t));
            peer.vectors.clone_from(&vectors);
        }
        self.acknowledged.insert(from, LastWord { vectors, at_ms: self.now_ms });
        Ok(())
    }

    /// Whether this region has lost writes of its own, by what its peers have of it.
    pub(super) fn weigh_claims(&mut self) {
        let heard = self.acknowledged.keys();
        self.clocks.weigh_claims(&mut self.engine, heard);
    }

    /// What is on disk here.
    fn acknowledgement(&self) -> Vec<VersionVector> {
        let mut vectors = self.engine.durable_vectors().to_vec();
        if self.config.ablations.acknowledge_hearsay {
            for theirs in self.acknowledged.values() {
                vectors.iter_mut().zip(&theirs.vectors).for_each(|(mine, heard)| mine.join(heard));
            }
        }
        vectors
    }

    pub(super) fn send_watermarks(&mut self) {
        let stage = self.engine.stage();
        let vectors = Vectors::pack(&self.acknowledgement());
        let now = self.engine.durable_time().0;
        let physical_ms = stage.clock().physical().as_ms();
        for (peer, state) in &self.peers {
            let (peer, session) = (*peer, state.session);
            if state.version.is_some() {
                let watermark = Watermark { vectors: vectors.clone(), now, physical_ms };
                let message = PeerMessage::Watermark(watermark);
                self.effects.push(DataEffect::Send { peer, session, message });
            }
            // Only who has heard our greeting sends watermarks: perhaps it was lost on the way.
            if state.vectors.is_empty() {
                let message = PeerMessage::Hello(self.hello(state.greeting));
                self.effects.push(DataEffect::Send { peer, session, message });
            }
        }
    }

    pub(super) fn send_clock_notes(&mut self) {
        for (peer, state) in self.peers.iter().filter(|(_, p)| p.version.is_some()) {
            if let Some(note) = self.clocks.note(*peer, self.now_ms) {
                let (peer, session) = (*peer, state.session);
                let message = PeerMessage::Clock(note);
                self.effects.push(DataEffect::Send { peer, session, message });
            }
        }
    }
}
