//! Which tables this session captures: the operator's wish, the catalogs, the publication and the
//! ledger brought together.
//!
//! The publication lists tables one by one and only those with a key: publishing a table without
//! one would make its updates and deletes fail on the primary.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use meridian_cdc::{Ledger, Shape, TableName, Tables};
use tracing::{info, warn};

use crate::PostgresError;
use crate::config::TailerConfig;
use crate::control::{CatalogTable, Control, Publication, Published};

/// A table that is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    pub shape: Shape,
    /// The publication's row filter.
    pub filter: Option<String>,
    pub partitioned: bool,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capture {
    pub tables: BTreeMap<TableName, Captured>,
    pub refused: BTreeMap<TableName, String>,
    /// Refused tables for which a change in the catalogs alone is no reason to try again.
    pub barred: BTreeSet<TableName>,
    /// Copies that the mirror holds; `None` if the publication keeps no ledger (it is not ours).
    pub ledger: Option<Ledger>,
}

impl Capture {
    /// Prepares the publication and reads what it carries. `given_up` are tables that turned out
    /// to be impossible.
    pub(crate) async fn prepare(
        control: &Control,
        config: &TailerConfig,
        given_up: &BTreeMap<TableName, String>,
    ) -> Result<Capture, PostgresError> {
        let catalog = control.tables(&config.tables).await?;
        let mut refused = refusals(&catalog, &config.tables, given_up);
        let good: Vec<&TableName> =
            catalog.keys().filter(|name| !refused.contains_key(name)).collect();
        let name = &config.publication;
        let publication = match control.publication(name).await? {
            Some(publication) => publication,
            None => {
                info!(publication = name, tables = good.len(), "creating the publication");
                control.create_publication(name, &good).await?;
                control.publication(name).await?.ok_or_else(|| {
                    PostgresError::Waiting("the publication was dropped at once".into())
                })?
            }
        };
        let ledger = usable(&publication, config)?;
        amend(control, config, &publication, &catalog, &good, ledger.is_some()).await?;
        let published = control.published(name).await?;
        let mut tables = BTreeMap::new();
        let mut barred: BTreeSet<TableName> = given_up.keys().cloned().collect();
        for table in good {
            match captured(table, &catalog[table], published.get(table), name) {
                Ok(captured) => {
                    tables.insert(table.clone(), captured);
                }
                Err(reason) => {
                    refused.insert(table.clone(), reason);
                    barred.insert(table.clone());
                }
            }
        }
        Ok(Capture { tables, refused, barred, ledger })
    }

    /// A ledger that holds all captured tables.
    pub(crate) fn as_ledger(&self, slot: &str) -> Ledger {
        let mut ledger = Ledger::new(slot);
        for (name, key) in self.keys() {
            ledger.insert(name, key);
        }
        ledger
    }

    /// Names and key columns of the captured tables.
    pub(crate) fn keys(&self) -> BTreeMap<TableName, Vec<String>> {
        self.tables.iter().map(|(name, t)| (name.clone(), t.shape.key_columns())).collect()
    }
}

/// Names and key columns of what could be captured now, to compare with what is.
pub(crate) fn capturable(
    catalog: &BTreeMap<TableName, CatalogTable>,
    barred: &BTreeSet<TableName>,
) -> BTreeMap<TableName, Vec<String>> {
    let good = catalog
        .iter()
        .filter(|(name, table)| table.refusal(name).is_none() && !barred.contains(*name));
    good.map(|(name, table)| (name.clone(), table.key.clone())).collect()
}

fn refusals(
    catalog: &BTreeMap<TableName, CatalogTable>,
    tables: &Tables,
    given_up: &BTreeMap<TableName, String>,
) -> BTreeMap<TableName, String> {
    let mut refused: BTreeMap<_, _> = catalog
        .iter()
        .filter_map(|(name, table)| Some((name.clone(), table.refusal(name)?)))
        .collect();
    if let Tables::Listed(listed) = tables {
        for name in listed.iter().filter(|name| !catalog.contains_key(name)) {
            refused.insert(name.clone(), format!("table {name} does not exist"));
        }
    }
    for (name, reason) in given_up {
        refused.insert(name.clone(), reason.clone());
    }
    refused
}

/// Checks the publication; gives its ledger if it is ours to keep.
fn usable(
    publication: &Publication,
    config: &TailerConfig,
) -> Result<Option<Ledger>, PostgresError> {
    if !publication.complete {
        return Err(PostgresError::Refused(format!(
            "publication {} does not publish all of insert, update, delete and truncate",
            config.publication
        )));
    }
    if !publication.owned {
        return Ok(None);
    }
    let Some(comment) = &publication.comment else {
        return Ok(Some(Ledger::new(&config.slot)));
    };
    match Ledger::parse(comment) {
        Some(ledger) if ledger.slot != config.slot => Err(PostgresError::Refused(format!(
            "publication {} serves slot {}; choose another publication for slot {}",
            config.publication, ledger.slot, config.slot
        ))),
        ledger => Ok(ledger),
    }
}

/// Adds what is missing in the publication and takes out what would break the primary's updates.
async fn amend(
    control: &Control,
    config: &TailerConfig,
    publication: &Publication,
    catalog: &BTreeMap<TableName, CatalogTable>,
    good: &[&TableName],
    ours: bool,
) -> Result<(), PostgresError> {
    if publication.all_tables || !publication.owned {
        return Ok(());
    }
    let published = control.published(&config.publication).await?;
    let missing: Vec<&TableName> =
        good.iter().copied().filter(|table| !published.contains_key(table)).collect();
    if !missing.is_empty() {
        info!(?missing, "adding tables to the publication");
        control.alter_publication(&config.publication, "ADD", &missing).await?;
    }
    let keyless = |name: &&TableName| catalog.get(name).is_some_and(|table| table.key.is_empty());
    let harmful: Vec<&TableName> = published.keys().filter(keyless).collect();
    if ours && !harmful.is_empty() {
        warn!(?harmful, "taking tables without a key out of the publication");
        control.alter_publication(&config.publication, "DROP", &harmful).await?;
    }
    Ok(())
}

fn captured(
    name: &TableName,
    table: &CatalogTable,
    published: Option<&Published>,
    publication: &str,
) -> Result<Captured, String> {
    let published = published.ok_or_else(|| {
        format!(
            "table {name} is not in publication {publication}, which belongs to another role: \
             ALTER PUBLICATION {publication} ADD TABLE {name}"
        )
    })?;
    let carried: BTreeSet<&String> = published.columns.iter().collect();
    let columns = table.columns.iter().filter(|column| carried.contains(column));
    let columns = columns.map(|column| Bytes::copy_from_slice(column.as_bytes())).collect();
    let shape = Shape::new(name.clone(), columns, &table.key)
        .ok_or_else(|| format!("publication {publication} leaves out a key column of {name}"))?;
    Ok(Captured { shape, filter: published.filter.clone(), partitioned: table.partitioned })
}
