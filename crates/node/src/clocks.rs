//! What a data node knows of time: its own clocks, its peers', and what must not be believed.
//!
//! Four guards stand here. The node's own time of day is compared with the majority's, and writes
//! are refused while it is off ([`ClockWatch`]). Hybrid time does not pass what is reserved on
//! disk ([`Reservation`]). An origin whose stamps lie in the future is held ([`Holds`]). And what
//! a peer claims to have is not believed where it cannot be.

use std::collections::{BTreeMap, BTreeSet};

use meridian_clock::{
    ClockNote, ClockWatch, Fence, MAX_AHEAD_MS, Origin, Reservation, Time, VersionVector,
};
use meridian_keyspace::Engine;
use meridian_replication::{Holds, Watermark};
use meridian_store::FrameHeader;

use crate::limits::{MAX_ALARMS, NOTE_EVERY_MS, WATERMARK_EVERY_MS};

/// Something about time that an operator must hear of, told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// This node's clock is off: it does not write.
    Fenced(Fence),
    /// It writes again.
    Unfenced,
    /// An origin is held because it stamps in the future.
    Held {
        /// Which.
        origin: Origin,
        /// How far ahead of this node its stamp is, in milliseconds.
        ahead_ms: u64,
    },
    /// It is not held any more.
    Released(Origin),
    /// So many peers have writes of this region that it does not have that it must have lost them:
    /// it does not write in this life any more.
    Outlived,
    /// A peer claims to have what cannot exist; its watermarks are not believed.
    Doubtful {
        /// Which peer.
        peer: Origin,
        /// What it claims.
        claim: Claim,
    },
}

/// A claim that cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It has records from too far in the future.
    Future,
    /// It has records of this region that this region never wrote: it lies, or this region was
    /// restored from an older state and kept its ordinal (rule R5).
    NeverWritten,
}

/// The clocks of a data node.
#[derive(Debug, Default)]
pub struct Clocks {
    pub(crate) watch: ClockWatch,
    pub(crate) holds: Holds,
    floor: Option<Reservation>,
    /// The steady clock, in microseconds; none until the clocks are told.
    steady_us: Option<u64>,
    fence: Option<Fence>,
    doubtful: BTreeSet<Origin>,
    /// Peers that had, at any time in this life, writes of this region that it never made.
    claimants: BTreeSet<Origin>,
    outlived: bool,
    /// When this life began; zero until the clocks are told. And what this region had written of
    /// each partition by then, as it knows.
    began: (Time, Vec<Time>),
    note_due_ms: BTreeMap<Origin, u64>,
    alarms: Vec<Alarm>,
    /// Watermarks that claimed what cannot be.
    pub watermarks_refused: u64,
}

impl Clocks {
    pub(crate) fn new(limit_ms: u64) -> Clocks {
        Clocks { watch: ClockWatch::new(limit_ms), ..Clocks::default() }
    }

    /// See [`crate::DataNode::start_clocks`].
    pub(crate) fn start(
        &mut self,
        engine: &mut Engine,
        (steady_us, unix_us): (u64, u64),
        floor: Time,
        peers: usize,
    ) {
        self.watch.start(steady_us, unix_us, floor, peers);
        self.floor = Some(Reservation::new(floor));
        engine.stage_mut().start_above(floor);
        engine.stage_mut().reserve_time(floor);
        self.set(engine, (steady_us, unix_us));
        let stage = engine.stage();
        let mine = |vector: &VersionVector| vector.get(stage.me());
        self.began = (stage.now(), stage.vectors().iter().map(mine).collect());
    }

    /// See [`crate::DataNode::set_clocks`].
    pub(crate) fn set(&mut self, engine: &mut Engine, (steady_us, unix_us): (u64, u64)) {
        self.steady_us = Some(steady_us);
        let trusted_us = self.watch.set(steady_us, unix_us);
        engine.set_physical_us(trusted_us);
        self.follow_fence(engine);
    }

    /// A peer's note.
    pub(crate) fn hear(&mut self, engine: &mut Engine, peer: Origin, note: &ClockNote) {
        if self.steady_us.is_some() {
            self.watch.hear(peer, note);
            self.follow_fence(engine);
        }
    }

    /// The note that is due to a peer at `now_ms`, if one is.
    pub(crate) fn note(&mut self, peer: Origin, now_ms: u64) -> Option<ClockNote> {
        self.steady_us?;
        let due_ms = self.note_due_ms.entry(peer).or_default();
        if now_ms < *due_ms {
            return None;
        }
        let known = self.watch.knows(peer);
        *due_ms = now_ms + if known { NOTE_EVERY_MS } else { WATERMARK_EVERY_MS };
        Some(self.watch.ask(peer))
    }

