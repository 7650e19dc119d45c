//! Backups of a real directory: taken while it is written, read back, damaged, pruned, restored.

use std::fs;
use std::path::{Path, PathBuf};

use meridian_clock::{Origin, Time};
use meridian_disk::{
    BackupStorage, DataDir, Manifest, NoPlan, Pace, Plan, Progress, Repository, Source, Taken,
    restore, take,
};
use meridian_store::{Identity, StoreError};

use crate::region::{Region, START_MS, digests, get, recovered};
use crate::support::{files_below, identity, small};

/// What a restored region is called.
fn reborn() -> Identity {
    Identity { origin: Origin(7), ..identity() }
}

fn back_up(region: &mut Region, directory: &Path, repository: &Repository, ms: u64) -> Taken {
    back_up_while(region, directory, repository, ms, |_| {})
}

/// Takes a backup with something written after the checkpoint was frozen.
fn back_up_while(
    region: &mut Region,
    directory: &Path,
    repository: &Repository,
    ms: u64,
    meanwhile: impl FnOnce(&mut Region),
) -> Taken {
    let (checkpoint, reader) = (region.opened.checkpoint.clone(), region.opened.reader.clone());
    let identity = identity();
    let source =
        Source { directory, identity: &identity, checkpoint: &checkpoint, reader: &reader };
    let mark = || {
        meanwhile(region);
        Ok(region.mark())
    };
    let id = format!("at-{ms}");
    take(repository, source, mark, (&id, ms), Pace::UNBOUNDED, &Progress::default()).unwrap()
}

/// Reads a backup back by a node's own recovery; its digests.
fn read_back(repository: &Repository, manifest: &Manifest) -> Result<Vec<(u16, u64)>, String> {
    for object in manifest.objects() {
        repository.check(object, Pace::UNBOUNDED).map_err(|e| e.to_string())?;
    }
    let storage = BackupStorage::open(repository, manifest).map_err(|e| e.to_string())?;
    let stage = recovered(&storage, &manifest.owner.identity()).map_err(|e| e.to_string());
    storage.close().unwrap();
    let found = digests(&mut stage?);
    let then = repository.digests(manifest).unwrap();
    assert_eq!((then.unknown(), then.differing(found.iter().copied())), (0, vec![]));
    Ok(found)
}

fn restored(repository: &Repository, plan: &Plan, to: &Path) -> Result<Region, StoreError> {
    restore(repository, plan, to, &reborn(), small())?.commit()?;
    Ok(Region::start_as(to, &reborn()))
}

struct Place {
    _root: tempfile::TempDir,
    data: PathBuf,
    backups: PathBuf,
    to: PathBuf,
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    Place { data: at("data"), backups: at("backups"), to: at("restored/data"), _root: root }
}

/// Writes numbered keys, a millisecond each.
fn fill(region: &mut Region, from: u64, count: u64) {
    for number in from..from + count {
        region.set(START_MS + number, &format!("key:{number}"), &"v".repeat(200));
        region.add(START_MS + number, &format!("counter:{}", number % 10), 1);
    }
}

#[test]
fn a_backup_taken_amid_writes_reads_back_as_the_node_was_at_its_mark() {
    let place = place();
    let mut region = Region::start(&place.data);
    let repository = Repository::open_or_create(&place.backups).unwrap();
    fill(&mut region, 0, 50);
    region.checkpoint_while(|region| fill(region, 50, 10));
    fill(&mut region, 60, 20);
    region.half_a_checkpoint();
    let taken = back_up_while(&mut region, &place.data, &repository, START_MS + 100, |region| {
        fill(region, 80, 15);
        region.checkpoint();
    });
    let then = digests(&mut region.stage);
    fill(&mut region, 95, 20);
    assert_ne!(digests(&mut region.stage), then);
    assert_eq!(read_back(&repository, &taken.manifest), Ok(then.clone()));
    assert!(!place.data.join("frozen").exists());

    let mut copy = restored(&repository, &Plan::whole(taken.manifest), &place.to).unwrap();
    assert_eq!(digests(&mut copy.stage), then);
    assert_eq!(copy.get("counter:3").as_deref(), Some("10"));
    copy.add(START_MS + 1000, "counter:3", 5);
    copy.checkpoint();
    drop(copy);
    let copy = Region::start_as(&place.to, &reborn());
    assert_eq!(copy.get("counter:3").as_deref(), Some("15"));
    assert!(matches!(DataDir::open(&place.to, &identity(), small()), Err(StoreError::Refused(_))));
}

