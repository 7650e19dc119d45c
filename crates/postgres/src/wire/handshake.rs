//! The start of a connection: parameters, then trust or SCRAM-SHA-256.
//!
//! Passwords are never sent: a server that asks for one in clear or as MD5 is refused. SCRAM also
//! proves that the server knows the password.

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::backend::{Backend, strings};
use super::{Mode, Wire};
use crate::PostgresError;
use crate::endpoint::Endpoint;
use crate::limits::SCRAM_ITERATIONS_MAX;

pub(super) async fn run(
    wire: &mut Wire,
    endpoint: &Endpoint,
    mode: Mode,
) -> Result<(), PostgresError> {
    let options = endpoint.options();
    let mut parameters = vec![
        ("user", endpoint.user.as_str()),
        ("database", endpoint.database.as_str()),
        ("client_encoding", "UTF8"),
        ("application_name", endpoint.application.as_str()),
        ("options", options.as_str()),
    ];
    if mode == Mode::Replication {
        parameters.push(("replication", "database"));
    }
    frontend::startup_message(parameters, &mut wire.output)?;
    wire.send().await?;
    loop {
        match message(wire).await? {
            Backend::Authentication(OK, _) | Backend::Other => {}
            Backend::Authentication(SASL, mechanisms) => {
                if !strings(&mechanisms).any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(refuse("the server offers no SCRAM-SHA-256"));
                }
                scram(wire, endpoint).await?;
            }
            Backend::Authentication(CLEARTEXT | MD5, _) => {
                return Err(refuse(
                    "the server asks for a password in clear or as MD5; set \
                     password_encryption = 'scram-sha-256', set the password anew, and use \
                     scram-sha-256 in pg_hba.conf",
                ));
            }
            Backend::Authentication(..) => {
                return Err(refuse(
                    "the server asks for an authentication other than SCRAM-SHA-256",
                ));
            }
            Backend::Ready => return Ok(()),
            _ => return Err(PostgresError::Protocol("an unexpected message at the start")),
        }
    }
}

const OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

async fn scram(wire: &mut Wire, endpoint: &Endpoint) -> Result<(), PostgresError> {
    let password = endpoint
        .password
        .as_deref()
        .ok_or_else(|| refuse("the server asks for a password and none is configured"))?;
    let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
    frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut wire.output)?;
    wire.send().await?;
    let Backend::Authentication(SASL_CONTINUE, challenge) = message(wire).await? else {
        return Err(PostgresError::Protocol("no SCRAM challenge"));
    };
    if iterations(&challenge).is_none_or(|count| count > SCRAM_ITERATIONS_MAX) {
        return Err(PostgresError::Protocol("the SCRAM challenge asks for too much work"));
    }
    scram.update(&challenge)?;
    frontend::sasl_response(scram.message(), &mut wire.output)?;
    wire.send().await?;
    let Backend::Authentication(SASL_FINAL, proof) = message(wire).await? else {
        return Err(PostgresError::Protocol("no SCRAM proof"));
    };
    scram.finish(&proof).map_err(|_| refuse("the server does not know the password either"))
}

/// The `i=` attribute of a server-first message (RFC 5802).
fn iterations(challenge: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(challenge).ok()?;
    text.split(',').find_map(|attribute| attribute.strip_prefix("i="))?.parse().ok()
}

async fn message(wire: &mut Wire) -> Result<Backend, PostgresError> {
    let (kind, body) = wire.frame().await?;
    match Backend::parse(kind, body)? {
        Backend::Error(error) => Err(PostgresError::Server { server: wire.server.clone(), error }),
        message => Ok(message),
    }
}

fn refuse(reason: &str) -> PostgresError {
    PostgresError::Setup(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_asked_for_is_read() {
        assert_eq!(iterations(b"r=abc,s=ZGVm,i=4096"), Some(4096));
        assert_eq!(iterations(b"r=i=1,s=ZGVm,i=5000"), Some(5000));
        assert_eq!(iterations(b"r=abc,s=ZGVm"), None);
        assert_eq!(iterations(b"r=abc,s=ZGVm,i=99999999999"), None);
    }
}
