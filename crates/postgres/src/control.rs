//! The SQL connection beside the stream: settings, catalogs, the publication, the slot, the lag.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use meridian_cdc::{Ledger, Refetch, Slot, TableName, Tables, WalStatus, parse_lsn};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row, SimpleQueryMessage};

use crate::PostgresError;
use crate::endpoint::Endpoint;
use crate::limits::{
    CONNECT_TIMEOUT_MS, QUERY_TIMEOUT_MS, SERVER_VERSION_MIN, VISIBLE_RETRY_MS, VISIBLE_TIMEOUT_MS,
};

/// A table of the operator's choice, as the catalogs describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogTable {
    /// Key columns in the table's order; empty if rows cannot be told apart.
    pub key: Vec<String>,
    /// Columns that a stream would carry.
    pub columns: Vec<String>,
    /// A partitioned table: its rows are in the partitions.
    pub partitioned: bool,
    /// `REPLICA IDENTITY NOTHING`.
    pub identity_nothing: bool,
    /// We may read it.
    pub readable: bool,
}

impl CatalogTable {
    /// Why this table cannot be mirrored.
    pub(crate) fn refusal(&self, name: &TableName) -> Option<String> {
        if self.identity_nothing {
            return Some(format!(
                "table {name} has REPLICA IDENTITY NOTHING: updates and deletes could not be \
                 followed"
            ));
        }
        if self.key.is_empty() {
            return Some(format!(
                "table {name} has no primary key: rows could not be told apart; give it a primary \
                 key, or a replica identity over a unique index of columns that are not null"
            ));
        }
        (!self.readable).then(|| format!("table {name} may not be read: grant SELECT on it"))
    }
}

/// What a publication carries of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub columns: Vec<String>,
    pub filter: Option<String>,
}

/// The publication itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub all_tables: bool,
    /// Inserts, updates, deletes and truncates.
    pub complete: bool,
    pub owned: bool,
    pub comment: Option<String>,
}

/// A look at the server while streaming.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    pub wal_lsn: u64,
    pub wal_status: Option<WalStatus>,
    pub safe_wal_bytes: Option<i64>,
}

