//! Keeping a part of the log while somebody reads it, whoever else lets go of it.

use std::sync::{Arc, PoisonError};

use meridian_store::LogPosition;

use super::{LogReader, Shared};

/// The log from a position on stays until this is dropped.
#[derive(Debug)]
pub struct LogHold {
    shared: Arc<Shared>,
    number: u64,
    from: LogPosition,
}

impl LogHold {
    /// From where on the log is held.
    #[must_use]
    pub fn from(&self) -> LogPosition {
        self.from
    }
}

impl Drop for LogHold {
    fn drop(&mut self) {
        let mut holds = self.shared.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.remove(&self.number);
    }
}

impl LogReader {
    /// Keeps the log from `from` on, or from where it begins now.
    #[must_use]
    pub fn hold(&self, from: LogPosition) -> LogHold {
        let shared = self.shared();
        // So that nothing is removed between looking where the log begins and holding it.
        let _in_order = shared.releasing.lock().unwrap_or_else(PoisonError::into_inner);
        let from = from.max(shared.start());
        let mut holds = shared.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let number = holds.last_key_value().map_or(0, |(number, _)| number + 1);
        holds.insert(number, from);
        LogHold { shared: Arc::clone(shared), number, from }
    }
}

impl Shared {
    /// The lowest position that somebody holds.
    pub(super) fn held_from(&self) -> LogPosition {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.values().min().copied().unwrap_or(LogPosition(u64::MAX))
    }
}
