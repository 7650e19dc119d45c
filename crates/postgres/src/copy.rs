//! Copies of tables under an exported snapshot, row by row from the socket into bounded batches.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_cdc::{Batch, Change, CopyError, KeyScan, TableCopy, TableName};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tracing::{info, warn};

use crate::PostgresError;
use crate::capture::Captured;
use crate::control::quote_table;
use crate::endpoint::Endpoint;
use crate::replication::Replication;
use crate::status::State;
use crate::tailer::Outlet;
use crate::wire::Mode;

/// Copies these tables. Gives those that could not be copied, with the reason; of them nothing
/// remains in the mirror. The snapshot must stay exported meanwhile.
pub(crate) async fn tables<'a>(
    endpoint: &Endpoint,
    snapshot: &str,
    tables: impl Iterator<Item = &'a Captured>,
    outlet: &mut Outlet,
) -> Result<BTreeMap<TableName, String>, PostgresError> {
    let mut failed = BTreeMap::new();
    for table in tables {
        let name = &table.shape.name;
        // One connection each: a failed copy leaves nothing behind.
        let mut connection = Replication::open(endpoint, Mode::Plain).await?;
        begin(&mut connection, snapshot).await?;
        match one(&mut connection, table, outlet).await {
            Ok(rows) => info!(table = %name, rows, "copied"),
            Err(error) => {
                let reason = impossible(&error).ok_or(error)?;
                warn!(table = %name, reason, "the table cannot be copied");
                let prefix = table.shape.prefix.clone();
                let changes = vec![Change::Truncate { prefix }];
                outlet.send(Batch { changes, ..Batch::default() }).await?;
                failed.insert(name.clone(), reason);
            }
        }
    }
    Ok(failed)
}

async fn begin(connection: &mut Replication, snapshot: &str) -> Result<(), PostgresError> {
    connection.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let snapshot = escape_literal(snapshot);
    connection.query(&format!("SET TRANSACTION SNAPSHOT {snapshot}")).await?;
    Ok(())
}

async fn one(
    connection: &mut Replication,
    table: &Captured,
    outlet: &mut Outlet,
) -> Result<u64, PostgresError> {
    let shape = &table.shape;
    let quoted: Vec<String> = shape.columns.iter().map(quote).collect();
    let columns = quoted.join(", ");
    let sql = if table.filter.is_none() && !table.partitioned {
        // The plain form is the fastest. Like ONLY, it leaves out tables that inherit.
        format!("COPY {} ({columns}) TO STDOUT", quote_table(&shape.name))
    } else {
        copy_sql(table, &columns, "")
    };
    connection.copy_out(&sql).await?;
    let mut copy = TableCopy::new(shape.clone());
    outlet.state(State::Copying { table: shape.name.clone(), rows: 0 });
    while let Some(line) = connection.copy_line().await? {
        if let Some(batch) = copy.row(&line)? {
            outlet.send(batch).await?;
            outlet.state(State::Copying { table: shape.name.clone(), rows: copy.rows() });
        }
    }
    let rows = copy.rows();
    let (batches, swept) = copy.finish()?;
    for batch in batches {
        outlet.send(batch).await?;
    }
    if !swept {
        scan_keys(connection, table, outlet).await?;
    }
    outlet.copied(rows);
    Ok(rows)
}

/// Second pass over a large table, under the same snapshot: only the keys, in the mirror's order.
async fn scan_keys(
    connection: &mut Replication,
    table: &Captured,
    outlet: &mut Outlet,
) -> Result<(), PostgresError> {
    let shape = &table.shape;
    let quoted: Vec<String> = shape.key.iter().map(|&index| quote(&shape.columns[index])).collect();
    // Type output functions (format's %s) and UTF-8 bytes, as the mirror's keys are made of.
    let part = |column: &String| {
        format!("replace(replace(format('%s', {column}), '%', '%25'), ':', '%3A')")
    };
    let parts: Vec<String> = quoted.iter().map(part).collect();
    let order = format!("ORDER BY convert_to({}, 'UTF8')", parts.join(" || ':' || "));
    connection.copy_out(&copy_sql(table, &quoted.join(", "), &order)).await?;
    let mut keys = shape.clone();
    keys.columns = shape.key.iter().map(|&index| shape.columns[index].clone()).collect();
    keys.key = (0..keys.columns.len()).collect();
    let mut scan = KeyScan::new(shape.name.clone());
    while let Some(line) = connection.copy_line().await? {
        if let Some(batch) = scan.key(TableCopy::key_of(&keys, &line)?)? {
            outlet.send(batch).await?;
        }
    }
    outlet.send(scan.finish()).await
}

fn copy_sql(table: &Captured, columns: &str, order: &str) -> String {
    // Tables that inherit are captured by themselves; partitions under the partitioned table.
    let only = if table.partitioned { "" } else { "ONLY " };
    let name = quote_table(&table.shape.name);
    let filter = table.filter.as_ref().map(|filter| format!("WHERE {filter}")).unwrap_or_default();
    format!("COPY (SELECT {columns} FROM {only}{name} {filter} {order}) TO STDOUT")
}

fn quote(column: &Bytes) -> String {
    escape_identifier(&String::from_utf8_lossy(column))
}

/// The reason, if it lies in this table and not in the session.
fn impossible(error: &PostgresError) -> Option<String> {
    match error {
        PostgresError::Copy(error @ CopyError::Key { .. }) => Some(error.to_string()),
        // Insufficient privilege, among it row security.
        PostgresError::Server { error, .. } if error.code == "42501" => Some(error.to_string()),
        _ => None,
    }
}
