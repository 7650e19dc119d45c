//! One row of the command table: what can be said of a command without running it.

use crate::dispatch::Call;

/// What a command does to data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads keys.
    Read,
    /// Writes all its keys.
    Write,
    /// Writes its first key and reads the others.
    WriteFirst,
    /// Writes its last key and reads the others.
    WriteLast,
    /// Touches no keys.
    None,
}

impl Access {
    /// Whether the command may change data.
    #[must_use]
    pub fn writes(self) -> bool {
        !matches!(self, Access::Read | Access::None)
    }
}

/// Which arguments are keys: first, last (negative: from the end) and step, as COMMAND shows.
pub type KeySpec = (i32, i32, i32);

/// No argument is a key.
pub const NO_KEYS: KeySpec = (0, 0, 0);
/// The first argument is the key.
pub const ONE_KEY: KeySpec = (1, 1, 1);
/// The first two arguments are keys.
pub const TWO_KEYS: KeySpec = (1, 2, 1);
/// All arguments are keys.
pub const ALL_KEYS: KeySpec = (1, -1, 1);
/// Keys and values take turns.
pub const EVERY_OTHER: KeySpec = (1, -1, 2);

/// One row of the command table.
#[derive(Debug)]
pub struct Spec {
    /// Lower case.
    pub name: &'static str,
    /// Redis's arity: with the name; negative means "at least".
    pub arity: i32,
    /// What it does.
    pub access: Access,
    /// Where its keys are.
    pub keys: KeySpec,
    /// Its subcommands in lower case with their arity (both names included), if it only groups
    /// them.
    pub subcommands: &'static [(&'static str, i32)],
    /// Runs it.
    pub run: fn(&mut Call<'_>),
}

impl Spec {
    /// A command that reads keys.
    pub const fn read(name: &'static str, arity: i32, keys: KeySpec, run: Run) -> Spec {
        Spec { name, arity, access: Access::Read, keys, subcommands: &[], run }
    }

    /// A command that writes all its keys.
    pub const fn write(name: &'static str, arity: i32, keys: KeySpec, run: Run) -> Spec {
        Spec { name, arity, access: Access::Write, keys, subcommands: &[], run }
    }

    /// A command that touches no keys.
    pub const fn plain(name: &'static str, arity: i32, run: Run) -> Spec {
        Spec { name, arity, access: Access::None, keys: NO_KEYS, subcommands: &[], run }
    }

    /// The same with another access.
    pub const fn with_access(self, access: Access) -> Spec {
        Spec { access, ..self }
    }

    /// The same with subcommands.
    pub const fn with_subcommands(self, subcommands: &'static [(&'static str, i32)]) -> Spec {
        Spec { subcommands, ..self }
    }

    /// Whether the command may have `count` arguments, its name included.
    #[must_use]
    #[inline]
    pub fn accepts(&self, count: usize) -> bool {
        fits(self.arity, count)
    }

    /// The keys among the arguments.
    #[inline]
    pub fn keys_of<'a>(&self, args: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (first, last, step) = self.keys;
        let end = if last < 0 { args.len() as i32 + last } else { last };
        let end = end.min(args.len() as i32 - 1);
        let count = if first == 0 { 0 } else { (end - first + 1).max(0) as usize };
        let keys = args.iter().copied().skip(first as usize).take(count);
        keys.step_by(step.max(1) as usize)
    }

    /// The keys among the arguments that the command writes.
    #[inline]
    pub fn written_keys<'a>(
        &self,
        args: &'a [&'a [u8]],
    ) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (skip, take) = match self.access {
            Access::Read | Access::None => (0, 0),
            Access::Write => (0, usize::MAX),
            Access::WriteFirst => (0, 1),
            Access::WriteLast => (self.keys_of(args).count().saturating_sub(1), 1),
        };
        self.keys_of(args).skip(skip).take(take)
    }

    /// Finds the subcommand that the arguments name.
    ///
    /// # Errors
    /// Redis's text when there is none of that name or its arguments do not fit.
    pub fn check_subcommand(&self, args: &[&[u8]]) -> Result<(), Vec<u8>> {
        let Some(name) = args.get(1).filter(|_| !self.subcommands.is_empty()) else {
            return Ok(());
        };
        let found = self.subcommands.iter().find(|(n, _)| n.as_bytes().eq_ignore_ascii_case(name));
        match found {
            Some((_, arity)) if fits(*arity, args.len()) => Ok(()),
            Some((sub, _)) => {
                let parent = self.name;
                let text = format!("ERR wrong number of arguments for '{parent}|{sub}' command");
                Err(text.into_bytes())
            }
            None => {
                let mut text = b"ERR unknown subcommand '".to_vec();
                text.extend_from_slice(&name[..name.len().min(QUOTED_BYTES)]);
                let hint = format!("'. Try {} HELP.", self.name.to_ascii_uppercase());
                text.extend_from_slice(hint.as_bytes());
                Err(text)
            }
        }
    }
}

/// How much of a client's text an error quotes.
pub const QUOTED_BYTES: usize = 128;

/// What runs a command.
type Run = fn(&mut Call<'_>);

#[inline]
fn fits(arity: i32, count: usize) -> bool {
    let wanted = arity.unsigned_abs() as usize;
    if arity >= 0 { count == wanted } else { count >= wanted }
}
