//! Redis's glob patterns, byte for byte as its `stringmatchlen` understands them, oddities
//! included: an unclosed bracket ends with the pattern, ranges compare signed bytes, and `*` alone
//! does not match the empty string.

/// The most work that one match may do, in steps. A hostile pattern can make any backtracking
/// matcher run long; beyond this nothing matches.
const MAX_STEPS: u32 = 1 << 20;

/// Whether `text` matches `pattern`.
#[must_use]
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut matcher = Matcher { hopeless: false, steps: 0 };
    matcher.run(pattern, text)
}

struct Matcher {
    /// What stands behind a star was found nowhere in the rest of the text, so no earlier star
    /// needs to try a longer stretch.
    hopeless: bool,
    steps: u32,
}

impl Matcher {
    fn run(&mut self, mut pattern: &[u8], mut text: &[u8]) -> bool {
        while let (Some(&head), Some(&byte)) = (pattern.first(), text.first()) {
            match head {
                b'*' => {
                    while pattern.get(1) == Some(&b'*') {
                        pattern = &pattern[1..];
                    }
                    return pattern.len() == 1 || self.star(&pattern[1..], text);
                }
                b'?' => pattern = &pattern[1..],
                b'[' => {
                    let (found, rest) = class(&pattern[1..], byte);
                    if !found {
                        return false;
                    }
                    pattern = rest;
                }
                _ => {
                    let escaped = head == b'\\' && pattern.len() >= 2;
                    pattern = &pattern[usize::from(escaped)..];
                    if pattern[0] != byte {
                        return false;
                    }
                    pattern = &pattern[1..];
                }
            }
            text = &text[1..];
            if text.is_empty() {
                while pattern.first() == Some(&b'*') {
                    pattern = &pattern[1..];
                }
                break;
            }
        }
        pattern.is_empty() && text.is_empty()
    }

    fn star(&mut self, pattern: &[u8], mut text: &[u8]) -> bool {
        while !text.is_empty() {
            self.steps += 1;
            if self.run(pattern, text) {
                return true;
            }
            if self.hopeless || self.steps > MAX_STEPS {
                return false;
            }
            text = &text[1..];
        }
        self.hopeless = true;
        false
    }
}

/// Whether a bracket's class, which begins at `pattern`, holds `byte`; and what follows it.
fn class(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let negated = pattern.first() == Some(&b'^');
    let mut rest = &pattern[usize::from(negated)..];
    let mut found = false;
    loop {
        match rest {
            [b'\\', escaped, after @ ..] => {
                found |= *escaped == byte;
                rest = after;
            }
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [] => break,
            [start, b'-', end, after @ ..] => {
                // As C's plain char, which is signed here.
                let (start, end, byte) = (*start as i8, *end as i8, byte as i8);
                found |= (start.min(end)..=start.max(end)).contains(&byte);
                rest = after;
            }
            [one, after @ ..] => {
                found |= *one == byte;
                rest = after;
            }
        }
    }
    (found != negated, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        for text in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} on {text:?}");
        }
        for text in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn patterns() {
        check("h?llo", &["hello", "hallo"], &["hllo", "heello"]);
        check("h*llo", &["hllo", "heeeello"], &["hell"]);
        check("h[ae]llo", &["hello", "hallo"], &["hillo"]);
        check("h[^e]llo", &["hallo"], &["hello"]);
        check("h[a-b]llo", &["hallo", "hbllo"], &["hcllo"]);
        check("h[b-a]llo", &["hallo", "hbllo"], &["hcllo"]);
        check("a\\*b", &["a*b"], &["axb"]);
        check("*", &["x"], &[""]);
        check("", &[""], &["x"]);
        check("a**b*", &["ab", "axxb", "abc"], &["a"]);
        check("[\\]]", &["]"], &["\\"]);
        check("a[bc", &["ab", "ac"], &["a[bc"]);
        check("\\", &["\\"], &["x"]);
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = "a*".repeat(40) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(5_000).as_bytes()));
    }
}
