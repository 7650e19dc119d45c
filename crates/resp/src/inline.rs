//! Splits an inline command into words by the rules of Redis's `sdssplitargs`.
//!
//! Double quotes know escapes (`\n \r \t \b \a \xHH`, any other escaped byte is itself), single
//! quotes only `\'`; a closing quote must end its word. Unquoted words take every byte literally.

use crate::ProtocolError;

/// Splits `line` and appends the words' bytes to `words`, calling `word(start, len)` for each.
pub(crate) fn split(
    line: &[u8],
    words: &mut Vec<u8>,
    mut word: impl FnMut(usize, usize),
) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        rest = skip_blanks(rest);
        if rest.is_empty() {
            return Ok(());
        }
        let start = words.len();
        rest = take_word(rest, words)?;
        word(start, words.len() - start);
    }
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|&&byte| is_space(byte)).count();
    &text[blanks..]
}

/// C's `isspace`, which also knows vertical tab and form feed.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn take_word<'a>(mut text: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    while let [byte, rest @ ..] = text {
        match byte {
            // Fewer than `is_space`: inside a word the rarer blanks are part of it, as in Redis.
            b' ' | b'\t' | b'\n' | b'\r' => return Ok(rest),
            b'"' => return take_double_quoted(rest, out),
            b'\'' => return take_single_quoted(rest, out),
            byte => out.push(*byte),
        }
        text = rest;
    }
    Ok(text)
}

fn take_double_quoted<'a>(
    mut text: &'a [u8],
    out: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        text = match text {
            [b'\\', b'x', high, low, rest @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                out.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest
            }
            [b'\\', escaped, rest @ ..] => {
                out.push(unescape(*escaped));
                rest
            }
            [b'"', rest @ ..] => return after_quote(rest),
            [byte, rest @ ..] => {
                out.push(*byte);
                rest
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
    }
}

fn take_single_quoted<'a>(
    mut text: &'a [u8],
    out: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        text = match text {
            [b'\\', b'\'', rest @ ..] => {
                out.push(b'\'');
                rest
            }
            [b'\'', rest @ ..] => return after_quote(rest),
            [byte, rest @ ..] => {
                out.push(*byte);
                rest
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
    }
}

fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(&byte) if !is_space(byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        byte => byte,
    }
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => byte.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected`: the words, or `None` where the quotes are unbalanced.
    fn check(line: &str, expected: Option<&[&str]>) {
        let mut bytes = Vec::new();
        let mut ranges = Vec::new();
        let split = split(line.as_bytes(), &mut bytes, |start, len| ranges.push((start, len)));
        let words: Vec<&[u8]> =
            ranges.iter().map(|&(start, len)| &bytes[start..start + len]).collect();
        match expected {
            None => assert_eq!(split, Err(ProtocolError::UnbalancedQuotes), "{line:?}"),
            Some(expected) => {
                assert_eq!(split, Ok(()), "{line:?}");
                let expected: Vec<&[u8]> = expected.iter().map(|word| word.as_bytes()).collect();
                assert_eq!(words, expected, "{line:?}");
            }
        }
    }

    #[test]
    fn words_and_quotes() {
        check("", Some(&[]));
        check(" \t ", Some(&[]));
        check("PING", Some(&["PING"]));
        check("  set  k   v ", Some(&["set", "k", "v"]));
        check(r#"set k "a b""#, Some(&["set", "k", "a b"]));
        check(r#"set k 'a "b"'"#, Some(&["set", "k", "a \"b\""]));
        check(r#"k "" ''"#, Some(&["k", "", ""]));
        check(r#""\x41\n\q\\\"" 'it\'s'"#, Some(&["A\nq\\\"", "it's"]));
        check(r#""\xZZ""#, Some(&["xZZ"]));
        check(r#"pre"fix ed""#, Some(&["prefix ed"]));
        check("a\u{b}b \u{b}c", Some(&["a\u{b}b", "c"]));
    }

    #[test]
    fn quotes_must_close_at_the_end_of_a_word() {
        check(r#"set k "a"#, None);
        check(r#"set k 'a"#, None);
        check(r#"set "k"v"#, None);
        check(r#"set 'k'v"#, None);
        check(r#""a\"#, None);
    }
}
