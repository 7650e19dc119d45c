//! Session tokens between real regions, as a client library uses them.

use std::net::{SocketAddr, TcpStream};

use redis::{Connection, RedisResult, Value, cmd};

use crate::support::{Topology, Up, meridian, topology, until};

/// A connection to a region.
pub fn connect(address: SocketAddr) -> Connection {
    let client = redis::Client::open(format!("redis://{address}")).expect("an address");
    client.get_connection().expect("a node that listens")
}

/// One command, its words divided by blanks, with a reply that is text.
pub fn ask(connection: &mut Connection, line: &str) -> RedisResult<String> {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().unwrap_or_default());
    for word in words {
        command.arg(word);
    }
    command.query(connection)
}

/// A line of INFO.
pub fn figure(connection: &mut Connection, name: &str) -> String {
    let info = ask(connection, "INFO").expect("the figures");
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {info}")).to_owned()
}

/// A running cluster of three.
pub struct Cluster {
    pub topology: Topology,
    directory: tempfile::TempDir,
    _up: Up,
}

impl Cluster {
    pub fn start() -> Cluster {
        let directory = tempfile::tempdir().expect("a directory");
        let topology = topology(directory.path());
        let up = Up::start(directory.path(), &topology);
        Cluster { topology, directory, _up: up }
    }

    pub fn command(&self, words: &[&str]) {
        let status = meridian()
            .args(words)
            .arg("--config")
            .arg(&self.topology.file)
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .output()
            .expect("the command starts");
        assert!(status.status.success(), "{words:?}: {status:?}");
    }
}

#[test]
fn a_session_finds_its_writes_wherever_it_lands() {
    let cluster = Cluster::start();
    let [one, two, three] = cluster.topology.redis;
    let (mut here, mut there) = (connect(one), connect(two));
    ask(&mut here, "MERIDIAN.TOKEN").unwrap();

    // In another region at once: as soon as the write has come.
    for n in 0..20 {
        ask(&mut here, &format!("SET session:{n} ada")).unwrap();
        let token = ask(&mut here, "MERIDIAN.TOKEN").unwrap();
        assert_eq!(ask(&mut there, &format!("MERIDIAN.AWAIT {token} 60000")).unwrap(), "OK");
        assert_eq!(ask(&mut there, &format!("GET session:{n}")).unwrap(), "ada");
    }

    // Where it cannot come, the answer is clear, and the client is not held for ever.
    cluster.command(&["wan", "cut", "one"]);
    ask(&mut here, "SET cart full").unwrap();
    let token = ask(&mut here, "MERIDIAN.TOKEN").unwrap();
    for timeout in [0, 50] {
        let error = ask(&mut there, &format!("MERIDIAN.AWAIT {token} {timeout}")).unwrap_err();
        assert_eq!(error.code(), Some("STALE"), "{error}");
        assert!(error.to_string().contains("lacks writes of one ("), "{error}");
    }
    let mut third = connect(three);
    assert_eq!(ask(&mut here, &format!("MERIDIAN.AWAIT {token} 0")).unwrap(), "OK", "at home");

    // Who waits is woken by the write; others are served meanwhile, and who hangs up is forgotten.
    let waiting = {
        let token = token.clone();
        std::thread::spawn(move || {
            let mut pipe = redis::pipe();
            pipe.cmd("MERIDIAN.AWAIT").arg(&token).arg(60_000).cmd("GET").arg("cart");
            pipe.query::<(String, String)>(&mut connect(two))
        })
    };
    let gone = {
        use std::io::Write as _;
        let mut stream = TcpStream::connect(two).unwrap();
        stream.write_all(format!("MERIDIAN.AWAIT {token} 60000\r\n").as_bytes()).unwrap();
        stream
    };
    until("two who wait", || (figure(&mut there, "blocked_clients") == "2").then_some(()));
    drop(gone);
    until("one who waits", || (figure(&mut there, "blocked_clients") == "1").then_some(()));
    cluster.command(&["wan", "heal"]);
    let answer = waiting.join().unwrap().unwrap();
    assert_eq!(answer, ("OK".to_owned(), "full".to_owned()));

    // The write has come; then the region that took it dies. Nothing more is promised by it, and
    // still the others know that they have what the session needs.
    assert_eq!(ask(&mut third, &format!("MERIDIAN.AWAIT {token} 60000")).unwrap(), "OK");
    cluster.command(&["region", "kill", "one"]);
    assert_eq!(ask(&mut third, &format!("MERIDIAN.AWAIT {token} 0")).unwrap(), "OK");
    assert_eq!(ask(&mut third, "GET cart").unwrap(), "full");
}

#[test]
fn a_library_may_have_the_token_with_every_reply_to_a_write() {
    let cluster = Cluster::start();
    let [one, two, _] = cluster.topology.redis;
    let mut old = connect(one);
    let refused = ask(&mut old, "MERIDIAN.TOKEN ATTRIBUTE ON").unwrap_err();
    assert!(refused.to_string().contains("HELLO 3"), "{refused}");

    let url = format!("redis://{one}/?protocol=resp3");
    let mut new = redis::Client::open(url).unwrap().get_connection().unwrap();
    assert_eq!(ask(&mut new, "MERIDIAN.TOKEN ATTRIBUTE ON").unwrap(), "OK");
    let reply: Value = cmd("INCR").arg("visits").query(&mut new).unwrap();
    let Value::Attribute { data, attributes } = reply else { panic!("{reply:?}") };
    assert_eq!(*data, Value::Int(1));
    let [(Value::BulkString(name), Value::BulkString(token))] = attributes.as_slice() else {
        panic!("{attributes:?}")
    };
    assert_eq!(name, b"meridian-token");
    let token = String::from_utf8(token.clone()).unwrap();
    let mut there = connect(two);
    assert_eq!(ask(&mut there, &format!("MERIDIAN.AWAIT {token} 60000")).unwrap(), "OK");
    assert_eq!(ask(&mut there, "GET visits").unwrap(), "1");
    let plain: Value = cmd("GET").arg("visits").query(&mut new).unwrap();
    assert_eq!(plain, Value::BulkString(b"1".to_vec()));
}
