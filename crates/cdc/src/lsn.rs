//! Places in the write-ahead log: how they are written, and the position that a mirror stores.

use std::fmt;

/// How far a mirror has applied a Postgres cluster's history.
///
/// Stored in the same commit as the rows that it covers. `lsn` is the end of the last applied
/// commit, or a point at which nothing was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The cluster's identity (`IDENTIFY_SYSTEM`), the same on a primary and its standbys.
    pub system_id: u64,
    /// The history that `lsn` belongs to; it grows with every promotion.
    pub timeline: u32,
    /// Log sequence number, bytes since the beginning of the cluster's log.
    pub lsn: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", format_lsn(self.lsn), self.timeline)
    }
}

/// The way Postgres prints a log sequence number: two hexadecimal halves, `16/B374D848`.
pub fn format_lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// Reads [`format_lsn`]'s form; `None` for anything else.
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from(half(high)?) << 32 | u64::from(half(low)?))
}

fn half(text: &str) -> Option<u32> {
    // `from_str_radix` alone would take a sign.
    text.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for lsn in [0, 1, 0xffff_ffff, 1 << 32, 0x16_b374_d848, u64::MAX] {
            assert_eq!(parse_lsn(&format_lsn(lsn)), Some(lsn));
        }
        assert_eq!(format_lsn(0x16_b374_d848), "16/B374D848");
    }

    #[test]
    fn refuses_what_postgres_never_prints() {
        for text in ["", "/", "1", "1/", "/1", "+1/2", "1/-2", "123456789/0", "g/0", "1/2/3"] {
            assert_eq!(parse_lsn(text), None, "{text:?}");
        }
    }
}
