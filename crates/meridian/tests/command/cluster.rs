//! `meridian up` and the commands that talk to it.

use std::process::Command;

use crate::support::{Up, fails, meridian, redis, run, succeeds, topology, until};

#[test]
fn a_cluster_runs_is_broken_and_mended_and_stops() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let mut up = Up::start(directory.path(), &topology);
    let place = directory.path().join("data");
    let place = place.to_str().unwrap();
    let file = topology.file.to_str().unwrap();
    let with = |words: &[&str]| {
        let mut all = words.to_vec();
        all.extend(["--config", file, "--data-dir", place]);
        succeeds(&all)
    };
    let [one, two, three] = topology.redis;

    assert_eq!(redis(one, "SET greeting hello").as_deref(), Some("+OK"));
    let hello = Some("$5\r\nhello".to_owned());
    until("the value in another region", || (redis(three, "GET greeting") == hello).then_some(()));

    let status = with(&["status"]);
    assert!(status.contains("one") && status.contains("healthy"), "{status}");
    let json: serde_json::Value = serde_json::from_str(&with(&["status", "--json"])).unwrap();
    assert_eq!(json["two"]["region"], "two");

    assert_eq!(with(&["wan", "cut", "one"]).trim(), "one – two, one – three cut");
    assert!(with(&["wan", "show"]).contains("cut"));
    redis(one, "SET apart yes").unwrap();
    assert_eq!(redis(two, "GET apart").as_deref(), Some("$-1"));
    with(&["wan", "heal"]);
    let yes = Some("$3\r\nyes".to_owned());
    until("the value after healing", || (redis(two, "GET apart") == yes).then_some(()));

    with(&["region", "kill", "two"]);
    assert_eq!(redis(two, "PING"), None);
    assert_eq!(redis(one, "SET meanwhile yes").as_deref(), Some("+OK"));
    with(&["region", "start", "two"]);
    until("the value after the restart", || (redis(two, "GET meanwhile") == yes).then_some(()));
    assert!(!up.said().contains("ended by itself"), "it was asked for: {}", up.said());

    let second = run(&["up", "--config", file, "--data-dir", place]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("already"));
    with(&["down"]);
    let ended = up.process.wait().unwrap();
    assert!(ended.success(), "{}", up.said());
    assert_eq!(redis(one, "PING"), None);
    assert!(fails(1, &["down", "--config", file, "--data-dir", place]).contains("no cluster"));
}

#[test]
fn a_node_that_dies_is_reported_and_nodes_end_with_up() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let mut up = Up::start(directory.path(), &topology);
    let pid = pid_of(&up, "two");
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    until("the report", || up.said().contains("two has ended by itself: signal 9").then_some(()));
    assert!(up.said().contains("  | "), "its last words: {}", up.said());
    up.process.kill().unwrap();
    up.process.wait().unwrap();
    for address in topology.redis {
        until("the node to end", || redis(address, "PING").is_none().then_some(()));
    }
}

#[test]
fn secrets_are_asked_for_and_not_told() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let secrets = ["knock three times", "swordfish"];
    let url = format!("postgresql://shop:{}@127.0.0.1:1/shop", secrets[1]);
    let variables = [("MERIDIAN_PASSWORD", secrets[0]), ("MERIDIAN_POSTGRES_URL", url.as_str())];
    let up = Up::start_with(directory.path(), &topology, &variables);
    let one = topology.redis[0];
    assert!(redis(one, "PING").unwrap().starts_with("-NOAUTH"), "{:?}", redis(one, "PING"));
    let both = redis(one, &format!("AUTH \"{}\"\r\nPING", secrets[0]));
    assert_eq!(both.as_deref(), Some("+OK\r\n+PONG"));
    let log = directory.path().join("data/one/node.log");
    let said = || std::fs::read_to_string(&log).unwrap_or_default() + &up.said();
    until("the log to speak of Postgres", || said().contains("postgres at").then_some(()));
    let pid = pid_of(&up, "one");
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    for secret in secrets {
        assert!(!said().contains(secret), "{secret} is in the log");
        assert!(!arguments.contains(secret), "{secret} is in the arguments");
    }
}

#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let topology = topology(directory.path());
    let _taken = std::net::TcpListener::bind(topology.redis[1]).unwrap();
    let output = meridian()
        .args(["up", "--config", topology.file.to_str().unwrap(), "--data-dir"])
        .arg(directory.path().join("data"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(&topology.redis[1].to_string()) && said.contains("two"), "{said}");
    assert!(!directory.path().join("data/one").exists());
}

/// The process of a region, as the children of `up` tell by their arguments.
fn pid_of(up: &Up, region: &str) -> String {
    let parent = up.process.id();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let mut children = children.unwrap_or_default();
    // Children are listed by the thread that made them.
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).expect("the threads of up");
    for thread in threads.flatten() {
        let listed = std::fs::read_to_string(thread.path().join("children"));
        children.push_str(&format!(" {}", listed.unwrap_or_default()));
    }
    let found = children.split_whitespace().find(|pid| {
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split('\0').any(|argument| argument == region)
    });
    found.unwrap_or_else(|| panic!("no node of {region} among {children}")).to_owned()
}
