//! What regions tell each other several times a second, in one datagram.

use meridian_codec::control;
use serde::{Deserialize, Serialize};

use crate::health::Level;
use crate::limits::{MAX_HEARTBEAT_BYTES, MAX_REGIONS};
use crate::{Error, Result};

/// First byte of every heartbeat.
const FORMAT_VERSION: u8 = 1;

/// One region's report. Times are the sender's clock, which nobody compares with their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    /// Which life of the sender this is; a later one is larger.
    pub(crate) incarnation: u64,
    /// When it was sent; strictly increasing within a life.
    pub(crate) sent_ms: u64,
    /// The control epoch that the sender has applied.
    pub(crate) epoch: u64,
    /// The primary of that epoch.
    pub(crate) primary: u16,
    /// The sender's own health by its end-to-end checks.
    pub(crate) level: Level,
    /// Whether the sender has what the others have.
    pub(crate) is_caught_up: bool,
    /// Whether no region but `primary` can still hold a lease that the sender confirmed.
    pub(crate) is_released: bool,
    /// What the sender hears of the others.
    pub(crate) seen: Vec<Sighting>,
}

/// What a sender hears of one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sighting {
    pub(crate) region: u16,
    /// Milliseconds since the sender last heard from it; `None` while it has not heard from it yet
    /// and has not waited long enough to hold that against it.
    pub(crate) silent_ms: Option<u32>,
    /// The newest heartbeat that the sender got from it.
    pub(crate) echo: Option<Stamp>,
}

/// Names one heartbeat of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) incarnation: u64,
    pub(crate) sent_ms: u64,
}

impl Heartbeat {
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { incarnation: self.incarnation, sent_ms: self.sent_ms }
    }

    /// What the sender hears of `region`.
    pub(crate) fn sighting(&self, region: u16) -> Option<&Sighting> {
        self.seen.iter().find(|sighting| sighting.region == region)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT_VERSION];
        bytes.append(&mut control::encode(self));
        bytes
    }

    pub(crate) fn decode(from: u16, bytes: &[u8]) -> Result<Self> {
        let refuse = |reason| Err(Error::Heartbeat { from, reason });
        if bytes.len() > MAX_HEARTBEAT_BYTES {
            return refuse("too large");
        }
        let Some((&FORMAT_VERSION, rest)) = bytes.split_first() else {
            return refuse("unknown version");
        };
        let Ok(heartbeat) = control::decode::<Self>(rest) else {
            return refuse("does not decode");
        };
        if heartbeat.seen.len() > MAX_REGIONS {
            return refuse("too many sightings");
        }
        if heartbeat.seen.iter().any(|sighting| sighting.region == from) {
            return refuse("a sighting of itself");
        }
        Ok(heartbeat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn largest() -> Heartbeat {
        let echo = Some(Stamp { incarnation: u64::MAX, sent_ms: u64::MAX });
        let sighting = |region| Sighting { region, silent_ms: Some(u32::MAX), echo };
        Heartbeat {
            incarnation: u64::MAX,
            sent_ms: u64::MAX,
            epoch: u64::MAX,
            primary: u16::MAX,
            level: Level::Unhealthy,
            is_caught_up: true,
            is_released: true,
            seen: (0..MAX_REGIONS as u16).map(|region| sighting(u16::MAX - region)).collect(),
        }
    }

    #[test]
    fn the_largest_heartbeat_fits_and_comes_back() {
        let bytes = largest().encode();
        assert!(bytes.len() <= MAX_HEARTBEAT_BYTES, "{}", bytes.len());
        assert_eq!(Heartbeat::decode(1, &bytes), Ok(largest()));
    }

    #[test]
    fn hostile_heartbeats_are_refused() {
        let bytes = largest().encode();
        for end in 0..bytes.len() {
            assert!(Heartbeat::decode(1, &bytes[..end]).is_err());
        }
        assert!(Heartbeat::decode(u16::MAX, &bytes).is_err(), "sees itself");
        assert!(Heartbeat::decode(1, &[&bytes[..], &[0]].concat()).is_err());
        assert!(Heartbeat::decode(1, &[FORMAT_VERSION; MAX_HEARTBEAT_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Heartbeat::decode(1, &bytes);
        }
    }
}
