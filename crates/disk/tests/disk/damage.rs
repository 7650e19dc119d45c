//! A tail that was never durable is cut off; damage to what was durable stops the start.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use meridian_disk::{DataDir, DiskOptions, Opened};
use meridian_store::{CheckpointBatch, LogPosition, StoreError};

use crate::support::{copy, identity, meta, numbered, numbers, open, segments, small};

/// Appends entries `numbers`, each saying that all before it is durable. Returns their starts and
/// the end.
fn fill(opened: &mut Opened, numbers: std::ops::Range<u64>, padding: usize) -> Vec<LogPosition> {
    let mut positions = vec![opened.writer.end()];
    for number in numbers {
        let durable = opened.syncer.sync().unwrap();
        positions.push(opened.writer.append(&numbered(number, padding, durable)).unwrap());
    }
    opened.syncer.prepare().unwrap();
    positions
}

fn corrupt(directory: &Path) -> (String, u64, String) {
    match open(directory) {
        Err(StoreError::Corrupt { file, offset, reason }) => (file, offset, reason),
        Err(other) => panic!("failed, but not for corruption: {other}"),
        Ok(opened) => panic!("opened: {:?}", opened.recovered),
    }
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn a_file_cut_anywhere_in_the_last_entry_loses_only_that() {
    let origin = tempfile::tempdir().unwrap();
    let mut opened = open(origin.path()).unwrap();
    let positions = fill(&mut opened, 0..4, 10);
    drop(opened);
    let [.., last, end] = positions[..] else { panic!("four entries") };
    for length in last.0..end.0 {
        let directory = tempfile::tempdir().unwrap();
        copy(origin.path(), directory.path());
        let path = segments(directory.path()).remove(0);
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let mut opened = open(directory.path()).unwrap();
        assert_eq!(opened.recovered.end, last);
        match &opened.recovered.torn {
            None => assert_eq!(length, last.0, "nothing was left of the entry"),
            Some(torn) => {
                assert_eq!((&torn.file, torn.offset), (&path, last.0));
                assert!((1..=length - last.0).contains(&torn.bytes));
            }
        }
        fill(&mut opened, 9..10, 10);
        drop(opened);
        let opened = open(directory.path()).unwrap();
        assert_eq!(opened.recovered.torn, None, "mended for good");
        assert_eq!(numbers(&opened, LogPosition(0)), [0, 1, 2, 9]);
    }
}

#[test]
fn garbage_in_the_reserved_part_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let mut opened = open(directory.path()).unwrap();
    let end = *fill(&mut opened, 0..3, 10).last().unwrap();
    let stale = numbered(99, 10, LogPosition(0));
    drop(opened);
    let path = segments(directory.path()).remove(0);
    // At the end, behind a hole, and a whole entry behind a hole where the next one would end.
    for (offset, garbage) in [(0, &[0xa5; 40][..]), (700, &[1][..]), (stale.len() as u64, &stale)] {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(garbage, end.0 + offset).unwrap();
        let opened = open(directory.path()).unwrap();
        assert_eq!(opened.recovered.end, end);
        let torn = opened.recovered.torn.clone().expect("a torn tail");
        assert_eq!((torn.offset, torn.bytes), (end.0, offset + garbage.len() as u64));
        assert_eq!(numbers(&opened, LogPosition(0)), [0, 1, 2]);
        drop(opened);
        let rest = fs::read(&path).unwrap().split_off(end.0 as usize);
        assert!(!rest.is_empty() && rest.iter().all(|byte| *byte == 0), "reserved and clean");
    }
}

#[test]
fn a_flipped_byte_in_a_durable_entry_stops_the_start() {
    let origin = tempfile::tempdir().unwrap();
    let mut opened = open(origin.path()).unwrap();
    let positions = fill(&mut opened, 0..3, 10);
    drop(opened);
    for offset in positions[1].0..positions[2].0 {
        let directory = tempfile::tempdir().unwrap();
        copy(origin.path(), directory.path());
        let path = segments(directory.path()).remove(0);
        flip(&path, offset);
        let (file, at, _) = corrupt(directory.path());
        assert_eq!((file, at), (path.display().to_string(), positions[1].0));
    }
}

/// A log of several segments and a checkpoint that wants it from entry `from` on.
fn segmented(directory: &Path, from: usize) -> Vec<LogPosition> {
    let mut opened = open(directory).unwrap();
    let positions = fill(&mut opened, 0..20, 1000);
    let batch =
        meridian_store::CheckpointBatch { meta: Some(meta(positions[from])), ..Default::default() };
    opened.checkpoint.write(batch).unwrap();
    drop(opened);
    assert_eq!(segments(directory).len(), 7);
    positions
}

fn completing(position: LogPosition) -> CheckpointBatch {
    CheckpointBatch { meta: Some(meta(position)), ..Default::default() }
}

