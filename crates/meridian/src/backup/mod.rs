//! `meridian backup`: takes, lists, verifies and prunes backups of a region.
//!
//! A running node takes its own: it is asked over its admin port. The directory of a node that does
//! not run is read here.

pub mod instant;
mod online;
pub mod verify;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use meridian_disk::{
    DataDir, Digests, DiskOptions, DiskStorage, Manifest, Mark, Pace, Progress, Repository, Source,
    Taken, take,
};
use meridian_keyspace::SLOTS;
use meridian_store::{Identity, Storage};
use serde_json::{Value, json};

use crate::cli::{BackupAction, BackupArgs};
use crate::config::Size;
use crate::runtime::unix_us;

/// Does what the command line says.
///
/// # Errors
/// What could not be done, with the file that is at fault.
pub fn run(args: BackupArgs) -> Result<()> {
    match args.action {
        BackupAction::Create { directory, node: Some(node), .. } => {
            online::create(&node, &directory)
        }
        BackupAction::Create { directory, data: Some(data), .. } => create(&data, &directory),
        BackupAction::Create { .. } => bail!("say what to back up: --node HOST:PORT or --data DIR"),
        BackupAction::List { directory, json } => list(&directory, json),
        BackupAction::Verify { directory, backup, all } => {
            verify_some(&directory, backup.as_deref(), all)
        }
        BackupAction::Prune { directory, keep } => {
            prune(&directory, usize::try_from(keep).unwrap_or(usize::MAX))
        }
    }
}

/// Backs up the directory of a node that does not run.
fn create(data: &Path, directory: &Path) -> Result<()> {
    let identity = DataDir::identity(data)
        .with_context(|| format!("reading whose directory {} is", data.display()))?;
    let opened = DataDir::open(data, &identity, DiskOptions::default())
        .context("a running node takes its backup itself: --node HOST:PORT")?;
    let storage = DiskStorage::from(opened);
    let mut stage = verify::rebuild(&storage, &identity)
        .with_context(|| format!("recovering from {}", data.display()))?;
    let vectors = stage.vectors();
    let digests = (0..SLOTS).map(|slot| (slot, Some(stage.slot_digest(slot))));
    let digests = Digests::new(digests);
    let (_, position) = storage.bounds();
    let opened = storage.into_parts();
    let repository = Repository::open_or_create(directory)?;
    let (checkpoint, reader) = (&opened.checkpoint, &opened.reader);
    let source = Source { directory: data, identity: &identity, checkpoint, reader };
    let mark = || Ok(Mark { position, vectors, digests });
    let taken = take(
        &repository,
        source,
        mark,
        name(&repository)?.as_named(),
        Pace::UNBOUNDED,
        &Progress::default(),
    )?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", told(&taken)).context("writing")
}

/// A backup's name and time.
pub struct Named {
    id: String,
    ms: u64,
}

impl Named {
    /// As `take` wants it.
    pub fn as_named(&self) -> (&str, u64) {
        (&self.id, self.ms)
    }
}

/// A name for a backup that is taken now. Two within one millisecond differ all the same, and one
/// is never older than those that are there, whatever the clock says.
pub fn name(repository: &Repository) -> Result<Named> {
    let newest = repository.manifests()?.iter().map(|m| m.created_ms).max();
    let ms = (unix_us() / 1000).max(newest.map_or(0, |newest| newest + 1));
    Ok(Named { id: instant::name(ms), ms })
}

/// What a backup did, in a sentence.
pub fn told(taken: &Taken) -> String {
    format!(
        "backup {} of {}: {} copied, {} there already; restores any instant from {} to {}",
        taken.manifest.id,
        of(&taken.manifest.owner.identity()),
        size(taken.copied),
        size(taken.reused),
        instant::show(earliest_ms(&taken.manifest)),
        instant::show(taken.manifest.created_ms),
    )
}

