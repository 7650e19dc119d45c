//! How a conflict is told: as an entry of MERIDIAN.CONFLICTS' list, and as a message of its feed.

use meridian_clock::Dot;
use meridian_resp::Writer;

use crate::{
    conflicts::{ConflictEvent, Loss},
    dispatch::Environment,
    feed::Lost,
};

/// What every message of the feed begins with.
const FEED: &[u8] = b"meridian-conflict";

/// One entry of the list: the value whole.
pub(super) fn entry(reply: &mut Writer<'_>, env: &Environment, key: &[u8], loss: &Loss) {
    reply.map(11);
    loss_fields(reply, env, key, loss);
}

/// One message: `seen` when a loss has begun, `resolved` when it has ended. A long value is cut.
pub(crate) fn event(reply: &mut Writer<'_>, env: &Environment, event: &ConflictEvent) {
    let loss = &event.loss;
    reply.push(3);
    reply.bulk(FEED);
    reply.bulk(if event.ended.is_none() { b"seen" } else { b"resolved" });
    reply.map(13 + usize::from(event.ended.is_some()) + 3 * usize::from(event.by.is_some()));
    reply.bulk(b"sequence");
    reply.integer(event.sequence as i64);
    reply.bulk(b"value_bytes");
    reply.integer(event.value_bytes as i64);
    loss_fields(reply, env, &event.key, loss);
    if let Some(ending) = event.ended {
        reply.bulk(b"outcome");
        reply.bulk(ending.name().as_bytes());
    }
    if let Some(by) = event.by {
        who(reply, env, "by_", by);
    }
}

/// The message that some were lost.
pub(crate) fn lost(reply: &mut Writer<'_>, lost: Lost) {
    reply.push(3);
    reply.bulk(FEED);
    reply.bulk(b"lost");
    reply.map(3);
    reply.bulk(b"count");
    reply.integer((lost.last - lost.first + 1) as i64);
    reply.bulk(b"first_sequence");
    reply.integer(lost.first as i64);
    reply.bulk(b"last_sequence");
    reply.integer(lost.last as i64);
}

/// Eleven pairs.
fn loss_fields(reply: &mut Writer<'_>, env: &Environment, key: &[u8], loss: &Loss) {
    reply.bulk(b"key");
    reply.bulk(key);
    reply.bulk(b"element");
    reply.bulk(loss.place.kind().as_bytes());
    reply.bulk(b"name");
    reply.bulk(loss.place.name());
    reply.bulk(b"value");
    reply.bulk(&loss.value);
    who(reply, env, "", loss.loser);
    who(reply, env, "winner_", loss.winner);
    reply.bulk(b"rule");
    reply.bulk(loss.rule.name().as_bytes());
}

/// Three pairs: when, where, and both as one word that MERIDIAN.CONFLICTS RESTORE takes.
fn who(reply: &mut Writer<'_>, env: &Environment, prefix: &str, dot: Dot) {
    reply.bulk(format!("{prefix}time_ms").as_bytes());
    reply.integer(dot.time.as_ms() as i64);
    reply.bulk(format!("{prefix}region").as_bytes());
    reply.bulk(env.region_name(dot.origin).as_bytes());
    reply.bulk(format!("{prefix}stamp").as_bytes());
    reply.bulk(dot.to_string().as_bytes());
}
