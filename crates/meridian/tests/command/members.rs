//! A region joins a running cluster, one leaves, one is declared dead, comes back and is salvaged.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::{
    Topology, Up, fails, free_address, meridian, redis, run, succeeds, topology, until,
};

/// The node of a region that has joined; killed when dropped.
struct Joined {
    process: Child,
    redis: SocketAddr,
    said: std::path::PathBuf,
    arguments: Vec<String>,
}

impl Joined {
    /// Runs `meridian join four`.
    fn start(directory: &Path, via: SocketAddr, certificates: &str) -> Joined {
        let (arguments, redis) = Joined::told(directory, via, certificates);
        Joined::run(directory, arguments, redis)
    }

    fn run(directory: &Path, arguments: Vec<String>, redis: SocketAddr) -> Joined {
        let said = directory.join("four.out");
        let process = Joined::spawn(&arguments, &said);
        Joined { process, redis, said, arguments }
    }

    /// What the command is told, and where clients will find the region.
    fn told(directory: &Path, via: SocketAddr, certificates: &str) -> (Vec<String>, SocketAddr) {
        let [redis, admin_at, dns_at, mesh_at] = [(); 4].map(|()| free_address());
        let data = directory.join("data-of-four").display().to_string();
        let addresses = [
            ("--via", via.to_string()),
            ("--redis", redis.to_string()),
            ("--mesh", mesh_at.to_string()),
            ("--admin", admin_at.to_string()),
            ("--dns", dns_at.to_string()),
            ("--certificates", certificates.to_owned()),
            ("--data-dir", data),
        ];
        let mut arguments = ["join", "four", "--until-stdin-closes"].map(str::to_owned).to_vec();
        arguments.extend(addresses.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        (arguments, redis)
    }

    fn spawn(arguments: &[String], said: &Path) -> Child {
        let output = std::fs::File::create(said).expect("a file for the output");
        let mut command = meridian();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(output);
        command.spawn().expect("join starts")
    }

    /// SIGKILL, as a power cut would.
    fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// The same command again: it goes on where it was.
    fn start_again(&mut self) {
        self.process = Joined::spawn(&self.arguments, &self.said);
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Story {
    up: Up,
    topology: Topology,
    directory: tempfile::TempDir,
}

impl Story {
    fn begin() -> Story {
        let directory = tempfile::tempdir().unwrap();
        let topology = topology(directory.path());
        let up = Up::start(directory.path(), &topology);
        Story { up, topology, directory }
    }

    fn data(&self) -> String {
        self.directory.path().join("data").display().to_string()
    }

    /// Arguments with the topology and the data directory.
    fn with(&self, words: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        all.extend(["--config".to_owned(), self.topology.file.display().to_string()]);
        all.extend(["--data-dir".to_owned(), self.data()]);
        all
    }

    fn say(&self, words: &[&str]) -> String {
        let all = self.with(words);
        succeeds(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What a region says of itself; null while nobody answers.
    fn status(&self, of: &str) -> Value {
        let all = self.with(&["status", "--json"]);
        let output = run(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        told[of].clone()
    }

    /// How a member belongs, by the word of another.
    fn member(&self, witness: &str, name: &str) -> Option<String> {
        let status = self.status(witness);
        let members = status["members"].as_array()?.clone();
        let found = members.iter().rfind(|member| member["name"] == name)?;
        found["status"].as_str().map(str::to_owned)
    }

    fn is(&self, witness: &str, name: &str, wanted: &str) {
        until(&format!("{name} {wanted}"), || {
            (self.member(witness, name).as_deref() == Some(wanted)).then_some(())
        });
    }
}

fn same_digest(regions: &[SocketAddr]) {
    until("equal digests", || {
        let digests: Vec<_> = regions.iter().map(|r| redis(*r, "MERIDIAN.DIGEST")).collect();
        let first = digests[0].clone()?;
        (first.starts_with(['$', '+', '*']) && digests.iter().all(|d| *d == Some(first.clone())))
            .then_some(())
    });
}

fn write_many(region: SocketAddr, prefix: &str) {
    let commands: Vec<String> = (0..200).map(|n| format!("SET {prefix}:{n} {n}")).collect();
    let replies = redis(region, &commands.join("\r\n")).expect("the region answers");
    assert_eq!(replies.matches("+OK").count(), 200, "{replies}");
}

#[test]
fn regions_come_and_go_and_nothing_is_lost() {
    let story = Story::begin();
    let [one, two, three] = story.topology.redis;
    let admin = |of: &str| -> SocketAddr {
        let file = std::fs::read_to_string(&story.topology.file).unwrap();
        let line = file.lines().find(|line| line.contains(&format!("name: {of},"))).unwrap();
        let rest = line.split("admin: '").nth(1).unwrap();
        rest.split('\'').next().unwrap().parse().unwrap()
    };
    write_many(one, "before");
    assert_eq!(redis(two, "SET from-two kept").as_deref(), Some("+OK"));

    // A fourth region joins with one command while others write.
    let certificates = story.directory.path().join("of-four").display().to_string();
    story.say(&["cert", "issue", "four", "--new", "--out", &certificates]);
    let mut four = Joined::start(story.directory.path(), admin("one"), &certificates);
    let mut round = 0;
    until("the new region as a full member", || {
        round += 1;
        write_many([one, two, three][round % 3], &format!("during:{round}"));
        (story.member("one", "four").as_deref() == Some("active")).then_some(())
    });
    until("the word that it has joined", || four.said().contains("has joined").then_some(()));
    until("its answers", || (redis(four.redis, "GET before:7")? == "$1\r\n7").then_some(()));
    assert_eq!(redis(four.redis, "SET from-four yes").as_deref(), Some("+OK"));
    same_digest(&[one, two, three, four.redis]);
    assert!(story.say(&["status"]).contains("four"), "it is not in the topology file");

    // One leaves in order: its process ends by itself, and nothing that it wrote is missing.
    write_many(two, "last-of-two");
    let said = story.say(&["region", "leave", "two"]);
    assert!(said.contains("two has left"), "{said}");
    until("its process to end", || redis(two, "PING").is_none().then_some(()));
    same_digest(&[one, three, four.redis]);
    assert_eq!(redis(four.redis, "GET from-two").as_deref(), Some("$4\r\nkept"));
    assert_eq!(redis(four.redis, "GET last-of-two:199").as_deref(), Some("$3\r\n199"));
    story.is("three", "two", "left");
    let status = story.status("three");
    let voters = status["members"].as_array().unwrap().iter().filter(|m| m["votes"] == true);
    let voters: Vec<_> = voters.map(|member| member["name"].as_str().unwrap()).collect();
    assert_eq!(voters, ["one", "three", "four"], "who left has given its vote away");

    // One writes what nobody hears, dies, and is declared dead.
    assert!(refused(&story, "three").contains("not down"));
    story.say(&["region", "kill", "one"]);
    four.kill();
    assert_eq!(redis(three, "SET lost found").as_deref(), Some("+OK"));
    assert_eq!(redis(three, "INCRBY counter 5\r\nINCRBY counter 2").as_deref(), Some(":5\r\n:7"));
    story.say(&["region", "kill", "three"]);
    story.say(&["region", "start", "one"]);
    until("one again", || (redis(one, "PING")? == "+PONG").then_some(()));
    four.start_again();
    until("the region to be down", || {
        (story.status("one")["regions"]["three"]["state"] == "down").then_some(())
    });
    let asked = story.with(&["region", "dead", "three"]);
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    assert!(fails(1, &asked).contains("--yes"), "nobody is there to confirm");
    story.say(&["region", "dead", "three", "--yes"]);
    story.is("one", "three", "dead");
    write_many(four.redis, "after");
    same_digest(&[one, four.redis]);

    // It comes back: it is turned away with a reason, and what only it had is salvaged.
    story.say(&["region", "start", "three"]);
    until("its end", || story.up.said().contains("three was declared dead").then_some(()));
    assert_eq!(redis(one, "GET lost").as_deref(), Some("$-1"), "it shipped nothing");
    let via = admin("one").to_string();
    let of_three = story.directory.path().join("data/three").display().to_string();
    let listed = succeeds(&["salvage", &of_three, "--via", &via, "--list"]);
    for line in [r#"SET "lost" "found""#, r#"INCRBY "counter" "5""#, r#"INCRBY "counter" "2""#] {
        assert!(listed.contains(line), "{line} is not in:\n{listed}");
    }
    assert!(!listed.contains("before:"), "the others have that:\n{listed}");
    succeeds(&["salvage", &of_three, "--via", &via, "--merge"]);
    until("the merged write", || {
        (redis(four.redis, "GET lost").as_deref() == Some("$5\r\nfound")).then_some(())
    });
    assert!(succeeds(&["salvage", &of_three, "--via", &via, "--merge"]).starts_with("0 writes"));
    until("the merged counter, counted once", || {
        (redis(four.redis, "GET counter").as_deref() == Some("$1\r\n7")).then_some(())
    });
    let living = story.directory.path().join("data/one").display().to_string();
    assert!(fails(1, &["salvage", &living, "--via", &via]).contains("active"));
}

/// What the cluster says against declaring a region dead.
fn refused(story: &Story, name: &str) -> String {
    let asked = story.with(&["region", "dead", name, "--yes"]);
    fails(1, &asked.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_stranger_does_not_join() {
    let story = Story::begin();
    let stranger = tempfile::tempdir().unwrap();
    let place = stranger.path().display().to_string();
    succeeds(&["cert", "init", "--data-dir", &place]);
    let out = stranger.path().join("four").display().to_string();
    let file = story.topology.file.display().to_string();
    let issue = ["cert", "issue", "four", "--new", "--out", &out, "--data-dir", &place, "--config"];
    succeeds(&[&issue[..], &[&file]].concat());
    let text = std::fs::read_to_string(&story.topology.file).unwrap();
    let admin = text.split("admin: '").nth(1).unwrap().split('\'').next().unwrap();
    let said = fails(
        1,
        &[
            "join",
            "four",
            "--via",
            admin,
            "--redis",
            "127.0.0.1:1",
            "--mesh",
            "127.0.0.1:2",
            "--admin",
            "127.0.0.1:3",
            "--dns",
            "127.0.0.1:4",
            "--certificates",
            &out,
            "--data-dir",
            &place,
        ],
    );
    assert!(said.contains("untrusted-ca"), "{said}");
    assert_eq!(story.member("one", "four"), None);
}

#[test]
fn a_region_joins_with_what_a_backup_holds_and_gets_the_rest_from_the_others() {
    let story = Story::begin();
    let [one, two, three] = story.topology.redis;
    let backups = story.directory.path().join("backups");
    std::fs::create_dir(&backups).unwrap();
    let place = backups.to_str().unwrap();
    redis(one, "SET kept yes\r\nINCRBY count 5").unwrap();
    until("the counter elsewhere", || (redis(two, "GET count")? == "$1\r\n5").then_some(()));
    let admin = story.topology.admin[0];
    succeeds(&["backup", "create", place, "--node", &admin.to_string()]);
    redis(one, "INCRBY count 2").unwrap();

    let certificates = story.directory.path().join("of-four").display().to_string();
    story.say(&["cert", "issue", "four", "--new", "--out", &certificates]);
    let (arguments, at) = Joined::told(story.directory.path(), admin, &certificates);
    let mut prepare: Vec<&str> = arguments.iter().map(String::as_str).collect();
    prepare.push("--prepare-only");
    let said = succeeds(&prepare);
    assert!(said.contains("four is region 3"), "{said}");
    let to = story.directory.path().join("data-of-four/four/data").display().to_string();
    let with = |ordinal| ["restore", place, "--to", &to, "--region", "four", "--ordinal", ordinal];
    assert!(fails(1, &with("0")).contains("never used"));
    succeeds(&with("3"));
    assert!(fails(1, &with("3")).contains("not empty"));
    let _four = Joined::run(story.directory.path(), arguments, at);
    story.is("one", "four", "active");
    until("what was written since", || (redis(at, "GET count")? == "$1\r\n7").then_some(()));
    assert_eq!(redis(at, "GET kept").as_deref(), Some("$3\r\nyes"));
    redis(at, "INCRBY count 10").unwrap();
    redis(two, "INCRBY count 100").unwrap();
    same_digest(&[one, two, three, at]);
    for region in [one, two, three, at] {
        until("all increments", || (redis(region, "GET count")? == "$3\r\n117").then_some(()));
    }
}
