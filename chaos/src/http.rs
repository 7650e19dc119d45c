//! A region's admin port, as an operator asks it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::limits::{ANSWER_BYTES_MAX, ANSWER_WITHIN};

/// Gets a path: status code and body.
///
/// # Errors
/// When there is no answer, or none that can be understood.
pub fn get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let what = || format!("http://{server}{path}");
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_WITHIN).with_context(what)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).with_context(what)?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).with_context(what)?;
    // HTTP/1.0: the answer ends with the connection and is not chunked.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(what)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).with_context(what)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").with_context(what)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(what)?;
    Ok((code, body.to_owned()))
}

/// A region's status.
///
/// # Errors
/// As [`get`], and when the answer is no JSON.
pub fn status(server: SocketAddr) -> Result<Value> {
    let (code, body) = get(server, "/status")?;
    ensure!(code == 200, "http://{server}/status: code {code}");
    serde_json::from_str(&body).with_context(|| format!("http://{server}/status: {body}"))
}
