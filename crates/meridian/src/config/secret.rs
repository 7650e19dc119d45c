//! Passwords: where they come from, and that they are never printed.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The longest password that is accepted, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 4096;

/// A password. Printing it, also in debug form, shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A password from an environment variable, a flag or a file.
    ///
    /// # Errors
    /// When it is empty, too long, or holds control characters (a stray line break, usually).
    pub fn new(text: impl Into<String>) -> Result<Secret> {
        let text = text.into();
        if text.is_empty() || text.len() > PASSWORD_BYTES_MAX {
            bail!("a password has 1 to {PASSWORD_BYTES_MAX} bytes, not {}", text.len());
        }
        if text.chars().any(char::is_control) {
            bail!("a password has no control characters (is there a second line?)");
        }
        Ok(Secret(text))
    }

    /// A password from an environment variable; an empty one counts as none.
    ///
    /// # Errors
    /// As [`Secret::new`], and when it is not text.
    pub fn from_environment(variable: &str) -> Result<Option<Secret>> {
        match std::env::var(variable) {
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => Secret::new(text).map(Some).with_context(|| variable.to_owned()),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => bail!("{variable} is not text"),
        }
    }

    /// Reads a file that holds a password and at most a line break behind it.
    ///
    /// # Errors
    /// As [`Secret::new`], and when the file cannot be read.
    pub fn read(path: &Path) -> Result<Secret> {
        let file = || format!("the password file {}", path.display());
        let text = std::fs::read_to_string(path).with_context(file)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Secret::new(line.strip_suffix('\r').unwrap_or(line)).with_context(file)
    }

    /// The password itself, for whoever checks or presents it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new("open sesame").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(hidden)");
        assert_eq!(secret.reveal(), "open sesame");
    }

    #[test]
    fn a_file_holds_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Secret::read(&path)
        };
        assert_eq!(read("geheim\n").unwrap().reveal(), "geheim");
        assert_eq!(read("with space \r\n").unwrap().reveal(), "with space ");
        for bad in ["", "\n", "one\ntwo\n"] {
            let error = format!("{:#}", read(bad).unwrap_err());
            assert!(error.contains("password file"), "{error}");
        }
        assert!(Secret::new("x".repeat(PASSWORD_BYTES_MAX + 1)).is_err());
    }
}
