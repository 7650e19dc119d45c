//! What the suite for all storage does not ask of the checkpoint.

use std::fs;

use meridian_disk::Checkpoint;
use meridian_store::{CheckpointBatch, LogPosition, StoreError, element_key, key_prefix};

use crate::support::{meta, open};

fn put(key: &[u8], element: &[u8], value: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    (element_key(1, key, element), Some(value.to_vec()))
}

fn of_key(checkpoint: &Checkpoint, key: &[u8]) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    checkpoint
        .for_key(&key_prefix(1, key), &mut |_, value| {
            values.push(value.to_vec());
            Ok(())
        })
        .unwrap();
    values
}

#[test]
fn the_elements_of_one_key_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoint = open(directory.path()).unwrap().checkpoint;
    let puts = vec![
        put(b"a", b"\x02x", b"1"),
        put(b"a", b"\x02y", b"2"),
        put(b"aa", b"\x02x", b"3"),
        put(b"b", b"\x02x", b"4"),
    ];
    checkpoint.write(CheckpointBatch { puts, ..Default::default() }).unwrap();
    assert_eq!(of_key(&checkpoint, b"a"), [b"1", b"2"]);
    assert_eq!(of_key(&checkpoint, b"aa"), [b"3"]);
    assert_eq!(of_key(&checkpoint, b"aaa"), Vec::<Vec<u8>>::new());
    let one = checkpoint.get(&element_key(1, b"a", b"\x02y")).unwrap();
    assert_eq!(one.as_deref(), Some(&b"2"[..]));
    assert!(checkpoint.get(&element_key(2, b"a", b"\x02y")).unwrap().is_none());
}

#[test]
fn a_visitor_that_fails_ends_the_scan() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoint = open(directory.path()).unwrap().checkpoint;
    let puts = vec![put(b"a", b"", b"1"), put(b"b", b"", b"2")];
    checkpoint.write(CheckpointBatch { puts, ..Default::default() }).unwrap();
    let mut visited = 0;
    let result = checkpoint.elements(&mut |_, _| {
        visited += 1;
        Err(StoreError::NotHeld(LogPosition(0)))
    });
    assert!(matches!(result, Err(StoreError::NotHeld(_))));
    assert_eq!(visited, 1);
}

#[test]
fn only_a_record_makes_writes_durable() {
    let directory = tempfile::tempdir().unwrap();
    let checkpoint = open(directory.path()).unwrap().checkpoint;
    let puts: Vec<_> = (0..1000u32).map(|n| put(&n.to_be_bytes(), b"", &[n as u8; 100])).collect();
    checkpoint.write(CheckpointBatch { puts, ..Default::default() }).unwrap();
    let before = checkpoint.stats();
    assert_eq!(before.disk_bytes, 0);
    assert!(before.memtable_bytes > 100_000, "{before:?}");
    let meta = Some(meta(LogPosition(0)));
    checkpoint.write(CheckpointBatch { meta, ..Default::default() }).unwrap();
    let after = checkpoint.stats();
    assert!(after.disk_bytes > 0 && after.memtable_bytes < before.memtable_bytes, "{after:?}");
    assert_eq!(after.keys, 1000);
}

#[test]
fn a_flipped_byte_in_a_table_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path()).unwrap();
    let puts = (0..500u32).map(|n| put(&n.to_be_bytes(), b"", &[n as u8; 100])).collect();
    let meta = Some(meta(LogPosition(0)));
    opened.checkpoint.write(CheckpointBatch { puts, meta, ..Default::default() }).unwrap();
    drop(opened);
    let tables = fs::read_dir(directory.path().join("rocks")).unwrap();
    let tables = tables.map(|file| file.unwrap().path());
    let largest = tables
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[1000] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let error = match open(directory.path()) {
        Err(error) => error,
        Ok(opened) => opened.checkpoint.elements(&mut |_, _| Ok(())).unwrap_err(),
    };
    let (text, name) = (error.to_string(), largest.file_name().unwrap().to_str().unwrap());
    assert!(text.contains("orruption") && text.contains(name), "{text}");
}
