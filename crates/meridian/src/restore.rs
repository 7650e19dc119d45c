//! `meridian restore`: a region's directory out of backups.
//!
//! What was restored is checked before it gets its name: it is opened and recovered as a node would
//! do it, and its digests are compared where the backup has them.

use std::io::Write;

use anyhow::{Context, Result, anyhow, bail};
use meridian_clock::{Origin, Time};
use meridian_disk::{
    DataDir, DiskOptions, DiskStorage, Manifest, NoPlan, Plan, Repository, restore,
};
use meridian_keyspace::SLOTS;
use meridian_store::Identity;

use crate::backup::{instant, verify};
use crate::cli::RestoreArgs;

/// Does what the command line says.
///
/// # Errors
/// What cannot be restored, and why.
pub fn run(args: RestoreArgs) -> Result<()> {
    let repository = Repository::read(&args.directory)?;
    let plan = plan(&repository, &args)?;
    let owner = &plan.base.owner;
    let identity = Identity {
        cluster: args.cluster.unwrap_or_else(|| owner.cluster.clone()),
        region: args.region.unwrap_or_else(|| owner.region.clone()),
        origin: Origin(args.ordinal),
        partitions: owner.partitions,
    };
    if usize::from(args.ordinal) >= meridian_clock::MAX_REGIONS {
        bail!("--ordinal: {} is not below {}", args.ordinal, meridian_clock::MAX_REGIONS);
    }
    let options = DiskOptions::default();
    let restored = restore(&repository, &plan, &args.to, &identity, options.clone())?;
    let opened = DataDir::open(&restored.building, &identity, options)
        .context("opening what was restored")?;
    let storage = DiskStorage::from(opened);
    let mut stage =
        verify::rebuild(&storage, &identity).context("recovering from what was restored")?;
    drop(storage);
    if plan.upto.is_none() {
        let then = repository.digests(&plan.base)?;
        let differing = then.differing((0..SLOTS).map(|slot| (slot, stage.slot_digest(slot))));
        if !differing.is_empty() {
            bail!(
                "backup {} does not hold what the node held ({} slots differ)",
                plan.base.id,
                differing.len()
            );
        }
    }
    let (kept, left_out) = restored.frames;
    restored.commit()?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} is region {} (ordinal {}) of cluster {}: {} keys, digest {:016x}\n\
         from backup {} and {kept} records of the log{}",
        args.to.display(),
        identity.region,
        identity.origin,
        identity.cluster,
        verify::keys(&stage),
        verify::digest(&mut stage),
        plan.base.id,
        match plan.upto {
            None => String::new(),
            Some(upto) => format!(
                " up to {}; {left_out} later ones were left out",
                instant::show(upto.as_ms())
            ),
        }
    )?;
    if identity.cluster == plan.base.owner.cluster {
        writeln!(
            out,
            "The cluster must have handed out ordinal {} for it (meridian join {} --prepare-only, \
             which says how to start the node). What the other regions have written since, they \
             will send.",
            identity.origin, identity.region
        )?;
    }
    Ok(())
}

fn plan(repository: &Repository, args: &RestoreArgs) -> Result<Plan> {
    let mut backups: Vec<Manifest> = Vec::new();
    for listed in repository.backups()? {
        match listed.manifest {
            Ok(manifest) => backups.push(manifest),
            Err(error) => eprintln!("backup {} is passed over: {error}", listed.id),
        }
    }
    if let Some(id) = &args.backup {
        let base = repository.manifest(id)?;
        return match args.at {
            None => Ok(Plan::whole(base)),
            Some(ms) => {
                let alone = Plan::at(&[base], Time::from_ms(ms));
                alone.map_err(unreachable).with_context(|| format!("backup {id} alone"))
            }
        };
    }
    let newest = backups.last().context("there are no backups")?;
    // Several regions may share a directory: only one can be meant.
    let first = &newest.owner;
    if let Some(other) = backups.iter().map(|m| &m.owner).find(|o| o.region != first.region) {
        bail!(
            "the directory has backups of {} and of {}: say which with --backup",
            other.region,
            first.region
        );
    }
    match args.at {
        None => Ok(Plan::whole(newest.clone())),
        Some(ms) => Plan::at(&backups, Time::from_ms(ms)).map_err(unreachable),
    }
}

fn unreachable(reason: NoPlan) -> anyhow::Error {
    match reason {
        NoPlan::Nothing => anyhow!("there are no backups"),
        NoPlan::Before(first) => anyhow!(
            "the oldest backup restores instants from {} on",
            instant::show(first.as_ms() + 1)
        ),
        NoPlan::After(ms) => anyhow!(
            "the log that follows the checkpoint ends at {}: there is no backup without a gap that \
             reaches further",
            instant::show(ms)
        ),
    }
}