    pub(crate) fn new_session(&mut self, peer: Origin) {
        self.watch.new_session(peer);
        self.note_due_ms.remove(&peer);
        self.doubtful.remove(&peer);
    }

    /// Time that should be reserved on disk, when more is needed than was asked for.
    pub(crate) fn floor_wanted(&mut self, engine: &Engine) -> Option<Time> {
        self.floor.as_mut()?.wanted(engine.stage().clock().physical())
    }

    /// It is on disk.
    pub(crate) fn floor_granted(&mut self, engine: &mut Engine, upto: Time) {
        if let Some(floor) = &mut self.floor {
            floor.grant(upto);
            engine.stage_mut().reserve_time(floor.granted());
        }
    }

    /// Whether a frame may be looked at: neither held nor from the future.
    pub(crate) fn admit(&mut self, engine: &Engine, header: &FrameHeader, now_ms: u64) -> bool {
        let clock = engine.stage().clock();
        // What the author claims to have seen would wait for ever.
        let newest = header.seen.iter().map(|(_, time)| time).fold(header.last, Time::max);
        if clock.check(newest).is_err() {
            if self.holds.hold(header.origin, newest, now_ms) {
                let ahead_ms = newest.as_ms().saturating_sub(clock.physical().as_ms());
                self.alarm(Alarm::Held { origin: header.origin, ahead_ms });
            }
            return false;
        }
        if self.holds.is_barred(header.origin) {
            return false;
        }
        if self.holds.admit(header.origin) {
            self.alarm(Alarm::Released(header.origin));
        }
        true
    }

    /// Lets held origins be asked for again where that may help.
    pub(crate) fn look_again(&mut self, engine: &Engine, now_ms: u64) {
        let bound = engine.stage().clock().physical().plus_ms(MAX_AHEAD_MS);
        self.holds.look_again(bound, now_ms);
    }

    /// Whether a watermark can be true; if not, nothing of it may be used.
    pub(crate) fn believes(
        &mut self,
        engine: &Engine,
        peer: Origin,
        vectors: &[VersionVector],
    ) -> bool {
        let claim = self.claim(engine, vectors);
        match claim {
            None => {
                self.doubtful.remove(&peer);
            }
            Some(claim) => {
                self.watermarks_refused += 1;
                self.doubt(peer, claim);
            }
        }
        claim.is_none()
    }

    /// Whether a peer that asks for a repair of a partition may be given one: what it has of this
    /// region may be the first word of a loss, and once it has joined the state that goes on without
    /// what was lost, nothing is left to tell of it.
    pub(crate) fn may_repair(
        &mut self,
        engine: &Engine,
        peer: Origin,
        partition: u16,
        vector: &VersionVector,
    ) -> bool {
        let lost = self.never_wrote(engine, partition, vector);
        if lost {
            self.doubt(peer, Claim::NeverWritten);
        }
        !lost
    }

    fn claim(&self, engine: &Engine, vectors: &[VersionVector]) -> Option<Claim> {
        let pairs = || (0..engine.stage().partitions()).zip(vectors);
        if pairs().any(|(number, theirs)| self.never_wrote(engine, number, theirs)) {
            return Some(Claim::NeverWritten);
        }
        let bound = engine.stage().clock().physical().plus_ms(MAX_AHEAD_MS);
        let is_future = |(number, theirs): (u16, &VersionVector)| {
            let ours = &engine.stage().partition(number).vector;
            // What is here exists, whatever this node's clock says.
            theirs.iter().any(|(origin, time)| time > bound && time > ours.get(origin))
        };
        pairs().any(is_future).then_some(Claim::Future)
    }

    fn doubt(&mut self, peer: Origin, claim: Claim) {
        if claim == Claim::NeverWritten {
            self.claimants.insert(peer);
        }
        if self.doubtful.insert(peer) {
            self.alarm(Alarm::Doubtful { peer, claim });
        }
    }

    /// A repair has moved what this region has of its own writes: what it had lost is here again, if it
    /// had written nothing meanwhile.
    pub(crate) fn regained(&mut self, partition: u16, before: Time, after: Time) {
        if let Some(known) = self.began.1.get_mut(usize::from(partition)).filter(|k| **k == before)
        {
            *known = after;
        }
    }