#[test]
fn what_an_earlier_backup_holds_is_not_copied_again() {
    let place = place();
    let mut region = Region::start(&place.data);
    let repository = Repository::open_or_create(&place.backups).unwrap();
    fill(&mut region, 0, 300);
    region.checkpoint();
    let first = back_up(&mut region, &place.data, &repository, START_MS + 400);
    fill(&mut region, 300, 3);
    let second = back_up(&mut region, &place.data, &repository, START_MS + 500);
    assert!(second.copied < first.copied / 2, "{} after {}", second.copied, first.copied);
    assert!(second.reused > first.copied / 3, "{} of {}", second.reused, first.copied);
    let new_log: u64 = second.manifest.end.position - first.manifest.end.position;
    let pieces = &second.manifest.log;
    assert_eq!(pieces.last().unwrap().object.bytes, new_log, "only what is new of the log");
    for taken in [&first, &second] {
        assert!(read_back(&repository, &taken.manifest).is_ok());
    }
    // A node that was restarted goes on from the same backups.
    drop(region);
    let mut region = Region::start(&place.data);
    fill(&mut region, 303, 3);
    let third = back_up(&mut region, &place.data, &repository, START_MS + 600);
    assert_eq!(third.manifest.log.last().unwrap().from, second.manifest.end.position);
    assert_eq!(read_back(&repository, &third.manifest), Ok(digests(&mut region.stage)));
}

#[test]
fn any_instant_that_the_log_covers_is_restored_exactly() {
    let place = place();
    let mut region = Region::start(&place.data);
    let repository = Repository::open_or_create(&place.backups).unwrap();
    let mut history = vec![];
    for number in 0..40u64 {
        let ms = START_MS + number * 10;
        region.set_all(ms, &[("a", &number.to_string()), ("b", &number.to_string())]);
        region.add(ms + 1, "sum", 1);
        history.push((Time(Time::from_ms(ms + 1).0 + 1), digests(&mut region.stage)));
        match number {
            10 => region.checkpoint_while(|region| region.add(ms + 2, "aside", 1)),
            12 | 25 => drop(back_up(&mut region, &place.data, &repository, ms + 3)),
            20 => region.checkpoint(),
            _ => {}
        }
        if number == 10 {
            history.pop();
        }
    }
    let now_ms = START_MS + 400;
    back_up(&mut region, &place.data, &repository, now_ms);
    let backups = repository.manifests().unwrap();
    let first = backups[0].checkpoint_last();
    let mut tried = 0;
    for (number, (instant, expected)) in history.iter().enumerate().step_by(3) {
        let to = place.to.with_file_name(format!("at-{number}"));
        let plan = Plan::at(&backups, *instant);
        if *instant < first {
            assert_eq!(plan, Err(NoPlan::Before(first)));
            continue;
        }
        let plan = plan.unwrap();
        assert!(plan.base.checkpoint_last() <= *instant);
        let mut copy = restored(&repository, &plan, &to).unwrap();
        assert_eq!(&digests(&mut copy.stage), expected, "{number}");
        tried += 1;
    }
    assert!(tried > 6, "{tried}");
    assert!(Plan::at(&backups, Time::from_ms(now_ms + 1)).is_err(), "after the last mark");
    // Between the two stamps of one commit: all of it or nothing.
    let ms = START_MS + 300;
    let plan = Plan::at(&backups, Time(Time::from_ms(ms).0 + 1)).unwrap();
    let copy = restored(&repository, &plan, &place.to).unwrap();
    assert_eq!((copy.get("a"), copy.get("b")), (Some("29".to_owned()), Some("29".to_owned())));
}

#[test]
fn writes_of_other_regions_are_cut_where_they_were_stamped() {
    let place = place();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Identity { origin: Origin(1), region: "eu".into(), ..identity() };
    let mut there = Region::start_as(elsewhere.path(), &other);
    let mut region = Region::start(&place.data);
    let repository = Repository::open_or_create(&place.backups).unwrap();
    region.set(START_MS, "base", "yes");
    back_up(&mut region, &place.data, &repository, START_MS + 1);
    // Its clock is slow: stamped before the instant, arrived long after it.
    there.set(START_MS + 5, "slow", "yes");
    there.set(START_MS + 30, "late", "yes");
    region.set(START_MS + 20, "own", "yes");
    let frames = there.frames(meridian_store::LogPosition(0));
    region.receive(&frames);
    region.set(START_MS + 40, "after", "yes");
    back_up(&mut region, &place.data, &repository, START_MS + 50);
    let backups = repository.manifests().unwrap();
    let plan = Plan::at(&backups, Time::from_ms(START_MS + 25)).unwrap();
    let copy = restored(&repository, &plan, &place.to).unwrap();
    let there = ["base", "slow", "own", "late", "after"].map(|key| copy.get(key).is_some());
    assert_eq!(there, [true, true, true, false, false]);
    let vectors = copy.stage.vectors();
    assert!(vectors.iter().all(|v| v.get(Origin(1)) <= Time::from_ms(START_MS + 25)));
}

