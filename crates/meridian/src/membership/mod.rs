//! Regions that join, leave and are declared dead, as an operator sees it.

use anyhow::{Context, Result};

mod join;
mod operate;
mod progress;
pub mod protocol;
mod reach;

pub use join::join;
pub use operate::{dead, leave};
pub use reach::{resolve, status};

/// Runs a command that speaks to nodes.
pub fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the I/O runtime")?;
    runtime.block_on(command)
}
