//! MULTI, EXEC, DISCARD, WATCH, UNWATCH. A transaction is one commit here and, slot by slot, one
//! frame in every other region; WATCH is local, and a remote write breaks it too.

use super::spec::{ALL_KEYS, Spec};
use crate::{
    dispatch::{Call, discard, end_watch, exec_row, is_visible, multi},
    limits::MAX_WATCHED_KEYS,
};

pub(super) static TABLE: &[Spec] = &[
    Spec::plain("multi", 1, multi),
    Spec::plain("exec", 1, exec_row),
    Spec::plain("discard", 1, discard),
    Spec { keys: ALL_KEYS, ..Spec::plain("watch", -2, watch) },
    Spec::plain("unwatch", 1, unwatch),
];

fn watch(call: &mut Call<'_>) {
    if call.client.transaction.is_some() {
        call.reply.error("ERR WATCH inside MULTI is not allowed");
        return;
    }
    if call.client.watched.len() + call.args.len() > MAX_WATCHED_KEYS {
        call.reply.error("ERR too many watched keys");
        return;
    }
    for key in &call.args[1..] {
        let seen = is_visible(call.stage, key, call.now);
        call.client.watched.entry((*key).into()).or_insert(seen);
        call.stage.watched_mut().insert((*key).into());
    }
    call.reply.ok();
}

fn unwatch(call: &mut Call<'_>) {
    end_watch(call.client, call.outcome);
    call.reply.ok();
}
