//! A lane's bytes on the line: as they are, or as a zstd stream, flushed after each batch, so that a
//! batch profits from what went before and waits for nothing after.
//!
//! Data that does not compress goes into zstd frames of raw blocks (RFC 8878, 3.1.1.2), which cost a
//! few bytes and no time; the reader need not know. The next batch that is compressed begins without
//! a history.

use std::io;

use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use crate::framing::Framer;
use crate::limits::{READ_BYTES, ZSTD_HASH_LOG, ZSTD_LEVEL, ZSTD_WINDOW_LOG};

/// The sending side of a lane.
pub(crate) enum LaneEncoder {
    Plain,
    Zstd {
        encoder: Box<Encoder<'static>>,
        /// The zstd frame goes on.
        is_open: bool,
    },
}

impl LaneEncoder {
    pub(crate) fn new(is_compressed: bool) -> io::Result<LaneEncoder> {
        if !is_compressed {
            return Ok(LaneEncoder::Plain);
        }
        let mut encoder = Encoder::new(ZSTD_LEVEL)?;
        encoder.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
        encoder.set_parameter(CParameter::HashLog(ZSTD_HASH_LOG))?;
        Ok(LaneEncoder::Zstd { encoder: Box::new(encoder), is_open: false })
    }

    /// Whether there is a choice to be made.
    pub(crate) fn is_compressing(&self) -> bool {
        matches!(self, LaneEncoder::Zstd { .. })
    }

    /// What goes on the line for `plain`; the other side can read all of it at once.
    pub(crate) fn encode(&mut self, plain: Vec<u8>) -> io::Result<Vec<u8>> {
        let LaneEncoder::Zstd { encoder, is_open } = self else {
            return Ok(plain);
        };
        *is_open = true;
        let mut wire = Vec::with_capacity(plain.len() / 2 + READ_BYTES);
        let mut input = InBuffer::around(&plain);
        while input.pos() < plain.len() {
            let filled = reserve(&mut wire);
            encoder.run(&mut input, &mut OutBuffer::around_pos(&mut wire, filled))?;
        }
        loop {
            let filled = reserve(&mut wire);
            if encoder.flush(&mut OutBuffer::around_pos(&mut wire, filled))? == 0 {
                return Ok(wire);
            }
        }
    }

    /// The same without compressing.
    pub(crate) fn store(&mut self, plain: Vec<u8>) -> io::Result<Vec<u8>> {
        let LaneEncoder::Zstd { encoder, is_open } = self else {
            return Ok(plain);
        };
        let mut wire = Vec::with_capacity(plain.len() + READ_BYTES);
        while *is_open {
            let filled = reserve(&mut wire);
            let left = encoder.finish(&mut OutBuffer::around_pos(&mut wire, filled), true)?;
            *is_open = left > 0;
        }
        encoder.reinit()?;
        let blocks = plain.chunks(RAW_BLOCK_BYTES);
        let count = blocks.len();
        if count > 0 {
            wire.extend_from_slice(&ZSTD_MAGIC);
            // No checksum, no dictionary, no content size; then the window.
            wire.extend_from_slice(&[0, ((ZSTD_WINDOW_LOG - 10) << 3) as u8]);
        }
        for (number, block) in blocks.enumerate() {
            let header = (block.len() as u32) << 3 | u32::from(number + 1 == count);
            wire.extend_from_slice(&header.to_le_bytes()[..3]);
            wire.extend_from_slice(block);
        }
        Ok(wire)
    }
}

/// What a zstd frame begins with.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The largest block of a zstd frame.
const RAW_BLOCK_BYTES: usize = 128 << 10;

/// Makes room to write to; returns where it begins.
fn reserve(wire: &mut Vec<u8>) -> usize {
    if wire.capacity() - wire.len() < READ_BYTES / 4 {
        wire.reserve(READ_BYTES);
    }
    wire.len()
}

/// The receiving side of a lane.
pub(crate) enum LaneDecoder {
    Plain,
    Zstd { decoder: Box<Decoder<'static>>, out: Box<[u8]> },
}

impl LaneDecoder {
    pub(crate) fn new(is_compressed: bool) -> io::Result<LaneDecoder> {
        if !is_compressed {
            return Ok(LaneDecoder::Plain);
        }
        let mut decoder = Decoder::new()?;
        // What asks for a larger window is refused before any memory is set aside for it.
        decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
        Ok(LaneDecoder::Zstd { decoder: Box::new(decoder), out: vec![0; READ_BYTES].into() })
    }

    /// Moves some of `input` on to the framer, at most [`READ_BYTES`] of it; the caller takes the
    /// messages out and calls again until there is nothing more. So a small input that unpacks to
    /// a huge output never takes more memory than one message.
    pub(crate) fn step(&mut self, input: &mut &[u8], framer: &mut Framer) -> io::Result<Progress> {
        match self {
            LaneDecoder::Plain => {
                let (now, later) = input.split_at(input.len().min(READ_BYTES));
                framer.push(now);
                *input = later;
                Ok(Progress { unpacked: now.len(), is_done: later.is_empty() })
            }
            LaneDecoder::Zstd { decoder, out } => {
                let status = decoder.run_on_buffers(input, out)?;
                *input = &input[status.bytes_read..];
                framer.push(&out[..status.bytes_written]);
                // A full output may have left more inside.
                let is_done = input.is_empty() && status.bytes_written < out.len();
                if !is_done && status.bytes_read == 0 && status.bytes_written == 0 {
                    return Err(io::Error::other("the compressed stream makes no progress"));
                }
                Ok(Progress { unpacked: status.bytes_written, is_done })
            }
        }
    }
}

/// What a step of a [`LaneDecoder`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes given to the framer.
    pub(crate) unpacked: usize,
    /// Nothing is left of the input.
    pub(crate) is_done: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing;
    use crate::limits::MESSAGE_BYTES_MAX;

