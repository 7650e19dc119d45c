//! Asks a server about itself: one HTTP request, and the lines of the Prometheus text format.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Meridian's counter of bytes sent to a peer, what QUIC adds not included.
pub const SENT_BYTES: &str = "meridian_replication_sent_bytes_total";

/// Largest answer that is read.
const MAX_ANSWER_LEN: u64 = 16 * 1024 * 1024;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// The status code.
    pub code: u16,
    /// What was answered.
    pub body: String,
}

/// Asks for a path.
pub fn get(address: SocketAddr, path: &str) -> Result<Http> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(crate::process::PATIENCE)).context("read timeout")?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).context("send")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_LEN).read_to_string(&mut answer).context("receive")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no whole answer")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Http { code: code.context("an answer without a code")?, body: body.to_owned() })
}

/// The text at `/metrics`.
pub fn fetch(address: SocketAddr) -> Result<String> {
    let Http { code, body } = get(address, "/metrics")?;
    ensure!(code == 200, "{address} has no metrics: code {code}");
    Ok(body)
}

/// All values of a metric, one for each set of labels, in the order of the text.
pub fn values(text: &str, name: &str) -> Vec<f64> {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = match rest.strip_prefix('{') {
                Some(labels) => labels.rsplit_once('}')?.1,
                None => rest.strip_prefix(' ')?,
            };
            value.split_ascii_whitespace().next()?.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "# TYPE sent counter\nsent{peer=\"a\"} 5\nsent{peer=\"b } c\"} 7 1690000000\n\
                    sent_more 9\nother 1\n";
        assert_eq!(values(text, "sent"), [5.0, 7.0]);
        assert_eq!(values(text, "other"), [1.0]);
        assert_eq!(values(text, "none"), [0.0; 0]);
    }

    #[test]
    fn only_a_good_answer_counts() {
        for (answer, good) in [
            ("HTTP/1.0 200 OK\r\nA: b\r\n\r\nx 1\n", true),
            ("HTTP/1.0 404 Not Found\r\n\r\nx 1\n", false),
            ("", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert_eq!(fetch(address).ok(), good.then(|| "x 1\n".to_owned()));
            server.join().unwrap();
        }
    }
}
