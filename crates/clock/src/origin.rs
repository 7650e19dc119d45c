//! Who wrote: the ordinal of a region's incarnation.

use serde::{Deserialize, Serialize};

/// The largest number of origins that a cluster may know at once (live and retired).
pub const MAX_REGIONS: usize = 64;

/// A region's ordinal, handed out once and never used again: a region that is restored from an
/// older state continues under a new one (rule R5), so that a stamp is never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Origin(pub u16);

impl Origin {
    /// The position of this origin in per-origin tables.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
