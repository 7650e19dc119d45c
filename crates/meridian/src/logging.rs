//! Where a process's own words go: to its standard error, one line each.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// Writes what `filter` lets through to the standard error, in colours if that is a terminal.
///
/// # Errors
/// When the filter cannot be read, or logging was started before.
pub fn start(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("{filter:?} is no level and no filter of logs"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}
