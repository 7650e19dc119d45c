//! Numbers among arguments, read as Redis reads them.

use meridian_crdt::{Amount, AmountError};
use meridian_resp::number;

use super::NOT_AN_INTEGER;
use crate::limits::{MAX_DECIMAL_BYTES, MAX_RANDOM_PICKS};

/// An integer.
///
/// # Errors
/// [`NOT_AN_INTEGER`].
pub(crate) fn integer(text: &[u8]) -> Result<i64, &'static str> {
    number::parse_integer(text).ok_or(NOT_AN_INTEGER)
}

/// A count that may not be negative.
///
/// # Errors
/// Redis's text, also for what is no number at all.
pub(crate) fn count(text: &[u8]) -> Result<usize, &'static str> {
    let value = number::parse_integer(text).and_then(|v| usize::try_from(v).ok());
    value.ok_or("ERR value is out of range, must be positive")
}

/// How many random elements to pick; negative: with repetition.
///
/// # Errors
/// Redis's text, and our own for more repetitions than a reply may hold.
pub(crate) fn picks(text: &[u8]) -> Result<i64, &'static str> {
    let count = integer(text)?;
    if count == i64::MIN {
        return Err("ERR value is out of range, value must between \
                    -9223372036854775807 and 9223372036854775807");
    }
    if count < 0 && count.unsigned_abs() > MAX_RANDOM_PICKS as u64 {
        return Err("ERR value is out of range");
    }
    Ok(count)
}

/// Why text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAnAmount {
    /// It is no number.
    Text,
    /// It is infinite, or beyond what a counter holds.
    Infinite,
}

/// A decimal number.
///
/// # Errors
/// [`NotAnAmount`].
pub(crate) fn amount(text: &[u8]) -> Result<Amount, NotAnAmount> {
    if text.len() >= MAX_DECIMAL_BYTES {
        return Err(NotAnAmount::Text);
    }
    Amount::parse(text).map_err(|error| match error {
        AmountError::Overflow => NotAnAmount::Infinite,
        AmountError::NotANumber if is_infinity(text) => NotAnAmount::Infinite,
        AmountError::NotANumber => NotAnAmount::Text,
    })
}

fn is_infinity(text: &[u8]) -> bool {
    let word = match text.split_first() {
        Some((b'+' | b'-', rest)) => rest,
        _ => text,
    };
    word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"infinity")
}

/// A scan's cursor, as C's `strtoul` reads it.
///
/// # Errors
/// Redis's text.
pub(crate) fn cursor(text: &[u8]) -> Result<u64, &'static str> {
    const INVALID: &str = "ERR invalid cursor";
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    if text.is_empty() {
        return Ok(0);
    }
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    let value = digits
        .iter()
        .try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
    let value = value.ok_or(INVALID)?;
    Ok(if negative { value.wrapping_neg() } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_as_strtoul_reads_them() {
        for (text, expect) in [("", Ok(0)), ("17", Ok(17)), ("+5", Ok(5)), ("007", Ok(7))] {
            assert_eq!(cursor(text.as_bytes()), expect, "{text:?}");
        }
        for text in [" 1", "1 ", "x", "-", "18446744073709551616"] {
            assert!(cursor(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn infinity_is_told_from_text() {
        assert_eq!(amount(b"-Infinity"), Err(NotAnAmount::Infinite));
        assert_eq!(amount(b"1e30"), Err(NotAnAmount::Infinite));
        assert_eq!(amount(b"infinit"), Err(NotAnAmount::Text));
        assert_eq!(amount(b"1.5").map(Amount::as_int), Ok(None));
    }
}
