//! Messages in a stream of bytes: a length (u32, little-endian), then the message. Pure.

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::MESSAGE_BYTES_MAX;

/// The bytes before each message.
pub const HEADER_BYTES: usize = 4;

/// Messages up to this size are copied out, so that one that is kept does not keep the whole
/// buffer that it came in.
const COPY_UP_TO: usize = 16 << 10;

/// A message announced more bytes than [`MESSAGE_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {announced} bytes was announced; {MESSAGE_BYTES_MAX} are allowed")]
pub struct Oversize {
    /// The announced size in bytes.
    pub announced: usize,
}

/// Appends a message; the caller has checked its size.
pub fn append(out: &mut Vec<u8>, message: &[u8]) {
    debug_assert!(message.len() <= MESSAGE_BYTES_MAX);
    out.extend_from_slice(&(message.len() as u32).to_le_bytes());
    out.extend_from_slice(message);
}

/// Cuts a stream of bytes into messages. Holds at most one message and what was pushed last.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
}

impl Framer {
    /// Adds bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message. After an error the stream is useless.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Oversize> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let announced = u32::from_le_bytes(*header) as usize;
        if announced > MESSAGE_BYTES_MAX {
            return Err(Oversize { announced });
        }
        if self.buffer.len() < HEADER_BYTES + announced {
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        Ok(Some(if announced <= COPY_UP_TO {
            let message = Bytes::copy_from_slice(&self.buffer[..announced]);
            self.buffer.advance(announced);
            message
        } else {
            self.buffer.split_to(announced).freeze()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(stream: &[u8], step: usize) -> Result<Vec<Bytes>, Oversize> {
        let mut framer = Framer::default();
        let mut messages = Vec::new();
        for piece in stream.chunks(step) {
            framer.push(piece);
            while let Some(message) = framer.next_message()? {
                messages.push(message);
            }
        }
        assert!(framer.buffer.is_empty(), "bytes left over");
        Ok(messages)
    }

    #[test]
    fn messages_survive_any_cutting() {
        let messages: Vec<Vec<u8>> =
            [0, 1, 3, 100, COPY_UP_TO, COPY_UP_TO + 1, 70_000].map(|n| vec![n as u8; n]).into();
        let mut stream = Vec::new();
        messages.iter().for_each(|message| append(&mut stream, message));
        for step in [1, 3, 4, 5, 1000, stream.len()] {
            assert_eq!(cut(&stream, step).expect("in bounds"), messages, "in steps of {step}");
        }
    }

    #[test]
    fn the_largest_passes_and_one_more_byte_is_refused_at_its_header() {
        let mut stream = Vec::new();
        append(&mut stream, &vec![1; MESSAGE_BYTES_MAX]);
        assert_eq!(cut(&stream, 1 << 16).expect("in bounds")[0].len(), MESSAGE_BYTES_MAX);
        let mut framer = Framer::default();
        framer.push(&(MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes());
        assert_eq!(framer.next_message(), Err(Oversize { announced: MESSAGE_BYTES_MAX + 1 }));
    }
}
