//! Frames of other regions, and of this one's own log when it is replayed.

use meridian_clock::Time;
use meridian_codec::Malformed;
use meridian_crdt::{Context, OpReader};
use meridian_store::{Frame, FrameHeader, Group, RepairPart};

use super::{FrameError, Stage};
use crate::{
    conflicts::{Losses, Touch, losses},
    mirror::MIRROR_PREFIX,
    slot::slot_of,
};

impl Stage {
    /// Applies a remote frame and appends it to the commit.
    ///
    /// # Errors
    /// [`FrameError`]; nothing has been applied then.
    pub fn apply_frame(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        let frame = self.check_frame(bytes)?;
        if frame.header.origin == self.me {
            return Err(FrameError::OutOfOrder);
        }
        self.close(frame.header.partition);
        self.append(bytes);
        self.merge(&frame)?;
        Ok(())
    }

    /// Applies a frame, or a part of a repair, found in this region's own log at the start.
    ///
    /// # Errors
    /// [`FrameError`]; the log must not be used then.
    pub fn replay_frame(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if RepairPart::is_one(bytes) {
            let part = self.check_repair(bytes)?;
            self.merge_repair(&part)?;
        } else {
            let frame = self.check_frame(bytes)?;
            self.merge(&frame)?;
        }
        self.advanced.clear();
        Ok(())
    }

    fn check_frame<'b>(&self, bytes: &'b [u8]) -> Result<Frame<'b>, FrameError> {
        let frame = Frame::decode(bytes)?;
        let header = &frame.header;
        if header.partition >= self.partitions {
            return Err(Malformed("frame for a partition that does not exist").into());
        }
        let vector = &self.partition(header.partition).vector;
        let follows = self.ablations.apply_gaps || header.previous == vector.get(header.origin);
        let covered = self.ablations.ignore_dependencies || vector.dominates(&header.seen);
        if !follows || !covered {
            return Err(FrameError::OutOfOrder);
        }
        let (mut groups, mut last) = (frame.groups(), header.previous);
        while let Some(group) = groups.next()? {
            let mut reader = OpReader::new(group.ops, header.origin, last);
            while let Some((_, op)) = reader.next()? {
                if self.partition_of(op.key) != header.partition {
                    return Err(Malformed("operation on a key of another partition").into());
                }
            }
            last = reader.last();
        }
        if last != header.last {
            return Err(Malformed("frame's last stamp is not its last operation's").into());
        }
        Ok(frame)
    }

    fn merge(&mut self, frame: &Frame<'_>) -> Result<(), Malformed> {
        let header = &frame.header;
        let (me, number) = (self.me, header.partition);
        // Before the operations: an empty row that one of them leaves is noted with a vector that
        // includes it, and may go only once its origin has seen that operation too.
        self.parts[usize::from(number)].vector.set(header.origin, header.last);
        let (mut groups, mut last) = (frame.groups(), header.previous);
        while let Some(group) = groups.next()? {
            last = self.merge_group(header, &group, last)?;
        }
        let part = &mut self.parts[usize::from(number)];
        if header.origin != me {
            let mut known = header.seen.clone();
            known.set(header.origin, header.last);
            part.learn(header.origin, &known);
        }
        if header.origin != me || !self.ablations.forget_floor {
            self.clock.observe(header.last);
        }
        self.advanced.push((number, header.origin, header.last));
        Ok(())
    }

    /// Applies the operations of one group; the stamp of the last one.
    fn merge_group(
        &mut self,
        header: &FrameHeader,
        group: &Group<'_>,
        last: Time,
    ) -> Result<Time, Malformed> {
        let (me, seed, number) = (self.me, self.seed, header.partition);
        let ablations = self.ablations;
        let here = ablations.remove_wins.then(|| self.partition(number).vector.clone());
        let mut reader = OpReader::new(group.ops, header.origin, last);
        while let Some((mut dot, mut op)) = reader.next()? {
            let slot = slot_of(op.key);
            if header.origin != me {
                ablations.spoil(&mut op, &mut dot, self.clock.now());
            }
            let here = here.as_ref().filter(|_| ablations.removes_all(&op));
            let context = Context { seen: here.unwrap_or(&group.seen), dot };
            let watched = self.conflicts.holds(slot, op.key);
            let mut before = Losses::new();
            let (table, mut frozen) = self.table_and_frozen(slot, number);
            let effect = table.change(op.key, |object| {
                if let Some(frozen) = &mut frozen {
                    frozen.note(slot, object, &op);
                }
                if watched {
                    before = losses(object, &Touch::of(&op));
                }
                object.apply(&op, &context, me, seed)
            });
            if watched || effect.conflict {
                self.settle_conflicts(op.key, before, &Touch::of(&op), Some(dot));
            }
            self.ops_applied += 1;
            self.foreign_mirror_ops += u64::from(op.key.starts_with(MIRROR_PREFIX));
            if effect.residue || !self.watched.is_empty() {
                self.after(op.key, slot, number, effect);
            }
        }
        Ok(reader.last())
    }
}
