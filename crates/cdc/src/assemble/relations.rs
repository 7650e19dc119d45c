//! What the stream has said about tables, and which of them can be mirrored.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::limits::RELATIONS_MAX;
use crate::{AssembleError, Relation, ReplicaIdentity, Shape, TableName, Tables};

/// What to do with changes of a table.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// Mirror them.
    Captured(Arc<Shape>),
    /// Nobody asked for this table.
    Unwanted,
    /// Asked for, but impossible; the reason stands in [`Relations::refused`].
    Refused,
    /// Copied at a later place than the stream has come to: its copy holds these changes, and
    /// this description may be outdated already.
    Copied(Relation),
}

/// The relation cache of a session.
#[derive(Debug)]
pub(super) struct Relations {
    tables: Tables,
    by_oid: BTreeMap<u32, (TableName, Entry)>,
    primary_keys: BTreeMap<TableName, Vec<String>>,
    copied_keys: BTreeMap<TableName, Vec<String>>,
    copied_at: BTreeMap<TableName, u64>,
    refused: BTreeMap<TableName, String>,
}

impl Relations {
    pub(super) fn new(tables: Tables) -> Relations {
        Relations {
            tables,
            by_oid: BTreeMap::new(),
            primary_keys: BTreeMap::new(),
            copied_keys: BTreeMap::new(),
            copied_at: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    pub(super) fn primary_key(&mut self, table: TableName, columns: Vec<String>) {
        self.primary_keys.insert(table, columns);
    }

    pub(super) fn copied_key(&mut self, table: TableName, mut columns: Vec<String>) {
        columns.sort();
        self.copied_keys.insert(table, columns);
    }

    pub(super) fn copied_at(&mut self, table: TableName, lsn: u64) {
        self.copied_at.insert(table, lsn);
    }

    pub(super) fn refused(&self) -> &BTreeMap<TableName, String> {
        &self.refused
    }

    /// Takes a description: first sight of a table, or its new form after an alteration.
    /// `commit_lsn` is that of the transaction in which it comes.
    pub(super) fn learn(
        &mut self,
        relation: Relation,
        commit_lsn: u64,
    ) -> Result<(), AssembleError> {
        let name = TableName::new(relation.schema.clone(), relation.table.clone());
        let oid = relation.oid;
        if self.by_oid.len() >= RELATIONS_MAX && !self.by_oid.contains_key(&oid) {
            return Err(AssembleError::Relations);
        }
        let entry = if self.in_copy(&name, commit_lsn) {
            Entry::Copied(relation)
        } else if self.tables.wants(&name) {
            self.capture(&name, relation)
        } else {
            Entry::Unwanted
        };
        self.by_oid.insert(oid, (name, entry));
        Ok(())
    }

    /// What to do with a change of this table in a transaction that commits there.
    pub(super) fn get(&mut self, oid: u32, commit_lsn: u64) -> Result<Entry, AssembleError> {
        let known = self.by_oid.get(&oid).ok_or(AssembleError::UnknownRelation { oid })?;
        if let (name, Entry::Copied(relation)) = known
            && !self.in_copy(name, commit_lsn)
        {
            self.learn(relation.clone(), commit_lsn)?;
        }
        self.by_oid
            .get(&oid)
            .map(|known| known.1.clone())
            .ok_or(AssembleError::UnknownRelation { oid })
    }

    /// Stops mirroring a table because of a row that cannot be mirrored.
    pub(super) fn refuse(&mut self, oid: u32, reason: String) {
        if let Some((name, entry)) = self.by_oid.get_mut(&oid) {
            self.refused.insert(name.clone(), reason);
            *entry = Entry::Refused;
        }
    }

    fn in_copy(&self, name: &TableName, commit_lsn: u64) -> bool {
        self.copied_at.get(name).is_some_and(|copied| commit_lsn < *copied)
    }

    fn capture(&mut self, name: &TableName, relation: Relation) -> Entry {
        match self.shape(name, relation) {
            Ok(shape) => Entry::Captured(Arc::new(shape)),
            Err(reason) => {
                self.refused.insert(name.clone(), reason);
                Entry::Refused
            }
        }
    }

    fn shape(&mut self, name: &TableName, relation: Relation) -> Result<Shape, String> {
        // Once refused, changes were missed: only a new copy can bring the table back.
        if let Some(reason) = self.refused.get(name) {
            return Err(reason.clone());
        }
        if let Some((before, _)) = self.by_oid.get(&relation.oid).filter(|known| known.0 != *name) {
            return Err(format!("the table was renamed from {before}: it needs a new copy"));
        }
        let key: Vec<String> = match relation.identity {
            ReplicaIdentity::Nothing => vec![],
            ReplicaIdentity::Full => self.primary_keys.get(name).cloned().unwrap_or_default(),
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                relation.columns.iter().filter(|c| c.key).map(|c| c.name.clone()).collect()
            }
        };
        let columns = relation.columns.into_iter().map(|c| Bytes::from(c.name)).collect();
        let shape = Shape::new(name.clone(), columns, &key).ok_or_else(|| no_key(name))?;
        let mut key = shape.key_columns();
        key.sort();
        let copied = self.copied_keys.entry(name.clone()).or_insert_with(|| key.clone());
        if *copied != key {
            return Err(format!(
                "the key changed from ({}) to ({}): the table needs a new copy",
                copied.join(", "),
                key.join(", ")
            ));
        }
        Ok(shape)
    }
}

fn no_key(name: &TableName) -> String {
    format!(
        "table {name} has no usable key: rows could not be told apart; give it a primary key, or \
         a replica identity over a unique index of columns that are not null"
    )
}