/// The SQL connection.
pub(crate) struct Control {
    client: Client,
    driver: JoinHandle<()>,
    server: String,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Control {
    /// Connects and checks that the server can do what is needed.
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Control, PostgresError> {
        let server = endpoint.name();
        let config = endpoint.sql_config();
        let connecting = config.connect(NoTls);
        let (client, connection) = timeout(Duration::from_millis(CONNECT_TIMEOUT_MS), connecting)
            .await
            .map_err(|_| PostgresError::Timeout("opening a connection"))?
            .map_err(|error| PostgresError::sql(&server, error))?;
        let driver = tokio::spawn(async move {
            // Whoever uses the client sees the connection's end there.
            let _ = connection.await;
        });
        let control = Control { client, driver, server };
        control.check_server().await?;
        Ok(control)
    }

    /// Whether the server is a standby.
    pub(crate) async fn in_recovery(&self) -> Result<bool, PostgresError> {
        Ok(self.one("SELECT pg_is_in_recovery()", &[]).await?.get(0))
    }

    /// The slot's row, if there is one.
    pub(crate) async fn slot(&self, name: &str) -> Result<Option<Slot>, PostgresError> {
        let sql = "SELECT coalesce(plugin, '')::text, coalesce(database = current_database(), \
                   false), confirmed_flush_lsn::text, wal_status, active_pid \
                   FROM pg_replication_slots WHERE slot_name = $1::text";
        let rows = self.rows(sql, &[&name]).await?;
        Ok(rows.first().map(|row| Slot {
            plugin: row.get(0),
            same_database: row.get(1),
            confirmed_flush: row.get::<_, Option<&str>>(2).and_then(parse_lsn),
            wal_status: row.get::<_, Option<&str>>(3).and_then(WalStatus::parse),
            active_pid: row.get(4),
        }))
    }

    /// Removes the slot, if it is there.
    pub(crate) async fn drop_slot(&self, name: &str) -> Result<(), PostgresError> {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                   WHERE slot_name = $1::text";
        self.rows(sql, &[&name]).await?;
        Ok(())
    }

    /// The tables that the operator wants and that exist.
    pub(crate) async fn tables(
        &self,
        tables: &Tables,
    ) -> Result<BTreeMap<TableName, CatalogTable>, PostgresError> {
        let schemas: Vec<String> = match tables {
            Tables::Schema(schema) => vec![schema.clone()],
            Tables::Listed(tables) => tables
                .iter()
                .map(|t| t.schema.clone())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        };
        let table = |row: Row| {
            let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            let table = CatalogTable {
                key: row.get(2),
                columns: row.get(3),
                partitioned: row.get(4),
                identity_nothing: row.get(5),
                readable: row.get(6),
            };
            (name, table)
        };
        let all = self.rows(TABLES_SQL, &[&schemas]).await?;
        Ok(all.into_iter().map(table).filter(|(name, _)| tables.wants(name)).collect())
    }

    /// The primary key of one table, for a description in the stream that does not tell.
    pub(crate) async fn key_of(&self, table: &TableName) -> Result<Vec<String>, PostgresError> {
        let listed = Tables::Listed([table.clone()].into());
        Ok(self.tables(&listed).await?.remove(table).map(|table| table.key).unwrap_or_default())
    }

    /// The publication, if there is one.
    pub(crate) async fn publication(
        &self,
        name: &str,
    ) -> Result<Option<Publication>, PostgresError> {
        let sql = "SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate, \
                   pg_has_role(pubowner, 'USAGE'), obj_description(oid, 'pg_publication') \
                   FROM pg_publication WHERE pubname = $1::text";
        let rows = self.rows(sql, &[&name]).await?;
        Ok(rows.first().map(|row| Publication {
            all_tables: row.get(0),
            complete: row.get(1),
            owned: row.get(2),
            comment: row.get(3),
        }))
    }

    /// What the publication carries.
    pub(crate) async fn published(
        &self,
        publication: &str,
    ) -> Result<BTreeMap<TableName, Published>, PostgresError> {
        let sql = "SELECT schemaname::text, tablename::text, attnames::text[], rowfilter \
                   FROM pg_publication_tables WHERE pubname = $1::text";
        let rows = self.rows(sql, &[&publication]).await?;
        let one = |row: Row| {
            let name = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
            (name, Published { columns: row.get(2), filter: row.get(3) })
        };
        Ok(rows.into_iter().map(one).collect())
    }

    /// Creates the publication with these tables.
    pub(crate) async fn create_publication(
        &self,
        name: &str,
        tables: &[&TableName],
    ) -> Result<(), PostgresError> {
        let list: Vec<String> = tables.iter().map(|t| quote_table(t)).collect();
        let list =
            if list.is_empty() { String::new() } else { format!("FOR TABLE {}", list.join(", ")) };
        // Rows of partitions then come under the name of the partitioned table.
        let name = escape_identifier(name);
        self.run(&format!(
            "CREATE PUBLICATION {name} {list} WITH (publish_via_partition_root = true)"
        ))
        .await
    }

    /// Adds tables to the publication, or removes them.
    pub(crate) async fn alter_publication(
        &self,
        name: &str,
        verb: &str,
        tables: &[&TableName],
    ) -> Result<(), PostgresError> {
        let list: Vec<String> = tables.iter().map(|t| quote_table(t)).collect();
        let name = escape_identifier(name);
        self.run(&format!("ALTER PUBLICATION {name} {verb} TABLE {}", list.join(", "))).await
    }

    /// Writes the ledger.
    pub(crate) async fn write_ledger(
        &self,
        publication: &str,
        ledger: &Ledger,
    ) -> Result<(), PostgresError> {
        let text = escape_literal(&ledger.format());
        let name = escape_identifier(publication);
        self.run(&format!("COMMENT ON PUBLICATION {name} IS {text}")).await
    }

    /// The server's log and what the slot holds of it.
    pub(crate) async fn observe(&self, slot: &str) -> Result<Observation, PostgresError> {
        let sql = "SELECT pg_current_wal_lsn()::text, s.wal_status, s.safe_wal_size \
                   FROM (SELECT) AS here LEFT JOIN pg_replication_slots s ON s.slot_name = $1::text";
        let row = self.one(sql, &[&slot]).await?;
        Ok(Observation {
            wal_lsn: parse_lsn(row.get(0)).unwrap_or_default(),
            wal_status: row.get::<_, Option<&str>>(1).and_then(WalStatus::parse),
            safe_wal_bytes: row.get(2),
        })
    }

    /// Reads large values of one row, as soon as the transaction that moved it is visible; none if
    /// the row is gone since.
    pub(crate) async fn refetch(
        &self,
        refetch: &Refetch,
    ) -> Result<Vec<(Bytes, Bytes)>, PostgresError> {
        let sql = refetch_sql(refetch);
        let visible = async {
            // Nothing tells us when a transaction becomes visible: we have to ask again.
            let mut ticks = interval(Duration::from_millis(VISIBLE_RETRY_MS));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Some(values) = self.look(&sql, &refetch.columns).await? {
                    return Ok(values);
                }
            }
        };
        let waited = timeout(Duration::from_millis(VISIBLE_TIMEOUT_MS), visible).await;
        waited.unwrap_or(Err(PostgresError::Waiting(format!(
            "transaction {} is in the log and not visible yet; is a synchronous standby away?",
            refetch.xid
        ))))
    }

