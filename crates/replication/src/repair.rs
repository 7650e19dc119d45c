//! What two regions say to each other during state repair: one is behind another (or they differ)
//! and the log no longer leads from here to there.
//!
//! ```text
//! receiver                                   donor
//!   Open (what I have seen)  ─────────────▶    freezes the partition, sums up every slot
//!            ◀─────────────  OfferSlots (what I had seen, sums of runs of slots)
//!   Select (runs that differ)  ───────────▶    looks at their elements
//!            ◀─────────────  Symbols
//!   [More (up to this symbol)  ───────────▶  ◀ Symbols]*          until they decode
//!   Fetch (items), Grant (bytes)  ────────▶
//!            ◀─────────────  Elements …
//!   Close  ───────────────────────────────▶    thaws
//! ```
//! Before protocol 4 the sums are of [`GROUPS`] groups of slots (Offer), and More names those that
//! differ.
//!
//! The receiver applies no remote frames of the partition from Open on (rule R3), and applies what
//! came in one commit. An item stands for one element in one state: a hash of both.

use std::ops::Range;

use meridian_clock::{MAX_REGIONS, Origin, Time, VersionVector};
use meridian_codec::{Malformed, Reader, put_varint};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// A partition's elements are summed in so many groups, by slot: those that are equal need no
/// closer look.
pub const GROUPS: u32 = 64;

/// All groups.
pub const ALL_GROUPS: u64 = u64::MAX;

/// The group of a slot of a partition that has so many slots.
#[must_use]
pub fn group_of(slot: u16, slots: u16) -> u32 {
    let slots = u32::from(slots.max(1));
    (u32::from(slot) % slots) * GROUPS / slots.max(GROUPS)
}

/// The item that stands for an element in a state.
#[must_use]
pub fn item_of(seed: u64, key: &[u8], element: &[u8], value: &[u8]) -> u64 {
    let mut room = [0; ITEM_ROOM_BYTES];
    let parts = [key, element, value];
    let bytes = parts.iter().map(|part| size_of::<u64>() + part.len()).sum::<usize>();
    let Some(room) = room.get_mut(..bytes) else { return item_of_large(seed, parts) };
    let mut rest = &mut *room;
    for part in parts {
        let (length, after) = rest.split_at_mut(size_of::<u64>());
        length.copy_from_slice(&(part.len() as u64).to_le_bytes());
        let (place, after) = after.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    xxh3_64_with_seed(room, seed)
}

/// Elements up to this size are hashed in one go, which takes half as long: a repair looks at all of
/// a partition's.
const ITEM_ROOM_BYTES: usize = 512;

fn item_of_large(seed: u64, parts: [&[u8]; 3]) -> u64 {
    let mut hash = Xxh3::with_seed(seed);
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}

/// A vector as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedVector(Vec<(u16, u64)>);

impl PackedVector {
    /// Packs a vector.
    #[must_use]
    pub fn pack(vector: &VersionVector) -> PackedVector {
        PackedVector(vector.iter().map(|(o, t)| (o.0, t.0)).collect())
    }

    /// Unpacks it.
    ///
    /// # Errors
    /// [`Malformed`] for an ordinal that is too large.
    pub fn unpack(&self) -> Result<VersionVector, Malformed> {
        let mut vector = VersionVector::new();
        for (ordinal, time) in &self.0 {
            if usize::from(*ordinal) >= MAX_REGIONS {
                return Err(Malformed("ordinal too large"));
            }
            vector.set(Origin(*ordinal), Time(*time));
        }
        Ok(vector)
    }
}

/// A run has at least so many elements, as far as runs can be that short: the sums take half a byte
/// an element.
pub const RUN_ELEMENTS: u64 = 16;

/// How many bits of a slot's number do not count, with so many elements in so many slots: a power
/// of two.
#[must_use]
pub fn shift_for(items: u64, slots: u16) -> u8 {
    let most = slots.max(1).ilog2();
    let runs = (items / RUN_ELEMENTS).max(1).ilog2();
    (most - runs.min(most)) as u8
}

/// The sums of runs, from those of slots in order.
#[must_use]
pub fn run_sums(slots: &[(u16, u64)], shift: u8) -> Vec<(u16, u64)> {
    let mut runs: Vec<(u16, u64)> = Vec::new();
    for (slot, sum) in slots {
        let run = slot >> shift;
        match runs.last_mut().filter(|(last, _)| *last == run) {
            Some((_, of_run)) => *of_run = of_run.wrapping_add(*sum),
            None => runs.push((run, *sum)),
        }
    }
    runs
}

/// Appends the sums of runs, which are given in order: for each, how far it is from the one
/// before, and eight bytes.
pub fn put_sums(out: &mut Vec<u8>, sums: &[(u16, u64)]) {
    let mut next = 0;
    for (run, sum) in sums {
        put_varint(out, u64::from(run - next));
        out.extend_from_slice(&sum.to_le_bytes());
        next = run + 1;
    }
}

/// Reads sums that fill `bytes`; all are of `runs`.
///
/// # Errors
/// [`Malformed`] when they do not.
pub fn read_sums(bytes: &[u8], runs: &Range<u16>) -> Result<Vec<(u16, u64)>, Malformed> {
    let (mut reader, mut sums, mut next) = (Reader::new(bytes), Vec::new(), 0);
    while !reader.is_empty() {
        let run = read_run(&mut reader, next, runs)?;
        sums.push((run, reader.u64()?));
        next = run + 1;
    }
    Ok(sums)
}

/// Appends runs, which are given in order.
pub fn put_runs(out: &mut Vec<u8>, runs: &[u16]) {
    let mut next = 0;
    for run in runs {
        put_varint(out, u64::from(run - next));
        next = run + 1;
    }
}

/// Reads runs that fill `bytes`; all are among `runs`.
///
/// # Errors
/// [`Malformed`] when they do not.
pub fn read_runs(bytes: &[u8], runs: &Range<u16>) -> Result<Vec<u16>, Malformed> {
    let (mut reader, mut read, mut next) = (Reader::new(bytes), Vec::new(), 0);
    while !reader.is_empty() {
        let run = read_run(&mut reader, next, runs)?;
        read.push(run);
        next = run + 1;
    }
    Ok(read)
}

fn read_run(reader: &mut Reader<'_>, next: u16, of: &Range<u16>) -> Result<u16, Malformed> {
    let run = reader.varint()?.saturating_add(u64::from(next));
    let run = u16::try_from(run).ok().filter(|run| of.contains(run));
    run.ok_or(Malformed("run that is not of the partition"))
}

/// Why a donor does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It serves as many as it can, or another one this partition.
    Busy,
    /// Too much changed while it served: begin again.
    Changed,
    /// It knows nothing of this repair (any more).
    Unknown,
}

