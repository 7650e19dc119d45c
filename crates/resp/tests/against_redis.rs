//! The same bytes to this crate and to a running `redis-server`: which commands it understands and
//! with which words it refuses broken ones. Needs the `redis-server` program (`scripts/setup`).

use meridian_resp::{Args, Protocol, ReplyParser, RequestParser, Value, Writer};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

/// A server of its own for a test, ended with it.
struct RedisServer {
    process: Child,
    port: u16,
}

impl RedisServer {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let mut process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--daemonize", "no"])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server runs (scripts/setup installs it)");
        let log = BufReader::new(process.stdout.take().expect("piped"));
        let ready = log
            .lines()
            .map_while(Result::ok)
            .any(|line| line.to_ascii_lowercase().contains("ready to accept connections"));
        assert!(ready, "redis-server ended before it was ready");
        RedisServer { process, port }
    }

    /// Sends `bytes`, then end of file, and returns all that comes back.
    fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connects");
        stream.write_all(bytes).expect("sends");
        stream.shutdown(Shutdown::Write).expect("half closes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("receives until the server closes");
        answer
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // The process is ours alone; should it be gone already, there is nothing left to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server made of this crate that knows ECHO.
fn our_answer(bytes: &[u8]) -> Vec<u8> {
    let mut parser = RequestParser::default();
    let mut args = Args::new();
    let mut out = Vec::new();
    let mut rest = bytes;
    loop {
        let mut writer = Writer::new(&mut out, Protocol::Resp2);
        match parser.parse(rest, &mut args) {
            Ok(Some(used)) => {
                if !args.is_empty() {
                    assert!(args.get(0, rest).eq_ignore_ascii_case(b"echo"), "a test sends ECHO");
                    writer.bulk(args.get(1, rest));
                }
                rest = &rest[used..];
            }
            Ok(None) => return out,
            Err(error) => {
                writer.protocol_error(&error);
                return out;
            }
        }
    }
}

#[test]
fn requests_are_understood_and_refused_as_by_redis() {
    let redis = RedisServer::start();
    let long_line = "1".repeat(65_536);
    let echo_long = format!("*2\r\n$4\r\nECHO\r\n$65536\r\n{long_line}\r\n");
    let cases: Vec<Vec<u8>> = [
        "*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n",
        "*2\r\n$4\r\nECHO\r\n$0\r\n\r\n*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\r\n\r\n",
        &echo_long,
        "echo hi\r\n",
        "echo hi\n\r\n\necho  there\t\r\n",
        "echo \"a b\\x41\\n\\q\"\r\n",
        "echo 'it\\'s \\n'\r\n",
        "echo a\"b c\"\r\n",
        "echo \u{b}a\u{b}\r\n",
        "echo \"\"\r\necho ''\r\n",
        "*0\r\n*-1\r\n*-100\r\necho hi\r\n",
        "*2\r\n$4\r\nECHO\r\n$2\r\nhiXXecho there\r\n",
        "*2\rX$4\rXECHO\r\n$2\rXhi\r\n",
        // Refused.
        "echo \"a\r\n",
        "echo 'a\r\n",
        "echo \"a\"b\r\n",
        "*x\r\n",
        "*\r\n",
        "*01\r\n",
        "*+1\r\n",
        "*-0\r\n",
        "*3000000000\r\n",
        "*99999999999999999999\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$01\r\n",
        "*1\r\n$2000000000\r\n",
        "*1\r\n$99999999999999999999\r\n",
        "*1\r\nPING\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n\r\n",
        "*1\r\n\n\r\n",
        "*2\r\n$4\r\nECHO\r\nhi\r\n",
        "*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n*x\r\n*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n",
        // Incomplete.
        "*2\r\n$4\r\nECHO\r\n$2\r\nh",
        "*1\r\nP",
        "*1\r\nP\r",
        "echo hi",
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([b"*1\r\n\xff\xfe\r\n".to_vec(), b"echo \"\\xff\\x00\"\r\n".to_vec()])
    .chain([
        // Exactly one byte too many: nothing is left unread when the server closes.
        format!("{long_line}1").into_bytes(),
        format!("*{long_line}").into_bytes(),
        format!("*1\r\n${long_line}").into_bytes(),
    ])
    .collect();
    for case in cases {
        let shown = &case[..case.len().min(80)].escape_ascii().to_string();
        let ours = our_answer(&case).escape_ascii().to_string();
        assert_eq!(ours, redis.answer(&case).escape_ascii().to_string(), "{shown}");
    }
}

#[test]
fn real_replies_are_read_in_both_protocols() {
    let redis = RedisServer::start();
    let script = "HSET h f 1.5\r\nZADD z 0.1 m\r\nHGETALL h\r\nZSCORE z m\r\nGET none\r\nSADD s a\r\n\
                  SMEMBERS s\r\nNOSUCH\r\n";
    for hello in ["HELLO 2\r\n", "HELLO 3\r\n"] {
        let answer = redis.answer(format!("FLUSHALL\r\n{hello}{script}").as_bytes());
        let values = read_all(&answer);
        assert_eq!(values.len(), 10, "{}", answer.escape_ascii());
        let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
        let pair = (bulk("f"), bulk("1.5"));
        let expected = if hello == "HELLO 2\r\n" {
            let hash = Value::Array(vec![pair.0, pair.1]);
            [hash, bulk("0.10000000000000001"), Value::Null, Value::Array(vec![bulk("a")])]
        } else {
            let members = Value::Set(vec![bulk("a")]);
            [Value::Map(vec![pair]), Value::Double(0.1), Value::Null, members]
        };
        let seen = [&values[4], &values[5], &values[6], &values[8]];
        assert_eq!(seen, expected.each_ref());
        assert!(values[9].as_error().is_some_and(|text| text.starts_with(b"ERR unknown command")));
        // The double is written as the server writes it.
        let mut ours = Vec::new();
        let proto = if hello == "HELLO 2\r\n" { Protocol::Resp2 } else { Protocol::Resp3 };
        Writer::new(&mut ours, proto).double(0.1);
        assert!(answer.windows(ours.len()).any(|window| window == ours));
    }
}

fn read_all(mut bytes: &[u8]) -> Vec<Value> {
    let mut parser = ReplyParser::default();
    let mut values = Vec::new();
    while let Some((value, used)) = parser.parse(bytes).expect("Redis speaks Redis") {
        values.push(value);
        bytes = &bytes[used..];
    }
    assert!(bytes.is_empty(), "left over: {}", bytes.escape_ascii());
    values
}
