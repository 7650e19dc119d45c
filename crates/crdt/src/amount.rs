//! Exact decimal amounts for counters.
//!
//! INCRBYFLOAT must give the same bits in every region whatever the order of arrival. Binary
//! floating point does not: its addition is not associative. So a counter is an integer and a
//! fraction of 17 decimal digits, which is what Redis prints (`%.17Lf`), and addition is exact.

/// Units of the fraction in one whole: 10^17.
const ONE: u64 = 100_000_000_000_000_000;

/// Decimal digits of the fraction.
const DIGITS: usize = 17;

/// The largest decimal exponent that is expanded when text is parsed.
const MAX_EXPONENT: i64 = 64;

/// Why an amount could not be read or computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmountError {
    /// The text is not a decimal number.
    NotANumber,
    /// The result does not fit a signed 64-bit whole part.
    Overflow,
}

/// `whole + fraction / 10^17`, the fraction never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    whole: i64,
    fraction: u64,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount { whole: 0, fraction: 0 };

    /// A whole number.
    #[must_use]
    pub const fn from_int(whole: i64) -> Amount {
        Amount { whole, fraction: 0 }
    }

    /// From the two stored parts; a fraction of one or more is refused.
    #[must_use]
    pub fn from_parts(whole: i64, fraction: u64) -> Option<Amount> {
        (fraction < ONE).then_some(Amount { whole, fraction })
    }

    /// The largest integer at or below the amount.
    #[must_use]
    pub fn whole(self) -> i64 {
        self.whole
    }

    /// The rest, in units of 10^-17.
    #[must_use]
    pub fn fraction(self) -> u64 {
        self.fraction
    }

    /// The integer, when there is no fraction.
    #[must_use]
    pub fn as_int(self) -> Option<i64> {
        (self.fraction == 0).then_some(self.whole)
    }

    /// Exact sum.
    #[must_use]
    pub fn checked_add(self, other: Amount) -> Option<Amount> {
        let sum = self.fraction + other.fraction;
        let carry = i64::from(sum >= ONE);
        let whole = self.whole.checked_add(other.whole)?.checked_add(carry)?;
        Some(Amount { whole, fraction: sum % ONE })
    }

    /// Reads a decimal number as Redis's INCRBYFLOAT accepts it: sign, digits, point, exponent.
    /// Digits beyond the seventeenth decimal are dropped, as they are when Redis prints.
    ///
    /// # Errors
    /// [`AmountError`] for other text and for what does not fit.
    pub fn parse(text: &[u8]) -> Result<Amount, AmountError> {
        let (negative, rest) = match text.split_first() {
            Some((b'-', rest)) => (true, rest),
            Some((b'+', rest)) => (false, rest),
            _ => (false, text),
        };
        let (mantissa, exponent) = split_exponent(rest)?;
        let point = mantissa.iter().position(|b| *b == b'.').unwrap_or(mantissa.len());
        let digits: Vec<u8> = mantissa.iter().copied().filter(|b| *b != b'.').collect();
        let well_formed = !digits.is_empty()
            && digits.iter().all(u8::is_ascii_digit)
            && mantissa.len() - digits.len() <= 1;
        if !well_formed {
            return Err(AmountError::NotANumber);
        }
        let point = i64::try_from(point).map_err(|_| AmountError::Overflow)? + exponent;
        let magnitude = place_digits(&digits, point)?;
        if negative { magnitude.negated() } else { Ok(magnitude) }
    }

    /// Appends the shortest decimal text, without trailing zeros.
    pub fn write(self, out: &mut Vec<u8>) {
        let (negative, whole, fraction) = if self.whole < 0 && self.fraction > 0 {
            (true, (self.whole + 1).unsigned_abs(), ONE - self.fraction)
        } else {
            (self.whole < 0, self.whole.unsigned_abs(), self.fraction)
        };
        if negative {
            out.push(b'-');
        }
        write_unsigned(out, whole);
        if fraction > 0 {
            let padded = format!("{fraction:0DIGITS$}");
            out.push(b'.');
            out.extend_from_slice(padded.trim_end_matches('0').as_bytes());
        }
    }

    fn negated(self) -> Result<Amount, AmountError> {
        let (carry, fraction) = if self.fraction > 0 { (1, ONE - self.fraction) } else { (0, 0) };
        let whole = self.whole.checked_neg().and_then(|w| w.checked_sub(carry));
        Ok(Amount { whole: whole.ok_or(AmountError::Overflow)?, fraction })
    }
}

/// A sum in which no step can overflow: parts of up to 2^64 amounts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    units: i128,
    fractions: i128,
}

