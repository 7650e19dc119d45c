//! Frames of other regions on their way into the store: checked, held until what they depend on
//! is there, applied.

use meridian_clock::Origin;
use meridian_codec::Malformed;
use meridian_replication::{Batch, InboxEvent, Lenience};

use super::{DataEffect, DataNode, Peer};

impl DataNode {
    /// A batch of frames. Commit afterwards.
    pub fn batch(&mut self, from: Origin, session: u64, bytes: &[u8]) {
        let current = |p: &&mut Peer| p.session == session && p.version.is_some();
        let Some(peer) = self.peers.get_mut(&from).filter(current) else {
            return;
        };
        peer.heard_ms = self.listened_ms;
        let number = peer.number;
        let result = Batch::plain(bytes).and_then(|plain| {
            let batch = Batch::decode(&plain)?;
            if batch.number == number {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.batches += 1;
                }
                batch.frames.iter().try_for_each(|frame| self.frame(frame))?;
            }
            Ok(())
        });
        if let Err(reason) = result {
            let reason = reason.to_string();
            self.effects.push(DataEffect::Disconnect { peer: from, session, reason });
        }
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let header = meridian_store::Frame::decode(bytes)?.header;
        let bounded = !self.config.ablations.follow_any_clock;
        if bounded && !self.clocks.admit(&self.engine, &header, self.now_ms) {
            self.frames_from_the_future += 1;
            return Ok(());
        }
        let partitions = self.engine.stage().partitions();
        if header.partition >= partitions {
            return Err(Malformed("frame for a partition that does not exist"));
        }
        if self.repairs.is_paused(header.partition) && !self.config.ablations.repair_unpaused {
            // Asked for again when the repair is done (rule R3).
            return Ok(());
        }
        let vector = self.engine.stage().partition(header.partition).vector.clone();
        let event = self.inbox.offer(bytes, &vector, self.lenience())?;
        self.follow(header.partition, event)
    }

    /// Does what the inbox says, and what follows from that in the same partition.
    pub(super) fn follow(
        &mut self,
        partition: u16,
        mut event: Option<InboxEvent>,
    ) -> Result<(), Malformed> {
        while let Some(current) = event {
            match current {
                InboxEvent::Apply(frame) => {
                    // A frame that the gate let through and the stage refuses is malformed.
                    self.engine
                        .apply_frame(&frame)
                        .map_err(|_| Malformed("frame that cannot be applied"))?;
                    self.frames_applied += 1;
                }
                InboxEvent::Resubscribe(origin) => {
                    self.missed.insert(origin);
                }
                InboxEvent::Fork { origin, partition } => {
                    self.effects.push(DataEffect::Fork { origin, partition });
                }
            }
            let vector = &self.engine.stage().partition(partition).vector;
            event = self.inbox.next(partition, vector);
        }
        Ok(())
    }

    fn lenience(&self) -> Lenience {
        let off = self.config.ablations;
        Lenience { gaps: off.apply_gaps, dependencies: off.ignore_dependencies }
    }
}
