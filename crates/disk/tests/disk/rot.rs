//! Rot: any byte of any file of a real directory is flipped. What is found then is either the very
//! state that was there, or a refusal that names the file; never something else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use meridian_disk::{DataDir, DiskStorage, Scrub};
use meridian_store::{LogPosition, StoreError};

use crate::region::{Region, START_MS, digests, recovered};
use crate::support::{copy, files_below, identity, segments, small};

/// Offsets that are tried in a file of RocksDB or the log; smaller files are tried whole.
const OFFSETS: usize = 24;

/// What the next process finds.
fn found(directory: &Path) -> Result<Vec<(u16, u64)>, String> {
    let opened = DataDir::open(directory, &identity(), small()).map_err(|e| e.to_string())?;
    let storage = DiskStorage::from(opened);
    let stage = recovered(&storage, &identity()).map_err(|e| e.to_string());
    Ok(digests(&mut stage?))
}

/// A directory with everything in it that one can hold: several tables, a log of several segments
/// before and after the checkpoint, counters and deadlines. Closed in an orderly way, or killed
/// with its last writes synced.
fn made(directory: &Path) -> Vec<(u16, u64)> {
    let mut region = Region::start(directory);
    for round in 0..3u64 {
        for number in 0..25 {
            let ms = START_MS + round * 100 + number;
            region.set(ms, &format!("key:{round}:{number}"), &"v".repeat(120));
            region.add(ms, &format!("counter:{}", number % 5), 1);
        }
        region.checkpoint();
    }
    for number in 0..25 {
        region.set(START_MS + 1000 + number, &format!("later:{number}"), &"w".repeat(120));
    }
    region.sync();
    digests(&mut region.stage)
}

#[test]
fn a_flipped_byte_anywhere_changes_nothing_or_stops_the_start_by_name() {
    let origin = tempfile::tempdir().unwrap();
    let good = made(origin.path());
    let mut stopped: BTreeMap<String, usize> = BTreeMap::new();
    for file in files_below(origin.path()) {
        let within = file.strip_prefix(origin.path()).unwrap().to_owned();
        let kind = within.display().to_string();
        if kind == "LOCK" || kind.starts_with("rocks/LOG") || kind == "log/spare" {
            continue;
        }
        let length = fs::metadata(&file).unwrap().len() as usize;
        let used = match kind.starts_with("log/") {
            // Behind its end a segment is reserved and reads as zeros.
            true => fs::read(&file).unwrap().iter().rposition(|b| *b != 0).map_or(0, |at| at + 1),
            false => length,
        };
        let step = (used / OFFSETS).max(1);
        for (turn, offset) in (0..used).step_by(step).chain(used.checked_sub(1)).enumerate() {
            let directory = tempfile::tempdir().unwrap();
            copy(origin.path(), directory.path());
            let path = directory.path().join(&within);
            let mut bytes = fs::read(&path).unwrap();
            bytes[offset] ^= 1 << (turn % 8);
            fs::write(&path, bytes).unwrap();
            match found(directory.path()) {
                Ok(state) => assert!(state == good, "{kind} at {offset}: another state"),
                Err(text) => {
                    let name = within.file_name().unwrap().to_str().unwrap();
                    let names_it = text.contains(name) || text.contains("rocks");
                    assert!(names_it, "{kind} at {offset}: {text}");
                    *stopped.entry(kind_of(&kind)).or_default() += 1;
                }
            }
        }
    }
    // It is no accident that the state is right: damage is noticed in each kind of file.
    for kind in ["FORMAT", "sst", "seg", "MANIFEST", "CURRENT"] {
        assert!(stopped.get(kind).is_some_and(|times| *times > 3), "{kind}: {stopped:?}");
    }
}

fn kind_of(name: &str) -> String {
    let last = name.rsplit(['.', '/']).next().unwrap_or_default();
    last.split('-').next().unwrap_or_default().to_owned()
}

