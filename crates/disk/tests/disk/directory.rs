//! Who may open a directory.

use std::io::Write;

use meridian_clock::Origin;
use meridian_disk::DataDir;
use meridian_store::{Identity, LogPosition, StoreError};

use crate::support::{Second, identity, numbered, numbers, open, small, told};

fn refusal(result: Result<impl Sized, StoreError>) -> String {
    match result {
        Err(StoreError::Refused(why)) => why,
        Err(other) => panic!("failed, but was not refused: {other}"),
        Ok(_) => panic!("was not refused"),
    }
}

#[test]
fn a_second_process_is_refused_until_the_first_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let mut second = Second::start("directory::child_holds_the_directory", directory.path());
    second.next("holding").expect("the other process opened it");
    let why = refusal(open(directory.path()));
    assert!(why.contains(&directory.path().display().to_string()), "{why}");
    assert!(why.contains(&second.id().to_string()), "{why}");
    second.kill();
    second.wait();
    open(directory.path()).expect("free again");
}

#[test]
#[ignore = "the second process of another test"]
fn child_holds_the_directory() {
    let _held = open(&told()).unwrap();
    println!("holding");
    std::io::stdout().flush().unwrap();
    // Ends when it is killed, or when the parent is gone.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn the_directory_is_locked_until_the_last_handle_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path()).unwrap();
    refusal(open(directory.path()));
    let reader = opened.reader.clone();
    drop(opened);
    refusal(open(directory.path()));
    drop(reader);
    let opened = open(directory.path()).unwrap();
    let checkpoint = opened.checkpoint.clone();
    drop(opened);
    refusal(open(directory.path()));
    drop(checkpoint);
    open(directory.path()).unwrap();
}

#[test]
fn somebody_elses_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let others = [
        Identity { cluster: "bank".into(), ..identity() },
        Identity { region: "eu-central".into(), ..identity() },
        Identity { origin: Origin(1), ..identity() },
        Identity { partitions: 4, ..identity() },
    ];
    for other in others {
        let why = refusal(DataDir::open(directory.path(), &other, small()));
        assert!(why.contains("us-east") && why.contains("shop"), "{why}");
    }
    open(directory.path()).expect("still its owner's");
}

#[test]
fn a_newer_format_is_refused_and_a_damaged_one_named() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let path = directory.path().join("FORMAT");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("format 3", "format 99")).unwrap();
    let why = refusal(open(directory.path()));
    assert!(why.contains("newer") && why.contains("format is 99"), "{why}");
    std::fs::write(&path, text.replace("us-east", "us-yeast")).unwrap();
    match open(directory.path()) {
        Err(StoreError::Corrupt { file, .. }) => assert_eq!(file, path.display().to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("thesis.txt"), "years of work").unwrap();
    let why = refusal(open(directory.path()));
    assert!(why.contains("thesis.txt"), "{why}");
    assert!(!directory.path().join("log").exists());
}

#[test]
fn a_crash_while_creating_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("LOCK"), "").unwrap();
    std::fs::write(directory.path().join("FORMAT.new"), "meridian da").unwrap();
    let mut opened = open(directory.path()).expect("begins anew");
    opened.writer.append(&numbered(7, 0, LogPosition(0))).unwrap();
    drop(opened);
    assert_eq!(numbers(&open(directory.path()).unwrap(), LogPosition(0)), [7]);
}

#[test]
fn a_name_that_would_break_the_format_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let other = Identity { region: "us\npartitions 9".into(), ..identity() };
    refusal(DataDir::open(directory.path(), &other, small()));
}
