//! When regions back themselves up.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::node::NodeConfig;
use super::period::Period;
use super::size::Size;
use crate::runtime::Schedule;

/// When regions back themselves up, each into a directory of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupSection {
    /// On the node's host; each region has a directory of its name in it.
    pub directory: PathBuf,
    /// How often.
    #[serde(default = "default_every")]
    pub every: Period,
    /// How many are kept.
    #[serde(default = "default_keep")]
    pub keep: usize,
    /// How often the newest is read back; never if not given.
    #[serde(default)]
    pub verify_every: Option<Period>,
    /// How much is read and written in a second; no limit if zero.
    #[serde(default = "default_rate")]
    pub rate: Size,
}

impl BackupSection {
    /// Checks what the types alone do not.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<()> {
        let directory = self.directory.display();
        ensure!(self.directory.is_absolute(), "backup.directory: {directory} is not absolute");
        ensure!(self.keep >= 1, "backup.keep: at least one");
        Ok(())
    }
}

impl NodeConfig {
    /// When this region backs itself up.
    #[must_use]
    pub fn backup_schedule(&self) -> Option<Schedule> {
        self.cluster.backup.as_ref().map(|section| Schedule {
            directory: section.directory.join(&self.region.name),
            every: section.every.duration(),
            keep: section.keep,
            verify_every: section.verify_every.map(Period::duration),
            rate: section.rate.0,
        })
    }
}

fn default_every() -> Period {
    Period(6 * 3600)
}

fn default_keep() -> usize {
    28
}

fn default_rate() -> Size {
    Size(64 << 20)
}
