//! Where the server is and how a session with it is set up, from one connection string.

use std::path::PathBuf;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::PostgresError;
use crate::limits::WAL_SENDER_TIMEOUT_MS;

/// One server of a connection string; a string may name several, of which one is the primary.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) address: Address,
    pub(crate) user: String,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) database: String,
    pub(crate) application: String,
}

#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(String, u16),
    /// The directory of the socket, and the port that names it.
    Unix(PathBuf, u16),
}

impl Endpoint {
    /// Reads a libpq connection string (`postgresql://…` or `host=… port=…`).
    pub fn parse(url: &str, application: &str) -> Result<Vec<Endpoint>, PostgresError> {
        let config: Config = url.parse().map_err(|error| {
            // The error's text does not repeat the string, which may hold a password.
            PostgresError::Config(format!("the connection string cannot be read: {error}"))
        })?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(PostgresError::Config(
                "sslmode=require: TLS to Postgres is not supported yet; use a unix socket, a \
                 private network or a tunnel"
                    .into(),
            ));
        }
        let user = config
            .get_user()
            .ok_or_else(|| PostgresError::Config("the connection string names no user".into()))?;
        let endpoint = |(index, host): (usize, &Host)| Endpoint {
            address: match (host, port(config.get_ports(), index)) {
                (Host::Tcp(name), port) => Address::Tcp(name.clone(), port),
                (Host::Unix(directory), port) => Address::Unix(directory.clone(), port),
            },
            user: user.to_owned(),
            password: config.get_password().map(<[u8]>::to_vec),
            database: config.get_dbname().unwrap_or(user).to_owned(),
            application: config.get_application_name().unwrap_or(application).to_owned(),
        };
        let endpoints: Vec<Endpoint> =
            config.get_hosts().iter().enumerate().map(endpoint).collect();
        if endpoints.is_empty() {
            return Err(PostgresError::Config("the connection string names no host".into()));
        }
        Ok(endpoints)
    }

    /// The server, for messages.
    pub fn name(&self) -> String {
        match &self.address {
            Address::Tcp(host, port) => format!("{host}:{port}"),
            Address::Unix(directory, port) => format!("{}:{port}", directory.display()),
        }
    }

    /// Settings that every session uses, so that the stream, the copies and the look-ups print a
    /// value in the same way whatever the server's, the database's or the role's defaults are.
    pub(crate) fn options(&self) -> String {
        let settings = [
            ("datestyle", "ISO,YMD"),
            ("intervalstyle", "postgres"),
            ("timezone", "UTC"),
            ("extra_float_digits", "3"),
            ("bytea_output", "hex"),
            ("lc_monetary", "C"),
            ("xmlbinary", "base64"),
            ("search_path", "pg_catalog"),
            ("standard_conforming_strings", "on"),
            // Rows hidden by a policy must be an error, not missing.
            ("row_security", "off"),
            ("statement_timeout", "0"),
            ("idle_session_timeout", "0"),
            // The exported snapshot lives in an idle transaction.
            ("idle_in_transaction_session_timeout", "0"),
            ("wal_sender_timeout", &format!("{WAL_SENDER_TIMEOUT_MS}ms")),
        ];
        settings.map(|(name, value)| format!("-c {name}={value}")).join(" ")
    }

    pub(crate) fn sql_config(&self) -> Config {
        let mut config = Config::new();
        match &self.address {
            Address::Tcp(host, port) => config.host(host).port(*port),
            Address::Unix(directory, port) => config.host_path(directory).port(*port),
        };
        config.user(&self.user).dbname(&self.database).application_name(&self.application);
        config.options(self.options()).ssl_mode(SslMode::Disable);
        if let Some(password) = &self.password {
            config.password(password);
        }
        config
    }
}

fn port(ports: &[u16], index: usize) -> u16 {
    // As libpq: none is the default, one is for all hosts, else one each.
    match ports {
        [] => 5432,
        [one] => *one,
        many => many.get(index).copied().unwrap_or(5432),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[track_caller]
    fn check(url: &str, expect: &[&str]) {
        let names: Vec<_> = Endpoint::parse(url, "m").unwrap().iter().map(Endpoint::name).collect();
        assert_eq!(names, expect);
    }

    #[test]
    fn connection_strings() {
        check("host=/run/pg port=5433 user=a", &["/run/pg:5433"]);
        check("postgresql://a:b@db/shop", &["db:5432"]);
        check("postgresql://a@one:1,two:2/shop", &["one:1", "two:2"]);
        check("host=one,two port=7 user=a", &["one:7", "two:7"]);
    }

    #[test]
    fn what_cannot_be_used_is_said_without_the_password() {
        let error = |url: &str| Endpoint::parse(url, "m").err().unwrap().to_string();
        assert!(error("postgresql://a:geheim@db/shop?sslmode=require").contains("TLS"));
        assert!(error("host=db").contains("no user"));
        assert!(error("user=a").contains("no host"));
        assert!(!error("postgresql://a:geheim@db:port/shop").contains("geheim"));
    }
}
