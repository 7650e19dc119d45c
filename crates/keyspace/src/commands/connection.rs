//! Commands about the connection itself.

use std::collections::BTreeMap;

use crate::{
    client::{Client, ClientId},
    dispatch::{Access, Call, Spec},
};

pub(super) static TABLE: &[Spec] = &[
    Spec { name: "ping", arity: -1, access: Access::None, keys: (0, 0, 0), run: ping },
    Spec { name: "echo", arity: 2, access: Access::None, keys: (0, 0, 0), run: echo },
];

fn ping(call: &mut Call<'_>) {
    match call.args {
        [_] => call.reply.simple("PONG"),
        [_, message] => call.reply.bulk(message),
        _ => call.reply.error("ERR wrong number of arguments for 'ping' command"),
    }
}

fn echo(call: &mut Call<'_>) {
    call.reply.bulk(call.args[1]);
}

/// Runs after a command that concerns other clients.
pub(crate) fn about_clients(
    _clients: &mut BTreeMap<ClientId, Client>,
    _caller: ClientId,
    _args: &[&[u8]],
) {
}
