//! The page for people.

/// The page: one file without anything from elsewhere.
pub const HTML: &str = include_str!("page.html");

/// It may show its own style and script, and ask this port; nothing else.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
                          script-src 'unsafe-inline'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