/// A message of state repair. `number` counts the receiver's repairs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepairMessage {
    /// Receiver: begin.
    Open {
        /// Which repair.
        number: u64,
        /// Of which partition.
        partition: u16,
        /// Keys the items.
        seed: u64,
        /// What the receiver has seen.
        vector: PackedVector,
        /// Only what lasts counts: for a comparison between regions that have seen the same.
        lasting: bool,
    },
    /// Donor: what it holds.
    Offer {
        /// Which repair.
        number: u64,
        /// What the donor had seen when it froze the partition.
        vector: PackedVector,
        /// The sum of the items of each group.
        sums: Vec<u64>,
        /// How many elements it holds.
        items: u64,
        /// About how many of them the receiver has not seen.
        news: u64,
        /// So many differ that all are sent: no symbols.
        whole: bool,
    },
    /// Receiver: more symbols, of the elements of these groups.
    More {
        /// Which repair.
        number: u64,
        /// A bit for each group.
        groups: u64,
        /// Up to which symbol.
        upto: u64,
    },
    /// Donor: symbols.
    Symbols {
        /// Which repair.
        number: u64,
        /// Of which groups.
        groups: u64,
        /// The number of the first.
        from: u64,
        /// The symbols, encoded.
        symbols: Vec<u8>,
    },
    /// Receiver: send these (with `whole`: all).
    Fetch {
        /// Which repair.
        number: u64,
        /// Items that the donor holds.
        items: Vec<u64>,
        /// There are no more to fetch.
        last: bool,
    },
    /// Receiver: so many bytes may be sent in all.
    Grant {
        /// Which repair.
        number: u64,
        /// Since its beginning.
        bytes: u64,
    },
    /// Donor: a piece of the stream of elements, each behind its length in four bytes.
    Elements {
        /// Which repair.
        number: u64,
        /// Where in the stream the piece stands: one before it may have been lost.
        from: u64,
        /// The piece.
        bytes: Vec<u8>,
        /// It is the last.
        last: bool,
    },
    /// Donor: no.
    Refuse {
        /// Which repair.
        number: u64,
        /// Why.
        reason: Refusal,
    },
    /// Receiver: done, or given up.
    Close {
        /// Which repair.
        number: u64,
    },
    /// Donor: what it holds, by slots. In place of an Offer since protocol 4.
    OfferSlots {
        /// Which repair.
        number: u64,
        /// What the donor had seen when it froze the partition.
        vector: PackedVector,
        /// So many bits of a slot's number do not count: what is summed up, and selected, are runs
        /// of neighbouring slots.
        shift: u8,
        /// The sums of the items of the runs that hold something, by [`put_sums`].
        sums: Vec<u8>,
        /// How many elements it holds.
        items: u64,
        /// About how many of them the receiver has not seen.
        news: u64,
        /// So many differ that all are sent: no symbols.
        whole: bool,
    },
    /// Receiver: symbols of the elements of these runs.
    Select {
        /// Which repair.
        number: u64,
        /// The runs, by [`put_runs`].
        runs: Vec<u8>,
        /// How many elements of these runs the donor has not seen.
        news: u64,
    },
}

