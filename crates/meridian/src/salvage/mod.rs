//! `meridian salvage`: what a region that was declared dead had written and nobody else has, listed
//! and, on command, written again.
//!
//! The region's own frames cannot be shipped any more: its ordinal is retired, and the others have
//! drawn conclusions from its silence. So its writes are read from its log and repeated as new
//! ones, by a client of a living region. They win over what was written to the same keys since;
//! the list is there to be looked at first.

mod replay;
mod scan;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meridian_clock::{Origin, Time, VersionVector};
use meridian_disk::{DataDir, DiskOptions};
use meridian_store::Identity;
use serde_json::Value;

use crate::cli::SalvageArgs;
use crate::config::Secret;
use crate::http;
use crate::membership::{resolve, status};
use replay::{Client, Mark};
use scan::{Record, Scan};

/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The mark of how far it was merged, beside the data.
const MARK_FILE: &str = "salvaged";
/// Commands between two marks. An increment is marked by itself: it must not be done twice.
const MARK_EVERY: u64 = 100;
/// Bytes of a word that the list shows.
const SHOWN_BYTES: usize = 80;

/// Lists or merges what a dead region's directory has and the cluster lacks.
///
/// # Errors
/// When the directory cannot be read, the region is no dead one, or nobody answers.
pub fn run(args: &SalvageArgs) -> Result<()> {
    let data = data_directory(&args.directory)?;
    let identity = DataDir::identity(&data)?;
    let cluster = crate::membership::block_on(Cluster::ask(&args.via, &identity))?;
    let opened = DataDir::open(&data, &identity, DiskOptions::default())
        .with_context(|| format!("opening {} (is its node still running?)", data.display()))?;
    let bounds = opened.reader.bounds();
    let read = |from, max| opened.reader.read(from, max);
    let mut scan = Scan::new(identity.origin, &cluster.vectors);
    let mark_path = data.parent().unwrap_or(&data).join(MARK_FILE);
    let mut mark = Mark::open(mark_path)?;
    if args.merge {
        let password = Secret::from_environment("MERIDIAN_PASSWORD")?;
        let redis = args.redis.or(cluster.redis).context("say where to write: --redis IP:PORT")?;
        let client = Client::connect(redis, password.as_ref().map(Secret::reveal))?;
        let mut merge = Merge { client, mark: &mut mark, last: 0, written: 0, left: 0 };
        scan.run(bounds, read, |record| merge.take(&record))?;
        merge.end(redis)
    } else {
        let mut out = std::io::stdout().lock();
        let (mut count, mut done) = (0u64, 0u64);
        let listed = scan.run(bounds, read, |record| {
            if record.number <= mark.done {
                done += 1;
                return Ok(());
            }
            count += 1;
            Ok(writeln!(out, "{}", line(&record))?)
        });
        listed?;
        let region = &identity.region;
        if done > 0 {
            eprintln!("{done} writes of {region} were merged before");
        }
        eprintln!("{count} writes of {region} are nowhere else; to write them again: --merge");
        Ok(())
    }
}

/// The living cluster, as far as salvage needs it.
struct Cluster {
    /// What it has, by partition: all that any of its nodes has.
    vectors: Vec<VersionVector>,
    /// Where the node that was asked serves clients.
    redis: Option<SocketAddr>,
}

impl Cluster {
    async fn ask(via: &str, identity: &Identity) -> Result<Cluster> {
        let via = resolve(via).await?;
        let told = status(via).await?;
        ensure!(
            told["cluster"] == identity.cluster.as_str(),
            "{via} is a node of cluster {}, the directory of cluster {}",
            told["cluster"],
            identity.cluster
        );
        let ordinal = identity.origin.0;
        let members = told["members"].as_array().context("the node does not tell its members")?;
        let member = members.iter().find(|member| member["origin"] == ordinal);
        let member = member.with_context(|| format!("region {ordinal} was never a member"))?;
        ensure!(
            member["status"] == "dead" || member["status"] == "left",
            "{} is {}: start its node, and it ships what it has by itself",
            identity.region,
            member["status"]
        );
        let nothing = VersionVector::new();
        let mut vectors = vec![nothing; usize::from(identity.partitions)];
        let mut redis = None;
        for member in members.iter().filter(|member| member["status"] == "active") {
            let admin = member["admin"].as_str().and_then(|admin| admin.parse().ok());
            let Some(admin) = admin else { continue };
            match Self::vectors(admin, identity).await {
                Ok(found) => vectors.iter_mut().zip(&found).for_each(|(v, f)| v.join(f)),
                Err(error) => eprintln!("meridian: without {}: {error:#}", member["name"]),
            }
            if told["region"] == member["name"] {
                redis = member["redis"].as_str().and_then(|redis| redis.parse().ok());
            }
        }
        Ok(Cluster { vectors, redis })
    }