#[test]
fn a_flipped_byte_anywhere_in_a_backup_is_found_when_it_is_read_back() {
    let place = place();
    let mut region = Region::start(&place.data);
    let repository = Repository::open_or_create(&place.backups).unwrap();
    fill(&mut region, 0, 20);
    region.checkpoint();
    fill(&mut region, 20, 5);
    let taken = back_up(&mut region, &place.data, &repository, START_MS + 100);
    let good = read_back(&repository, &taken.manifest).unwrap();
    for path in files_below(&place.backups) {
        let sound = fs::read(&path).unwrap();
        let names_itself = |text: &str| text.contains(&path.display().to_string());
        for index in spread(sound.len()) {
            let mut bytes = sound.clone();
            bytes[index] ^= 0x04;
            fs::write(&path, bytes).unwrap();
            let found = match repository.manifest(&taken.manifest.id) {
                Ok(manifest) => read_back(&repository, &manifest),
                Err(error) => Err(error.to_string()),
            };
            match found {
                Ok(found) => {
                    let small = ["LOCK", "BACKUPS"].iter().any(|name| path.ends_with(name));
                    assert!(small && found == good, "{} at {index}", path.display());
                }
                Err(text) => assert!(names_itself(&text), "{text}"),
            }
        }
        fs::write(&path, &sound).unwrap();
    }
    assert_eq!(read_back(&repository, &taken.manifest), Ok(good));
}

#[test]
fn a_damaged_object_that_was_set_aside_is_stored_anew() {
    let place = place();
    let mut region = Region::start(&place.data);
    let repository = Repository::open_or_create(&place.backups).unwrap();
    fill(&mut region, 0, 50);
    region.checkpoint();
    let first = back_up(&mut region, &place.data, &repository, START_MS + 100);
    for object in first.manifest.objects() {
        repository.set_aside(object).unwrap();
    }
    assert!(read_back(&repository, &first.manifest).is_err());
    let second = back_up(&mut region, &place.data, &repository, START_MS + 200);
    assert_eq!(read_back(&repository, &second.manifest), Ok(digests(&mut region.stage)));
}

#[test]
fn an_interrupted_backup_is_not_there() {
    let place = place();
    let mut region = Region::start(&place.data);
    let repository = Repository::open_or_create(&place.backups).unwrap();
    fill(&mut region, 0, 50);
    region.checkpoint();
    let (checkpoint, reader) = (region.opened.checkpoint.clone(), region.opened.reader.clone());
    let identity = identity();
    let source = Source {
        directory: &place.data,
        identity: &identity,
        checkpoint: &checkpoint,
        reader: &reader,
    };
    let died = || Err(StoreError::Refused("the node has ended".to_owned()));
    let progress = Progress::default();
    let result = take(&repository, source, died, ("a", 1), Pace::UNBOUNDED, &progress);
    assert!(result.is_err());
    assert!(repository.backups().unwrap().is_empty());
    // As a kill would leave it.
    fs::write(place.backups.join("objects/new-0"), "half").unwrap();
    fs::write(place.backups.join("backups/new-x.backup"), "half").unwrap();
    drop(repository);
    let repository = Repository::open(&place.backups).unwrap();
    assert!(repository.backups().unwrap().is_empty());
    assert_eq!(files_below(&place.backups).len(), 2, "LOCK and BACKUPS");
    let taken = back_up(&mut region, &place.data, &repository, START_MS + 100);
    assert!(read_back(&repository, &taken.manifest).is_ok());
}

