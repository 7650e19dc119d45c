//! A data directory that cannot be used as it is: what an operator reads then.

use std::fmt;
use std::path::Path;

use meridian_node::RecoverError;
use meridian_store::StoreError;

/// The data directory is damaged. Starting again does not help, so the process ends with an exit
/// code of its own, and a service manager can be told not to try.
#[derive(Debug)]
pub struct Damaged {
    what: String,
    directory: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, directory) = (&self.what, &self.directory);
        write!(
            f,
            "{what}\n\n\
             {directory} is damaged and was left as it is; starting again will not help.\n\
             What may be done, the region getting a new ordinal each time (the old one may have \
             been seen further by others than what is left here):\n  \
             with a backup      meridian restore BACKUPS --to NEW_DIRECTORY --ordinal N\n  \
             without one        meridian disk renew {directory} --ordinal N\n  \
             what it has itself meridian disk read {directory}\n\
             `meridian join NAME --prepare-only` hands N out while other regions run, and they send \
             what they have."
        )
    }
}

impl std::error::Error for Damaged {}

/// Says what can be done, if it is damage that something failed for.
pub fn explain(error: anyhow::Error, directory: &Path) -> anyhow::Error {
    let rotten = |error: &StoreError| {
        matches!(error, StoreError::Corrupt { .. } | StoreError::Checkpoint(_))
    };
    let damaged = error.chain().any(|cause| {
        let recovery = cause.downcast_ref::<RecoverError>().is_some_and(|error| match error {
            RecoverError::Store(error) => rotten(error),
            RecoverError::Malformed(_) | RecoverError::Replay { .. } => true,
            RecoverError::Identity { .. } => false,
        });
        recovery
            || cause.downcast_ref::<StoreError>().is_some_and(rotten)
            || cause.downcast_ref::<super::control_log::Corrupt>().is_some()
    });
    if !damaged {
        return error;
    }
    let (what, directory) = (format!("{error:#}"), directory.display().to_string());
    Damaged { what, directory }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn only_damage_is_called_so() {
        let path = Path::new("/data");
        let io = StoreError::Io { what: "opening x".into(), source: std::io::Error::other("no") };
        let refused = StoreError::Refused("in use".into());
        for error in [io, refused] {
            let error = Err::<(), _>(error).context("opening").unwrap_err();
            assert!(!explain(error, path).is::<Damaged>());
        }
        let (file, reason) = ("a.seg".to_owned(), "rot".to_owned());
        let corrupt = StoreError::Corrupt { file, offset: 7, reason };
        let error = Err::<(), _>(RecoverError::Store(corrupt)).context("recovering").unwrap_err();
        let told = explain(error, path);
        let text = told.to_string();
        assert!(told.is::<Damaged>());
        assert!(text.starts_with("recovering: a.seg is corrupt at offset 7: rot\n"), "{text}");
        assert!(text.contains("disk renew /data --ordinal N"), "{text}");
    }
}
