//! The page for people: it shows what `/status` tells, and asks again every second.

/// The page: one file with nothing from elsewhere.
pub const HTML: &str = include_str!("page.html");

/// It may use its own style and script and ask this port; nothing else.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
                          script-src 'unsafe-inline'; connect-src 'self'; img-src data:; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::admin::{sample, status};
    use std::collections::BTreeSet;

    #[test]
    fn nothing_comes_from_elsewhere() {
        for elsewhere in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!HTML.contains(elsewhere), "{elsewhere}");
        }
        assert!(!HTML.contains("innerHTML"), "names of regions and errors are text, never markup");
    }

    /// `status.a.b`, `s.a`, `facts.a`, `log.a`, `cdc.a` in the script are fields of the document.
    #[test]
    fn the_script_reads_fields_that_the_status_has() {
        let status = status::document(&sample::facts());
        let script = &HTML[HTML.find("<script>").unwrap()..];
        let mut facts = status["regions"]["eu-central"].clone();
        let peer = &status["peers"]["eu-central"];
        facts.as_object_mut().unwrap().extend(peer.as_object().unwrap().clone());
        let documents = [
            ("status", &status),
            ("s", &status),
            ("facts", &facts),
            ("log", &status["log"]),
            ("cdc", &status["cdc"]),
        ];
        let mut read = 0;
        for (name, document) in documents {
            let fields: BTreeSet<&str> = script
                .match_indices(&format!("{name}."))
                .filter(|(at, _)| {
                    !script[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '.')
                })
                .map(|(at, found)| {
                    let rest = &script[at + found.len()..];
                    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                    &rest[..end.unwrap_or(rest.len())]
                })
                .collect();
            for field in &fields {
                assert!(!document[*field].is_null(), "{name}.{field}");
            }
            read += fields.len();
        }
        assert!(read > 30, "only {read} fields were found in the script");
    }
}
