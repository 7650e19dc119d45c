//! What the disk and the loopback of this machine give at this moment, to be set beside what Meridian
//! makes of them.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

/// Written at a time, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes a second of a file that is written from its beginning to its end and synced then.
pub fn disk(directory: &Path, bytes: u64) -> Result<f64> {
    let path = directory.join("ceiling");
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    let piece = piece();
    let began = Instant::now();
    for _ in 0..pieces(bytes) {
        file.write_all(&piece).context("writing")?;
    }
    file.sync_all().context("syncing")?;
    let rate = rate(bytes, began);
    std::fs::remove_file(&path).context("removing")?;
    Ok(rate)
}

/// Bytes a second of one TCP connection over loopback, with nothing done to them.
pub fn loopback(bytes: u64) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listening")?;
    let address = listener.local_addr().context("the address of a listener")?;
    let reader = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept().context("accepting")?;
        let mut room = vec![0; PIECE_BYTES];
        for _ in 0..pieces(bytes) {
            stream.read_exact(&mut room).context("reading")?;
        }
        stream.write_all(b"!").context("answering")
    });
    let mut stream = TcpStream::connect(address).context("connecting")?;
    let piece = piece();
    let began = Instant::now();
    for _ in 0..pieces(bytes) {
        stream.write_all(&piece).context("sending")?;
    }
    stream.read_exact(&mut [0]).context("waiting for the answer")?;
    let rate = rate(bytes, began);
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    Ok(rate)
}

fn pieces(bytes: u64) -> u64 {
    bytes.div_ceil(PIECE_BYTES as u64)
}

fn rate(bytes: u64, began: Instant) -> f64 {
    (pieces(bytes) * PIECE_BYTES as u64) as f64 / began.elapsed().as_secs_f64()
}

fn piece() -> Vec<u8> {
    (0..PIECE_BYTES as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_written_and_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(disk(directory.path(), 3 << 20).unwrap() > 0.0);
        assert!(!directory.path().join("ceiling").exists());
        assert!(loopback((1 << 20) + 1).unwrap() > 0.0);
    }
}
