//! Batches as they travel between regions that both know how: the same frames, laid out in columns.
//!
//! A frame lists its operations one after the other, each with its kind, its key and its value.
//! What repeats from one operation to the next (the kind, the beginning of the key, the lengths) lies
//! far apart then, and what does not (random values) lies between it: a compressor that looks for
//! repetition finds little, and gives up where the values are random. Here everything of one kind
//! lies together, and what is the same many times over is counted.
//!
//! ```text
//! packed := 0 varint | number varint | (length varint | column)*
//! ```
//! No subscription has the number 0, so it tells a packed batch from a plain one. A row's birth stands
//! behind the key as it is, not as its distance to the increment: the two repeat together.
//!
//! Increments that a later one of the same frame supersedes are left out: rows hold sums, and a frame is
//! applied whole. The frame keeps its ends, so nobody can tell by its stamps (rule R1). Frames whose
//! operations list cuts, and bundles, travel as they are.

mod packer;
mod runs;
mod shape;
#[cfg(test)]
mod tests;
mod unpacker;

use meridian_codec::{Malformed, Reader, put_bytes, put_varint};

use crate::limits::MAX_BATCH_BYTES;
use crate::message::Batch;
use packer::Packer;
use unpacker::Unpacker;

/// The number that no subscription has.
const PACKED: u64 = 0;

/// Frames, times, vectors, shapes, gaps, shared and further lengths of keys, keys, names, lengths of
/// values, numbers, values, frames as they are.
const COLUMNS: usize = 13;

/// Whether a batch is packed.
pub(crate) fn is_packed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&(PACKED as u8))
}

/// Packs frames that answer the subscription `number`.
pub(crate) fn pack(number: u64, frames: &[&[u8]]) -> Vec<u8> {
    answer(number, &pack_columns(frames))
}

/// Columns as a batch that answers the subscription `number`.
pub(crate) fn answer(number: u64, columns: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(columns.len() + 16);
    put_varint(&mut out, PACKED);
    put_varint(&mut out, number);
    out.extend_from_slice(columns);
    out
}

/// The columns of a packed batch: the same for whoever asked for these frames.
pub(crate) fn pack_columns(frames: &[&[u8]]) -> Vec<u8> {
    let mut packer = Packer::default();
    frames.iter().for_each(|frame| packer.frame(frame));
    let columns = packer.finish();
    let bytes: usize = columns.iter().map(Vec::len).sum();
    let mut out = Vec::with_capacity(bytes + 64);
    columns.iter().for_each(|column| put_bytes(&mut out, column));
    out
}

/// The plain form of a packed batch.
///
/// # Errors
/// [`Malformed`] when it is none, or too large as a plain one.
pub(crate) fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.varint()? != PACKED {
        return Err(Malformed("not a packed batch"));
    }
    let mut out = Batch::begin(reader.varint()?);
    let mut unpacker = Unpacker::new(&mut reader)?;
    while let Some(frame) = unpacker.frame(MAX_BATCH_BYTES.saturating_sub(out.len()))? {
        Batch::push(&mut out, &frame);
    }
    unpacker.end()?;
    Ok(out)
}
