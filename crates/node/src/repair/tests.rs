//! What a peer may say in a repair, and what it may not.

use super::*;
use meridian_clock::Time;
use meridian_crdt::{Action, Element};
use meridian_keyspace::{Ablations, StageConfig};
use meridian_replication::repair::{ALL_GROUPS, PackedVector, put_runs, put_sums};

const PEER: Origin = Origin(1);

fn stage(me: u16, keys: u16) -> Stage {
    let ablations = Ablations::default();
    let mut stage = Stage::new(StageConfig { me: Origin(me), partitions: 4, seed: 7, ablations });
    stage.set_physical_us(1_000_000);
    for n in 0..keys {
        let (element, ttl) = (Element::String, Time::MAX);
        let key = format!("key:{n}");
        stage.write(key.as_bytes(), Action::Assign { element, value: b"v", ttl });
    }
    stage
}

/// Hears something, does all there is to do, and gives back what is said.
fn hear(
    repairs: &mut Repairs,
    stage: &mut Stage,
    message: RepairMessage,
) -> Result<Vec<RepairMessage>, Malformed> {
    repairs.message(stage, PEER, message, SLOT_SUMS_SINCE, 1)?;
    let durable = stage.vectors();
    while repairs.has_work() {
        repairs.work(stage, &durable, 1);
    }
    Ok(repairs.take_said().into_iter().map(|(_, message)| message).collect())
}

/// A donor that has made its offer to one who has seen something.
fn donor() -> (Repairs, Stage) {
    let (mut repairs, mut stage) = (Repairs::default(), stage(0, 5000));
    let mut vector = VersionVector::new();
    vector.join(&stage.partition(0).vector);
    let vector = PackedVector::pack(&vector);
    let open = RepairMessage::Open { number: 1, partition: 0, seed: 9, vector, lasting: false };
    let said = hear(&mut repairs, &mut stage, open).unwrap();
    let [RepairMessage::OfferSlots { shift, items, news: 0, whole: false, .. }] = said[..] else {
        panic!("{said:?}");
    };
    assert_eq!((shift, items), (6, stage_items(&stage)), "some thousand elements in 64 runs");
    (repairs, stage)
}

fn stage_items(stage: &Stage) -> u64 {
    let slots = slots_of(stage, 0);
    slots.map(|slot| stage.count_stored(slot, meridian_keyspace::View::Now)).sum()
}

fn select(runs: &[u16]) -> RepairMessage {
    let mut bytes = Vec::new();
    put_runs(&mut bytes, runs);
    RepairMessage::Select { number: 1, runs: bytes, news: 0 }
}

#[test]
fn a_donor_answers_what_was_selected_and_no_more() {
    let (mut repairs, mut stage) = donor();
    let said = hear(&mut repairs, &mut stage, select(&[3, 63])).unwrap();
    let [RepairMessage::Symbols { groups: ALL_GROUPS, from: 0, symbols, .. }] = &said[..] else {
        panic!("{said:?}");
    };
    let symbols = meridian_replication::Symbol::decode_all(symbols).unwrap();
    assert_eq!(symbols.len(), 32, "nothing is news on either side");
    // All fall into the first symbol: as many as there are in the two runs.
    let two = slots_of(&stage, 0).filter(|slot| [3, 63].contains(&(slot >> 6)));
    let held = two.map(|slot| stage.count_stored(slot, meridian_keyspace::View::Now)).sum::<u64>();
    let fetch = |count| RepairMessage::Fetch { number: 1, items: vec![1; count], last: true };
    let too_many = fetch(held as usize + 1);
    assert!(hear(&mut repairs, &mut stage, too_many).is_err());
    hear(&mut repairs, &mut stage, fetch(held as usize)).unwrap();
    assert!(hear(&mut repairs, &mut stage, select(&[3])).is_err(), "it has compared already");
}

#[test]
fn a_donor_refuses_runs_that_it_has_not_offered() {
    for wrong in [select(&[64]), select(&[3, u16::MAX - 1])] {
        let (mut repairs, mut stage) = donor();
        assert!(hear(&mut repairs, &mut stage, wrong).is_err());
    }
    let (mut repairs, mut stage) = donor();
    let cut_off = RepairMessage::Select { number: 1, runs: vec![0x80], news: 0 };
    assert!(hear(&mut repairs, &mut stage, cut_off).is_err());
    // However many are said to be news, a message of symbols is bounded.
    let many = RepairMessage::Select { number: 1, runs: vec![0], news: u64::MAX };
    let said = hear(&mut repairs, &mut stage, many).unwrap();
    let [RepairMessage::Symbols { symbols, .. }] = &said[..] else { panic!("{said:?}") };
    let count = meridian_replication::Symbol::decode_all(symbols).unwrap().len() as u64;
    assert_eq!(count, meridian_replication::limits::MAX_SYMBOLS);
}

#[test]
fn a_receiver_refuses_an_offer_that_cannot_be() {
    let offer = |shift, runs: &[(u16, u64)]| {
        let (vector, mut sums) = (PackedVector::default(), Vec::new());
        put_sums(&mut sums, runs);
        RepairMessage::OfferSlots {
            number: 1,
            vector,
            shift,
            sums,
            items: 1,
            news: 0,
            whole: false,
        }
    };
    let answer = |message| {
        let (mut repairs, mut stage) = (Repairs::default(), stage(0, 100));
        repairs.want(3, PEER);
        repairs.tick(&mut stage, 1, |peer, _, _| Choice::From(peer));
        assert!(matches!(repairs.take_said()[..], [(PEER, RepairMessage::Open { .. })]));
        hear(&mut repairs, &mut stage, message)
    };
    // Partition 3 of 4 is the slots from 12,288 on.
    let said = answer(offer(12, &[(3, 5)])).unwrap();
    assert!(matches!(said[..], [RepairMessage::Select { .. }]), "{said:?}");
    for wrong in [offer(13, &[]), offer(200, &[]), offer(12, &[(2, 5)]), offer(0, &[(3, 5)])] {
        assert!(answer(wrong.clone()).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_repair_takes_the_seed_of_the_one_in_the_other_direction_unless_it_was_given_up() {
    let (mut repairs, mut stage) = donor();
    assert_eq!(begin(&mut repairs, &mut stage, 1), 9, "the peer's");
    let late_ms = 1 + crate::limits::REPAIR_PATIENCE_MS;
    repairs.tick(&mut stage, late_ms, |_, _, _| Choice::Nobody);
    assert_eq!(repairs.counts().failed, 1);
    assert_ne!(begin(&mut repairs, &mut stage, late_ms + REPAIR_AGAIN_MS), 9);
}

/// Begins a repair of the first partition. Its seed.
fn begin(repairs: &mut Repairs, stage: &mut Stage, now_ms: u64) -> u64 {
    repairs.want(0, PEER);
    repairs.tick(stage, now_ms, |peer, _, _| Choice::From(peer));
    let open = repairs.take_said().into_iter().find_map(|(_, message)| match message {
        RepairMessage::Open { seed, .. } => Some(seed),
        _ => None,
    });
    open.expect("a repair is begun")
}
