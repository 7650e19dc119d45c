//! MULTI, EXEC, DISCARD, WATCH, UNWATCH. A transaction is one commit here and, slot by slot, one
//! frame in every other region; WATCH is local, and a remote write breaks it too.

use crate::{
    dispatch::{Access, Call, Spec, discard, exec_row, is_visible, multi},
    limits::MAX_WATCHED_KEYS,
};

pub(super) static TABLE: &[Spec] = &[
    Spec { name: "multi", arity: 1, access: Access::None, keys: (0, 0, 0), run: multi },
    Spec { name: "exec", arity: 1, access: Access::None, keys: (0, 0, 0), run: exec_row },
    Spec { name: "discard", arity: 1, access: Access::None, keys: (0, 0, 0), run: discard },
    Spec { name: "watch", arity: -2, access: Access::None, keys: (1, -1, 1), run: watch },
    Spec { name: "unwatch", arity: 1, access: Access::None, keys: (0, 0, 0), run: unwatch },
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
    call.client.watched.clear();
    call.client.watch_broken = false;
    call.outcome.watch_changed = true;
    call.reply.ok();
}
