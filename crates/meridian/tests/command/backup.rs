//! `meridian backup` and `meridian restore` as an operator uses them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

use crate::support::{Topology, Up, ask, exchange, fails, redis, succeeds, topology, until};

fn bulk(value: &str) -> Option<String> {
    Some(format!("${}\r\n{value}", value.len()))
}

/// What `MERIDIAN DIGEST` says, without its length.
fn digest(address: SocketAddr) -> String {
    let reply = redis(address, "MERIDIAN DIGEST").expect("a reply");
    reply.lines().last().expect("a line").to_owned()
}

/// The milliseconds of Redis's TIME: the node's own clock.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_millis() as u64
}

/// Waits until the clock has moved on, so that instants lie between writes.
fn instant_between_writes() -> u64 {
    let before = now_ms();
    until("the clock", || (now_ms() > before + 1).then_some(()));
    let instant = now_ms();
    until("the clock", || (now_ms() > instant + 1).then_some(()));
    instant
}

/// The same regions under another name.
fn renamed(topology: &Topology, cluster: &str) {
    let text = fs::read_to_string(&topology.file).unwrap();
    fs::write(&topology.file, text.replace("cluster: test", &format!("cluster: {cluster}")))
        .unwrap();
}

#[test]
fn a_cluster_is_backed_up_while_it_runs_and_restored_as_it_was_at_an_instant() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let up = Up::start(directory.path(), &topology);
    let [one, two, _] = topology.redis;
    let admin = topology.admin[0].to_string();
    let backups = directory.path().join("backups");
    let place = backups.to_str().unwrap();

    let said = fails(1, &["backup", "create", place, "--node", &admin]);
    assert!(said.contains("empty directory first"), "{said}");
    fs::create_dir(&backups).unwrap();
    redis(one, "SET when first").unwrap();
    redis(two, "SET elsewhere yes").unwrap();
    until("the write of another region", || {
        (redis(one, "GET elsewhere") == bulk("yes")).then_some(())
    });
    let said = succeeds(&["backup", "create", place, "--node", &admin]);
    assert!(said.contains("of one (ordinal 0) of test"), "{said}");
    instant_between_writes();
    redis(one, "SET when second").unwrap();
    let then = instant_between_writes();
    redis(one, "SET when third").unwrap();
    redis(two, "SET after yes").unwrap();
    until("the write of another region", || (redis(one, "GET after") == bulk("yes")).then_some(()));
    let said = succeeds(&["backup", "create", place, "--node", &format!("http://{admin}/")]);
    assert!(said.contains("there already"), "{said}");
    let held = digest(one);

    let listed: Value =
        serde_json::from_str(&succeeds(&["backup", "list", place, "--json"])).unwrap();
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert!(succeeds(&["backup", "list", place]).contains("one@0"));
    let said = succeeds(&["backup", "verify", place, "--all"]);
    assert!(said.contains(&format!("digest {held}")), "{held} is not in {said}");
    assert!(said.contains("16384 of 16384 slots compared"), "{said}");
    drop(up);

    // A cluster of its own, as it was at the instant between the two backups.
    let second = directory.path().join("second");
    fs::create_dir(&second).unwrap();
    let copy = crate::support::topology(&second);
    renamed(&copy, "test-copy");
    for (ordinal, region) in ["one", "two", "three"].into_iter().enumerate() {
        let to = second.join("data").join(region).join("data");
        let (to, then) = (to.to_str().unwrap(), then.to_string());
        let ordinal = ordinal.to_string();
        let said = succeeds(&[
            "restore",
            place,
            "--to",
            to,
            "--ordinal",
            &ordinal,
            "--region",
            region,
            "--cluster",
            "test-copy",
            "--at",
            &then,
        ]);
        assert!(said.contains("later ones were left out"), "{said}");
    }
    let up = Up::start(&second, &copy);
    for address in copy.redis {
        assert_eq!(redis(address, "GET when"), bulk("second"));
        assert_eq!(redis(address, "GET elsewhere"), bulk("yes"));
        assert_eq!(redis(address, "GET after").as_deref(), Some("$-1"));
    }
    redis(copy.redis[2], "SET when later").unwrap();
    redis(copy.redis[0], "INCR count").unwrap();
    until("the copy's regions to replicate", || {
        let all = copy.redis.iter().all(|address| {
            redis(*address, "GET when") == bulk("later")
                && redis(*address, "GET count") == bulk("1")
        });
        all.then_some(())
    });
    drop(up);
}

