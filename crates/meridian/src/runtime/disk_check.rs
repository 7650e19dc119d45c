//! The thread that looks for rot on the disk before what has rotted is needed.
//!
//! Slowly, again and again: the durable log, then the checkpoint. What has rotted is named in the
//! log of events, by `/healthz` and in the metrics. A rotten checkpoint, or log that only the
//! checkpoint could replace, is no loss while the node runs, since all data is in memory: the
//! checkpoint is then written anew. Older log that has rotted is not served to peers; they are
//! repaired from the state.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use meridian_disk::{Pace, Scrub};
use meridian_store::{LogPosition, StoreError};

use super::executor::unix_us;
use super::shared::Shared;

/// Under this name a checkpoint is noted that has rotted.
const CHECKPOINT: &str = "checkpoint";

/// The thread's part.
pub struct DiskCheck {
    /// What is looked through.
    pub scrub: Scrub,
    /// Where a new checkpoint is asked for.
    pub shared: Arc<Shared>,
    /// Where others read what was found.
    pub board: Arc<DiskBoard>,
    /// How fast, in bytes a second; zero for not at all.
    pub rate: u64,
    /// The rest between two walks.
    pub every: Duration,
}

/// What was found, as everybody may know.
#[derive(Debug, Default)]
pub struct DiskBoard {
    state: Mutex<DiskState>,
}

/// What is on the board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskState {
    /// Walks through everything since the start.
    pub walks: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// When everything was last found sound, milliseconds since 1970; zero for never.
    pub sound_ms: u64,
    /// Files that have rotted, and what is wrong.
    pub rotten: BTreeMap<String, String>,
    /// Checkpoints that were written anew because of it.
    pub rewritten: u64,
}

impl DiskBoard {
    /// What is on it.
    #[must_use]
    pub fn read(&self) -> DiskState {
        self.state().clone()
    }

    /// The checkpoint was written anew.
    pub fn rewritten(&self) {
        let mut state = self.state();
        state.rewritten += 1;
        state.rotten.remove(CHECKPOINT);
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the findings of a whole walk; those that were not known before.
    fn walked(&self, found: BTreeMap<String, String>, bytes: u64) -> Vec<(String, String)> {
        let mut state = self.state();
        state.walks += 1;
        state.bytes += bytes;
        if found.is_empty() {
            state.sound_ms = unix_us() / 1000;
        }
        let known = std::mem::replace(&mut state.rotten, found);
        let is_new = |(file, _): &(&String, &String)| !known.contains_key(*file);
        let new = state.rotten.iter().filter(is_new);
        new.map(|(file, text)| (file.clone(), text.clone())).collect()
    }
}

impl DiskCheck {
    /// Walks until the node ends; at a rate of zero there is nothing to do.
    ///
    /// # Errors
    /// When the disk cannot be read for another reason than rot.
    pub fn run(self) -> Result<()> {
        if self.rate == 0 {
            return Ok(());
        }
        loop {
            // First the rest: a start has enough to read.
            std::thread::sleep(self.every);
            self.walk()?;
        }
    }

    fn walk(&self) -> Result<()> {
        let mut found = BTreeMap::new();
        let bytes = self.log(&mut found)? + self.checkpoint(&mut found)?;
        let is_needed = found.contains_key(CHECKPOINT);
        for (file, text) in self.board.walked(found, bytes) {
            tracing::error!(file, "rot: {text}");
        }
        if is_needed {
            self.shared.fresh_checkpoint.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Segment after segment, so that one that has rotted does not hide the next.
    fn log(&self, found: &mut BTreeMap<String, String>) -> Result<u64> {
        let (mut from, mut total) = (LogPosition(0), 0);
        loop {
            let mut read = 0;
            let pace = Pace::bytes_per_s(self.rate);
            let mut began = Instant::now();
            let walked = self.scrub.log(from, &mut |bytes| {
                read += bytes;
                pace.wait(bytes as usize, began);
                began = Instant::now();
                true
            });
            total += read;
            let error = match walked {
                Ok(_) => return Ok(total),
                Err(error) => error,
            };
            let StoreError::Corrupt { file, .. } = &error else {
                return Err(error).context("reading the log");
            };
            found.insert(file.clone(), error.to_string());
            let at = LogPosition(self.scrub.log_start().0.max(from.0) + read);
            if at.0 >= self.shared.checkpoint.load(Ordering::Acquire) {
                // The next start would need it.
                self.shared.fresh_checkpoint.store(true, Ordering::Release);
            }
            let Some(next) = self.scrub.next_segment(at) else { return Ok(total) };
            from = next;
        }
    }

    fn checkpoint(&self, found: &mut BTreeMap<String, String>) -> Result<u64> {
        let pace = Pace::bytes_per_s(self.rate);
        let (mut began, mut read) = (Instant::now(), 0);
        let walked = self.scrub.checkpoint(&mut |bytes| {
            read += bytes;
            pace.wait(bytes as usize, began);
            began = Instant::now();
            true
        });
        match walked {
            Ok(bytes) => Ok(bytes),
            Err(error @ StoreError::Checkpoint(_)) => {
                found.insert(CHECKPOINT.to_owned(), error.to_string());
                Ok(read)
            }
            Err(error) => Err(error).context("reading the checkpoint"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_rotted_is_told_once_and_until_it_is_gone() {
        let board = DiskBoard::default();
        let found = |names: &[&str]| -> BTreeMap<String, String> {
            names.iter().map(|name| ((*name).to_owned(), "rot".to_owned())).collect()
        };
        assert_eq!(board.walked(found(&["a", CHECKPOINT]), 10).len(), 2);
        assert_eq!(board.walked(found(&["a", "b", CHECKPOINT]), 10).len(), 1);
        assert_eq!(board.read().sound_ms, 0);
        board.rewritten();
        assert!(!board.read().rotten.contains_key(CHECKPOINT));
        assert!(board.walked(found(&[]), 10).is_empty());
        let state = board.read();
        assert!(state.rotten.is_empty() && state.sound_ms > 0);
        assert_eq!((state.walks, state.bytes, state.rewritten), (3, 30, 1));
    }
}
