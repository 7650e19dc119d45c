//! CLIENT: what a connection says of itself, and questions about all of them.
//!
//! A command borrows its own client only. What concerns the others is answered by the engine
//! after the command, at the place in the output where the reply belongs ([`AboutClients`]).

use std::collections::BTreeMap;

use meridian_clock::Time;
use meridian_resp::{Protocol, Writer};

use super::{SYNTAX, numbers, spec::Spec};
use crate::{
    client::{Client, ClientId},
    dispatch::Call,
};

pub(super) static TABLE: &[Spec] =
    &[Spec::plain("client", -2, client).with_subcommands(SUBCOMMANDS)];

const SUBCOMMANDS: &[(&str, i32)] = &[
    ("id", 2),
    ("getname", 2),
    ("setname", 3),
    ("setinfo", 4),
    ("info", 2),
    ("list", -2),
    ("kill", -3),
    ("no-evict", 3),
    ("no-touch", 3),
    ("reply", 3),
    ("tracking", -3),
    ("getredir", 2),
    ("help", 2),
];

const HELP: &[&str] = &[
    "GETNAME",
    "    Return the name of the current connection.",
    "GETREDIR",
    "    Return -1: tracking is off.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR <ip:port>, ID <client-id>, TYPE (NORMAL|MASTER|REPLICA|PUBSUB),",
    "      USER <username>, SKIPME (YES|NO)",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB), ID <client-id> [<client-id> ...]",
    "NO-EVICT (ON|OFF)",
    "    Accepted; connections are never evicted.",
    "NO-TOUCH (ON|OFF)",
    "    Accepted; access times are not kept.",
    "REPLY ON",
    "    Replies are always on.",
    "SETINFO <LIB-NAME|LIB-VER> <value>",
    "    Set the library's name or version.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "TRACKING OFF",
    "    Tracking is always off.",
];

fn client(call: &mut Call<'_>) {
    match call.args[1].to_ascii_lowercase().as_slice() {
        b"id" => call.reply.integer(call.client.id as i64),
        b"getname" if call.client.name.is_empty() => call.reply.null(),
        b"getname" => call.reply.bulk(&call.client.name),
        b"setname" => match check_name(call.args[2]) {
            Ok(()) => {
                call.client.name = call.args[2].to_vec();
                call.reply.ok();
            }
            Err(error) => call.reply.error(error),
        },
        b"setinfo" => set_info(call),
        b"info" => {
            let line = [describe(call.client, call.now), b"\n".to_vec()].concat();
            call.reply.verbatim(*b"txt", &line);
        }
        b"list" => ask(call, Filter::parse_list),
        b"kill" => ask(call, Filter::parse_kill),
        b"no-evict" | b"no-touch" => match call.args[2].to_ascii_lowercase().as_slice() {
            b"on" | b"off" => call.reply.ok(),
            _ => call.reply.error(SYNTAX),
        },
        b"reply" => match call.args[2].to_ascii_lowercase().as_slice() {
            b"on" => call.reply.ok(),
            b"off" | b"skip" => {
                call.reply.error("ERR CLIENT REPLY OFF and SKIP are not supported");
            }
            _ => call.reply.error(SYNTAX),
        },
        b"tracking" => match call.args[2].to_ascii_lowercase().as_slice() {
            b"off" => call.reply.ok(),
            b"on" => call.reply.error("ERR CLIENT TRACKING is not supported"),
            _ => call.reply.error(SYNTAX),
        },
        b"getredir" => call.reply.integer(-1),
        _ => call.help("CLIENT", HELP),
    }
}

/// Checks a connection's name.
///
/// # Errors
/// Redis's text.
pub(super) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.iter().all(|byte| matches!(byte, b'!'..=b'~')) {
        Ok(())
    } else {
        Err("ERR Client names cannot contain spaces, newlines or special characters.")
    }
}

fn set_info(call: &mut Call<'_>) {
    let (attribute, value) = (call.args[2].to_ascii_lowercase(), call.args[3]);
    let place = match attribute.as_slice() {
        b"lib-name" => &mut call.client.library.0,
        b"lib-ver" => &mut call.client.library.1,
        _ => {
            let text = [b"ERR Unrecognized option '", call.args[2], b"'"].concat();
            return call.reply.error_bytes(&text);
        }
    };
    if !value.iter().all(|byte| matches!(byte, b'!'..=b'~')) {
        let name = String::from_utf8_lossy(&attribute).into_owned();
        return call
            .reply
            .error(&format!("ERR {name} cannot contain spaces, newlines or special characters."));
    }
    *place = value.to_vec();
    call.reply.ok();
}

/// Reads the arguments of a question.
type Parse = fn(&[&[u8]]) -> Result<AboutClients, Vec<u8>>;

fn ask(call: &mut Call<'_>, parse: Parse) {
    match parse(&call.args[2..]) {
        Ok(question) => call.outcome.about_clients.push((call.reply.out.len(), question)),
        Err(error) => call.reply.error_bytes(&error),
    }
}

/// A question about all clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AboutClients {
    /// CLIENT LIST.
    List(Filter),
    /// CLIENT KILL. Without `counts` it names one address and replies OK or an error.
    Kill {
        /// Which ones.
        filter: Filter,
        /// The reply is how many.
        counts: bool,
    },
}

/// Which clients are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    ids: Option<Vec<ClientId>>,
    address: Option<Vec<u8>>,
    /// Only normal clients exist.
    other_type: bool,
    other_user: bool,
    skip_me: bool,
}