fn of(identity: &Identity) -> String {
    format!("{} (ordinal {}) of {}", identity.region, identity.origin, identity.cluster)
}

/// The first instant in whole milliseconds at which nothing in the checkpoint is too new.
fn earliest_ms(manifest: &Manifest) -> u64 {
    let last = manifest.checkpoint_last();
    let ms = last.as_ms();
    if meridian_clock::Time::from_ms(ms) < last { ms + 1 } else { ms }
}

fn list(directory: &Path, as_json: bool) -> Result<()> {
    let listed = Repository::list(directory)?;
    let mut out = std::io::stdout().lock();
    if as_json {
        let all: Vec<Value> = listed.iter().map(|l| describe(&l.id, &l.manifest)).collect();
        return writeln!(out, "{:#}", Value::from(all)).context("writing");
    }
    if listed.is_empty() {
        return writeln!(out, "no backups in {}", directory.display()).context("writing");
    }
    writeln!(out, "{:<21} {:<24} {:>10}  restores any instant from … to", "backup", "of", "size")?;
    for backup in listed {
        match &backup.manifest {
            Ok(manifest) => writeln!(
                out,
                "{:<21} {:<24} {:>10}  {} … {}",
                backup.id,
                format!("{}@{}", manifest.owner.region, manifest.owner.ordinal),
                size(manifest.bytes()),
                instant::show(earliest_ms(manifest)),
                instant::show(manifest.created_ms),
            )?,
            Err(error) => writeln!(out, "{:<21} cannot be read: {error}", backup.id)?,
        }
    }
    Ok(())
}

fn describe(id: &str, manifest: &Result<Manifest, meridian_store::StoreError>) -> Value {
    match manifest {
        Err(error) => json!({ "id": id, "error": error.to_string() }),
        Ok(manifest) => json!({
            "id": id,
            "cluster": manifest.owner.cluster,
            "region": manifest.owner.region,
            "ordinal": manifest.owner.ordinal,
            "partitions": manifest.owner.partitions,
            "bytes": manifest.bytes(),
            "restorable_from": instant::show(earliest_ms(manifest)),
            "restorable_to": instant::show(manifest.created_ms),
            "log_from": manifest.log_start().0,
            "log_to": manifest.end.position,
        }),
    }
}

fn verify_some(directory: &Path, backup: Option<&str>, all: bool) -> Result<()> {
    let repository = Repository::open(directory)?;
    let chosen: Vec<Manifest> = match backup {
        Some(id) => vec![repository.manifest(id)?],
        None => {
            let mut listed = repository.backups()?;
            let skipped = if all { 0 } else { listed.len().saturating_sub(1) };
            let chosen = listed.drain(skipped..).map(|listed| listed.manifest);
            chosen.collect::<Result<_, _>>()?
        }
    };
    if chosen.is_empty() {
        bail!("there are no backups in {}", directory.display());
    }
    let mut out = std::io::stdout().lock();
    for manifest in chosen {
        let sound = verify::verify(&repository, &manifest, Pace::UNBOUNDED)?;
        writeln!(
            out,
            "backup {} is sound: {} read, {} keys, digest {:016x}, {} of {SLOTS} slots compared \
             with the node's",
            manifest.id,
            size(sound.bytes),
            sound.keys,
            sound.digest,
            sound.compared,
        )?;
    }
    Ok(())
}

fn prune(directory: &Path, keep: usize) -> Result<()> {
    let repository = Repository::open(directory)?;
    let pruned = repository.prune(keep)?;
    let mut out = std::io::stdout().lock();
    for id in &pruned.backups {
        writeln!(out, "backup {id} removed")?;
    }
    writeln!(out, "{} files, {} given back", pruned.objects, size(pruned.bytes))?;
    Ok(())
}

/// A size for people, rounded.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => Size(bytes >> 10 << 10).to_string(),
        _ => Size(bytes >> 20 << 20).to_string(),
    }
}