#[test]
fn rot_in_the_last_entry_that_was_durable_is_no_torn_write() {
    let directory = tempfile::tempdir().unwrap();
    let mut region = Region::start(directory.path());
    region.set(START_MS, "a", "1");
    let before = region.end();
    region.set(START_MS + 1, "a", "2");
    region.sync();
    drop(region);
    let path = segments(directory.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[before.0 as usize + 30] ^= 1;
    fs::write(&path, bytes).unwrap();
    match DataDir::open(directory.path(), &identity(), small()) {
        Err(StoreError::Corrupt { file, offset, .. }) => {
            assert_eq!((Path::new(&file), offset), (path.as_path(), before.0));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_check_of_a_running_directory_names_what_has_rotted() {
    let directory = tempfile::tempdir().unwrap();
    made(directory.path());
    let mut region = Region::start(directory.path());
    let (reader, checkpoint) = (region.opened.reader.clone(), region.opened.checkpoint.clone());
    let scrub = Scrub::new(directory.path(), reader, checkpoint);
    let log = || scrub.log(LogPosition(0), &mut |_| true);
    let checkpoint = || scrub.checkpoint(&mut |_| true);
    assert!(log().expect("all is sound") > 10_000);
    assert!(checkpoint().expect("all is sound") > 10_000);

    let segment = segments(directory.path()).remove(0);
    flip(&segment, 40);
    let error = log().unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { file, .. } if Path::new(file) == segment));
    flip(&segment, 40);
    assert!(log().is_ok());

    let mut tables = files_below(&directory.path().join("rocks"));
    tables.retain(|path| path.extension().is_some_and(|e| e == "sst"));
    let table = tables.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    flip(table, 100);
    let text = checkpoint().unwrap_err().to_string();
    assert!(text.contains(table.file_name().unwrap().to_str().unwrap()), "{text}");
    assert!(text.contains(&directory.path().join("rocks").display().to_string()), "{text}");

    // What is in memory is all that is needed to write it anew.
    let before = digests(&mut region.stage);
    region.fresh_checkpoint();
    checkpoint().expect("nothing of the old checkpoint is left");
    region.set(START_MS + 5000, "after", "yes");
    region.checkpoint();
    checkpoint().expect("it is used");
    let now = digests(&mut region.stage);
    assert_ne!(now, before);
    drop(scrub);
    drop(region);
    assert_eq!(found(directory.path()), Ok(now));
    let left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("rocks.")), "{left:?}");
}

#[test]
fn a_crash_while_a_checkpoint_is_written_anew_leaves_one_of_the_two() {
    let origin = tempfile::tempdir().unwrap();
    let good = made(origin.path());
    let rocks = |path: &Path, suffix: &str| path.join(format!("rocks{suffix}"));
    // Half of the new one is there; the old one counts.
    let directory = tempfile::tempdir().unwrap();
    copy(origin.path(), directory.path());
    fs::create_dir(rocks(directory.path(), ".new")).unwrap();
    fs::write(rocks(directory.path(), ".new").join("CURRENT"), "half").unwrap();
    assert_eq!(found(directory.path()), Ok(good.clone()));
    assert!(!rocks(directory.path(), ".new").exists());
    // The old one is aside, the new one whole and not yet in its place.
    let directory = tempfile::tempdir().unwrap();
    copy(origin.path(), directory.path());
    fs::rename(rocks(directory.path(), ""), rocks(directory.path(), ".new")).unwrap();
    fs::create_dir(rocks(directory.path(), ".old")).unwrap();
    assert_eq!(found(directory.path()), Ok(good.clone()));
    assert!(!rocks(directory.path(), ".old").exists());
    // The new one is in its place, the old one not yet removed.
    let directory = tempfile::tempdir().unwrap();
    copy(origin.path(), directory.path());
    fs::create_dir(rocks(directory.path(), ".old")).unwrap();
    fs::write(rocks(directory.path(), ".old").join("CURRENT"), "old").unwrap();
    assert_eq!(found(directory.path()), Ok(good));
    assert!(!rocks(directory.path(), ".old").exists());
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    // In place: RocksDB and the log have the file open.
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
}
