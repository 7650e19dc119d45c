//! A real `redis-server` for the duration of a test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use meridian_resp::{ReplyParser, encode_command};

/// A server on a socket in a directory of its own; it ends with the value.
pub struct RedisServer {
    child: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

/// One connection to it.
pub struct RedisClient {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl RedisServer {
    /// Starts a server; none, with the reason on standard error, if it is not installed.
    pub fn start() -> Option<RedisServer> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                eprintln!(
                    "SKIPPED: redis-server cannot be started ({error}); install it to compare"
                );
                return None;
            }
        };
        let output = child.stdout.take().expect("standard output is piped");
        let ready = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains("ready to accept connections"));
        assert!(ready, "redis-server ended before it was ready");
        Some(RedisServer { child, socket, _directory: directory })
    }

    pub fn connect(&self) -> RedisClient {
        let stream = UnixStream::connect(&self.socket).expect("redis-server listens");
        RedisClient { stream, unread: Vec::new() }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Nothing can be done about a server that has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl RedisClient {
    /// Runs one command and returns the reply's bytes.
    pub fn run(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut request = Vec::new();
        encode_command(&mut request, args);
        self.stream.write_all(&request).expect("redis-server reads");
        let mut parser = ReplyParser::default();
        loop {
            if let Some((_, used)) = parser.parse(&self.unread).expect("redis-server's reply") {
                return self.unread.drain(..used).collect();
            }
            let mut chunk = [0; 16 << 10];
            let count = self.stream.read(&mut chunk).expect("redis-server answers");
            assert!(count > 0, "redis-server closed the connection");
            self.unread.extend_from_slice(&chunk[..count]);
        }
    }
}
