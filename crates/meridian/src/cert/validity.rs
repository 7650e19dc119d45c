//! Until when a certificate is valid: the one field that operators ask for, read from its DER form
//! (RFC 5280 §4.1) without a parser for the rest.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The explicit tag of the version.
const VERSION: u8 = 0xa0;

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The instant at which the certificate in a PEM file ends.
///
/// # Errors
/// When the file cannot be read, or holds no certificate.
pub fn valid_until(path: &Path) -> Result<SystemTime> {
    let name = || path.display().to_string();
    let length = std::fs::metadata(path).with_context(name)?.len();
    ensure!(length <= FILE_BYTES_MAX, "{}: too long for a certificate", path.display());
    let pem = std::fs::read_to_string(path).with_context(name)?;
    let der = decode_pem(&pem).with_context(|| format!("{}: no certificate", path.display()))?;
    not_after(&der).with_context(|| format!("{}: not understood", path.display()))
}

/// The bytes between the first pair of PEM's lines (RFC 7468).
fn decode_pem(text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let mut bytes = Vec::with_capacity(body.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for symbol in body.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'=') {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

fn not_after(der: &[u8]) -> Option<SystemTime> {
    let (certificate, _) = take(der, &[SEQUENCE])?;
    let (mut fields, _) = take(certificate, &[SEQUENCE])?;
    if fields.first() == Some(&VERSION) {
        fields = take(fields, &[VERSION])?.1;
    }
    let (_, fields) = take(fields, &[INTEGER])?;
    let (_, fields) = take(fields, &[SEQUENCE])?;
    let (_, fields) = take(fields, &[SEQUENCE])?;
    let (validity, _) = take(fields, &[SEQUENCE])?;
    let (_, rest) = take(validity, &[UTC_TIME, GENERALIZED_TIME])?;
    let tag = *rest.first()?;
    let (time, _) = take(rest, &[UTC_TIME, GENERALIZED_TIME])?;
    read_time(std::str::from_utf8(time).ok()?, tag == UTC_TIME)
}

/// The content of the element in front, which must have one of these tags, and what follows it.
fn take<'a>(bytes: &'a [u8], tags: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (tag, rest) = bytes.split_first()?;
    if !tags.contains(tag) {
        return None;
    }
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            if digits.len() > 4 {
                return None;
            }
            let length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
            (length, rest)
        }
    };
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ`, or with four digits of the year.
fn read_time(text: &str, is_short: bool) -> Option<SystemTime> {
    let digits = text.strip_suffix('Z').filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    let (year, rest) = digits.split_at_checked(if is_short { 2 } else { 4 })?;
    let year: u64 = year.parse().ok()?;
    let year = match (is_short, year) {
        (true, 0..50) => 2000 + year,
        (true, _) => 1900 + year,
        (false, year) => year,
    };
    if rest.len() != 10 {
        return None;
    }
    let part = |index: usize| rest[2 * index..2 * index + 2].parse::<u64>().ok();
    let days = days_since_1970(year, part(0)?, part(1)?)?;
    let seconds = ((days * 24 + part(2)?) * 60 + part(3)?) * 60 + part(4)?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Howard Hinnant's `days_from_civil`, for years from 1970 on.
pub(crate) fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_mesh::ClusterCa;

    #[test]
    fn the_end_of_a_real_certificate_is_found() {
        let ca = ClusterCa::create().unwrap();
        let from = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for seconds in [1_800_000_000, 2_524_607_999, 2_524_608_000, 4_102_444_800] {
            let until = UNIX_EPOCH + Duration::from_secs(seconds);
            let node = ca.issue_between("us-east", "demo", from, until).unwrap();
            assert_eq!(not_after(node.certificate()), Some(until));
            let directory = tempfile::tempdir().unwrap();
            node.save(directory.path()).unwrap();
            let path = directory.path().join(meridian_mesh::NODE_CERTIFICATE_FILE);
            assert_eq!(valid_until(&path).unwrap(), until);
        }
    }

    #[test]
    fn damage_is_an_error() {
        let ca = ClusterCa::create().unwrap();
        let node = ca.issue("us-east", "demo").unwrap();
        let der = node.certificate();
        for length in 0..100 {
            assert_eq!(not_after(&der[..length]), None);
        }
        for index in 0..der.len() {
            let mut damaged = der.to_vec();
            damaged[index] ^= 0xff;
            // It may still be read, but must not crash.
            let _ = not_after(&damaged);
        }
        assert_eq!(read_time("991332000000Z", true), None);
        assert_eq!(read_time("Ω9123123595Z", true), None);
        assert_eq!(decode_pem("nothing"), None);
    }
}
