//! Asking a running node for a backup, and watching it.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::http;

/// How long the node may take to answer; the backup itself takes as long as it takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The node is asked this often how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Lets the node at `node` take a backup into a directory of its own host.
///
/// # Errors
/// What the node says.
pub fn create(node: &str, directory: &Path) -> Result<()> {
    let address = resolve(node)?;
    let directory = std::path::absolute(directory).context("the directory of the backups")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    let order = json!({ "directory": directory }).to_string();
    runtime.block_on(async {
        let answer = http::post(address, "/backup", &order, PATIENCE).await?;
        let accepted: Value = understood(&answer)?;
        if answer.status != 202 {
            bail!("the node refuses: {}", accepted["error"].as_str().unwrap_or("no reason given"));
        }
        let number = accepted["number"].as_u64().context("the node gave no number")?;
        watch(address, number).await
    })
}

async fn watch(address: SocketAddr, number: u64) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut shown = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let answer = http::get(address, "/backup", PATIENCE).await?;
        let status: Value = understood(&answer)?;
        let done = status["finished"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|done| done["number"].as_u64() == Some(number));
        if let Some(done) = done {
            if let Some(error) = done["error"].as_str() {
                bail!("the backup has failed: {error}");
            }
            return writeln!(out, "{}", done["text"].as_str().unwrap_or("done")).context("writing");
        }
        if status["running"]["number"].as_u64() != Some(number) {
            bail!("the node knows nothing of the backup any more: was it restarted?");
        }
        let now = status["running"]["text"].as_str().unwrap_or_default();
        if now != shown {
            shown = now.to_owned();
            eprintln!("{shown}");
        }
    }
}

fn understood(answer: &http::Answer) -> Result<Value> {
    serde_json::from_str(&answer.body)
        .with_context(|| format!("the node answers {} and not as expected", answer.status))
}

fn resolve(node: &str) -> Result<SocketAddr> {
    let bare = node.strip_prefix("http://").unwrap_or(node).trim_end_matches('/');
    let mut found = bare.to_socket_addrs().with_context(|| format!("{node} is not HOST:PORT"))?;
    found.next().with_context(|| format!("{node} has no address"))
}
