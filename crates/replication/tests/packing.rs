//! Random histories of three regions whose frames travel packed: each region must hold what it would
//! hold had it got them as they were written, and its log must lead on for the next one.

#[path = "common/region.rs"]
mod region;

use meridian_clock::Origin;
use meridian_replication::Batch;
use meridian_store::Frame;
use region::{Dice, Region, command, digest};

const REGIONS: usize = 3;
const STEPS: usize = 300;
const SEEDS: u64 = 6;

/// Runs a history; how many frames were taken.
fn history(seed: u64) -> usize {
    let mut dice = Dice::new(seed);
    let mut regions: Vec<Region> = (0..REGIONS).map(Region::new).collect();
    // What each region's log holds of everybody's, to be passed on from there.
    let mut logs: Vec<Vec<Vec<u8>>> = vec![Vec::new(); REGIONS];
    let mut taken = 0;
    for step in 0..STEPS + 300 {
        let to = dice.roll(REGIONS);
        if step < STEPS && dice.roll(3) > 0 {
            // Several commands end in one frame.
            for _ in 0..=dice.roll(12) {
                let line = command(&mut dice);
                regions[to].execute(&line);
            }
            let frames = regions[to].commit();
            logs[to].extend(frames);
            continue;
        }
        let from = (to + 1 + dice.roll(REGIONS - 1)) % REGIONS;
        let have = regions[to].vector();
        let lacks = |bytes: &&Vec<u8>| {
            let header = Frame::decode(bytes).expect("a frame").header;
            header.origin != Origin(to as u16) && header.last > have.get(header.origin)
        };
        let frames: Vec<Vec<u8>> =
            logs[from].iter().filter(lacks).take(1 + dice.roll(9)).cloned().collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let packed = Batch::packed(1, &frames);
        let plain = Batch::plain(&packed).expect("what was packed");
        let batch = Batch::decode(&plain).expect("a batch");
        assert_eq!(batch.frames.len(), frames.len());
        // Looking at everything takes time: not after every batch.
        let mut expected = (dice.roll(4) == 0).then(|| regions[to].engine.stage().clone());
        for (unpacked, original) in batch.frames.iter().zip(&frames) {
            let is_taken = regions[to].engine.apply_frame(unpacked).is_ok();
            if let Some(stage) = &mut expected {
                assert_eq!(stage.apply_frame(original).is_ok(), is_taken, "both wait, or none");
            }
            if !is_taken {
                break;
            }
            logs[to].extend(regions[to].commit());
            taken += 1;
        }
        if let Some(mut expected) = expected {
            let mut held = regions[to].engine.stage().clone();
            assert_eq!(digest(&mut held), digest(&mut expected), "seed {seed}");
        }
    }
    taken
}

#[test]
fn packed_frames_leave_what_they_would_have_left() {
    let taken: usize = (0..SEEDS).map(history).sum();
    assert!(taken > 1000, "{taken} frames");
}
