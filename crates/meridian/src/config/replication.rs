//! How regions feed each other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use meridian_clock::Origin;
use meridian_replication::{RelayPlan, limits::RELAY_FANOUT};
use serde::{Deserialize, Serialize};

use super::file::ClusterFile;
use super::parts::UNKNOWN_ROUND_TRIP_MS;
use super::size::Size;

/// How regions feed each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicationSection {
    /// To how many others a region sends one region's writes. With more regions than this and
    /// one, the near ones pass them on to the far ones.
    pub fanout: usize,
    /// Bytes a second to each other region, after compression; no bound if not given.
    pub bandwidth: Option<Size>,
    /// The same for single regions, by name.
    pub bandwidth_to: BTreeMap<String, Size>,
}

/// Less than this is a slip: heartbeats alone need some of it. In bytes a second.
const BANDWIDTH_MIN: u64 = 64 << 10;

impl Default for ReplicationSection {
    fn default() -> Self {
        ReplicationSection { fanout: RELAY_FANOUT, bandwidth: None, bandwidth_to: BTreeMap::new() }
    }
}

impl ReplicationSection {
    /// Checks what the types alone do not.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<()> {
        ensure!(self.fanout >= 1, "replication.fanout: at least one");
        let rates = self.bandwidth_to.values().chain(&self.bandwidth);
        for rate in rates {
            let least = Size(BANDWIDTH_MIN);
            ensure!(rate.0 >= BANDWIDTH_MIN, "replication.bandwidth: {rate}, at least {least}");
        }
        Ok(())
    }

    /// The bound for a region, in bytes a second.
    pub fn bandwidth_to(&self, region: &str) -> Option<u64> {
        self.bandwidth_to.get(region).or(self.bandwidth.as_ref()).map(|rate| rate.0)
    }
}

impl ClusterFile {
    /// From whom region `me` gets whose writes.
    pub fn relay_plan(&self, me: u16) -> RelayPlan {
        let names = self.names_by_ordinal();
        let regions: BTreeSet<Origin> = names.keys().map(|ordinal| Origin(*ordinal)).collect();
        let name = |origin: Origin| names.get(&origin.0).map_or("", String::as_str);
        let mut distances = BTreeMap::new();
        for one in &regions {
            for other in &regions {
                let known = self.round_trip_ms(name(*one), name(*other));
                distances.insert((*one, *other), known.unwrap_or(UNKNOWN_ROUND_TRIP_MS));
            }
        }
        let distance = |one, other| distances.get(&(one, other)).copied().unwrap_or(0);
        RelayPlan::new(Origin(me), &regions, distance, self.replication.fanout)
    }
}
