//! The `FORMAT` file: whose data a directory holds, readable with `cat`.
//!
//! ```text
//! meridian data directory
//! format 3
//! cluster shop
//! region us-east
//! ordinal 0
//! partitions 16
//! crc32 1f2e3d4c
//! ```
//! The first two lines stay as they are in every later format, so that this build can say that a
//! directory is newer than itself. The checksum covers all lines above it.
//!
//! A directory of an older format is marked with this build's before anything is written to it:
//! from then on the older build, which could not read what follows, refuses it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use meridian_clock::{MAX_REGIONS, Origin};
use meridian_store::{Identity, StoreError};

use crate::file::{at, sync_directory};
use crate::options::{FORMAT, NAME_BYTES_MAX, SMALL_FILE_BYTES_MAX};

/// The file's name.
pub(crate) const FORMAT_FILE: &str = "FORMAT";
/// Its name while it is being written; left behind by a crash, and then of no meaning.
pub(crate) const FORMAT_FILE_NEW: &str = "FORMAT.new";

const TITLE: &str = "meridian data directory";

/// Reads whose directory this is and in which format, or nothing if it is not yet anybody's.
pub(crate) fn read(directory: &Path) -> Result<Option<(Identity, u32)>, StoreError> {
    let path = directory.join(FORMAT_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("opening", &path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(SMALL_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(at("reading", &path))?;
    match parse(&bytes) {
        Ok(found) => Ok(Some(found)),
        Err(Unreadable::Newer(format)) => Err(StoreError::Refused(format!(
            "data directory {} was written by a newer version of meridian: its format is \
             {format}, this version reads up to {FORMAT}",
            directory.display()
        ))),
        Err(Unreadable::Damaged(reason)) => Err(StoreError::Corrupt {
            file: path.display().to_string(),
            offset: 0,
            reason: reason.to_owned(),
        }),
    }
}

/// Makes the directory `identity`'s, in this build's format.
pub(crate) fn create(directory: &Path, identity: &Identity) -> Result<(), StoreError> {
    for name in [&identity.cluster, &identity.region] {
        let sound = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
        if !sound || name.chars().any(char::is_control) {
            return Err(StoreError::Refused(format!("{name:?} cannot name a cluster or region")));
        }
    }
    write(directory, identity, FORMAT)
}

/// Marks a directory of an older format as one of this build's.
pub(crate) fn raise(directory: &Path, identity: &Identity, from: u32) -> Result<(), StoreError> {
    if from < FORMAT { write(directory, identity, FORMAT) } else { Ok(()) }
}

fn write(directory: &Path, identity: &Identity, format: u32) -> Result<(), StoreError> {
    let (new, path) = (directory.join(FORMAT_FILE_NEW), directory.join(FORMAT_FILE));
    let mut file = File::create(&new).map_err(at("creating", &new))?;
    file.write_all(render(identity, format).as_bytes()).map_err(at("writing", &new))?;
    file.sync_all().map_err(at("syncing", &new))?;
    fs::rename(&new, &path).map_err(at("renaming", &new))?;
    sync_directory(directory)
}

/// Refuses a directory that belongs to somebody else.
pub(crate) fn check(
    directory: &Path,
    found: &Identity,
    expected: &Identity,
) -> Result<(), StoreError> {
    if found == expected {
        return Ok(());
    }
    let say = |identity: &Identity| {
        format!(
            "region {} (ordinal {}) of cluster {} with {} partitions",
            identity.region, identity.origin.0, identity.cluster, identity.partitions
        )
    };
    Err(StoreError::Refused(format!(
        "data directory {} belongs to {}, but this node is {}",
        directory.display(),
        say(found),
        say(expected)
    )))
}

fn render(identity: &Identity, format: u32) -> String {
    let mut text = format!(
        "{TITLE}\nformat {format}\ncluster {}\nregion {}\nordinal {}\npartitions {}\n",
        identity.cluster, identity.region, identity.origin.0, identity.partitions
    );
    let crc = crc32fast::hash(text.as_bytes());
    text.push_str(&format!("crc32 {crc:08x}\n"));
    text
}

#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    Newer(u32),
    Damaged(&'static str),
}

fn parse(bytes: &[u8]) -> Result<(Identity, u32), Unreadable> {
    use Unreadable::{Damaged, Newer};
    let text = std::str::from_utf8(bytes).map_err(|_| Damaged("not text"))?;
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return Err(Damaged("not a meridian data directory"));
    }
    let mut field = |name| {
        let value = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.ok_or(Damaged("a line is missing"))
    };
    let format = number(field("format")?)?;
    if format > FORMAT {
        return Err(Newer(format));
    }
    if format == 0 {
        return Err(Damaged("impossible format"));
    }
    let (cluster, region) = (field("cluster")?.to_owned(), field("region")?.to_owned());
    let (ordinal, partitions) = (number(field("ordinal")?)?, number(field("partitions")?)?);
    let crc = field("crc32")?;
    let covered = text.rfind("crc32 ").ok_or(Damaged("a line is missing"))?;
    if u32::from_str_radix(crc, 16) != Ok(crc32fast::hash(&bytes[..covered])) {
        return Err(Damaged("checksum does not match"));
    }
    let origin = u16::try_from(ordinal).map_err(|_| Damaged("impossible ordinal"))?;
    let partitions = u16::try_from(partitions).map_err(|_| Damaged("impossible partitions"))?;
    if usize::from(origin) >= MAX_REGIONS {
        return Err(Damaged("impossible ordinal"));
    }
    Ok((Identity { cluster, region, origin: Origin(origin), partitions }, format))
}

fn number(text: &str) -> Result<u32, Unreadable> {
    text.parse().map_err(|_| Unreadable::Damaged("not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        let (cluster, region) = ("shop".into(), "us-east".into());
        Identity { cluster, region, origin: Origin(2), partitions: 16 }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parse(render(&identity(), FORMAT).as_bytes()), Ok((identity(), FORMAT)));
    }

    /// As version 1 wrote it.
    #[test]
    fn the_first_format_is_read() {
        let text = "meridian data directory\nformat 1\ncluster shop\nregion us-east\nordinal 2\n\
                    partitions 16\ncrc32 fc430d23\n";
        assert_eq!(render(&identity(), 1), text);
        assert_eq!(parse(text.as_bytes()), Ok((identity(), 1)));
    }

    #[test]
    fn an_older_build_refuses_a_directory_that_was_raised() {
        let directory = tempfile::tempdir().unwrap();
        create(directory.path(), &identity()).unwrap();
        raise(directory.path(), &identity(), FORMAT).unwrap();
        assert_eq!(read(directory.path()).unwrap(), Some((identity(), FORMAT)));
        // What the next format's build does.
        write(directory.path(), &identity(), FORMAT + 1).unwrap();
        let refused = read(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("newer version of meridian"), "{refused}");
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let newer = render(&identity(), 9);
        assert_eq!(parse(newer.as_bytes()), Err(Unreadable::Newer(9)));
        let cut = &render(&identity(), FORMAT)[..40];
        assert!(matches!(parse(cut.as_bytes()), Err(Unreadable::Damaged(_))));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_goes_unnoticed(at in 0usize..200, bit in 0u8..8) {
            let mut bytes = render(&identity(), FORMAT).into_bytes();
            prop_assume!(at < bytes.len());
            bytes[at] ^= 1 << bit;
            // The last line break and the case of the checksum's digits carry nothing.
            if parse(&bytes).is_ok() {
                prop_assert!(at >= bytes.len() - 9);
                prop_assert_eq!(parse(&bytes), Ok((identity(), FORMAT)));
            }
        }
    }
}
