//! Ending with whoever started this process. A parent that is killed cannot say goodbye; the pipe
//! that it held to our standard input closes all the same.

use std::io::Read;

use anyhow::{Context, Result};
use rustix::process::{Signal, getpid, kill_process};

/// Sends this process SIGTERM as soon as its standard input closes.
///
/// # Errors
/// When the thread that watches it cannot be started.
pub fn end_with_stdin() -> Result<()> {
    let watch = || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 256];
        // An error ends the watch as the end of the input does: either way nobody is there.
        while stdin.read(&mut ignored).is_ok_and(|length| length > 0) {}
        if let Err(error) = kill_process(getpid(), Signal::TERM) {
            tracing::error!(%error, "cannot end with the process that started this one");
        }
    };
    let thread = std::thread::Builder::new().name("leash".to_owned());
    thread.spawn(watch).map(drop).context("starting a thread")
}