    /// One look; `None` if the transaction is not visible yet.
    async fn look(
        &self,
        sql: &str,
        columns: &[Bytes],
    ) -> Result<Option<Vec<(Bytes, Bytes)>>, PostgresError> {
        // The simple protocol gives values in text form, as the stream does.
        let answer = self.patiently(self.client.simple_query(sql)).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = row.ok_or(PostgresError::Protocol("a query gave no row"))?;
        if row.get(0) != Some("t") {
            return Ok(None);
        }
        let value = |(index, name): (usize, &Bytes)| {
            let value = row.get(index + 1)?;
            Some((name.clone(), Bytes::copy_from_slice(value.as_bytes())))
        };
        Ok(Some(columns.iter().enumerate().filter_map(value).collect()))
    }

    async fn check_server(&self) -> Result<(), PostgresError> {
        let sql = "SELECT current_setting('server_version_num')::int, \
                   current_setting('wal_level'), \
                   (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), \
                   current_user::text, current_setting('server_version')";
        let row = self.one(sql, &[]).await?;
        let setup = |reason: String| Err(PostgresError::Setup(reason));
        let (version, wal_level): (i32, &str) = (row.get(0), row.get(1));
        if u32::try_from(version).unwrap_or(0) < SERVER_VERSION_MIN {
            let shown: &str = row.get(4);
            return setup(format!("the server is version {shown}; 15 or later is needed"));
        }
        if wal_level != "logical" {
            return setup(format!(
                "wal_level is {wal_level}; set wal_level = logical in postgresql.conf and restart \
                 the server"
            ));
        }
        if row.get::<_, Option<bool>>(2) != Some(true) {
            let user: &str = row.get(3);
            return setup(format!(
                "role {user} may not replicate: ALTER ROLE \"{user}\" REPLICATION"
            ));
        }
        Ok(())
    }

    async fn one(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, PostgresError> {
        let rows = self.rows(sql, parameters).await?;
        rows.into_iter().next().ok_or(PostgresError::Protocol("a query gave no row"))
    }

    async fn rows(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresError> {
        self.patiently(self.client.query(sql, parameters)).await
    }

    async fn run(&self, sql: &str) -> Result<(), PostgresError> {
        self.patiently(self.client.batch_execute(sql)).await
    }

    async fn patiently<T>(
        &self,
        query: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PostgresError> {
        match timeout(Duration::from_millis(QUERY_TIMEOUT_MS), query).await {
            Ok(result) => result.map_err(|error| PostgresError::sql(&self.server, error)),
            Err(_) => Err(PostgresError::Timeout("a catalog query")),
        }
    }
}

/// One row: whether the statement sees the transaction, and the columns as it sees them (all null
/// if the row is gone). The stream tells 32 bits of a transaction's number; the full number is the
/// nearest to the snapshot's that ends with them.
fn refetch_sql(refetch: &Refetch) -> String {
    let name = |name: &Bytes| escape_identifier(&String::from_utf8_lossy(name));
    let columns: String = refetch.columns.iter().map(|c| format!(", r.{}", name(c))).collect();
    let test = |(column, value): &(Bytes, Bytes)| {
        format!("r.{} = {}", name(column), escape_literal(&String::from_utf8_lossy(value)))
    };
    let tests: Vec<String> = refetch.key.iter().map(test).collect();
    format!(
        "SELECT s.visible{columns} FROM (
           SELECT pg_visible_in_snapshot((m + ((x - m % w + w + w / 2) % w) - w / 2)::text::xid8, n)
             FROM (SELECT n, pg_snapshot_xmax(n)::text::bigint, {xid}::bigint, 4294967296
                     FROM pg_current_snapshot() AS n) AS t (n, m, x, w)
         ) AS s (visible) LEFT JOIN {table} AS r ON {tests}",
        xid = refetch.xid,
        table = quote_table(&refetch.table),
        tests = tests.join(" AND ")
    )
}

/// A table's name for SQL.
pub(crate) fn quote_table(table: &TableName) -> String {
    format!("{}.{}", escape_identifier(&table.schema), escape_identifier(&table.table))
}

/// Ordinary and partitioned tables with the columns of their replica identity. A deferrable key
/// does not count, as for Postgres itself.
const TABLES_SQL: &str = "
SELECT n.nspname::text, c.relname::text,
       coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum)
                   FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
                  WHERE i.indrelid = c.oid AND i.indislive AND i.indimmediate
                    AND CASE c.relreplident WHEN 'i' THEN i.indisreplident
                                            ELSE i.indisprimary END
                    AND EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) k
                                 WHERE i.indkey[k] = a.attnum)), '{}'),
       coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0
                    AND NOT a.attisdropped AND a.attgenerated = ''), '{}'),
       c.relkind = 'p', c.relreplident = 'n', has_table_privilege(c.oid, 'SELECT')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY ($1::text[]) AND c.relkind IN ('r', 'p')
   AND NOT c.relispartition AND c.relpersistence = 'p'";