    /// Whether a peer has writes of this region that it never made. They are newer than all that it
    /// has; or newer than all that it began with and older than its beginning, so of another life,
    /// which it does not know: it notices even where its own new stamps have overtaken what is lost
    /// before the peer's first word.
    fn never_wrote(&self, engine: &Engine, partition: u16, theirs: &VersionVector) -> bool {
        let (began, known) = &self.began;
        let me = engine.stage().me();
        let theirs = theirs.get(me);
        let is_of_another_life = |known: &Time| *known < theirs && theirs < *began;
        theirs > engine.stage().partition(partition).vector.get(me)
            || known.get(usize::from(partition)).is_some_and(is_of_another_life)
    }

    /// Weighs who has writes of this region that it does not have, against the peers of `others`
    /// that do not say so. If they are not fewer, this region goes on from an old copy of its
    /// directory, or its disk has lost what it had called durable. What it wrote now would follow
    /// on another history than the one that the others have, and be refused by them: so it writes
    /// nothing more in this life, even if the claims end because its stamps have overtaken what is
    /// lost.
    pub(crate) fn weigh_claims<'a>(
        &mut self,
        engine: &mut Engine,
        others: impl Iterator<Item = &'a Origin>,
    ) {
        let honest = others.filter(|peer| !self.claimants.contains(peer)).count();
        if !self.outlived && !self.claimants.is_empty() && self.claimants.len() >= honest {
            self.outlived = true;
            engine.environment_mut().refuse_writes = Some(OUTLIVED.to_owned());
            self.alarm(Alarm::Outlived);
        }
    }

    /// Whether this region has lost writes that others have: see [`Alarm::Outlived`].
    #[must_use]
    pub fn is_outlived(&self) -> bool {
        self.outlived
    }

    /// Whether this region writes nothing at present: its clock is off, or it is outlived by its
    /// own writes.
    #[must_use]
    pub fn refuses_writes(&self) -> bool {
        self.outlived || self.watch.fence().is_some()
    }

    /// Whether the peer's last watermark could not be true.
    pub(crate) fn is_doubtful(&self, peer: Origin) -> bool {
        self.doubtful.contains(&peer)
    }

    /// Peers whose last watermark could not be true.
    #[must_use]
    pub fn doubtful(&self) -> &BTreeSet<Origin> {
        &self.doubtful
    }

    /// This node's clock beside the others'.
    #[must_use]
    pub fn watch(&self) -> &ClockWatch {
        &self.watch
    }

    /// Origins that are held.
    #[must_use]
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    pub(crate) fn take_alarms(&mut self) -> Vec<Alarm> {
        std::mem::take(&mut self.alarms)
    }

    fn follow_fence(&mut self, engine: &mut Engine) {
        let fence = self.watch.fence();
        if fence == self.fence {
            return;
        }
        let is_same = fence.is_some() == self.fence.is_some();
        self.fence = fence;
        let limit_ms = self.watch.limit_us() / 1_000;
        if !self.outlived {
            engine.environment_mut().refuse_writes = fence.map(|fence| error(fence, limit_ms));
        }
        if !is_same {
            self.alarm(fence.map_or(Alarm::Unfenced, Alarm::Fenced));
        }
    }

    fn alarm(&mut self, alarm: Alarm) {
        if self.alarms.len() < MAX_ALARMS {
            self.alarms.push(alarm);
        }
    }
}

/// A promise as far as it can be kept: a peer cannot promise more than its clock may be ahead.
pub(crate) fn promise(engine: &Engine, mark: &Watermark) -> Time {
    Time(mark.now).min(engine.stage().clock().physical().plus_ms(MAX_AHEAD_MS))
}

/// What a writing client is told by a region that has lost writes of its own.
const OUTLIVED: &str = "READONLY this region has lost writes that other regions have of it: its \
                        directory is an old copy, or its disk has lied. It must go on under a new \
                        ordinal (meridian disk renew)";

/// What a writing client is told.
fn error(fence: Fence, limit_ms: u64) -> String {
    match fence {
        Fence::Skewed { ahead_us } => {
            let (ms, way) =
                (ahead_us.unsigned_abs() / 1_000, if ahead_us > 0 { "behind" } else { "ahead of" });
            format!(
                "CLOCKSKEW this region's clock is {ms} ms {way} the other regions' (limit \
                 {limit_ms} ms): it does not write until its clock is set"
            )
        }
        Fence::Unconfirmed { leap_ms } => {
            let hours = leap_ms / 3_600_000;
            format!(
                "CLOCKSKEW this region's clock shows {hours} h more than when it last ran: it does \
                 not write until other regions confirm it"
            )
        }
    }
}