impl RepairMessage {
    /// Which repair of the receiver.
    #[must_use]
    pub fn number(&self) -> u64 {
        match self {
            RepairMessage::Open { number, .. }
            | RepairMessage::Offer { number, .. }
            | RepairMessage::More { number, .. }
            | RepairMessage::Symbols { number, .. }
            | RepairMessage::Fetch { number, .. }
            | RepairMessage::Grant { number, .. }
            | RepairMessage::Elements { number, .. }
            | RepairMessage::Refuse { number, .. }
            | RepairMessage::Close { number }
            | RepairMessage::OfferSlots { number, .. }
            | RepairMessage::Select { number, .. } => *number,
        }
    }

    /// Whether the donor says it. It goes by the lane for what may wait.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(
            self,
            RepairMessage::Offer { .. }
                | RepairMessage::OfferSlots { .. }
                | RepairMessage::Symbols { .. }
                | RepairMessage::Elements { .. }
                | RepairMessage::Refuse { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn groups_cover_all_slots_in_order() {
        for slots in [16_384, 1024, 64, 16] {
            let groups: Vec<u32> = (0..slots).map(|s| group_of(s, slots)).collect();
            assert!(groups.is_sorted() && groups.iter().all(|g| *g < GROUPS));
            assert_eq!(group_of(slots, slots), 0, "the next partition begins anew");
        }
    }

    #[test]
    fn runs_are_as_short_as_their_elements_allow() {
        let runs = |items, slots| slots >> shift_for(items, slots);
        assert_eq!([runs(0, 1024), runs(31, 1024), runs(32, 1024)], [1, 1, 2]);
        assert_eq!([runs(2500, 8192), runs(62_500, 1024), runs(u64::MAX, 1)], [128, 1024, 1]);
        let slots = [(1024, 1), (1025, u64::MAX), (1027, 5), (1500, 7)];
        assert_eq!(run_sums(&slots, 1), [(512, 0), (513, 5), (750, 7)]);
        assert_eq!(run_sums(&slots, 0), slots);
    }

    #[test]
    fn runs_and_sums_read_back_and_only_of_the_partition() {
        let sums = [(1024, 7), (1025, u64::MAX), (1500, 0), (2047, 1)];
        let runs = sums.map(|(run, _)| run);
        let (mut summed, mut listed) = (Vec::new(), Vec::new());
        put_sums(&mut summed, &sums);
        put_runs(&mut listed, &runs);
        assert_eq!(read_sums(&summed, &(1024..2048)), Ok(sums.to_vec()));
        assert_eq!(read_runs(&listed, &(1024..2048)), Ok(runs.to_vec()));
        for wrong in [0..1024, 1025..2048, 1024..2047] {
            assert!(read_sums(&summed, &wrong).is_err(), "{wrong:?}");
            assert!(read_runs(&listed, &wrong).is_err(), "{wrong:?}");
        }
        assert!(read_sums(&summed[..summed.len() - 1], &(1024..2048)).is_err(), "cut off");
        let far = [0xff; 10];
        assert!(read_runs(&far, &(0..u16::MAX)).is_err(), "no number");
    }

    proptest! {
        #[test]
        fn arbitrary_runs_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = read_sums(&bytes, &(0..u16::MAX));
            if let Ok(runs) = read_runs(&bytes, &(0..u16::MAX)) {
                prop_assert!(runs.is_sorted_by(|a, b| a < b));
            }
        }
    }

    #[test]
    fn large_elements_are_hashed_like_small_ones() {
        for length in [0, 1, 100, ITEM_ROOM_BYTES - 31, ITEM_ROOM_BYTES - 27, 5000] {
            let value = vec![7; length];
            let parts = [&b"key"[..], b"f", &value];
            assert_eq!(item_of(9, parts[0], parts[1], parts[2]), item_of_large(9, parts));
        }
    }

    #[test]
    fn an_item_stands_for_all_of_its_parts() {
        let item = item_of(1, b"ab", b"c", b"d");
        let others = [
            item_of(2, b"ab", b"c", b"d"),
            item_of(1, b"a", b"bc", b"d"),
            item_of(1, b"ab", b"", b"cd"),
        ];
        assert!(!others.contains(&item));
    }
}
