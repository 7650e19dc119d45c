//! Waiting for something that another process does, with a limit and a name.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;
use crate::limits::LOOK_EVERY;

/// Looks until `look` returns a value; an error when `limit` is over first.
///
/// # Errors
/// Names what was waited for; or the error of `look`, or an interruption.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        interrupt::check()?;
        if let Some(value) = look()? {
            return Ok(value);
        }
        if started.elapsed() > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// As [`until`] for a condition; how long it took since `since`.
///
/// # Errors
/// As [`until`].
pub fn time_until(
    what: &str,
    limit: Duration,
    since: Instant,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    until(what, limit, || Ok(look()?.then(|| since.elapsed())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_waited_for_is_named() {
        let error = until::<()>("the moon", Duration::ZERO, || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
        let mut looks = 0;
        let seen = until("a third look", Duration::from_secs(60), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(seen.unwrap(), 3);
        let failed = until::<()>("luck", Duration::from_secs(60), || bail!("no luck"));
        assert_eq!(failed.unwrap_err().to_string(), "no luck");
    }
}
