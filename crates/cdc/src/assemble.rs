//! From stream messages to batches: the one place that knows what a transaction is.
//!
//! Small transactions are gathered into one batch; the shell asks for it ([`Assembler::flush`])
//! when nothing more is waiting in the socket. A transaction that outgrows a batch leaves in parts:
//! first what was complete before it, with its position; then parts whose `position` is `None`, so
//! that a restart begins the transaction again; and the position only with the part that holds the
//! commit.

mod relations;
mod row;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::limits::{BATCH_BYTES_MAX, BATCH_CHANGES_MAX};
use crate::{
    AssembleError, Batch, Change, Message, Old, Position, Shape, TableName, Tables, Tuple,
    format_lsn,
};
use relations::{Entry, Relations};

/// A batch, and what has to be looked up before it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The batch.
    pub batch: Batch,
    /// Usually empty.
    pub refetch: Vec<Refetch>,
}

/// A key change moved a row whose large values were not sent again, so they are known only under
/// the old key, which is gone. They are read from Postgres by the new key and added to the upsert.
/// If the row has changed meanwhile, a later change in the stream says so and wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refetch {
    /// Index of the upsert in the batch's changes.
    pub change: usize,
    /// The transaction that moved the row. It is streamed as soon as its commit is in the log; for
    /// other sessions it happens later, with synchronous replication much later: they must not
    /// look before that.
    pub xid: u32,
    /// The table.
    pub table: TableName,
    /// Key columns and values.
    pub key: Vec<(Bytes, Bytes)>,
    /// Columns to read.
    pub columns: Vec<Bytes>,
}

/// What went through since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Transactions applied.
    pub transactions: u64,
    /// Transactions that were already stored and therefore dropped.
    pub dropped: u64,
    /// Changes of rows and truncations.
    pub changes: u64,
    /// Changes of refused tables, which are not mirrored.
    pub ignored: u64,
}

/// Gathers a replication stream into batches. Fed with [`Assembler::handle`], emptied with
/// [`Assembler::poll`].
#[derive(Debug)]
pub struct Assembler {
    relations: Relations,
    /// Position of the last complete commit or idle point; grows only.
    position: Position,
    /// Complete transactions, not handed on yet.
    done: Pending,
    /// `position` has moved since the last batch.
    moved: bool,
    commit_time_us: i64,
    transaction: Option<Transaction>,
    out: VecDeque<Assembled>,
    counters: Counters,
}

/// The transaction being received.
#[derive(Debug)]
struct Transaction {
    commit_lsn: u64,
    xid: u32,
    /// It lies at or below the stored position: its changes are dropped.
    skip: bool,
    open: Pending,
}

#[derive(Debug, Default)]
struct Pending {
    changes: Vec<Change>,
    refetch: Vec<Refetch>,
    weight: usize,
}

