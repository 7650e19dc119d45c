//! Rot in the files of real nodes: found while they run, and told when they cannot start.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Up, ask, fails, redis, run, succeeds, topology, until, until_ended};

/// Flips a bit where it is, under the feet of whoever has the file open.
fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    // While a checkpoint is written anew, its directory is gone for a moment.
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let all = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<_> = all.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

#[test]
fn a_node_that_runs_finds_rot_names_it_and_writes_its_checkpoint_anew() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let mut text = fs::read_to_string(&topology.file).unwrap();
    // Small, so that checkpoints are written and segments turn.
    text.push_str(
        "storage: {log_segment: 16KiB, checkpoint_trigger: 16KiB, log_retention: 1GiB, \
         disk_check_every: 1s}\n",
    );
    fs::write(&topology.file, text).unwrap();
    let up = Up::start(directory.path(), &topology);
    let (one, admin) = (topology.redis[0], topology.admin[0]);
    for number in 0..200 {
        redis(one, &format!("SET key:{number} {}", "v".repeat(400))).unwrap();
    }
    let data = directory.path().join("data/one/data");
    let status = || ask(admin, "/status").unwrap_or_default();
    until("a table of some size", || {
        let tables = files(&data.join("rocks"), "sst");
        tables.iter().any(|p| fs::metadata(p).is_ok_and(|m| m.len() > 20_000)).then_some(())
    });
    until("everything to be looked through", || status()["disk"]["last_sound_ms"].as_u64());

    let before = status()["disk"]["checkpoints_rewritten"].clone();
    assert_eq!(before, Value::from(0));
    // Compaction may take the table away meanwhile: then the next one.
    until("a checkpoint that was written anew", || {
        let tables = files(&data.join("rocks"), "sst");
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |found| found.len());
        if let Some(table) = tables.iter().max_by_key(|path| size(path)) {
            let file = fs::OpenOptions::new().write(true).open(table).ok();
            file.and_then(|file| file.write_all_at(b"rotten", 2000).ok());
        }
        status()["disk"]["checkpoints_rewritten"].as_u64().filter(|times| *times > 0)
    });
    // The last of those writes may have hit the new one: that is found and mended too.
    let sound = |status: &Value| status["disk"]["last_sound_ms"].as_u64().unwrap_or_default();
    let since = sound(&status());
    until("everything to be sound again", || (sound(&status()) > since).then_some(()));
    let segment = files(&data.join("log"), "seg").remove(0);
    flip(&segment, 200);
    let name = segment.file_name().unwrap().to_str().unwrap().to_owned();
    until("the segment to be named", || {
        let rotten = status()["disk"]["rotten"].to_string();
        rotten.contains(&name).then_some(())
    });
    let health = ask(admin, "/healthz").unwrap().to_string();
    assert!(health.contains(&name), "{health}");
    redis(one, "SET after yes").unwrap();
    drop(up);
    until_ended(directory.path());
    // Nothing of what was rotten is needed.
    let _up = Up::start(directory.path(), &topology);
    assert_eq!(redis(one, "GET after").as_deref(), Some("$3\r\nyes"));
    assert_eq!(redis(one, "STRLEN key:7").as_deref(), Some(":400"));
}

#[test]
fn a_node_that_cannot_start_says_why_and_what_helps() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let up = Up::start(directory.path(), &topology);
    let [one, two, _] = topology.redis;
    redis(one, "SET kept yes").unwrap();
    redis(one, "HSET user:1 name Ann").unwrap();
    until("the write elsewhere", || {
        (redis(two, "HGET user:1 name").as_deref() == Some("$3\r\nAnn")).then_some(())
    });
    drop(up);
    let data = directory.path().join("data/one/data");
    let place = data.to_str().unwrap();
    let segment = files(&data.join("log"), "seg").remove(0);
    let node = || {
        let (file, base) = (topology.file.to_str().unwrap(), directory.path().join("data"));
        run(&["node", "--config", file, "--region", "one", "--data-dir", base.to_str().unwrap()])
    };
    until_ended(directory.path());
    flip(&segment, 60);
    for _ in 0..2 {
        let output = node();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        for word in [segment.to_str().unwrap(), "corrupt at offset", "disk renew", "restore"] {
            assert!(said.contains(word), "{word} is not in: {said}");
        }
    }
    let listed = succeeds(&["disk", "read", place]);
    let found: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(found.iter().any(|w| w["key"] == "user:1" && w["value"] == "Ann"), "{listed}");
    assert!(succeeds(&["disk", "read", place, "--since", "2999-01-01T00:00:00Z"]).is_empty());
    assert!(fails(1, &["disk", "renew", place, "--ordinal", "0"]).contains("not be written twice"));
    let said = succeeds(&["disk", "renew", place, "--ordinal", "3"]);
    assert!(said.contains("ordinal 3") && said.contains("data.damaged-"), "{said}");

    let identity = meridian_disk::DataDir::identity(&data).unwrap();
    assert_eq!((identity.origin.0, identity.region.as_str()), (3, "one"));
    assert!(meridian_disk::DataDir::open(&data, &identity, Default::default()).is_ok());
}

#[test]
fn votes_that_have_rotted_stop_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    drop(Up::start(directory.path(), &topology));
    let base = directory.path().join("data");
    let data = base.join("two/data");
    until_ended(directory.path());
    flip(&data.join("control.log"), 30);
    let (file, base) = (topology.file.to_str().unwrap(), base.to_str().unwrap());
    let said = fails(3, &["node", "--config", file, "--region", "two", "--data-dir", base]);
    assert!(said.contains("control.log is corrupt"), "{said}");
}

#[test]
fn what_cannot_be_salvaged_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    assert!(fails(1, &["disk", "read", place]).contains("no data directory"));
    assert!(fails(1, &["disk", "renew", place, "--ordinal", "3"]).contains("by hand"));
    fails(2, &["disk", "renew", place]);
    fails(2, &["disk", "read", place, "--since", "yesterday"]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_region_that_goes_on_from_an_old_copy_stops_writing_when_it_hears_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let _up = Up::start(directory.path(), &topology);
    let [one, two, three] = topology.redis;
    let (file, data) = (topology.file.display().to_string(), directory.path().join("data"));
    let region = |verb: &str| {
        let place = data.display().to_string();
        succeeds(&["region", verb, "one", "--config", &file, "--data-dir", &place]);
    };
    assert_eq!(redis(one, "SET first 1").as_deref(), Some("+OK"));
    region("stop");
    copy(&data.join("one/data"), &directory.path().join("old"));
    region("start");
    until("one again", || (redis(one, "SET second 2")? == "+OK").then_some(()));
    for other in [two, three] {
        until("the write elsewhere", || (redis(other, "GET second")? == "$1\r\n2").then_some(()));
    }
    region("kill");
    fs::remove_dir_all(data.join("one/data")).unwrap();
    copy(&directory.path().join("old"), &data.join("one/data"));
    region("start");
    let said = until("its refusal", || {
        redis(one, "SET third 3").filter(|said| said.starts_with("-READONLY"))
    });
    assert!(said.contains("has lost writes that other regions have of it"), "{said}");
    assert_eq!(redis(one, "GET first").as_deref(), Some("$1\r\n1"));
    until("a bad health", || {
        let health = ask(topology.admin[0], "/healthz")?.to_string();
        health.contains("has lost writes").then_some(())
    });
}
