//! What the mirror is told to do. [`crate::Mirror`] is the executable meaning of these types.

use bytes::Bytes;

use crate::Position;

/// One step of the mirror. All of them are idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The row has these values now.
    Upsert(Upsert),
    /// The row is gone.
    Delete {
        /// Mirror key of the row.
        key: Bytes,
    },
    /// Every row of a table is gone.
    Truncate {
        /// The table's prefix: all keys that start with it go.
        prefix: Bytes,
    },
    /// After a copy: what the copy did not see is gone.
    Retain(Retain),
}

impl Change {
    /// Roughly the bytes that this change occupies, for bounding batches.
    pub fn weight(&self) -> usize {
        const EACH: usize = 48;
        match self {
            Change::Upsert(row) => {
                let fields: usize = row.set.iter().map(|(n, v)| n.len() + v.len() + EACH).sum();
                EACH + row.key.len() + fields + row.keep.len() * EACH
            }
            Change::Delete { key } => EACH + key.len(),
            Change::Truncate { prefix } => EACH + prefix.len(),
            Change::Retain(retain) => {
                EACH + retain.keys.iter().map(|key| key.len() + EACH).sum::<usize>()
            }
        }
    }
}

/// A row as a hash. Afterwards the hash holds exactly `set`, and of its earlier fields those in
/// `keep`. So a column that became NULL, or that was dropped from the table, disappears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upsert {
    /// Mirror key of the row.
    pub key: Bytes,
    /// Column and value in Postgres's text form, in the table's order; NULL columns are absent.
    pub set: Vec<(Bytes, Bytes)>,
    /// Columns whose stored value stays as it is: large values that Postgres did not send again
    /// because the update did not touch them.
    pub keep: Vec<Bytes>,
}

/// Of all mirror keys `k` with `from <= k < to` (bytewise), only `keys` stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retain {
    /// First key of the range.
    pub from: Bytes,
    /// First key after the range.
    pub to: Bytes,
    /// What stays, sorted.
    pub keys: Vec<Bytes>,
}

impl Retain {
    /// Whether this key must go.
    pub fn drops(&self, key: &[u8]) -> bool {
        self.from[..] <= *key
            && *key < self.to[..]
            && self.keys.binary_search_by(|kept| kept[..].cmp(key)).is_err()
    }
}

/// Changes to apply in order and store in one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The position to store in the same commit. `None` leaves the stored one as it is: the batch
    /// is a part of a snapshot or of a transaction too large for one batch, and after a restart
    /// the whole of that is sent again. Only the last part carries the position.
    pub position: Option<Position>,
    /// In commit order.
    pub changes: Vec<Change>,
    /// When the last transaction in the batch committed, in microseconds since 1970 on the
    /// Postgres server's clock; 0 where there is none (snapshot, idle position).
    pub commit_time_us: i64,
}
