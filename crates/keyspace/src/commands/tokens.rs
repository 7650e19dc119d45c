//! MERIDIAN.TOKEN and MERIDIAN.AWAIT: what a session has seen, and waiting until a region has it.

use meridian_clock::Origin;
use meridian_resp::{Protocol, Writer};

use super::{SYNTAX, numbers};
use crate::{
    dispatch::{Call, Environment},
    limits::{DEFAULT_AWAIT_MS, MAX_AWAIT_MS, MAX_WAITING_CLIENTS},
    session,
    stage::Stage,
    token::Token,
    waiting::Wait,
};

/// Replies the session's token, forgets the session, or switches the attribute.
pub(super) fn token(call: &mut Call<'_>, args: &[&[u8]]) {
    match args {
        [] => {
            let scope = session::scope(call.stage, call.env);
            let token = session::begin(call.client, call.stage).encode(scope);
            call.reply.bulk(token.as_bytes());
        }
        [word] if word.eq_ignore_ascii_case(b"forget") => {
            call.client.session = Some(Box::default());
            call.reply.ok();
        }
        [word, on] if word.eq_ignore_ascii_case(b"attribute") => attribute(call, on),
        _ => call.reply.error(SYNTAX),
    }
}

fn attribute(call: &mut Call<'_>, on: &[u8]) {
    match on.to_ascii_lowercase().as_slice() {
        b"on" if call.client.protocol == Protocol::Resp2 => {
            call.reply.error("ERR attributes need RESP3: say HELLO 3 first");
        }
        b"on" => {
            session::begin(call.client, call.stage);
            call.client.token_attribute = true;
            call.reply.ok();
        }
        b"off" => {
            call.client.token_attribute = false;
            call.reply.ok();
        }
        _ => call.reply.error(SYNTAX),
    }
}

/// Replies once this region covers a token, or that it does not.
pub(super) fn wait(call: &mut Call<'_>, args: &[&[u8]]) {
    let (text, timeout_ms) = match args {
        [text] => (*text, Ok(DEFAULT_AWAIT_MS)),
        [text, timeout] => (*text, numbers::count(timeout).map(|ms| ms as u64)),
        _ => return call.reply.error(SYNTAX),
    };
    let timeout_ms = match timeout_ms {
        Ok(ms) if ms <= MAX_AWAIT_MS => ms,
        _ => {
            let text = format!("ERR timeout is not between 0 and {MAX_AWAIT_MS} milliseconds");
            return call.reply.error(&text);
        }
    };
    let token = Token::decode(text, session::scope(call.stage, call.env));
    let token = match token.and_then(|token| token.check(call.stage).map(|()| token)) {
        Ok(token) => token,
        Err(error) => return call.reply.error(&format!("ERR {error}")),
    };
    if token.missing(call.stage).is_none() {
        session::begin(call.client, call.stage).join(&token);
        call.env.awaits.covered += 1;
        return call.reply.ok();
    }
    if timeout_ms == 0 {
        return stale(&mut call.reply, call.stage, call.env, &token);
    }
    if call.env.waiting >= MAX_WAITING_CLIENTS as u64 {
        return call.reply.error("ERR too many clients wait already");
    }
    call.outcome.wait = Some(Wait { token, timeout_ms });
}

/// Replies what is missing to a token.
pub(crate) fn stale(reply: &mut Writer<'_>, stage: &Stage, env: &mut Environment, token: &Token) {
    env.awaits.stale += 1;
    let lag = token.lag(stage);
    let one = |(origin, (partitions, ms)): (&Origin, &(usize, u64))| {
        let behind = match ms {
            0 => "nothing has come of it".to_owned(),
            ms => format!("{ms} ms behind"),
        };
        let of = stage.partitions();
        format!("{} ({behind} in {partitions} of {of} partitions)", env.region_name(*origin))
    };
    let missing: Vec<String> = lag.iter().map(one).collect();
    reply.error(&format!("STALE this region lacks writes of {}", missing.join(", ")));
}
