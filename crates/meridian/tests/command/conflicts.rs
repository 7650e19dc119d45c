//! Conflicts between real regions: followed, listed after a restart, and undone.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use meridian_resp::{ReplyParser, Value};

use crate::sessions::{Cluster, ask, connect, figure};
use crate::support::{self, until};

/// A connection that follows conflicts.
struct Follower {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Follower {
    /// Follows a region in a protocol; the replies to HELLO and to FOLLOW have been read.
    fn new(region: SocketAddr, protocol: u8) -> Follower {
        let mut stream = TcpStream::connect(region).expect("a node that listens");
        let request = format!("HELLO {protocol}\r\nMERIDIAN.CONFLICTS FOLLOW\r\n");
        stream.write_all(request.as_bytes()).expect("a node that reads");
        let mut follower = Follower { stream, unread: Vec::new() };
        follower.next();
        assert_eq!(follower.next(), Value::Array(Vec::new()), "there is no conflict yet");
        follower
    }

    fn next(&mut self) -> Value {
        loop {
            let parsed = ReplyParser::default().parse(&self.unread).expect("a reply");
            if let Some((value, used)) = parsed {
                self.unread.drain(..used);
                return value;
            }
            let mut chunk = [0; 4096];
            let count = self.stream.read(&mut chunk).expect("a node that writes");
            assert!(count > 0, "the node has closed the connection");
            self.unread.extend_from_slice(&chunk[..count]);
        }
    }

    /// The next message: what it says, and its fields.
    fn message(&mut self) -> (String, Vec<(String, String)>) {
        let message = self.next();
        let [_, what, fields] = message.as_array().expect("a message") else {
            panic!("{message:?}");
        };
        let pairs = match fields {
            Value::Map(pairs) => pairs.clone(),
            Value::Array(flat) => {
                flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
            }
            other => panic!("{other:?}"),
        };
        let pairs = pairs.iter().map(|(name, value)| (text(name), text(value))).collect();
        (text(what), pairs)
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        other => String::from_utf8_lossy(other.as_bytes().unwrap_or_default()).into_owned(),
    }
}

fn field<'m>(message: &'m (String, Vec<(String, String)>), name: &str) -> &'m str {
    let found = message.1.iter().find(|(n, _)| n == name);
    found.map_or_else(|| panic!("no {name} in {message:?}"), |(_, value)| value)
}

#[test]
fn a_conflict_is_told_survives_a_restart_and_can_be_undone() {
    let cluster = Cluster::start();
    let [one, two, three] = cluster.topology.redis;
    let (mut here, mut there) = (connect(one), connect(two));
    let mut followers = [Follower::new(three, 2), Follower::new(three, 3)];

    cluster.command(&["wan", "cut", "one"]);
    ask(&mut here, "SET cart apples").unwrap();
    // The second write's stamp is the larger: the clock of its region has gone on.
    let clock = |line: &mut redis::Connection| {
        figure(line, "server_time_usec").parse::<u64>().expect("a number")
    };
    let written = clock(&mut here);
    until("a later clock", || (clock(&mut there) > written).then_some(()));
    ask(&mut there, "SET cart pears").unwrap();
    cluster.command(&["wan", "heal"]);

    let mut stamp = String::new();
    for follower in &mut followers {
        let message = follower.message();
        assert_eq!(message.0, "seen");
        let facts = ["key", "value", "region", "winner_region"].map(|name| field(&message, name));
        assert_eq!(facts, ["cart", "apples", "one", "two"]);
        stamp = field(&message, "stamp").to_owned();
    }

    // Undone in one region, and so in all; told with how it ended.
    let restore = format!("MERIDIAN.CONFLICTS RESTORE cart {stamp}");
    until("the loser in the second region", || ask(&mut there, &restore).ok());
    for follower in &mut followers {
        let message = follower.message();
        let facts = ["value", "outcome", "by_region"].map(|name| field(&message, name));
        assert_eq!((message.0.as_str(), facts), ("resolved", ["apples", "kept", "two"]));
    }
    assert_eq!(ask(&mut connect(three), "GET cart").unwrap(), "apples");
    let gone = ask(&mut there, &restore).unwrap_err();
    assert!(gone.to_string().contains("no such conflict"), "{gone}");

    // Another one, and a region that is killed knows it exactly as before.
    cluster.command(&["wan", "cut", "one"]);
    ask(&mut here, "HSET h field a").unwrap();
    ask(&mut there, "HSET h field b").unwrap();
    cluster.command(&["wan", "heal"]);
    assert_eq!(followers[0].message().0, "seen");
    let list =
        || redis::cmd("MERIDIAN.CONFLICTS").query::<redis::Value>(&mut connect(three)).unwrap();
    let before = list();
    cluster.command(&["region", "kill", "three"]);
    cluster.command(&["region", "start", "three"]);
    until("the region to be back", || support::redis(three, "PING"));
    assert_eq!(list(), before);
    assert_eq!(figure(&mut connect(three), "conflict_keys"), "1");
}
