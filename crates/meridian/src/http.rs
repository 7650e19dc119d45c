//! As much of an HTTP client as it takes to read a region's health and status: one GET over a
//! connection of its own, bounded in time and size.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The largest answer that is read, headers included, in bytes.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code, such as 200.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Orders over the admin port carry this header: a web page cannot make a browser send it without
/// asking the port first, which says no.
pub const ORDER_HEADER: &str = "x-meridian-order";

/// Posts an order to `path` of `server`; the whole exchange may take as long as `patience`.
///
/// # Errors
/// As [`get`].
pub async fn post(
    server: SocketAddr,
    path: &str,
    body: &str,
    patience: Duration,
) -> Result<Answer> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n{ORDER_HEADER}: 1\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    exchange(server, path, &request, patience).await
}

/// Gets `path` from `server`; the whole exchange may take as long as `patience`.
///
/// # Errors
/// When there is no answer in time, or it cannot be understood.
pub async fn get(server: SocketAddr, path: &str, patience: Duration) -> Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    exchange(server, path, &request, patience).await
}

async fn exchange(
    server: SocketAddr,
    path: &str,
    request: &str,
    patience: Duration,
) -> Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = match timeout(patience, exchange).await {
        Ok(answer) => answer.with_context(|| format!("http://{server}{path}"))?,
        Err(_) => bail!("http://{server}{path}: no answer within {} ms", patience.as_millis()),
    };
    ensure!(
        answer.len() as u64 <= ANSWER_BYTES_MAX,
        "http://{server}{path}: the answer is too long"
    );
    parse(&answer).with_context(|| format!("http://{server}{path}: not understood"))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let is_chunked = head.lines().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("transfer-encoding:") && line.contains("chunked")
    });
    let body = if is_chunked { unchunk(body)? } else { body.to_owned() };
    Some(Answer { status, body })
}

/// RFC 9112 §7.1, without trailers.
fn unchunk(mut text: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(rest.get(..size)?);
        text = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn answers_are_taken_apart() {
        let check = |text: &str, expected: Option<(u16, &str)>| {
            let parsed = parse(text.as_bytes());
            let parsed = parsed.as_ref().map(|answer| (answer.status, answer.body.as_str()));
            assert_eq!(parsed, expected, "{text:?}");
        };
        check("HTTP/1.1 200 OK\r\nA: b\r\n\r\nfine", Some((200, "fine")));
        check("HTTP/1.0 503 No\r\n\r\n", Some((503, "")));
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{head}2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"), Some((200, "abc")));
        check(&format!("{head}9\r\nab\r\n"), None);
        check("SSH-2.0-OpenSSH", None);
        check("", None);
    }

    #[tokio::test]
    async fn a_server_is_asked_and_a_silent_one_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            drop(stream);
            let silent = listener.accept().await.unwrap();
            (String::from_utf8_lossy(&request[..length]).into_owned(), silent)
        });
        let patience = Duration::from_secs(30);
        let answer = get(address, "/healthz", patience).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        let error = get(address, "/status", Duration::from_millis(20)).await.unwrap_err();
        assert!(error.to_string().contains("no answer within 20 ms"), "{error}");
        let (request, _silent) = server.await.unwrap();
        assert!(request.starts_with("GET /healthz HTTP/1.1\r\n"), "{request}");
    }
}
