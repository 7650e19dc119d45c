//! A throw-away server, a tailer on it, and the reference mirror as the store behind it.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_cdc::{Batch, Mirror};
use meridian_postgres::testing::TestPostgres;
use meridian_postgres::{Status, Tailer, TailerConfig, TailerHandle};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Far longer than anything takes; only a hang reaches it.
const HANG: Duration = Duration::from_secs(120);

pub struct Server {
    pub postgres: TestPostgres,
    pub directory: TempDir,
}

impl Server {
    pub fn start(sql: &str) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let postgres = TestPostgres::start(directory.path()).unwrap();
        let server = Server { postgres, directory };
        server.sql(sql);
        server
    }

    pub fn sql(&self, sql: &str) -> String {
        self.postgres.psql(sql).unwrap()
    }

    pub fn config(&self) -> TailerConfig {
        TailerConfig::new(self.postgres.url())
    }

    /// The rows of a table as the mirror should hold them. `key` is an SQL expression; values must
    /// not hold `|` or line ends.
    pub fn truth(&self, table: &str, key: &str, columns: &[&str]) -> Rows {
        let select = columns.join(", ");
        let rows = self.sql(&format!("\\pset null NULL\nSELECT {key}, {select} FROM {table}"));
        let row = |line: &str| {
            let mut values = line.split('|');
            let key = values.next().unwrap().to_owned();
            let named = columns.iter().map(|name| name.to_string()).zip(values.map(str::to_owned));
            (key, named.filter(|(_, value)| value != "NULL").collect())
        };
        rows.lines().map(row).collect()
    }
}

pub type Rows = BTreeMap<String, BTreeMap<String, String>>;

/// The mirror's rows under a prefix.
pub fn rows(mirror: &Mirror, prefix: &str) -> Rows {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let row = |fields: &BTreeMap<_, _>| {
        fields.iter().map(|(n, v): (&bytes::Bytes, &bytes::Bytes)| (text(n), text(v))).collect()
    };
    let all = mirror.rows.iter().map(|(key, fields)| (text(key), row(fields)));
    all.filter(|(key, _)| key.starts_with(prefix)).collect()
}

/// A tailer and what it feeds.
pub struct Follow {
    pub handle: TailerHandle,
    pub batches: mpsc::Receiver<Batch>,
    pub durable: watch::Sender<u64>,
    pub mirror: Mirror,
}

impl Follow {
    /// Begins where `mirror` stands.
    pub fn start(config: TailerConfig, mirror: Mirror) -> Follow {
        let (sender, batches) = mpsc::channel(4);
        let (durable, durable_receiver) = watch::channel(0);
        let handle = Tailer::spawn(config, mirror.position, sender, durable_receiver).unwrap();
        Follow { handle, batches, durable, mirror }
    }

    pub fn new(server: &Server) -> Follow {
        Follow::start(server.config(), Mirror::default())
    }

    pub async fn next(&mut self) -> Batch {
        match timeout(HANG, self.batches.recv()).await {
            Ok(Some(batch)) => batch,
            _ => panic!("no batch; status: {:?}", *self.handle.status().borrow()),
        }
    }

    /// Applies a batch and makes it durable.
    pub fn apply(&mut self, batch: &Batch) {
        self.mirror.apply(batch);
        if let Some(position) = batch.position {
            self.durable.send_replace(position.lsn);
        }
    }

    /// Applies batches until the mirror is as wanted.
    pub async fn until(&mut self, wanted: impl Fn(&Mirror) -> bool) {
        while !wanted(&self.mirror) {
            let batch = self.next().await;
            self.apply(&batch);
        }
    }

    /// Applies everything that was committed before now.
    pub async fn catch_up(&mut self, server: &Server) {
        let lsn = server.sql("SELECT pg_current_wal_flush_lsn()");
        let lsn = meridian_cdc::parse_lsn(&lsn).unwrap();
        self.until(|mirror| mirror.position.is_some_and(|position| position.lsn >= lsn)).await;
    }

    /// Applies batches until the status is as wanted.
    pub async fn until_status(&mut self, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.handle.status();
        let mut wait = Box::pin(timeout(HANG, status.wait_for(|status| wanted(status))));
        loop {
            tokio::select! {
                found = &mut wait => return found.expect("the status never came").unwrap().clone(),
                batch = self.batches.recv() => {
                    let batch = batch.expect("the tailer has ended");
                    self.mirror.apply(&batch);
                    if let Some(position) = batch.position {
                        self.durable.send_replace(position.lsn);
                    }
                }
            }
        }
    }

    /// Stops the tailer; what it has handed on and was not applied is lost.
    pub async fn stop(self) -> Mirror {
        let Follow { handle, batches, mirror, .. } = self;
        drop(batches);
        handle.stop().await;
        mirror
    }
}

pub fn has(mirror: &Mirror, key: &str) -> bool {
    mirror.rows.contains_key(key.as_bytes())
}

pub fn field(mirror: &Mirror, key: &str, name: &str) -> Option<String> {
    let value = mirror.rows.get(key.as_bytes())?.get(name.as_bytes())?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}