#[test]
fn the_schedule_takes_reads_back_and_removes() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let backups = directory.path().join("backups");
    let mut text = fs::read_to_string(&topology.file).unwrap();
    text.push_str(&format!(
        "backup: {{directory: '{}', every: 1s, keep: 2, verify_every: 1s}}\n",
        backups.display()
    ));
    fs::write(&topology.file, text).unwrap();
    let up = Up::start(directory.path(), &topology);
    redis(topology.redis[0], "SET kept yes").unwrap();
    let ids = || -> Vec<String> {
        let listed = crate::support::run(&[
            "backup",
            "list",
            backups.join("one").to_str().unwrap(),
            "--json",
        ]);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        let all = listed.as_array().into_iter().flatten();
        all.filter_map(|b| b["id"].as_str().map(str::to_owned)).collect()
    };
    let first = until("a backup", || ids().first().cloned());
    until("old backups to go", || {
        let now = ids();
        (now.len() <= 2 && !now.is_empty() && !now.contains(&first)).then_some(())
    });
    let status = until("a backup that was read back", || {
        ask(topology.admin[0], "/status").filter(|s| s["backup"]["last_verified_ms"].is_u64())
    });
    assert!(status["backup"]["last_good_ms"].is_u64(), "{status}");
    assert!(backups.join("two").is_dir() && backups.join("three").is_dir());
    drop(up);
}

#[test]
fn orders_are_taken_from_those_who_may_give_them() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let _up = Up::start(directory.path(), &topology);
    let admin = topology.admin[0];
    let place = directory.path().join("backups");
    fs::create_dir(&place).unwrap();
    let post = |header: &str, body: &str| {
        let length = body.len();
        let request =
            format!("POST /backup HTTP/1.0\r\n{header}Content-Length: {length}\r\n\r\n{body}");
        exchange(admin, &request).expect("an answer")
    };
    let order = format!("{{\"directory\": \"{}\"}}", place.display());
    let header = "X-Meridian-Order: 1\r\n";
    for (header, body, code, word) in [
        ("", order.as_str(), "403", "x-meridian-order"),
        (header, "", "400", "directory"),
        (header, "{\"directory\": 7}", "400", "directory"),
        (header, "[[[[", "400", "directory"),
        (header, "{\"directory\": \"backups\"}", "409", "absolute"),
        (header, "{\"directory\": \"/proc\"}", "409", "/proc"),
        (header, "{\"directory\": \"/nowhere/at/all\"}", "409", "empty directory first"),
    ] {
        let (head, body) = post(header, body);
        assert!(head.contains(code) && body.contains(word), "{head}\n{body}");
    }
    let long = format!("{{\"directory\": \"/{}\"}}", "x".repeat(1 << 16));
    assert!(post(header, &long).0.contains("400"));
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "nothing was written");
    let (head, body) = post(header, &order);
    assert!(head.contains("202"), "{head}\n{body}");
    until("the backup", || {
        let status = ask(admin, "/backup")?;
        status["finished"][0]["text"].as_str().map(drop)
    });
    let (head, body) = post(header, &order.replace("backups", "backups/objects"));
    assert!(head.contains("409") && body.contains("something else"), "{head}\n{body}");
}

#[test]
fn a_stopped_region_is_backed_up_from_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let up = Up::start(directory.path(), &topology);
    redis(topology.redis[0], "SET kept yes").unwrap();
    let data = directory.path().join("data/one/data");
    let (data, backups) = (data.to_str().unwrap(), directory.path().join("backups"));
    let place = backups.to_str().unwrap();
    let said = fails(1, &["backup", "create", place, "--data", data]);
    assert!(said.contains("--node") && said.contains("in use"), "{said}");
    drop(up);
    // Nodes end a moment after `up` does.
    until("the directory to be free", || {
        crate::support::run(&["backup", "create", place, "--data", data])
            .status
            .success()
            .then_some(())
    });
    assert!(succeeds(&["backup", "verify", place]).contains("is sound"));
    let said = succeeds(&["backup", "prune", place, "--keep", "1"]);
    assert!(said.contains("given back"), "{said}");
    let object = newest_object(&backups.join("objects"));
    let mut bytes = fs::read(&object).unwrap();
    bytes[0] ^= 1;
    fs::write(&object, bytes).unwrap();
    let said = fails(1, &["backup", "verify", place]);
    assert!(said.contains(object.file_name().unwrap().to_str().unwrap()), "{said}");
    let to = directory.path().join("restored");
    let said = fails(1, &["restore", place, "--to", to.to_str().unwrap(), "--ordinal", "5"]);
    assert!(!to.exists(), "{said}");
}

#[test]
fn what_is_not_understood_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let to = directory.path().join("data");
    let to = to.to_str().unwrap();
    assert!(fails(1, &["backup", "list", place]).contains("no directory of backups"));
    assert!(fails(1, &["restore", place, "--to", to, "--ordinal", "5"]).contains("no directory"));
    assert!(fails(1, &["backup", "create", place, "--data", place]).contains("no data directory"));
    fails(2, &["backup", "create", place]);
    fails(2, &["backup", "prune", place, "--keep", "0"]);
    fails(2, &["restore", place, "--to", to]);
    fails(2, &["restore", place, "--to", to, "--ordinal", "5", "--at", "yesterday"]);
    assert!(
        fails(1, &["backup", "create", place, "--node", "127.0.0.1:1"]).contains("127.0.0.1:1")
    );
}

fn newest_object(objects: &Path) -> std::path::PathBuf {
    let groups = fs::read_dir(objects).unwrap().map(|entry| entry.unwrap().path());
    let files = groups.flat_map(|group| fs::read_dir(group).unwrap().map(|e| e.unwrap().path()));
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).expect("an object")
}
