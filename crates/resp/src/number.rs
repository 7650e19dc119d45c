//! Numbers in Redis's text form: exact, without allocation, without `format!`.
//!
//! Redis is strict where most parsers are lenient: an integer has no plus sign, no leading zero, no
//! space, and `-0` is not one. INCR on a value relies on it, so the rule is shared from here.

use std::fmt::Write as _;

/// Longest text of an `i64`: a sign and 19 digits.
pub const MAX_INTEGER_LEN: usize = 20;

/// Longest text of a double in Redis's form: sign, 17 digits, point, up to 4 zeros or an exponent.
pub const MAX_DOUBLE_LEN: usize = 24;

/// Reads an integer exactly as Redis's `string2ll` does: the whole text, canonical form only.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'0'] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if !matches!(digits.first(), Some(b'1'..=b'9')) || digits.len() > MAX_INTEGER_LEN - 1 {
        return None;
    }
    let mut magnitude: u64 = 0;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Nineteen digits are below 10^19, which a u64 holds.
        magnitude = magnitude.wrapping_mul(10).wrapping_add(u64::from(digit));
    }
    if negative {
        (magnitude <= i64::MIN.unsigned_abs()).then(|| (magnitude as i64).wrapping_neg())
    } else {
        i64::try_from(magnitude).ok()
    }
}

/// A number's text on the stack.
#[derive(Clone, Copy, Debug)]
pub struct NumberText {
    bytes: [u8; MAX_DOUBLE_LEN],
    start: u8,
    end: u8,
}

impl NumberText {
    /// The text, always ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..usize::from(self.end)]
    }
}

const PAIRS: &[u8; 200] = b"00010203040506070809101112131415161718192021222324\
2526272829303132333435363738394041424344454647484950515253545556575859606162636465666768697071\
72737475767778798081828384858687888990919293949596979899";

/// Writes an integer in decimal, two digits a step.
pub fn integer_text(value: i64) -> NumberText {
    let mut text = unsigned_text(value.unsigned_abs());
    if value < 0 {
        text.start -= 1;
        text.bytes[usize::from(text.start)] = b'-';
    }
    text
}

