//! The options that SET and GETEX share, and how a time to live becomes a deadline.

use meridian_clock::Time;

use super::{SYNTAX, numbers};
use crate::limits::MAX_DEADLINE_MS;

/// What SET or GETEX was asked to do beside its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options<'a> {
    /// Only if the key does not exist.
    pub nx: bool,
    /// Only if the key exists.
    pub xx: bool,
    /// Reply the old value.
    pub get: bool,
    /// What becomes of the time to live.
    pub ttl: Ttl<'a>,
}

/// What becomes of the time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ttl<'a> {
    /// Nothing was said.
    #[default]
    Unsaid,
    /// KEEPTTL.
    Keep,
    /// PERSIST.
    Persist,
    /// EX, PX, EXAT or PXAT and its text.
    Given(Unit, Base, &'a [u8]),
}

/// What a time is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
}

/// What a time is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Now,
    Epoch,
}

/// Which command's options are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Set,
    GetEx,
}

impl<'a> Options<'a> {
    /// Reads the arguments behind the key (and value), in any order.
    ///
    /// # Errors
    /// [`SYNTAX`].
    pub fn parse(args: &[&'a [u8]], of: Of) -> Result<Options<'a>, &'static str> {
        let mut options = Options::default();
        let mut args = args.iter().copied();
        while let Some(arg) = args.next() {
            let is = |word: &[u8]| arg.eq_ignore_ascii_case(word);
            let set = of == Of::Set;
            let kind = match arg.to_ascii_lowercase().as_slice() {
                b"ex" => Some((Unit::Seconds, Base::Now)),
                b"px" => Some((Unit::Milliseconds, Base::Now)),
                b"exat" => Some((Unit::Seconds, Base::Epoch)),
                b"pxat" => Some((Unit::Milliseconds, Base::Epoch)),
                _ => None,
            };
            if let Some((unit, base)) = kind {
                // Redis takes the same option twice and believes the later one.
                let clear = match options.ttl {
                    Ttl::Unsaid => true,
                    Ttl::Given(u, b, _) => (u, b) == (unit, base),
                    Ttl::Keep | Ttl::Persist => false,
                };
                let value = args.next().filter(|_| clear).ok_or(SYNTAX)?;
                options.ttl = Ttl::Given(unit, base, value);
            } else if set && is(b"nx") && !options.xx {
                options.nx = true;
            } else if set && is(b"xx") && !options.nx {
                options.xx = true;
            } else if set && is(b"get") {
                options.get = true;
            } else if set && is(b"keepttl") && matches!(options.ttl, Ttl::Unsaid | Ttl::Keep) {
                options.ttl = Ttl::Keep;
            } else if !set && is(b"persist") && matches!(options.ttl, Ttl::Unsaid | Ttl::Persist) {
                options.ttl = Ttl::Persist;
            } else {
                return Err(SYNTAX);
            }
        }
        Ok(options)
    }
}

/// A time to live or an expiry time as milliseconds since 1970.
///
/// # Errors
/// Redis's text, which names the command.
pub(super) fn deadline_ms(
    text: &[u8],
    unit: Unit,
    base: Base,
    now: Time,
    command: &str,
) -> Result<u64, String> {
    let value = numbers::integer(text).map_err(str::to_owned)?;
    let invalid = || invalid_expire(command);
    if value <= 0 {
        return Err(invalid());
    }
    let ms = if unit == Unit::Seconds { value.checked_mul(1000) } else { Some(value) };
    let from = if base == Base::Now { now.as_ms() as i64 } else { 0 };
    let ms = ms.and_then(|ms| ms.checked_add(from)).ok_or_else(invalid)?;
    u64::try_from(ms).map_err(|_| invalid())
}

/// Redis's error for a time that cannot be.
pub(super) fn invalid_expire(command: &str) -> String {
    format!("ERR invalid expire time in '{command}' command")
}

/// The deadline at `ms`; none if it has passed. What lies beyond the last stamp is moved there.
pub(super) fn future(ms: u64, now: Time) -> Option<Time> {
    let deadline = Time::from_ms(ms.min(MAX_DEADLINE_MS));
    // In whole milliseconds, as Redis compares: a time to live of zero has passed.
    (ms > now.as_ms() && deadline > now).then_some(deadline)
}
