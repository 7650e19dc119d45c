//! The Postgres that a cluster follows, as an application writes to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::limits::{ANSWER_WITHIN, CHANGE_EVERY};

/// A connection that executes SQL.
pub struct Source {
    runtime: Runtime,
    client: Client,
}

impl Source {
    /// Connects.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn connect(url: &str) -> Result<Source> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting a runtime for Postgres")?;
        let connect = tokio_postgres::connect(url, NoTls);
        let connect = async { tokio::time::timeout(ANSWER_WITHIN, connect).await };
        let (client, connection) = runtime
            .block_on(connect)
            .context("Postgres does not answer")?
            .context("connecting to Postgres")?;
        // Its error, if it has one, is seen by the client.
        runtime.spawn(async move { drop(connection.await) });
        let source = Source { runtime, client };
        // Values are printed as the mirror holds them.
        source.execute("SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'")?;
        Ok(source)
    }

    /// The rows of a query, each value as text.
    ///
    /// # Errors
    /// What the server says.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.runtime.block_on(self.client.simple_query(sql));
        let rows = messages.with_context(|| sql.to_owned())?.into_iter().filter_map(|message| {
            let SimpleQueryMessage::Row(row) = message else { return None };
            Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
        });
        Ok(rows.collect())
    }

    /// Executes SQL; it is committed when this returns.
    ///
    /// # Errors
    /// What the server says.
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(sql)).with_context(|| sql.to_owned())
    }
}

/// One number in Postgres that grows by commit after commit, in the background.
pub struct Pump {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Vec<Instant>>>,
}

impl Pump {
    /// Starts to set the number; `statement` makes SQL of it.
    ///
    /// # Errors
    /// When Postgres refuses the connection.
    pub fn start(url: &str, statement: impl Fn(usize) -> String + Send + 'static) -> Result<Pump> {
        let source = Source::connect(url)?;
        let stop = Arc::new(AtomicBool::new(false));
        let commits = Arc::new(AtomicUsize::new(0));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&commits));
        let thread = std::thread::spawn(move || {
            let mut commits = Vec::new();
            while !told.load(Ordering::Relaxed) {
                source.execute(&statement(commits.len()))?;
                commits.push(Instant::now());
                counted.store(commits.len(), Ordering::Relaxed);
                std::thread::sleep(CHANGE_EVERY);
            }
            Ok(commits)
        });
        Ok(Pump { stop, commits, thread })
    }

    /// How many numbers have been committed so far; the next one is this number.
    pub fn commits(&self) -> usize {
        self.commits.load(Ordering::Relaxed)
    }

    /// Stops; when each number was committed.
    ///
    /// # Errors
    /// What made it stop before.
    pub fn stop(self) -> Result<Vec<Instant>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that changes rows has panicked"))?
    }
}