    fn decode(decoder: &mut LaneDecoder, framer: &mut Framer, wire: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let mut input = wire;
        loop {
            let progress = decoder.step(&mut input, framer).expect("a good stream");
            assert!(progress.unpacked <= READ_BYTES);
            while let Some(message) = framer.next_message().expect("in bounds") {
                messages.push(message.to_vec());
            }
            if progress.is_done {
                return messages;
            }
        }
    }

    #[test]
    fn each_batch_can_be_read_at_once_whole_or_in_pieces() {
        for is_compressed in [false, true] {
            let mut encoder = LaneEncoder::new(is_compressed).expect("encoder");
            let mut decoder = LaneDecoder::new(is_compressed).expect("decoder");
            let mut framer = Framer::default();
            for size in [0, 1, 10, 1000, READ_BYTES, MESSAGE_BYTES_MAX, 5] {
                let message: Vec<u8> = (0..size).map(|i| (i * i / 7) as u8).collect();
                let mut plain = Vec::new();
                framing::append(&mut plain, &message);
                let wire = encoder.encode(plain).expect("encode");
                let pieces: Vec<_> = wire
                    .chunks(1000)
                    .flat_map(|piece| decode(&mut decoder, &mut framer, piece))
                    .collect();
                assert_eq!(pieces, [message], "{size} bytes");
            }
        }
    }

    #[test]
    fn stored_and_compressed_batches_follow_each_other_in_any_order() {
        let mut encoder = LaneEncoder::new(true).expect("encoder");
        let mut decoder = LaneDecoder::new(true).expect("decoder");
        let mut framer = Framer::default();
        let sizes = [10, 0, 1000, RAW_BLOCK_BYTES - 4, RAW_BLOCK_BYTES, MESSAGE_BYTES_MAX, 3, 70];
        for (round, size) in sizes.repeat(3).into_iter().enumerate() {
            let message: Vec<u8> = (0..size).map(|i| (i * i / 7 + round) as u8).collect();
            let mut plain = Vec::new();
            framing::append(&mut plain, &message);
            let raw = plain.len();
            let is_stored = round % 5 < 3;
            let wire = match is_stored {
                true => encoder.store(plain),
                false => encoder.encode(plain),
            }
            .expect("encode");
            assert!(!is_stored || wire.len() <= raw + 50, "{raw} became {}", wire.len());
            let pieces: Vec<_> = wire
                .chunks(777)
                .flat_map(|piece| decode(&mut decoder, &mut framer, piece))
                .collect();
            assert_eq!(pieces, [message], "round {round}, {size} bytes");
        }
        assert!(encoder.store(Vec::new()).expect("nothing").len() < 20);
    }

    #[test]
    fn later_batches_profit_from_earlier_ones() {
        let mut encoder = LaneEncoder::new(true).expect("encoder");
        let text: Vec<u8> = (0..4000u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        let first = encoder.encode(text.clone()).expect("encode").len();
        let second = encoder.encode(text).expect("encode").len();
        assert!(second * 4 < first, "{second} after {first}");
    }

    #[test]
    fn a_bomb_is_unpacked_in_small_steps() {
        let bomb = zstd_of(&vec![0; 64 << 20], ZSTD_WINDOW_LOG);
        assert!(bomb.len() < 20_000);
        let mut decoder = LaneDecoder::new(true).expect("decoder");
        let mut framer = Framer::default();
        let mut input = &bomb[..];
        // Zeros are messages of no bytes: the framer is emptied after each step.
        loop {
            let progress = decoder.step(&mut input, &mut framer).expect("a good stream");
            assert!(progress.unpacked <= READ_BYTES);
            while framer.next_message().expect("in bounds").is_some() {}
            if progress.is_done {
                break;
            }
        }
    }

    #[test]
    fn a_window_beyond_the_bound_and_garbage_are_refused() {
        let noise: Vec<u8> = (0..4u32 << 20).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let wide = zstd_of(&noise, ZSTD_WINDOW_LOG + 2);
        for bad in [&wide[..], b"this is not a zstd stream"] {
            let mut decoder = LaneDecoder::new(true).expect("decoder");
            let mut framer = Framer::default();
            let mut input = bad;
            assert!(decoder.step(&mut input, &mut framer).is_err());
        }
    }

    fn zstd_of(plain: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = Encoder::new(ZSTD_LEVEL).expect("encoder");
        encoder.set_parameter(CParameter::WindowLog(window_log)).expect("window");
        let mut lane = LaneEncoder::Zstd { encoder: Box::new(encoder), is_open: false };
        lane.encode(plain.to_vec()).expect("encode")
    }
}
