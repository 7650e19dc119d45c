//! A full disk: an error that says so, and nothing lost of what was acknowledged.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use meridian_store::{LogPosition, StoreError};

use crate::support::{Second, numbered, numbers, open, told};

/// Mounts a small file system where nobody else sees it, then runs what it is told.
const SCRIPT: &str = "mount -t tmpfs -o size=16m none \"$MERIDIAN_TEST_DIRECTORY\" && exec \"$@\"";

fn in_namespace() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"]);
    command
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let can = in_namespace().arg("true").env("MERIDIAN_TEST_DIRECTORY", directory.path()).status();
    if !can.is_ok_and(|status| status.success()) {
        println!("skipped: a file system of its own needs unshare and the right to mount");
        return;
    }
    let mut command = in_namespace();
    command.arg(std::env::current_exe().unwrap());
    let mut child = Second::by(command, "full::child_fills_the_disk", directory.path());
    let kept = child.next("kept ");
    assert!(child.wait(), "the test in the other process failed");
    assert!(kept.expect("it says how much").parse::<u64>().unwrap() > 0);
}

#[test]
#[ignore = "the second process of another test"]
fn child_fills_the_disk() {
    let directory = told();
    let mut opened = open(&directory).unwrap();
    let filler = directory.join("log").join("filler");
    fill(&filler);

    let mut acknowledged = 0;
    let error = loop {
        match opened.writer.append(&numbered(acknowledged, 500, opened.syncer.durable())) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    let StoreError::Io { what, source } = error else { panic!("not an I/O error: {error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{what}: {source}");
    assert!(acknowledged > 0 && what.contains(".seg"), "after {acknowledged}: {what}");
    assert!(opened.writer.append(&numbered(0, 0, LogPosition(0))).is_err(), "final");
    drop(opened);

    fs::remove_file(filler).unwrap();
    let opened = open(&directory).unwrap();
    assert_eq!(numbers(&opened, LogPosition(0)), (0..acknowledged).collect::<Vec<_>>());
    println!("kept {acknowledged}");
}

/// Writes until nothing more fits.
fn fill(path: &std::path::Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 20, 4096] {
        let block = vec![1; size];
        while file.write_all(&block).is_ok() {}
    }
}