#[test]
fn pruning_keeps_what_newer_backups_need() {
    let place = place();
    let mut region = Region::start(&place.data);
    let repository = Repository::open_or_create(&place.backups).unwrap();
    for number in 0..5 {
        fill(&mut region, number * 20, 20);
        if number % 2 == 0 {
            region.checkpoint();
        }
        back_up(&mut region, &place.data, &repository, START_MS + 1000 + number);
    }
    let objects = |place: &Place| files_below(&place.backups.join("objects")).len();
    let before = objects(&place);
    let pruned = repository.prune(2).unwrap();
    assert_eq!(pruned.backups.len(), 3);
    assert!(pruned.objects > 0 && objects(&place) == before - pruned.objects as usize);
    let left = repository.manifests().unwrap();
    assert_eq!(left.len(), 2);
    for manifest in &left {
        assert!(read_back(&repository, manifest).is_ok());
    }
    assert_eq!(repository.prune(2).unwrap(), Default::default());
    // One that cannot be read needs nothing, and goes.
    fs::write(place.backups.join("backups/broken.backup"), "meridian backup 1 what\n").unwrap();
    assert_eq!(repository.prune(2).unwrap().backups, ["broken"]);
    // One of a newer version may need anything: nothing is removed.
    fs::write(place.backups.join("backups/newer.backup"), "meridian backup 9 what\n").unwrap();
    assert!(matches!(repository.prune(1), Err(StoreError::Refused(_))));
    assert_eq!(repository.manifests().unwrap().len(), 2);
}

#[test]
fn who_is_restored_takes_an_ordinal_that_never_wrote() {
    let place = place();
    let mut region = Region::start(&place.data);
    let repository = Repository::open_or_create(&place.backups).unwrap();
    fill(&mut region, 0, 5);
    let taken = back_up(&mut region, &place.data, &repository, START_MS + 100);
    let plan = Plan::whole(taken.manifest);
    let attempt = |identity: &Identity, to: &Path| {
        restore(&repository, &plan, to, identity, small()).and_then(|restored| restored.commit())
    };
    let refusal = |identity: &Identity, to: &Path| attempt(identity, to).unwrap_err().to_string();
    assert!(refusal(&identity(), &place.to).contains("never used"));
    let split = Identity { partitions: 4, ..reborn() };
    assert!(refusal(&split, &place.to).contains("partitions"));
    assert!(refusal(&reborn(), &place.data).contains("not empty"), "a node's directory");
    assert!(!place.to.exists());
    let elsewhere = Identity { cluster: "shop-2".into(), ..identity() };
    attempt(&elsewhere, &place.to).expect("a cluster of its own may number as it likes");
    let copy = Region::start_as(&place.to, &elsewhere);
    assert_eq!(copy.get("counter:0").as_deref(), Some("1"));
}

#[test]
fn a_directory_of_backups_is_told_from_others_and_used_by_one() {
    let place = place();
    fs::create_dir(&place.backups).unwrap();
    fs::write(place.backups.join("thesis.txt"), "years of work").unwrap();
    let refusal = |result: Result<Repository, StoreError>| match result {
        Err(StoreError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refusal(Repository::open_or_create(&place.backups)).contains("thesis.txt"));
    assert!(refusal(Repository::open(&place.backups)).contains("no directory of backups"));
    fs::remove_file(place.backups.join("thesis.txt")).unwrap();
    let repository = Repository::open_or_create(&place.backups).unwrap();
    assert!(refusal(Repository::open(&place.backups)).contains("in use"));
    assert!(refusal(Repository::read(&place.backups)).contains("in use"));
    assert!(Repository::list(&place.backups).unwrap().is_empty(), "looking is always allowed");
    drop(repository);
    let reader = Repository::read(&place.backups).unwrap();
    let _second = Repository::read(&place.backups).expect("readers share it");
    assert!(refusal(Repository::open(&place.backups)).contains("in use"));
    assert!(reader.manifest("../../etc/passwd").is_err());
    assert!(reader.manifest("nothing").unwrap_err().to_string().contains("no backup nothing"));
}

#[test]
fn a_held_log_is_not_released() {
    let place = place();
    let mut region = Region::start(&place.data);
    fill(&mut region, 0, 200);
    region.checkpoint();
    let (start, end) = region.opened.reader.bounds();
    let hold = region.opened.reader.hold(start);
    region.opened.syncer.release(end).unwrap();
    assert_eq!(region.opened.reader.bounds().0, start);
    assert_eq!(hold.from(), start);
    drop(hold);
    region.opened.syncer.release(end).unwrap();
    assert!(region.opened.reader.bounds().0 > start);
    assert_eq!(get(&region.stage, "counter:1").as_deref(), Some("20"));
}

/// Some offsets of a file, its ends among them.
fn spread(length: usize) -> impl Iterator<Item = usize> {
    let step = (length / 7).max(1);
    (0..length).step_by(step).chain(length.checked_sub(1))
}
