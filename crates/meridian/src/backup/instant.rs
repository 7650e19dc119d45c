//! Instants as people write them: RFC 3339, or milliseconds since 1970.

use crate::cert::days_since_1970;

const MS_PER_DAY: u64 = 86_400_000;

/// Milliseconds since 1970. Takes `2026-11-21T12:00:00Z`, with fractions, an offset or a space in
/// the middle, and plain milliseconds.
///
/// # Errors
/// Says what would be right.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let ms = if digits { text.parse().ok() } else { parse_rfc3339(text) };
    ms.ok_or_else(|| {
        format!("{text:?} is no instant such as 2026-11-21T12:00:00Z (or milliseconds since 1970)")
    })
}

/// RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn show(ms: u64) -> String {
    let (year, month, day) = civil(ms / MS_PER_DAY);
    let (h, m, s, ms) = clock(ms % MS_PER_DAY);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// As a name: sorts by time, and has nothing that a file's name should not have.
#[must_use]
pub fn name(ms: u64) -> String {
    let (year, month, day) = civil(ms / MS_PER_DAY);
    let (h, m, s, ms) = clock(ms % MS_PER_DAY);
    format!("{year:04}{month:02}{day:02}-{h:02}{m:02}{s:02}-{ms:03}")
}

fn parse_rfc3339(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u64>().ok()).flatten()
    };
    let is = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|b| wanted.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let days = days_since_1970(number(0, 4)?, number(5, 7)?, number(8, 10)?)?;
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let ms = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000;
    let mut rest = text.get(19..)?;
    let mut fraction = 0;
    if let Some(after) = rest.strip_prefix('.') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = after.split_at(digits);
        let padded: String = digits.chars().chain("000".chars()).take(3).collect();
        fraction = if digits.is_empty() { return None } else { padded.parse().ok()? };
        rest = after;
    }
    let local = ms + fraction;
    if rest.eq_ignore_ascii_case("z") {
        return Some(local);
    }
    let (sign, offset) = rest.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let two = |part: &str| {
        let sound = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        sound.then(|| part.parse::<u64>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = (hours * 60 + minutes) * 60_000;
    match sign {
        "+" => local.checked_sub(offset),
        "-" => Some(local + offset),
        _ => None,
    }
}

/// Howard Hinnant's `civil_from_days`, for days from 1970 on.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn clock(ms: u64) -> (u64, u64, u64, u64) {
    let s = ms / 1000;
    (s / 3600, s / 60 % 60, s % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_as_people_write_them() {
        for (text, ms) in [
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14 22:13:20.5Z", 1_700_000_000_500),
            ("2023-11-14T22:13:20.123456z", 1_700_000_000_123),
            ("2023-11-15T00:13:20+02:00", 1_700_000_000_000),
            ("2023-11-14T16:43:20-05:30", 1_700_000_000_000),
            ("1700000000123", 1_700_000_000_123),
            ("1970-01-01T00:00:00Z", 0),
        ] {
            assert_eq!(parse(text), Ok(ms), "{text}");
        }
        for text in [
            "",
            "now",
            "2023-11-14",
            "2023-13-14T22:13:20Z",
            "2023-11-14T25:13:20Z",
            "2023-11-14T22:13:20",
            "2023-11-14T22:13:20+2",
            "2023-11-14T22:13:20.Z",
            "1970-01-01T00:00:00+01:00",
            "2023-11-14T22:13:20+aa:bb",
            "２023-11-14T22:13:20Z",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for ms in [0, 951_782_399_999, 951_868_800_000, 1_700_000_000_123, 4_102_444_800_000] {
            assert_eq!(parse(&show(ms)), Ok(ms), "{}", show(ms));
        }
        assert_eq!(show(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(name(1_700_000_000_123), "20231114-221320-123");
    }
}
