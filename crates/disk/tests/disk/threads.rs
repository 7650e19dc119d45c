//! A writer, a syncer, a releaser and readers at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use meridian_store::{Entries, LogPosition, StoreError};

use crate::support::{numbered, numbers, open, segments};

const ENTRIES: u64 = 3000;

#[test]
fn readers_see_every_entry_once_and_only_whole_while_segments_turn() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path()).unwrap();
    let (mut writer, syncer, reader) = (opened.writer, opened.syncer, opened.reader);
    let finished = AtomicBool::new(false);
    let slowest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..ENTRIES {
                let padding = (number * 37 % 900) as usize;
                writer.append(&numbered(number, padding, syncer.durable())).unwrap();
            }
            finished.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            loop {
                let last_round = finished.load(Ordering::Acquire);
                let durable = syncer.sync().unwrap();
                syncer.prepare().unwrap();
                assert!(durable <= reader.bounds().1);
                syncer.release(LogPosition(slowest.load(Ordering::Acquire))).unwrap();
                if last_round {
                    break;
                }
            }
        });
        // Follows what is durable, as a peer's feed does, and lets go of what it has read.
        scope.spawn(|| {
            let (mut next, mut at) = (0, LogPosition(0));
            while next < ENTRIES {
                let bytes = reader.read_durable(at, 5000).unwrap();
                for entry in Entries::new(&bytes, at) {
                    for frame in entry.frames() {
                        assert_eq!(frame[..8], next.to_le_bytes());
                        next += 1;
                    }
                    at = entry.end;
                }
                slowest.store(at.0, Ordering::Release);
                std::thread::yield_now();
            }
        });
    });
    assert_eq!(syncer.durable(), reader.bounds().1, "all was synced in the end");
    assert!(reader.bounds().0 > LogPosition(0), "segments went");
    assert_eq!(reader.segments(), segments(directory.path()).len());
}

#[test]
fn durable_means_durable_and_released_means_not_held() {
    let directory = tempfile::tempdir().unwrap();
    let mut opened = open(directory.path()).unwrap();
    let mut ends = vec![];
    for number in 0..10 {
        ends.push(opened.writer.append(&numbered(number, 1000, LogPosition(0))).unwrap());
    }
    let sealed = opened.syncer.durable();
    assert_eq!(sealed, ends[8], "what a rotation leaves behind is durable, the rest is not");
    assert_eq!(opened.reader.read_durable(sealed, 100).unwrap(), b"");
    assert!(matches!(opened.reader.read_durable(ends[9], 1), Err(StoreError::NotHeld(_))));
    opened.syncer.release(ends[9]).unwrap();
    assert_eq!(opened.reader.bounds().0, ends[8], "no further than what is durable");
    assert!(matches!(opened.reader.read(LogPosition(0), 1), Err(StoreError::NotHeld(_))));
    assert_eq!(numbers(&opened, ends[8]), [9]);
    assert_eq!(segments(directory.path()).len(), 1);
}

#[test]
fn an_entry_larger_than_a_segment_gets_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut opened = open(directory.path()).unwrap();
    for (number, padding) in [(0, 10), (1, 300_000), (2, 10), (3, 10)] {
        opened.writer.append(&numbered(number, padding, LogPosition(0))).unwrap();
    }
    assert_eq!(opened.reader.segments(), 3);
    assert_eq!(numbers(&opened, LogPosition(0)), [0, 1, 2, 3]);
    drop(opened);
    assert_eq!(numbers(&open(directory.path()).unwrap(), LogPosition(0)), [0, 1, 2, 3]);
}

#[test]
fn what_is_no_entry_is_not_appended() {
    let directory = tempfile::tempdir().unwrap();
    let mut opened = open(directory.path()).unwrap();
    assert!(matches!(opened.writer.append(b""), Err(StoreError::Io { .. })));
    assert_eq!(opened.reader.bounds().1, LogPosition(0));
}