    async fn vectors(admin: SocketAddr, identity: &Identity) -> Result<Vec<VersionVector>> {
        let answer = http::get(admin, "/vectors", ANSWER_WITHIN).await?;
        ensure!(answer.status == 200, "http://{admin}/vectors: code {}", answer.status);
        let document: Value = serde_json::from_str(&answer.body).context("its vectors")?;
        let told = document["vectors"].as_array().context("its vectors")?;
        ensure!(told.len() == usize::from(identity.partitions), "another number of partitions");
        told.iter().map(vector).collect()
    }
}

fn vector(told: &Value) -> Result<VersionVector> {
    let mut vector = VersionVector::new();
    for (origin, time) in told.as_object().context("a vector")? {
        let origin: u16 = origin.parse().context("an ordinal")?;
        ensure!(usize::from(origin) < meridian_clock::MAX_REGIONS, "ordinal {origin} is too large");
        vector.set(Origin(origin), Time(time.as_u64().context("a stamp")?));
    }
    Ok(vector)
}

/// Writing the records again.
struct Merge<'a> {
    client: Client,
    mark: &'a mut Mark,
    last: u64,
    written: u64,
    /// Increments of rows that began before the log: nobody knows by how much.
    left: u64,
}

impl Merge<'_> {
    fn take(&mut self, record: &Record) -> Result<()> {
        if record.number <= self.mark.done {
            return Ok(());
        }
        let Some(command) = &record.command else {
            eprintln!("meridian: left out: {}", line(record));
            self.left += 1;
            return Ok(());
        };
        let done = self.client.run(command);
        done.with_context(|| {
            format!("{} writes were merged, then: {}", self.written, line(record))
        })?;
        (self.last, self.written) = (record.number, self.written + 1);
        let counts = command
            .first()
            .is_some_and(|name| name.starts_with(b"INCR") || name.starts_with(b"HINCR"));
        if counts || self.written.is_multiple_of(MARK_EVERY) {
            self.mark.set(self.last)?;
        }
        Ok(())
    }

    fn end(self, redis: SocketAddr) -> Result<()> {
        if self.last > self.mark.done {
            self.mark.set(self.last)?;
        }
        let (written, left) = (self.written, self.left);
        writeln!(std::io::stdout(), "{written} writes were written again at {redis}")?;
        if left > 0 {
            bail!("{left} increments were left out: their counters began before the log does");
        }
        Ok(())
    }
}

/// The directory that holds the data: as given, or below a region's directory.
fn data_directory(given: &Path) -> Result<PathBuf> {
    let below = given.join("data");
    let found = [given.to_owned(), below].into_iter().find(|path| path.join("FORMAT").exists());
    found.with_context(|| {
        format!("{} is neither a region's directory nor its data", given.display())
    })
}

/// A record as one line: when, and the command.
fn line(record: &Record) -> String {
    let shown = |word: &Vec<u8>| {
        let cut = &word[..word.len().min(SHOWN_BYTES)];
        let more = if word.len() > cut.len() { "…" } else { "" };
        format!("\"{}\"{more}", cut.escape_ascii())
    };
    let what = match &record.command {
        Some(command) => {
            let (name, rest) =
                command.split_first().map_or((&[][..], &[][..]), |(n, r)| (&n[..], r));
            let rest: Vec<String> = rest.iter().map(shown).collect();
            format!("{} {}", String::from_utf8_lossy(name), rest.join(" "))
        }
        None => format!("an increment of {}, by an unknown amount", shown(&record.key)),
    };
    format!("{} {what}", record.time.as_ms())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line() {
        let record = |command: Option<Vec<Vec<u8>>>| Record {
            number: 1,
            time: Time::from_ms(5),
            key: b"k".to_vec(),
            command,
        };
        let set = record(Some(vec![b"SET".to_vec(), b"k\n".to_vec(), vec![b'x'; 100]]));
        assert_eq!(line(&set), format!("5 SET \"k\\n\" \"{}\"…", "x".repeat(80)));
        assert_eq!(line(&record(None)), "5 an increment of \"k\", by an unknown amount");
    }

    #[test]
    fn vectors_are_checked() {
        let parse = |text: &str| vector(&serde_json::from_str(text).unwrap());
        assert_eq!(parse(r#"{"2": 7}"#).unwrap().get(Origin(2)), Time(7));
        for bad in ["[]", r#"{"x": 1}"#, r#"{"64": 1}"#, r#"{"1": -1}"#, r#"{"1": "7"}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
