//! `meridian disk`: what can be read of a damaged data directory, and a new one in its place.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use meridian_clock::{Origin, Time};
use meridian_crdt::{Action, Element, Op, OpReader};
use meridian_disk::{DataDir, DiskOptions, salvage_log};
use meridian_store::{Frame, Identity};
use serde_json::{Value, json};

use crate::backup::instant;
use crate::cli::{DiskAction, DiskArgs};
use crate::runtime::unix_us;

/// Does what the command line says.
///
/// # Errors
/// What could not be read or made.
pub fn run(args: DiskArgs) -> Result<()> {
    match args.action {
        DiskAction::Read { data, since, all } => list(&data, since, all),
        DiskAction::Renew { data, ordinal } => renew(&data, ordinal),
    }
}

/// One JSON document a line: the region's own writes that are still readable.
fn list(data: &Path, since: Option<u64>, all: bool) -> Result<()> {
    // That alone may be damaged too: then whose writes are own ones is not known.
    let own = match DataDir::identity(data) {
        Ok(identity) => Some(identity.origin),
        Err(error) if all => {
            eprintln!("{error}");
            None
        }
        Err(error) => {
            return Err(error).context("whose directory this is (--all lists everybody's)");
        }
    };
    let since = Time::from_ms(since.unwrap_or(0));
    let mut out = std::io::stdout().lock();
    let (mut failed, mut listed) = (None, 0u64);
    let gaps = salvage_log(data, |entry| {
        for bytes in entry.frames() {
            let Ok(frame) = Frame::decode(bytes) else { continue };
            if !all && own != Some(frame.header.origin) {
                continue;
            }
            let mut ops = OpReader::new(frame.ops, frame.header.origin, frame.header.previous);
            while let Ok(Some((dot, op))) = ops.next() {
                if dot.time > since && failed.is_none() {
                    listed += 1;
                    failed = writeln!(out, "{}", describe(dot.time, dot.origin, &op)).err();
                }
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error).context("writing");
    }
    for gap in &gaps {
        eprintln!(
            "{}: {} bytes from offset {} on cannot be read",
            gap.file.display(),
            gap.bytes,
            gap.offset
        );
    }
    eprintln!("{listed} operations, {} unreadable parts", gaps.len());
    Ok(())
}

fn describe(time: Time, origin: Origin, op: &Op<'_>) -> Value {
    let element = |element: &Element<'_>| match element {
        Element::String => json!("string"),
        Element::Field(name) => json!({ "field": text(name) }),
        Element::Member(name) => json!({ "member": text(name) }),
    };
    let mut told = json!({
        "at": instant::show(time.as_ms()),
        "stamp": time.0,
        "ordinal": origin.0,
        "key": text(op.key),
    });
    let (name, details) = match &op.action {
        Action::Assign { element: e, value, ttl } => {
            let expires = (*ttl < Time::MAX).then(|| instant::show(ttl.as_ms()));
            let details =
                json!({ "element": element(e), "value": text(value), "expires": expires });
            ("assign", details)
        }
        Action::Remove { element: e } => ("remove", json!({ "element": element(e) })),
        Action::Clear => ("clear", json!({})),
        Action::Incr { element: e, sum, .. } => {
            let mut digits = Vec::new();
            sum.write(&mut digits);
            // The region's own part of the counter since it was last reset.
            ("increment", json!({ "element": element(e), "own_sum": text(&digits) }))
        }
        Action::Expire { deadline } => {
            let at = (*deadline < Time::MAX).then(|| instant::show(deadline.as_ms()));
            ("expire", json!({ "deadline": at }))
        }
    };
    if let (Some(told), Some(details)) = (told.as_object_mut(), details.as_object()) {
        told.insert("operation".to_owned(), json!(name));
        told.extend(details.clone());
    }
    told
}

/// Text as it is; other bytes in hexadecimal.
fn text(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

/// Sets the directory aside and makes an empty one under a new ordinal.
fn renew(data: &Path, ordinal: u16) -> Result<()> {
    let old = DataDir::identity(data).context(
        "whose directory this is cannot be read: set it aside by hand, and the node makes a new \
         one when it starts under its new ordinal",
    )?;
    ensure!(
        usize::from(ordinal) < meridian_clock::MAX_REGIONS,
        "--ordinal: {ordinal} is not below {}",
        meridian_clock::MAX_REGIONS
    );
    if Origin(ordinal) == old.origin {
        bail!(
            "ordinal {ordinal} is the one that the damaged directory wrote under: what it wrote \
             last may be known elsewhere, and a stamp must not be written twice"
        );
    }
    let aside = aside(data)?;
    {
        // Refuses while a node runs.
        let _held = DataDir::lock(data)?;
        std::fs::rename(data, &aside)
            .with_context(|| format!("setting {} aside", data.display()))?;
    }
    let identity = Identity { origin: Origin(ordinal), ..old };
    DataDir::open(data, &identity, DiskOptions::default()).context("making the new directory")?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} is empty and belongs to {} under ordinal {ordinal}; what was there is in {}\n\
         `meridian join {} --prepare-only` hands ordinals out while other regions run, and says \
         how to start the node; they send what they have. What only this region had is listed by: meridian disk \
         read {}",
        data.display(),
        identity.region,
        aside.display(),
        identity.region,
        aside.display()
    )
    .context("writing")
}

fn aside(data: &Path) -> Result<PathBuf> {
    let mut name = data.file_name().context("the directory has no name")?.to_owned();
    name.push(format!(".damaged-{}", instant::name(unix_us() / 1000)));
    Ok(data.with_file_name(name))
}
