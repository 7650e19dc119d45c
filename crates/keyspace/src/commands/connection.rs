//! Commands about the connection itself: greeting, authentication, protocol.

use meridian_resp::Protocol;

use super::{SYNTAX, clients, numbers, spec::Spec};
use crate::dispatch::{Call, Environment, end_transaction};

pub(super) static TABLE: &[Spec] = &[
    Spec::plain("ping", -1, ping),
    Spec::plain("echo", 2, echo),
    Spec::plain("hello", -1, hello),
    Spec::plain("auth", -2, auth),
    Spec::plain("select", 2, select),
    Spec::plain("quit", -1, quit),
    Spec::plain("reset", 1, reset),
];

/// The version of Redis that clients may rely on; some refuse to work with less than 7.
pub(super) const REDIS_VERSION: &str = "7.2.0";

/// The only user there is.
const USER: &[u8] = b"default";

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

fn ping(call: &mut Call<'_>) {
    match call.args {
        [_] => call.reply.simple("PONG"),
        [_, message] => call.reply.bulk(message),
        _ => call.wrong_arity("ping"),
    }
}

fn echo(call: &mut Call<'_>) {
    call.reply.bulk(call.args[1]);
}

/// What HELLO was asked to do.
#[derive(Default)]
struct Greeting<'a> {
    protocol: Option<Protocol>,
    credentials: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

impl<'a> Greeting<'a> {
    fn parse(args: &[&'a [u8]]) -> Result<Greeting<'a>, Vec<u8>> {
        let mut greeting = Greeting::default();
        let Some((version, mut options)) = args.split_first() else {
            return Ok(greeting);
        };
        greeting.protocol = Some(match numbers::integer(version) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => return Err(b"NOPROTO unsupported protocol version".to_vec()),
            Err(_) => {
                return Err(b"ERR Protocol version is not an integer or out of range".to_vec());
            }
        });
        loop {
            options = match options {
                [] => return Ok(greeting),
                [word, user, password, rest @ ..] if word.eq_ignore_ascii_case(b"auth") => {
                    greeting.credentials = Some((user, password));
                    rest
                }
                [word, name, rest @ ..] if word.eq_ignore_ascii_case(b"setname") => {
                    clients::check_name(name).map_err(str::as_bytes)?;
                    greeting.name = Some(name);
                    rest
                }
                [other, ..] => {
                    return Err([b"ERR Syntax error in HELLO option '", *other, b"'"].concat());
                }
            };
        }
    }
}

fn hello(call: &mut Call<'_>) {
    let greeting = match Greeting::parse(&call.args[1..]) {
        Ok(greeting) => greeting,
        Err(error) => return call.reply.error_bytes(&error),
    };
    if let Some((user, password)) = greeting.credentials {
        if !is_allowed(call.env, user, password) {
            return call.reply.error(WRONG_PASSWORD);
        }
        call.client.authenticated = true;
    }
    if !call.client.authenticated {
        return call.reply.error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
             select the RESP protocol version at the same time",
        );
    }
    if let Some(name) = greeting.name {
        call.client.name = name.to_vec();
    }
    if let Some(protocol) = greeting.protocol {
        call.client.protocol = protocol;
        call.reply.proto = protocol;
    }
    let reply = &mut call.reply;
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if call.client.protocol == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(call.client.id as i64);
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
}

fn auth(call: &mut Call<'_>) {
    let (user, password) = match call.args {
        [_, password] => (USER, *password),
        [_, user, password] => (*user, *password),
        _ => return call.reply.error(SYNTAX),
    };
    if call.args.len() == 2 && call.env.password.is_none() {
        return call.reply.error(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        );
    }
    if !is_allowed(call.env, user, password) {
        return call.reply.error(WRONG_PASSWORD);
    }
    call.client.authenticated = true;
    call.reply.ok();
}

fn is_allowed(env: &Environment, user: &[u8], password: &[u8]) -> bool {
    let right = env.password.as_ref().is_none_or(|known| is_same(known.as_bytes(), password));
    right && user == USER
}

/// Compares in a time that depends on the lengths only, so that a password cannot be guessed byte
/// by byte.
fn is_same(known: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(known.len() != given.len());
    for (at, byte) in given.iter().enumerate() {
        let other = known.get(at % known.len().max(1)).copied().unwrap_or_default();
        difference = std::hint::black_box(difference | (byte ^ other));
    }
    difference == 0
}

fn select(call: &mut Call<'_>) {
    match numbers::integer(call.args[1]) {
        Ok(0) => call.reply.ok(),
        Ok(_) => call.reply.error("ERR DB index is out of range"),
        Err(error) => call.reply.error(error),
    }
}

fn quit(call: &mut Call<'_>) {
    call.client.closing = true;
    call.reply.ok();
}

fn reset(call: &mut Call<'_>) {
    end_transaction(call.client, call.outcome);
    let client = &mut *call.client;
    client.name.clear();
    (client.session, client.touched_data, client.token_attribute) = (None, false, false);
    client.follows = false;
    call.outcome.follow = Some(false);
    client.protocol = Protocol::Resp2;
    client.authenticated = call.env.password.is_none();
    call.reply.simple("RESET");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_compared_whole() {
        for (known, given, same) in [
            ("secret", "secret", true),
            ("secret", "secreT", false),
            ("secret", "secre", false),
            ("secret", "secretsecret", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(is_same(known.as_bytes(), given.as_bytes()), same, "{known} {given}");
        }
    }
}