/// Writes an unsigned integer in decimal (lengths and counts).
pub fn unsigned_text(mut value: u64) -> NumberText {
    let mut bytes = [0u8; MAX_DOUBLE_LEN];
    let mut at = MAX_DOUBLE_LEN;
    while value >= 100 {
        let pair = (value % 100) as usize * 2;
        value /= 100;
        at -= 2;
        bytes[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    }
    if value >= 10 {
        let pair = value as usize * 2;
        at -= 2;
        bytes[at..at + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        at -= 1;
        bytes[at] = b'0' + value as u8;
    }
    NumberText { bytes, start: at as u8, end: MAX_DOUBLE_LEN as u8 }
}

/// Writes a double as Redis 7.0 replies it: C's `%.17g`, with `inf` and `nan` in lower case.
/// Seventeen significant digits always read back as the same double.
pub fn double_text(value: f64) -> NumberText {
    let mut out = Buffer { bytes: [0; MAX_DOUBLE_LEN], len: 0 };
    if value.is_nan() {
        out.push_all(b"nan");
    } else if value.is_infinite() {
        out.push_all(if value > 0.0 { b"inf" } else { b"-inf" });
    } else {
        finite(value, &mut out);
    }
    NumberText { bytes: out.bytes, start: 0, end: out.len as u8 }
}

/// Significant digits of `%.17g`.
const DIGITS: usize = 17;

fn finite(value: f64, out: &mut Buffer) {
    if value.is_sign_negative() {
        out.push_all(b"-");
    }
    // Rust prints the exact decimal rounded to 16 places after the first digit: what %.17g starts
    // from. Its text is `d.dddddddddddddddde[-]x`.
    let mut scientific = Buffer { bytes: [0; MAX_DOUBLE_LEN], len: 0 };
    write!(scientific, "{:.*e}", DIGITS - 1, value.abs())
        .expect("17 digits, a point, `e` and an exponent of at most four characters fit");
    let text = &scientific.bytes[..scientific.len];
    let mut digits = [0u8; DIGITS];
    digits[0] = text[0];
    digits[1..].copy_from_slice(&text[2..DIGITS + 1]);
    let exponent =
        std::str::from_utf8(&text[DIGITS + 2..]).ok().and_then(|e| e.parse::<i32>().ok());
    let exponent = exponent.expect("the formatter ends with a decimal exponent");
    let significant = digits.iter().rposition(|&d| d != b'0').map_or(1, |last| last + 1);
    let digits = &digits[..significant];
    if exponent < -4 || exponent >= DIGITS as i32 {
        out.push_point(digits, 1);
        out.push_all(if exponent < 0 { b"e-" } else { b"e+" });
        let magnitude = unsigned_text(u64::from(exponent.unsigned_abs()));
        if magnitude.as_bytes().len() < 2 {
            out.push_all(b"0");
        }
        out.push_all(magnitude.as_bytes());
    } else if exponent < 0 {
        out.push_all(b"0.");
        out.push_zeros(exponent.unsigned_abs() as usize - 1);
        out.push_all(digits);
    } else {
        out.push_point(digits, exponent as usize + 1);
    }
}

struct Buffer {
    bytes: [u8; MAX_DOUBLE_LEN],
    len: usize,
}

impl Buffer {
    fn push_all(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    fn push_zeros(&mut self, count: usize) {
        self.bytes[self.len..self.len + count].fill(b'0');
        self.len += count;
    }

    /// Digits with the point after the first `whole` of them, padded with zeros up to there.
    fn push_point(&mut self, digits: &[u8], whole: usize) {
        if digits.len() <= whole {
            self.push_all(digits);
            self.push_zeros(whole - digits.len());
        } else {
            self.push_all(&digits[..whole]);
            self.push_all(b".");
            self.push_all(&digits[whole..]);
        }
    }
}

impl std::fmt::Write for Buffer {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        if self.len + part.len() > MAX_DOUBLE_LEN {
            return Err(std::fmt::Error);
        }
        self.push_all(part.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn integer(value: i64) -> String {
        String::from_utf8(integer_text(value).as_bytes().to_vec()).expect("ascii")
    }

    fn double(value: f64) -> String {
        String::from_utf8(double_text(value).as_bytes().to_vec()).expect("ascii")
    }

    #[test]
    fn only_the_canonical_form_is_an_integer() {
        for text in ["", "-", "+1", "01", "-0", "00", " 1", "1 ", "1.0", "0x1", "1e3", "--1", "a"] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "99999999999999999999"] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
        for value in [0, 1, -1, 9, 10, 99, 100, -100, i64::MAX, i64::MIN] {
            assert_eq!(parse_integer(value.to_string().as_bytes()), Some(value));
        }
    }

    #[test]
    fn doubles_read_as_in_redis() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.10000000000000001"),
            (3.5, "3.5"),
            (-12.25, "-12.25"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (123456789012345680000.0, "1.2345678901234568e+20"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (1e300, "1.0000000000000001e+300"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (-f64::MAX, "-1.7976931348623157e+308"),
            (f64::from_bits(1), "4.9406564584124654e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    proptest! {
        #[test]
        fn integers_are_written_and_read_exactly(value: i64) {
            prop_assert_eq!(integer(value), value.to_string());
            prop_assert_eq!(parse_integer(integer(value).as_bytes()), Some(value));
        }

        #[test]
        fn integer_parsing_agrees_with_the_standard_library(text in "[-+]?[0-9]{0,21}") {
            let canonical = text.parse::<i64>().ok().filter(|value| value.to_string() == text);
            prop_assert_eq!(parse_integer(text.as_bytes()), canonical);
        }

        #[test]
        fn every_double_reads_back(bits: u64) {
            let value = f64::from_bits(bits);
            let back: f64 = double(value).parse().expect("a number");
            prop_assert!(back == value || (back.is_nan() && value.is_nan()));
        }
    }
}