#[test]
fn a_flipped_byte_in_a_sealed_segment_is_found_after_the_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    // Three entries fill a segment; the checkpoint stands in the middle of the second one.
    let positions = segmented(directory.path(), 4);
    let paths = segments(directory.path());
    flip(&paths[0], 100);
    flip(&paths[1], 100);
    let opened = open(directory.path()).expect("what lies before the checkpoint is not needed");
    assert_eq!(numbers(&opened, positions[4]), (4..20).collect::<Vec<_>>());
    let lazily = opened.reader.read(LogPosition(0), 1);
    assert!(matches!(lazily, Err(StoreError::Corrupt { file, .. })
        if file == paths[0].display().to_string()));
    drop(opened);

    flip(&paths[1], fs::metadata(&paths[1]).unwrap().len() - 1);
    let (file, offset, _) = corrupt(directory.path());
    assert_eq!(file, paths[1].display().to_string());
    assert_eq!(offset, positions[5].0 - positions[3].0);
}

#[test]
fn a_log_that_is_not_whole_stops_the_start() {
    type Harm = fn(&[PathBuf]);
    // What is done, where the checkpoint wants the log from, and which segment is named.
    let harms: [(&str, Harm, usize, usize); 6] = [
        ("a segment in the middle is gone", |paths| fs::remove_file(&paths[3]).unwrap(), 1, 2),
        ("the checkpoint's segment is gone", |paths| fs::remove_file(&paths[0]).unwrap(), 1, 1),
        ("a sealed segment is short", |paths| cut(&paths[2]), 1, 2),
        ("the last segment is gone", |paths| fs::remove_file(&paths[6]).unwrap(), 20, 5),
        ("the last segment is zeros", |paths| wipe(&paths[6]), 20, 6),
        ("all are gone", |paths| paths.iter().for_each(|p| fs::remove_file(p).unwrap()), 20, 0),
    ];
    for (name, harm, from, named) in harms {
        let directory = tempfile::tempdir().unwrap();
        segmented(directory.path(), from);
        let paths = segments(directory.path());
        harm(&paths);
        let (file, _, reason) = corrupt(directory.path());
        assert_eq!(Path::new(&file), paths[named], "{name}: {reason}");
    }
}

#[test]
fn a_sealed_segment_may_still_be_long_if_it_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    // The first segment was reserved when they were large; without `prepare` nothing is given
    // back.
    let large = DiskOptions { segment_bytes: 1 << 20, ..small() };
    let mut opened = DataDir::open(directory.path(), &identity(), large).unwrap();
    opened.writer.append(&numbered(0, 3000, LogPosition(0))).unwrap();
    drop(opened);
    let mut opened = open(directory.path()).unwrap();
    for (number, padding) in [(1, 2000), (2, 5000), (3, 0)] {
        opened.writer.append(&numbered(number, padding, LogPosition(0))).unwrap();
    }
    let end = opened.writer.end();
    opened.syncer.sync().unwrap();
    opened.checkpoint.write(completing(end)).unwrap();
    drop(opened);
    let paths = segments(directory.path());
    assert_eq!(paths.len(), 4);
    assert_eq!(fs::metadata(&paths[0]).unwrap().len(), 1 << 20, "still as it was reserved");

    let without = tempfile::tempdir().unwrap();
    copy(directory.path(), without.path());
    fs::remove_file(&segments(without.path())[1]).unwrap();
    let (file, _, _) = corrupt(without.path());
    assert_eq!(Path::new(&file), segments(without.path())[0], "a gap is no spare room");

    let opened = open(directory.path()).unwrap();
    assert_eq!(numbers(&opened, LogPosition(0)), [0, 1, 2, 3]);
    assert!(fs::metadata(&paths[0]).unwrap().len() < 4096, "given back");
}

#[test]
fn a_spare_file_is_used_once_and_never_read() {
    let directory = tempfile::tempdir().unwrap();
    let spare = directory.path().join("log/spare");
    let mut opened = open(directory.path()).unwrap();
    fill(&mut opened, 0..3, 1000);
    assert_eq!(fs::metadata(&spare).unwrap().len(), 4096, "ready for the next segment");
    opened.writer.append(&numbered(3, 1000, LogPosition(0))).unwrap();
    assert!(!spare.exists() && opened.reader.segments() == 2, "it is the segment now");
    opened.syncer.prepare().unwrap();
    assert!(!spare.exists(), "not before the segment is half full");
    drop(opened);
    fs::write(&spare, numbered(99, 0, LogPosition(0))).unwrap();
    let mut opened = open(directory.path()).unwrap();
    fill(&mut opened, 4..9, 1000);
    assert_eq!(numbers(&opened, LogPosition(0)), (0..9).collect::<Vec<_>>());
}

fn cut(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
}

fn wipe(path: &Path) {
    let length = fs::metadata(path).unwrap().len();
    fs::write(path, vec![0; length as usize]).unwrap();
}
