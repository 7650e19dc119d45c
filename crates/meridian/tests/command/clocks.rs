//! Nodes whose clocks are wrong: the library libfaketime shows one of them another time of day and
//! leaves its steady clock alone, as a person or a broken NTP server would.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::support::{Topology, meridian, redis, succeeds, topology, until};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// Three nodes, each a process of its own; `two` can be shown another time.
struct Nodes {
    directory: PathBuf,
    topology: Topology,
    running: Vec<Option<Child>>,
}

impl Nodes {
    fn start(directory: &Path) -> Nodes {
        let topology = topology(directory);
        let mut nodes =
            Nodes { directory: directory.to_owned(), topology, running: vec![None, None, None] };
        let (file, place) = (nodes.file(), nodes.place());
        let all = ["cert", "--config", &file, "--data-dir", &place];
        succeeds(&[&all[..], &["init"]].concat());
        succeeds(&[&all[..], &["issue"]].concat());
        nodes.show_two("+0");
        for index in 0..NAMES.len() {
            nodes.run(index);
        }
        for address in nodes.topology.redis {
            until("a node to answer", || redis(address, "PING").map(drop));
        }
        nodes
    }

    fn file(&self) -> String {
        self.topology.file.to_str().expect("a path in UTF-8").to_owned()
    }

    fn place(&self) -> String {
        self.directory.join("data").to_str().expect("a path in UTF-8").to_owned()
    }

    fn run(&mut self, index: usize) {
        let said = std::fs::File::create(self.directory.join(NAMES[index])).expect("a file");
        let mut command = meridian();
        command.args(["node", "--config", &self.file(), "--data-dir", &self.place()]);
        command.args(["--region", NAMES[index]]).stdin(Stdio::null());
        command.stdout(said.try_clone().expect("a second handle")).stderr(said);
        if NAMES[index] == "two" {
            command
                .env("LD_PRELOAD", library())
                .env("FAKETIME_TIMESTAMP_FILE", self.directory.join("time"))
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self.running[index] = Some(command.spawn().expect("a node starts"));
    }

    /// What `two` is shown, relative to the truth, from now on.
    fn show_two(&self, offset: &str) {
        let new = self.directory.join("time.new");
        std::fs::write(&new, format!("{offset}\n")).expect("a file");
        std::fs::rename(new, self.directory.join("time")).expect("the file is renamed");
    }

    fn kill(&mut self, index: usize) {
        if let Some(mut node) = self.running[index].take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    /// A field of what a region says of itself.
    fn status(&self, region: &str, pointer: &str) -> Option<serde_json::Value> {
        let (file, place) = (self.file(), self.place());
        let said =
            crate::support::run(&["status", "--json", "--config", &file, "--data-dir", &place]);
        let json: serde_json::Value = serde_json::from_slice(&said.stdout).ok()?;
        let value = json.pointer(&format!("/{region}{pointer}"))?;
        (!value.is_null()).then(|| value.clone())
    }

    /// `two` has read both of the other clocks.
    fn until_two_knows(&self) {
        for peer in ["one", "three"] {
            let pointer = format!("/peers/{peer}/clock_offset_ms");
            until("the other clocks to be read", || self.status("two", &pointer));
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        (0..NAMES.len()).for_each(|index| self.kill(index));
    }
}

fn library() -> PathBuf {
    let roots =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let paths = roots.iter().map(|root| Path::new(root).join("faketime/libfaketimeMT.so.1"));
    paths.into_iter().find(|path| path.exists()).expect("libfaketime: scripts/setup installs it")
}

#[test]
fn a_region_whose_clock_jumps_refuses_writes_from_that_moment_on() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = Nodes::start(directory.path());
    let [one, two, _] = nodes.topology.redis;
    nodes.until_two_knows();
    assert_eq!(redis(two, "SET k before").as_deref(), Some("+OK"));
    for (round, jump) in ["+8h", "-8h", "+400"].into_iter().enumerate() {
        nodes.show_two(jump);
        let refused = redis(two, "SET k wrong").unwrap();
        assert!(refused.starts_with("-CLOCKSKEW this region's clock is"), "{jump}: {refused}");
        assert_eq!(redis(two, "GET k").as_deref(), Some("$6\r\nbefore"), "reading goes on");
        until("health to tell", || {
            let reasons = nodes.status("two", "/health/reasons")?.to_string();
            reasons.contains("CLOCKSKEW").then_some(())
        });
        let field = format!("SET elsewhere{round} yes");
        assert_eq!(redis(one, &field).as_deref(), Some("+OK"), "the others go on");
        let (field, yes) = (format!("GET elsewhere{round}"), Some("$3\r\nyes".to_owned()));
        until("the others' writes", || (redis(two, &field) == yes).then_some(()));
        nodes.show_two("+0");
        until("writing to be allowed again", || {
            (redis(two, "SET k before").as_deref() == Some("+OK")).then_some(())
        });
    }
    let last = Some("$3\r\nend".to_owned());
    assert_eq!(redis(two, "SET k end").as_deref(), Some("+OK"));
    until("its writes to reach the others", || (redis(one, "GET k") == last).then_some(()));
    assert_eq!(
        nodes.status("one", "/clock/held"),
        Some(serde_json::json!({})),
        "nothing wrong left"
    );
}

#[test]
fn what_has_expired_stays_so_when_the_clock_is_set_back_and_the_process_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut nodes = Nodes::start(directory.path());
    let two = nodes.topology.redis[1];
    assert_eq!(redis(two, "SET k v PX 50").as_deref(), Some("+OK"));
    until("the key to expire", || (redis(two, "GET k").as_deref() == Some("$-1")).then_some(()));
    nodes.kill(1);
    // Certificates are valid from an hour before they were made: no further back, or nobody would
    // talk to it.
    nodes.show_two("-20m");
    nodes.run(1);
    let shown = until("the node to answer", || redis(two, "GET k"));
    assert_eq!(shown, "$-1");
    until("its clock to be found wrong", || {
        redis(two, "SET k w").filter(|said| said.starts_with("-CLOCKSKEW")).map(drop)
    });
}
