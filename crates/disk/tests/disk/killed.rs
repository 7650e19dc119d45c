//! A process that is killed in the middle of its work loses nothing that it appended, and leaves
//! a checkpoint that is a prefix of what it wrote.

use std::io::Write;
use std::path::Path;

use meridian_clock::{Origin, Time};
use meridian_store::{CheckpointBatch, LogPosition, Meta, element_key};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::support::{Second, meta, numbered, numbers, open, told};

#[test]
fn sigkill_while_appending_loses_no_appended_entry() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let mut acknowledged = 0;
    for round in 0..5 {
        let mut child = Second::start("killed::child_appends", directory.path());
        for _ in 0..random.random_range(50..500) {
            acknowledged = said(&mut child).expect("the child goes on");
        }
        child.kill();
        // What it said until the end counts.
        while let Some(number) = said(&mut child) {
            acknowledged = number;
        }
        let opened = open(directory.path()).unwrap();
        let found = numbers(&opened, LogPosition(0));
        assert!(found.len() as u64 > acknowledged, "round {round}: {acknowledged} is lost");
        assert!(found.iter().copied().eq(0..found.len() as u64), "in order, each once");
    }
}

fn said(child: &mut Second) -> Option<u64> {
    child.next("appended ").map(|number| number.parse().expect("a number"))
}

#[test]
#[ignore = "the second process of another test"]
fn child_appends() {
    let mut opened = open(&told()).unwrap();
    let mut number = numbers(&opened, LogPosition(0)).len() as u64;
    let syncer = opened.syncer.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || while syncer.sync().is_ok() {});
        let mut out = std::io::stdout().lock();
        loop {
            let entry = numbered(number, (number % 700) as usize, opened.syncer.durable());
            opened.writer.append(&entry).unwrap();
            if writeln!(out, "appended {number}").is_err() {
                // The parent is gone; the other thread would go on.
                std::process::exit(1);
            }
            number += 1;
        }
    });
}

#[test]
fn sigkill_while_checkpointing_leaves_a_prefix_of_the_batches() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..4 {
        let mut child = Second::start("killed::child_checkpoints", directory.path());
        let mut completed = 0;
        for _ in 0..random.random_range(1..40) {
            completed = complete(&mut child).expect("the child goes on");
        }
        child.kill();
        while let Some(batch) = complete(&mut child) {
            completed = batch;
        }
        check_prefix(directory.path(), completed);
    }
}

fn complete(child: &mut Second) -> Option<u64> {
    child.next("completed ").map(|batch| batch.parse().expect("a number"))
}

/// Batch `n` sets all of [`CELLS`] cells to `n`; each tenth is completed by a record.
const CELLS: u64 = 50;

fn check_prefix(directory: &Path, completed: u64) {
    let opened = open(directory).unwrap();
    let record = opened.checkpoint.meta().unwrap().expect("a record");
    let record = number_of(&record);
    assert!(record >= completed, "{completed} was completed, {record} is there");
    let mut values = Vec::new();
    opened
        .checkpoint
        .elements(&mut |_, value| {
            values.push(u64::from_le_bytes(value[..8].try_into().unwrap()));
            Ok(())
        })
        .unwrap();
    assert_eq!(values.len() as u64, CELLS);
    assert!(values.iter().all(|value| *value == values[0]), "a batch is there in part: {values:?}");
    assert!(values[0] >= record, "older than the record: {} < {record}", values[0]);
}

/// A record that carries a batch's number.
fn record(batch: u64) -> Vec<u8> {
    let mut meta = Meta::decode(&meta(LogPosition(0))).unwrap();
    meta.vectors[0].set(Origin(0), Time(batch));
    meta.encode()
}

fn number_of(record: &[u8]) -> u64 {
    Meta::decode(record).unwrap().vectors[0].get(Origin(0)).0
}

#[test]
#[ignore = "the second process of another test"]
fn child_checkpoints() {
    let opened = open(&told()).unwrap();
    let last = opened.checkpoint.meta().unwrap().map_or(0, |record| number_of(&record));
    let mut out = std::io::stdout().lock();
    for batch in last + 1.. {
        let put = |cell: u64| {
            let mut value = batch.to_le_bytes().to_vec();
            value.resize(500, 0);
            (element_key(1, &cell.to_be_bytes(), b""), Some(value))
        };
        let puts = (0..CELLS).map(put).collect();
        let record = (batch % 10 == 0).then(|| record(batch));
        let complete = record.is_some();
        opened.checkpoint.write(CheckpointBatch { puts, meta: record, cleared: vec![] }).unwrap();
        if complete {
            writeln!(out, "completed {batch}").unwrap();
        }
    }
}
