//! The lanes of a connection: one stream each way, a preface that says which lane it is and whose,
//! then messages, each behind its length. As in the mesh, but for compression.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn_proto::{Connection, StreamId, WriteError};

use super::limits::{CONTROL_QUEUE_BYTES_MAX, LANES, MESSAGE_BYTES_MAX, READ_BYTES};
use crate::network::Lane;

/// The bytes that open a lane.
const PREFACE_BYTES: usize = 8;

/// What they begin with: the name and the version of what is said.
const MAGIC: &[u8; 5] = b"MRDN\x01";

/// The bytes before each message.
const HEADER_BYTES: usize = 4;

/// Something that no peer of ours sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation(pub &'static str);

/// This side's half of a lane.
#[derive(Debug)]
pub(super) struct Outgoing {
    stream: StreamId,
    queue: VecDeque<Bytes>,
    queued: usize,
}

impl Outgoing {
    /// Opens with the preface.
    pub fn new(stream: StreamId, number: usize, origin: u16) -> Outgoing {
        let mut preface = MAGIC.to_vec();
        preface.push(number as u8);
        preface.extend(origin.to_le_bytes());
        let queued = preface.len();
        Outgoing { stream, queue: VecDeque::from([preface.into()]), queued }
    }

    /// Bytes that wait for QUIC to take them.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Queues a message; false if the queue of control messages is full.
    pub fn push(&mut self, lane: Lane, message: &[u8]) -> bool {
        if lane == Lane::Control && self.queued + message.len() > CONTROL_QUEUE_BYTES_MAX {
            return false;
        }
        let mut framed = (message.len() as u32).to_le_bytes().to_vec();
        framed.extend_from_slice(message);
        self.queued += framed.len();
        self.queue.push_back(framed.into());
        true
    }

    /// Hands over what QUIC takes. True if it would take no more.
    pub fn write(&mut self, connection: &mut Connection) -> Result<bool, Violation> {
        while let Some(bytes) = self.queue.front_mut() {
            match connection.send_stream(self.stream).write_chunks(std::slice::from_mut(bytes)) {
                Ok(written) => {
                    self.queued -= written.bytes;
                    if bytes.is_empty() {
                        self.queue.pop_front();
                    }
                }
                Err(WriteError::Blocked) => return Ok(true),
                // Lanes live as long as their connection.
                Err(_) => return Err(Violation("a lane was stopped")),
            }
        }
        Ok(false)
    }
}

/// The other side's half of a lane.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: StreamId,
    /// Which lane it is, once its preface is here.
    number: Option<usize>,
    buffer: Vec<u8>,
}

impl Incoming {
    pub fn new(stream: StreamId) -> Incoming {
        Incoming { stream, number: None, buffer: Vec::new() }
    }

    /// Takes in what has arrived; what leaves next tells the other side that there is room again.
    pub fn read(&mut self, connection: &mut Connection, origin: u16) -> Result<(), Violation> {
        let mut stream = connection.recv_stream(self.stream);
        let Ok(mut chunks) = stream.read(true) else { return Err(Violation("no such lane")) };
        let ended = loop {
            match chunks.next(READ_BYTES) {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) => break true,
                Err(quinn_proto::ReadError::Blocked) => break false,
                Err(quinn_proto::ReadError::Reset(_)) => break true,
            }
        };
        drop(chunks);
        if ended {
            return Err(Violation("a lane has ended"));
        }
        if let (None, Some(preface)) = (self.number, self.buffer.first_chunk::<PREFACE_BYTES>()) {
            self.number = Some(number_of(preface, origin)?);
            self.buffer.drain(..PREFACE_BYTES);
        }
        Ok(())
    }

    /// Which lane it is.
    pub fn number(&self) -> Option<usize> {
        self.number
    }

    /// The messages that are whole.
    pub fn messages(&mut self) -> Result<Vec<Vec<u8>>, Violation> {
        let (mut messages, mut at) = (Vec::new(), 0);
        while let Some(header) = self.buffer[at..].first_chunk::<HEADER_BYTES>() {
            let length = u32::from_le_bytes(*header) as usize;
            if length > MESSAGE_BYTES_MAX {
                return Err(Violation("a message that is too large"));
            }
            let from = at + HEADER_BYTES;
            let Some(message) = self.buffer.get(from..from + length) else { break };
            messages.push(message.to_vec());
            at = from + length;
        }
        self.buffer.drain(..at);
        Ok(messages)
    }
}

/// The lane of a number on the wire; the third is opened and not used here.
pub(super) fn lane_of(number: usize) -> Option<Lane> {
    [Lane::Control, Lane::Live].get(number).copied()
}

fn number_of(preface: &[u8; PREFACE_BYTES], origin: u16) -> Result<usize, Violation> {
    let is_ours = preface.starts_with(MAGIC);
    if !is_ours || preface[MAGIC.len() + 1..] != origin.to_le_bytes() {
        return Err(Violation("a preface of somebody else"));
    }
    let number = usize::from(preface[MAGIC.len()]);
    if number < LANES { Ok(number) } else { Err(Violation("a lane that does not exist")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_prefaces_of_the_peer_are_taken() {
        let good = *b"MRDN\x01\x02\x07\x00";
        assert_eq!(number_of(&good, 7), Ok(2));
        for (at, byte) in [(0, b'X'), (4, 2), (5, 3), (6, 8), (7, 1)] {
            let mut bad = good;
            bad[at] = byte;
            assert!(number_of(&bad, 7).is_err(), "byte {at}");
        }
    }

    #[test]
    fn messages_survive_any_cutting_and_one_that_is_too_large_is_refused() {
        let stream =
            quinn_proto::StreamId::new(quinn_proto::Side::Client, quinn_proto::Dir::Uni, 0);
        let mut lane = Outgoing::new(stream, 0, 1);
        let sent: Vec<Vec<u8>> = [0, 1, 300, 70_000].map(|length| vec![7; length]).into();
        assert!(sent.iter().all(|message| lane.push(Lane::Live, message)));
        let bytes: Vec<u8> = lane.queue.iter().skip(1).flatten().copied().collect();
        for step in [1, 5, 1000, bytes.len()] {
            let mut incoming = Incoming::new(stream);
            let mut got = Vec::new();
            for piece in bytes.chunks(step) {
                incoming.buffer.extend_from_slice(piece);
                got.extend(incoming.messages().expect("in bounds"));
            }
            assert_eq!(got, sent, "in steps of {step}");
        }
        let mut incoming = Incoming::new(stream);
        incoming.buffer.extend((MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes());
        assert!(incoming.messages().is_err());
    }

    #[test]
    fn the_control_lane_is_bounded() {
        let stream =
            quinn_proto::StreamId::new(quinn_proto::Side::Client, quinn_proto::Dir::Uni, 0);
        let mut lane = Outgoing::new(stream, 0, 1);
        let message = vec![0; 100_000];
        let taken = std::iter::repeat_with(|| lane.push(Lane::Control, &message));
        assert_eq!(taken.take_while(|taken| *taken).count(), CONTROL_QUEUE_BYTES_MAX / 100_004);
    }
}
