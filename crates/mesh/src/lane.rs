//! Lanes: what a connection carries beside datagrams, and how each introduces itself.

use crate::refusal::Refusal;

/// An ordered, reliable stream of messages to a peer. Lanes do not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Handshakes, acknowledgements, decisions: small, first on the line, not compressed.
    Control,
    /// Records as they are written; compressed.
    Live,
    /// Catching up, repair, bootstrap: uses what the others leave; compressed.
    Bulk,
}

/// How many lanes there are.
pub const LANES: usize = 3;

impl Lane {
    /// All lanes, in the order of [`Lane::index`].
    pub const ALL: [Lane; LANES] = [Lane::Control, Lane::Live, Lane::Bulk];

    /// The lane's place in arrays.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Lane::Control => "control",
            Lane::Live => "live",
            Lane::Bulk => "bulk",
        }
    }

    pub(crate) const fn is_compressed(self) -> bool {
        !matches!(self, Lane::Control)
    }

    /// QUIC sends streams of higher priority first.
    pub(crate) const fn priority(self) -> i32 {
        match self {
            Lane::Control => 2,
            Lane::Live => 1,
            Lane::Bulk => 0,
        }
    }

    fn from_byte(byte: u8) -> Option<Lane> {
        Lane::ALL.get(usize::from(byte)).copied()
    }
}

/// The version of what is said on the lanes, in every preface.
pub const PROTOCOL_VERSION: u8 = 1;

/// The bytes that open every lane.
pub(crate) const PREFACE_BYTES: usize = 8;

const MAGIC: &[u8; 4] = b"MRDN";

/// `MRDN`, version, lane, ordinal of the sender (little-endian).
pub(crate) fn encode_preface(lane: Lane, ordinal: u16) -> [u8; PREFACE_BYTES] {
    let mut preface = [0; PREFACE_BYTES];
    preface[..4].copy_from_slice(MAGIC);
    preface[4] = PROTOCOL_VERSION;
    preface[5] = lane as u8;
    preface[6..].copy_from_slice(&ordinal.to_le_bytes());
    preface
}

/// Which lane this is, if it is one of `peer`'s.
pub(crate) fn decode_preface(preface: &[u8; PREFACE_BYTES], peer: u16) -> Result<Lane, Refusal> {
    if &preface[..4] != MAGIC || preface[4] != PROTOCOL_VERSION {
        return Err(Refusal::WrongProtocol);
    }
    if u16::from_le_bytes([preface[6], preface[7]]) != peer {
        return Err(Refusal::WrongOrdinal);
    }
    Lane::from_byte(preface[5]).ok_or(Refusal::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefaces_name_lane_and_sender() {
        for lane in Lane::ALL {
            assert_eq!(decode_preface(&encode_preface(lane, 515), 515), Ok(lane));
            assert_eq!(Lane::ALL[lane.index()], lane);
        }
        let good = encode_preface(Lane::Bulk, 7);
        let with = |at: usize, byte: u8| {
            let mut preface = good;
            preface[at] = byte;
            decode_preface(&preface, 7)
        };
        assert_eq!(with(0, b'X'), Err(Refusal::WrongProtocol));
        assert_eq!(with(4, PROTOCOL_VERSION + 1), Err(Refusal::WrongProtocol));
        assert_eq!(with(5, 9), Err(Refusal::Malformed));
        assert_eq!(with(6, 8), Err(Refusal::WrongOrdinal));
    }
}