impl Sum {
    pub(crate) fn add(&mut self, amount: Amount) {
        self.units += i128::from(amount.whole);
        self.fractions += i128::from(amount.fraction);
    }

    pub(crate) fn sub(&mut self, amount: Amount) {
        self.units -= i128::from(amount.whole);
        self.fractions -= i128::from(amount.fraction);
    }

    /// The total; beyond the range of an amount it saturates.
    pub(crate) fn total(self) -> Amount {
        let one = i128::from(ONE);
        let units = self.units + self.fractions.div_euclid(one);
        let fraction = self.fractions.rem_euclid(one) as u64;
        match i64::try_from(units) {
            Ok(whole) => Amount { whole, fraction },
            Err(_) if units < 0 => Amount::from_int(i64::MIN),
            Err(_) => Amount::from_int(i64::MAX),
        }
    }
}

fn split_exponent(text: &[u8]) -> Result<(&[u8], i64), AmountError> {
    let Some(at) = text.iter().position(|b| matches!(b, b'e' | b'E')) else {
        return Ok((text, 0));
    };
    let exponent = std::str::from_utf8(&text[at + 1..]).map_err(|_| AmountError::NotANumber)?;
    let exponent: i64 = exponent.parse().map_err(|_| AmountError::NotANumber)?;
    Ok((&text[..at], exponent.clamp(-MAX_EXPONENT, MAX_EXPONENT)))
}

/// The number whose decimal point stands before digit `point` of `digits`.
fn place_digits(digits: &[u8], point: i64) -> Result<Amount, AmountError> {
    let digit = |index: i64| -> u64 {
        usize::try_from(index).ok().and_then(|i| digits.get(i)).map_or(0, |b| u64::from(b - b'0'))
    };
    let mut whole = 0i64;
    for index in 0..point.max(0) {
        whole = whole
            .checked_mul(10)
            .and_then(|w| w.checked_add(digit(index) as i64))
            .ok_or(AmountError::Overflow)?;
    }
    let mut fraction = 0u64;
    for index in point..point + DIGITS as i64 {
        fraction = fraction * 10 + if index < 0 { 0 } else { digit(index) };
    }
    Ok(Amount { whole, fraction })
}

fn write_unsigned(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(amount: Amount) -> String {
        let mut out = Vec::new();
        amount.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn check(input: &str, expect: &str) {
        assert_eq!(text(Amount::parse(input.as_bytes()).unwrap()), expect, "for {input}");
    }

    #[test]
    fn reads_and_prints_as_redis_does() {
        check("10.50", "10.5");
        check("5.0e3", "5000");
        check("-5e-3", "-0.005");
        check("+.5", "0.5");
        check("-1.25", "-1.25");
        check("0", "0");
        check("9223372036854775807", "9223372036854775807");
        check("-9223372036854775807", "-9223372036854775807");
    }

    #[test]
    fn refuses_what_is_no_number() {
        for bad in ["", "-", "abc", "1.2.3", "1e", "nan", "inf", " 1", "1 ", "0x10"] {
            assert_eq!(Amount::parse(bad.as_bytes()), Err(AmountError::NotANumber), "for {bad:?}");
        }
        assert_eq!(Amount::parse(b"1e60"), Err(AmountError::Overflow));
    }

    #[test]
    fn a_tenth_and_two_tenths_are_three_tenths() {
        let a = Amount::parse(b"0.1").unwrap();
        let b = Amount::parse(b"0.2").unwrap();
        assert_eq!(text(a.checked_add(b).unwrap()), "0.3");
    }

    proptest! {
        #[test]
        fn sums_do_not_depend_on_order(parts in proptest::collection::vec(
            (any::<i32>(), 0..ONE), 0..8), seed in any::<prop::sample::Index>()) {
            let amounts: Vec<Amount> = parts.iter()
                .map(|(w, f)| Amount::from_parts(i64::from(*w), *f).unwrap()).collect();
            let (mut forward, mut rotated) = (Sum::default(), Sum::default());
            let start = if amounts.is_empty() { 0 } else { seed.index(amounts.len()) };
            for (i, amount) in amounts.iter().enumerate() {
                forward.add(*amount);
                rotated.add(amounts[(start + i) % amounts.len()]);
            }
            prop_assert_eq!(forward.total(), rotated.total());
        }

        #[test]
        fn text_round_trips(whole in any::<i64>(), fraction in 0..ONE) {
            let amount = Amount { whole, fraction };
            prop_assume!(whole > i64::MIN);
            prop_assert_eq!(Amount::parse(text(amount).as_bytes()), Ok(amount));
        }
    }
}
