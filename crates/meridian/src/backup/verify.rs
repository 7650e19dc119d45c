//! Reading a backup back: every checksum, then the recovery that nodes start with, in memory, then
//! the digests that were taken with it.

use anyhow::{Context, Result, bail};
use meridian_clock::Origin;
use meridian_disk::{BackupStorage, Manifest, Pace, Repository};
use meridian_keyspace::{Ablations, SLOTS, Stage, StageConfig};
use meridian_node::recover;
use meridian_store::{Identity, Storage, StoreError};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// Bytes that were compared with their checksums.
    pub bytes: u64,
    /// Keys that show something.
    pub keys: u64,
    /// The digest of all that it holds, as `MERIDIAN DIGEST` tells it.
    pub digest: u64,
    /// Slots whose digest was compared with the one taken with the backup.
    pub compared: usize,
}

/// Reads a backup back. Objects that are damaged are set aside, so that the next backup stores
/// them anew.
///
/// # Errors
/// Names the first file that is damaged, or the first slot that differs.
pub fn verify(repository: &Repository, manifest: &Manifest, pace: Pace) -> Result<Sound> {
    let mut bytes = 0;
    for object in manifest.objects() {
        match repository.check(object, pace) {
            Ok(()) => bytes += object.bytes,
            Err(error @ StoreError::Corrupt { .. }) => {
                repository.set_aside(object).context("setting a damaged file aside")?;
                return Err(error).with_context(|| {
                    format!("backup {} is damaged (set aside; take a new one)", manifest.id)
                });
            }
            Err(error) => {
                return Err(error).with_context(|| format!("backup {} is not whole", manifest.id));
            }
        }
    }
    let storage = BackupStorage::open(repository, manifest)
        .with_context(|| format!("opening the checkpoint of backup {}", manifest.id))?;
    let rebuilt = rebuild(&storage, &manifest.owner.identity());
    storage.close().context("removing the scratch directory")?;
    let mut stage = rebuilt.with_context(|| format!("replaying backup {}", manifest.id))?;
    if stage.vectors() != manifest.end.vectors() {
        bail!("backup {} replays to another point than the one that it was taken at", manifest.id);
    }
    let then = repository.digests(manifest)?;
    let now: Vec<(u16, u64)> = (0..SLOTS).map(|slot| (slot, stage.slot_digest(slot))).collect();
    let differing = then.differing(now.iter().copied());
    if let Some(slot) = differing.first() {
        bail!(
            "backup {} does not hold what the node held: {} of {SLOTS} slots differ, slot {slot} \
             first",
            manifest.id,
            differing.len()
        );
    }
    Ok(Sound {
        bytes,
        keys: keys(&stage),
        digest: now.iter().fold(0, |sum, (_, digest)| sum.wrapping_add(*digest)),
        compared: usize::from(SLOTS) - then.unknown(),
    })
}

/// The state that storage holds.
pub fn rebuild(storage: &impl Storage, identity: &Identity) -> Result<Stage> {
    Ok(recover(storage, stage_config(identity.origin, identity.partitions), identity)?.stage)
}

/// A stage that nobody but this process sees.
pub fn stage_config(me: Origin, partitions: u16) -> StageConfig {
    StageConfig { me, partitions, seed: 0, ablations: Ablations::default() }
}

/// Keys that show something.
pub fn keys(stage: &Stage) -> u64 {
    (0..SLOTS).map(|slot| stage.table(slot).live() as u64).sum()
}

/// The digest of everything, as `MERIDIAN DIGEST` tells it.
pub fn digest(stage: &mut Stage) -> u64 {
    (0..SLOTS).fold(0, |sum, slot| sum.wrapping_add(stage.slot_digest(slot)))
}