impl Filter {
    fn parse_list(args: &[&[u8]]) -> Result<AboutClients, Vec<u8>> {
        let mut filter = Filter::default();
        match args {
            [] => {}
            [word, kind] if word.eq_ignore_ascii_case(b"type") => {
                filter.other_type = !is_normal(kind)?;
            }
            [word, ids @ ..] if word.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
                let ids = ids.iter().map(|id| numbers::integer(id).ok());
                let ids: Option<Vec<i64>> = ids.collect();
                let ids = ids.ok_or(b"ERR Invalid client ID")?;
                filter.ids = Some(ids.iter().filter_map(|id| u64::try_from(*id).ok()).collect());
            }
            _ => return Err(SYNTAX.into()),
        }
        Ok(AboutClients::List(filter))
    }

    fn parse_kill(args: &[&[u8]]) -> Result<AboutClients, Vec<u8>> {
        if let [address] = args {
            let filter = Filter { address: Some(address.to_vec()), ..Filter::default() };
            return Ok(AboutClients::Kill { filter, counts: false });
        }
        let mut filter = Filter { skip_me: true, ..Filter::default() };
        for pair in args.chunks(2) {
            let [option, value] = pair else {
                return Err(SYNTAX.into());
            };
            match option.to_ascii_lowercase().as_slice() {
                b"id" => {
                    let id = parse_id(value).ok_or(b"ERR client-id should be greater than 0")?;
                    filter.ids = Some(vec![id]);
                }
                b"addr" => filter.address = Some(value.to_vec()),
                b"type" => filter.other_type = !is_normal(value)?,
                b"user" if *value == b"default" => {}
                b"user" => {
                    return Err([b"ERR No such user '", *value, b"'"].concat());
                }
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => filter.skip_me = true,
                b"skipme" if value.eq_ignore_ascii_case(b"no") => filter.skip_me = false,
                _ => return Err(SYNTAX.into()),
            }
        }
        Ok(AboutClients::Kill { filter, counts: true })
    }

    fn matches(&self, client: &Client, caller: ClientId) -> bool {
        let id = self.ids.as_ref().is_none_or(|ids| ids.contains(&client.id));
        let address = self.address.as_ref().is_none_or(|a| a == client.address.as_bytes());
        id && address && !self.other_type && !(self.skip_me && client.id == caller)
    }
}

impl AboutClients {
    /// The reply, and whom it kills.
    pub(crate) fn answer(
        &self,
        clients: &BTreeMap<ClientId, Client>,
        caller: ClientId,
        now: Time,
    ) -> (Vec<u8>, Vec<ClientId>) {
        let mut out = Vec::new();
        let protocol = clients.get(&caller).map_or(Protocol::Resp2, |c| c.protocol);
        let mut reply = Writer::new(&mut out, protocol);
        let (AboutClients::List(filter) | AboutClients::Kill { filter, .. }) = self;
        let chosen: Vec<&Client> =
            clients.values().filter(|c| filter.matches(c, caller) && !c.closing).collect();
        match self {
            AboutClients::List(_) => {
                let mut lines = Vec::new();
                for client in chosen {
                    lines.extend_from_slice(&describe(client, now));
                    lines.push(b'\n');
                }
                reply.verbatim(*b"txt", &lines);
                return (out, Vec::new());
            }
            AboutClients::Kill { counts: true, .. } => reply.integer(chosen.len() as i64),
            AboutClients::Kill { .. } if chosen.is_empty() => reply.error("ERR No such client"),
            AboutClients::Kill { .. } => reply.ok(),
        }
        let killed = chosen.iter().map(|c| c.id).collect();
        (out, killed)
    }
}

fn parse_id(text: &[u8]) -> Option<ClientId> {
    numbers::integer(text).ok().and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0)
}

/// Whether the type of client is the one that exists.
fn is_normal(kind: &[u8]) -> Result<bool, Vec<u8>> {
    match kind.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(true),
        b"master" | b"replica" | b"slave" | b"pubsub" => Ok(false),
        _ => Err([b"ERR Unknown client type '", kind, b"'"].concat()),
    }
}

/// One client as CLIENT LIST shows it.
fn describe(client: &Client, now: Time) -> Vec<u8> {
    let age = now.as_ms().saturating_sub(client.since_ms) / 1000;
    let idle = now.as_ms().saturating_sub(client.active.as_ms().max(client.since_ms)) / 1000;
    let flags = match (&client.transaction, client.watch_broken, client.closing) {
        (_, _, true) => "c",
        (Some(_), true, _) => "xd",
        (Some(_), ..) => "x",
        _ if client.waits => "b",
        _ if client.follows => "O",
        _ => "N",
    };
    let multi = client.transaction.as_ref().map_or(-1, |t| t.commands.len() as i64);
    let protocol = if client.protocol == Protocol::Resp3 { 3 } else { 2 };
    let mut line = format!("id={} addr={} name=", client.id, client.address).into_bytes();
    line.extend_from_slice(&client.name);
    line.extend_from_slice(
        format!(
            " age={age} idle={idle} flags={flags} db=0 sub=0 psub=0 ssub=0 multi={multi} \
             watch={} omem={} cmd={} user=default redir=-1 resp={protocol} lib-name=",
            client.watched.len(),
            client.backlog(),
            client.last_command,
        )
        .as_bytes(),
    );
    line.extend_from_slice(&client.library.0);
    line.extend_from_slice(b" lib-ver=");
    line.extend_from_slice(&client.library.1);
    line
}