impl Assembler {
    /// Begins a session that streams from `position`.
    pub fn new(tables: Tables, position: Position) -> Assembler {
        Assembler {
            relations: Relations::new(tables),
            position,
            done: Pending::default(),
            moved: false,
            commit_time_us: 0,
            transaction: None,
            out: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The primary key of a table according to the catalogs. It is needed before the description
    /// of a table with `REPLICA IDENTITY FULL`, where the stream marks every column as key.
    pub fn primary_key(&mut self, table: TableName, columns: Vec<String>) {
        self.relations.primary_key(table, columns);
    }

    /// The key columns with which the mirror's rows of a table were built. A description with
    /// another key then refuses the table until it is copied anew.
    pub fn copied_key(&mut self, table: TableName, columns: Vec<String>) {
        self.relations.copied_key(table, columns);
    }

    /// A table that was copied later than the stream's beginning, at this place in the log: its
    /// copy holds all commits before, so the stream's changes count from there on only.
    pub fn copied_at(&mut self, table: TableName, lsn: u64) {
        self.relations.copied_at(table, lsn);
    }

    /// Takes the next message of the stream.
    pub fn handle(&mut self, message: Message) -> Result<(), AssembleError> {
        match message {
            Message::Begin { commit_lsn, xid, .. } => self.begin(commit_lsn, xid),
            Message::Commit { end_lsn, commit_time_us, .. } => self.commit(end_lsn, commit_time_us),
            Message::Relation(relation) => {
                let commit_lsn = self.transaction.as_ref().map_or(u64::MAX, |t| t.commit_lsn);
                self.relations.learn(relation, commit_lsn)
            }
            Message::Insert { oid, new } => self.upsert(oid, Old::None, new, "an insert"),
            Message::Update { oid, old, new } => self.upsert(oid, old, new, "an update"),
            Message::Delete { oid, old } => self.delete(oid, old),
            Message::Truncate { oids } => self.truncate(&oids),
            Message::Origin | Message::Type | Message::Logical { .. } => Ok(()),
            Message::Stream { .. } => Err(AssembleError::Unsupported("a streamed transaction")),
        }
    }

    /// Takes a position from a keepalive: everything below it has been sent. Ignored inside a
    /// transaction and below what is known.
    pub fn idle(&mut self, lsn: u64) {
        if self.transaction.is_none() && lsn > self.position.lsn {
            self.position.lsn = lsn;
            self.moved = true;
        }
    }

    /// Closes the current batch, if there is anything to hand on.
    pub fn flush(&mut self) {
        if self.moved || !self.done.changes.is_empty() {
            self.close_done();
        }
    }

    /// The next complete batch.
    pub fn poll(&mut self) -> Option<Assembled> {
        self.out.pop_front()
    }

    /// Whether a transaction is being received.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// The position up to which everything has been taken in.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Tables that cannot be mirrored, and why. They are left out; the others go on.
    pub fn refused(&self) -> &BTreeMap<TableName, String> {
        self.relations.refused()
    }

    /// Counters of this session.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn begin(&mut self, commit_lsn: u64, xid: u32) -> Result<(), AssembleError> {
        if self.transaction.is_some() {
            return Err(AssembleError::Order { what: "a begin", place: "inside" });
        }
        // Positions lie between log records, so a commit record that starts below one also ends
        // at or below it.
        let skip = commit_lsn < self.position.lsn;
        self.transaction = Some(Transaction { commit_lsn, xid, skip, open: Pending::default() });
        Ok(())
    }

    fn commit(&mut self, end_lsn: u64, commit_time_us: i64) -> Result<(), AssembleError> {
        let outside = AssembleError::Order { what: "a commit", place: "outside" };
        let transaction = self.transaction.take().ok_or(outside)?;
        if transaction.skip {
            self.counters.dropped += 1;
            return Ok(());
        }
        if end_lsn <= transaction.commit_lsn {
            return Err(AssembleError::Backwards {
                lsn: format_lsn(end_lsn),
                last: format_lsn(transaction.commit_lsn),
            });
        }
        if !self.done.fits(&transaction.open) {
            self.close_done();
        }
        self.done.append(transaction.open);
        self.position.lsn = end_lsn;
        self.moved = true;
        self.commit_time_us = commit_time_us;
        self.counters.transactions += 1;
        if self.done.full() {
            self.close_done();
        }
        Ok(())
    }

    fn upsert(
        &mut self,
        oid: u32,
        old: Old,
        new: Tuple,
        what: &'static str,
    ) -> Result<(), AssembleError> {
        let Some(shape) = self.row_of(oid, what)? else { return Ok(()) };
        match row::upsert(&shape, &old, &new)? {
            Ok(rows) => rows.into_iter().for_each(|row| self.push(row)),
            Err(reason) => self.relations.refuse(oid, reason.to_string()),
        }
        Ok(())
    }

    fn delete(&mut self, oid: u32, old: Old) -> Result<(), AssembleError> {
        let Some(shape) = self.row_of(oid, "a delete")? else { return Ok(()) };
        match row::delete(&shape, &old)? {
            Ok(row) => self.push(row),
            Err(reason) => self.relations.refuse(oid, reason.to_string()),
        }
        Ok(())
    }

    fn truncate(&mut self, oids: &[u32]) -> Result<(), AssembleError> {
        for &oid in oids {
            let Some(shape) = self.row_of(oid, "a truncate")? else { continue };
            self.push((Change::Truncate { prefix: shape.prefix.clone() }, None));
        }
        Ok(())
    }

    /// The shape of the table that a change is about; `None` if the change is not to be mirrored.
    fn row_of(
        &mut self,
        oid: u32,
        what: &'static str,
    ) -> Result<Option<Arc<Shape>>, AssembleError> {
        let Some(transaction) = &self.transaction else {
            return Err(AssembleError::Order { what, place: "outside" });
        };
        match self.relations.get(oid, transaction.commit_lsn)? {
            Entry::Captured(shape) if !transaction.skip => Ok(Some(shape)),
            Entry::Captured(_) | Entry::Unwanted | Entry::Copied(_) => Ok(None),
            Entry::Refused => {
                self.counters.ignored += 1;
                Ok(None)
            }
        }
    }

    fn push(&mut self, (change, refetch): (Change, Option<Refetch>)) {
        let Some(transaction) = &mut self.transaction else { return };
        self.counters.changes += 1;
        let (open, xid) = (&mut transaction.open, transaction.xid);
        open.weight += change.weight();
        if let Some(refetch) = refetch {
            open.refetch.push(Refetch { change: open.changes.len(), xid, ..refetch });
        }
        open.changes.push(change);
        if open.full() {
            let part = std::mem::take(open);
            // What was complete before goes first, with its position.
            self.flush();
            self.emit(part, None, 0);
        }
    }

    fn close_done(&mut self) {
        let done = std::mem::take(&mut self.done);
        let time = std::mem::take(&mut self.commit_time_us);
        self.moved = false;
        self.emit(done, Some(self.position), time);
    }

    fn emit(&mut self, pending: Pending, position: Option<Position>, commit_time_us: i64) {
        let batch = Batch { position, changes: pending.changes, commit_time_us };
        self.out.push_back(Assembled { batch, refetch: pending.refetch });
    }
}

impl Pending {
    fn full(&self) -> bool {
        self.changes.len() >= BATCH_CHANGES_MAX || self.weight >= BATCH_BYTES_MAX
    }

    fn fits(&self, more: &Pending) -> bool {
        self.changes.is_empty()
            || (self.changes.len() + more.changes.len() <= BATCH_CHANGES_MAX
                && self.weight + more.weight <= BATCH_BYTES_MAX)
    }

    fn append(&mut self, more: Pending) {
        let offset = self.changes.len();
        let moved = more.refetch.into_iter();
        self.refetch.extend(moved.map(|r| Refetch { change: r.change + offset, ..r }));
        self.changes.extend(more.changes);
        self.weight += more.weight;
    }
}
