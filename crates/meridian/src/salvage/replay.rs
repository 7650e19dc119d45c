//! Writing salvaged records again: commands over an ordinary client connection, and a mark of how
//! far that has got, so that nothing is written twice.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long a region may take to answer a command.
const REPLY_WITHIN: Duration = Duration::from_secs(30);
/// The longest line of a reply that is read, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// The largest bulk string that is skipped in a reply, in bytes.
const BULK_BYTES_MAX: u64 = 512 << 20;

/// A connection that writes.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects, and authenticates if there is a password.
    ///
    /// # Errors
    /// When the region does not answer or does not take the password.
    pub fn connect(address: SocketAddr, password: Option<&str>) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&address, REPLY_WITHIN)
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(REPLY_WITHIN)).context("setting a limit of time")?;
        stream.set_nodelay(true).context("setting the socket up")?;
        let mut client = Client { reader: BufReader::new(stream) };
        if let Some(password) = password {
            client.run(&[b"AUTH".to_vec(), password.as_bytes().to_vec()])?;
        }
        Ok(client)
    }

    /// Runs one command.
    ///
    /// # Errors
    /// What the region says against it.
    pub fn run(&mut self, command: &[Vec<u8>]) -> Result<()> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for word in command {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.reader.get_mut().write_all(&bytes).context("sending a command")?;
        let mut line = String::new();
        let mut limited = (&mut self.reader).take(LINE_BYTES_MAX);
        limited.read_line(&mut line).context("reading a reply")?;
        let line = line.trim_end();
        match line.as_bytes().first() {
            Some(b'-') => bail!("{}", &line[1..]),
            Some(b'$') => self.skip_bulk(&line[1..]),
            Some(b'+' | b':' | b'_' | b',' | b'#') => Ok(()),
            _ => bail!("not a reply that was expected: {line:?}"),
        }
    }

    fn skip_bulk(&mut self, length: &str) -> Result<()> {
        let length: i64 = length.parse().context("the length of a reply")?;
        let Ok(length) = u64::try_from(length) else { return Ok(()) };
        ensure!(length <= BULK_BYTES_MAX, "a reply of {length} bytes");
        let mut rest = (&mut self.reader).take(length + 2);
        std::io::copy(&mut rest, &mut std::io::sink()).context("reading a reply")?;
        Ok(())
    }
}

/// How many of the log's own operations have been written again.
pub struct Mark {
    path: PathBuf,
    /// Operations up to this number are done.
    pub done: u64,
}

impl Mark {
    /// Reads the mark of a region's directory; zero if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: PathBuf) -> Result<Mark> {
        let done = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().with_context(|| path.display().to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        Ok(Mark { path, done })
    }

    /// Makes it durable that everything up to `number` is done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set(&mut self, number: u64) -> Result<()> {
        let write = |path: &Path| {
            let beside = path.with_extension("new");
            let mut file = fs::File::create(&beside)?;
            file.write_all(number.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, path)
        };
        write(&self.path).with_context(|| self.path.display().to_string())?;
        self.done = number;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn server(replies: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(replies).unwrap();
            // Until the client goes.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        });
        address
    }

    #[test]
    fn replies_are_understood() {
        let replies = b"+OK\r\n:1\r\n$4\r\n1.25\r\n$-1\r\n-READONLY not here\r\n*1\r\n";
        let mut client = Client::connect(server(replies), Some("secret")).unwrap();
        let command = [b"SET".to_vec(), b"k".to_vec(), vec![0, 13, 10]];
        for _ in 0..3 {
            client.run(&command).unwrap();
        }
        assert!(client.run(&command).unwrap_err().to_string().contains("READONLY"));
        assert!(client.run(&command).is_err());
        assert!(Client::connect(server(b"-WRONGPASS\r\n"), Some("x")).is_err());
    }

    #[test]
    fn the_mark_survives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("salvaged");
        let mut mark = Mark::open(path.clone()).unwrap();
        assert_eq!(mark.done, 0);
        mark.set(17).unwrap();
        assert_eq!(Mark::open(path.clone()).unwrap().done, 17);
        fs::write(&path, "x").unwrap();
        assert!(Mark::open(path).is_err());
    }
}
