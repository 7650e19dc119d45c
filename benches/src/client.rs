//! A small blocking Redis client, with the latency of one round trip and nothing more.

use anyhow::{Context, Result, bail};
use meridian_resp::{ReplyParser, Value, encode_command};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Bytes that one read may bring.
const READ_LEN: usize = 64 * 1024;

/// One connection.
pub struct Client {
    stream: TcpStream,
    parser: ReplyParser,
    request: Vec<u8>,
    /// What has arrived and is not parsed yet.
    unread: Vec<u8>,
    chunk: Box<[u8]>,
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream.set_read_timeout(Some(crate::process::PATIENCE)).context("read timeout")?;
        Ok(Client {
            stream,
            parser: ReplyParser::default(),
            request: Vec::new(),
            unread: Vec::new(),
            chunk: vec![0; READ_LEN].into_boxed_slice(),
        })
    }

    /// Sends a command and waits for its reply; an error reply is an error.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Value> {
        self.request.clear();
        encode_command(&mut self.request, args);
        self.stream.write_all(&self.request).context("send")?;
        let reply = self.reply()?;
        if let Some(error) = reply.as_error() {
            let command = String::from_utf8_lossy(args.first().map_or(&[], |arg| arg.as_ref()));
            bail!("{command}: {}", String::from_utf8_lossy(error));
        }
        Ok(reply)
    }

    /// Sends all commands, then waits for their replies; an error reply is an error.
    pub fn call_all<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> Result<()> {
        self.request.clear();
        commands.iter().for_each(|args| encode_command(&mut self.request, args));
        self.stream.write_all(&self.request).context("send")?;
        for _ in commands {
            if let Some(error) = self.reply()?.as_error() {
                bail!("{}", String::from_utf8_lossy(error));
            }
        }
        Ok(())
    }

    /// The text of a section of INFO.
    pub fn info(&mut self, section: &str) -> Result<String> {
        let reply = self.call(&["INFO", section])?;
        let text = reply.as_bytes().context("INFO is no text")?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn reply(&mut self) -> Result<Value> {
        loop {
            if let Some((value, used)) = self.parser.parse(&self.unread)? {
                self.unread.drain(..used);
                return Ok(value);
            }
            let len = self.stream.read(&mut self.chunk).context("receive")?;
            if len == 0 {
                bail!("the server closed the connection");
            }
            self.unread.extend_from_slice(&self.chunk[..len]);
        }
    }
}

/// Whether a server answers there.
pub fn answers(address: SocketAddr) -> bool {
    Client::connect(address).and_then(|mut client| client.call(&["PING"])).is_ok()
}

/// A field of INFO's text.
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let info = "# Replication\r\nmaster_repl_offset2:7\r\nmaster_repl_offset:42\r\n";
        assert_eq!(info_field(info, "master_repl_offset"), Some("42"));
        assert_eq!(info_field(info, "repl"), None);
    }
}
