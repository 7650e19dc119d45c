//! From arguments to a command: look-up, arity, permission, transactions.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use meridian_clock::{Origin, Time};
use meridian_resp::{Protocol, Writer};

use crate::{
    client::{Client, Transaction},
    commands::{
        self, AboutClients,
        spec::{QUOTED_BYTES, Spec},
    },
    engine::{Durability, EngineConfig},
    limits::{
        COMMAND_SLACK_BYTES, MAX_ARGUMENT_BYTES, MAX_COMMIT_BYTES, MAX_QUEUED_BYTES,
        MAX_QUEUED_COMMANDS, MAX_VALUE_BYTES,
    },
    mirror::{MIRROR_PREFIX, RESERVED_PREFIX, mirror_table},
    session,
    stage::Stage,
    waiting::Wait,
};

/// What commands see of the world outside the data. Set by whoever composes the node.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The password that clients must give.
    pub password: Option<String>,
    /// The cluster's name.
    pub cluster: String,
    /// This region's name.
    pub region: String,
    /// The regions' names by ordinal.
    pub regions: BTreeMap<Origin, String>,
    /// When replies leave.
    pub durability: Durability,
    /// The error that writes get at present (a full disk, a clock that is off), if they are
    /// refused: a code in capitals and why.
    pub refuse_writes: Option<String>,
    /// Why nothing is answered yet (the data is still on its way), if that is so.
    pub loading: Option<String>,
    /// Why writes belong elsewhere from now on (this region leaves the cluster), if that is so.
    pub leaving: Option<String>,
    /// Whether this region is the primary one.
    pub primary: bool,
    /// Further sections of INFO: name and lines.
    pub info: BTreeMap<String, Vec<(String, String)>>,
    /// CONFIG GET's parameters beyond the built-in ones.
    pub config: BTreeMap<String, String>,
    /// Connections accepted since the start.
    pub connections_received: u64,
    /// Commands run since the start.
    pub commands_processed: u64,
    /// Reads that found their key, and reads that did not.
    pub hits: u64,
    /// See `hits`.
    pub misses: u64,
    /// When the node started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Randomness for SPOP, SRANDMEMBER and RANDOMKEY; seeded from outside.
    pub random: Random,
    /// Connections that are open.
    pub connected: u64,
    /// Clients that wait in MERIDIAN.AWAIT.
    pub waiting: u64,
    /// How often MERIDIAN.AWAIT ended how.
    pub awaits: Awaits,
    /// Clients that follow conflicts.
    pub followers: u64,
    /// Events about conflicts that a follower had no room for.
    pub feed_dropped: u64,
    /// Calls by command, in the order of the command table.
    calls: Vec<u64>,
}

impl Environment {
    /// The environment that a configuration describes, before anything has been heard.
    #[must_use]
    pub fn new(config: &EngineConfig) -> Environment {
        Environment {
            password: config.password.clone(),
            cluster: config.cluster.clone(),
            region: config.region.clone(),
            regions: config.regions.clone(),
            durability: config.durability,
            refuse_writes: None,
            loading: None,
            leaving: None,
            primary: false,
            info: BTreeMap::new(),
            config: BTreeMap::new(),
            connections_received: 0,
            commands_processed: 0,
            hits: 0,
            misses: 0,
            started_ms: 0,
            random: Random(config.stage.seed | 1),
            connected: 0,
            waiting: 0,
            awaits: Awaits::default(),
            followers: 0,
            feed_dropped: 0,
            calls: vec![0; commands::all().count()],
        }
    }

    /// The commands that were called since the start, and how often.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let calls = commands::all().zip(&self.calls).map(|(spec, calls)| (spec.name, *calls));
        calls.filter(|(_, calls)| *calls > 0)
    }

    /// CONFIG RESETSTAT.
    pub(crate) fn reset_statistics(&mut self) {
        self.calls.fill(0);
        (self.commands_processed, self.connections_received) = (0, 0);
        (self.hits, self.misses) = (0, 0);
    }

    /// A region's name, or its ordinal if it is not known.
    #[must_use]
    pub fn region_name(&self, origin: Origin) -> String {
        self.regions.get(&origin).cloned().unwrap_or_else(|| origin.to_string())
    }
}

/// How often MERIDIAN.AWAIT ended how, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Awaits {
    /// The region covered the token when it was asked.
    pub covered: u64,
    /// It covered the token in time.
    pub waited: u64,
    /// It did not.
    pub stale: u64,
}

/// Marsaglia's xorshift64* ("Xorshift RNGs", 2003): enough to pick a member.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

impl Random {
    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound as u64) as usize
    }
}

/// One call of one command.
pub struct Call<'a> {
    /// The data.
    pub stage: &'a mut Stage,
    /// The world outside.
    pub env: &'a mut Environment,
    /// Who asks.
    pub client: &'a mut Client,
    /// The command and its arguments; `args[0]` is the command's name.
    pub args: &'a [&'a [u8]],
    /// Where the reply goes.
    pub reply: Writer<'a>,
    /// Hybrid time when the command began.
    pub now: Time,
    /// What the engine must do afterwards.
    pub outcome: &'a mut Outcome,
    /// The command is one of a transaction's.
    pub in_transaction: bool,
}

/// What the engine must do after a command.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The set of watched keys has changed.
    pub watch_changed: bool,
    /// Questions about other clients (CLIENT LIST, CLIENT KILL), and where in the caller's
    /// output each answer belongs.
    pub about_clients: Vec<(usize, AboutClients)>,
    /// The client waits from now on; its reply comes later.
    pub wait: Option<Wait>,
    /// The client follows conflicts from now on, or no longer.
    pub follow: Option<bool>,
}

/// The error for what would not fit one frame.
pub(crate) const TOO_MUCH: &str = "ERR the command writes more than one replicated record may hold";

/// The longest command name; longer ones are unknown without a look.
const MAX_NAME_BYTES: usize = 32;

/// Finds and runs commands.
pub struct Dispatcher {
    table: HashMap<&'static [u8], Row, FixedState>,
}

/// A command and its place in the table.
type Row = (usize, &'static Spec);

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dispatcher({} commands)", self.table.len())
    }
}

impl Default for Dispatcher {
    fn default() -> Self {
        Dispatcher::new()
    }
}

impl Dispatcher {
    /// The table of all commands.
    #[must_use]
    pub fn new() -> Dispatcher {
        let mut table = HashMap::with_hasher(FixedState::with_seed(0));
        for row in commands::all().enumerate() {
            table.insert(row.1.name.as_bytes(), row);
        }
        Dispatcher { table }
    }

    /// The row of a command, whatever the case of its name.
    #[inline]
    fn find(&self, name: &[u8]) -> Option<Row> {
        let mut lower = [0u8; MAX_NAME_BYTES];
        let lower = lower.get_mut(..name.len())?;
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        self.table.get(&*lower).copied()
    }

    /// Runs one command, or queues it when a MULTI is open.
    #[inline]
    pub fn run(
        &self,
        stage: &mut Stage,
        env: &mut Environment,
        client: &mut Client,
        args: &[&[u8]],
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut out = std::mem::take(&mut client.out);
        let (start, applied) = (out.len(), stage.ops_applied());
        match self.admit(env, client, args) {
            Err(error) => {
                let error = refuse(client, args, error, &mut outcome);
                Writer::new(&mut out, client.protocol).error_bytes(&error);
            }
            Ok((_, spec)) if client.transaction.is_some() && !is_immediate(spec.name) => {
                queue(client, args, &mut out);
            }
            Ok((at, spec)) if spec.name == "exec" => {
                env.calls[at] += 1;
                self.exec(stage, env, client, &mut out, &mut outcome);
            }
            Ok(row) => call(row, stage, env, client, args, &mut out, &mut outcome, false),
        }
        if client.token_attribute && stage.ops_applied() != applied {
            let length = session::attach(&mut out, start, client, stage, env);
            outcome.about_clients.iter_mut().for_each(|(at, _)| *at += length);
        }
        client.out = out;
        outcome
    }

    /// Finds the command and checks all that can be checked before it runs.
    #[inline]
    fn admit(&self, env: &Environment, client: &Client, args: &[&[u8]]) -> Result<Row, Vec<u8>> {
        let name = args.first().copied().unwrap_or_default();
        let Some(row) = self.find(name) else {
            return Err(unknown_command(name, &args[1.min(args.len())..]));
        };
        let spec = row.1;
        if !spec.accepts(args.len()) {
            let text = format!("ERR wrong number of arguments for '{}' command", spec.name);
            return Err(text.into_bytes());
        }
        if !spec.subcommands.is_empty() {
            spec.check_subcommand(args)?;
        }
        if !client.authenticated && !matches!(spec.name, "auth" | "hello" | "quit" | "reset") {
            return Err(b"NOAUTH Authentication required.".to_vec());
        }
        if client.follows && client.protocol == Protocol::Resp2 && !leaves_feed_alone(spec.name) {
            return Err(NOT_WHILE_FOLLOWING.as_bytes().to_vec());
        }
        if let Some(reason) = &env.loading
            && !answers_while_loading(spec.name)
        {
            return Err(format!("LOADING {reason}").into_bytes());
        }
        if let Some(reason) = &env.leaving
            && (spec.access.writes() || spec.name == "exec" && self.writes_in_transaction(client))
        {
            return Err(format!("READONLY {reason}").into_bytes());
        }
        if spec.access.writes() {
            check_write(env, spec, args)?;
        }
        if client.transaction.is_some()
            && let Some(error) = commands::refused_in_transaction(spec, args)
        {
            return Err(error.into());
        }
        Ok(row)
    }

    /// Whether a command that writes has been queued.
    fn writes_in_transaction(&self, client: &Client) -> bool {
        let queued = client.transaction.iter().flat_map(|transaction| &transaction.commands);
        let mut rows = queued.filter_map(|command| self.find(command.first()?));
        rows.any(|(_, spec)| spec.access.writes())
    }

    fn exec(
        &self,
        stage: &mut Stage,
        env: &mut Environment,
        client: &mut Client,
        out: &mut Vec<u8>,
        outcome: &mut Outcome,
    ) {
        let Some(transaction) = client.transaction.take() else {
            Writer::new(out, client.protocol).error("ERR EXEC without MULTI");
            return;
        };
        let now = stage.now();
        let expired = client.watched.iter().any(|(key, was)| *was && !is_visible(stage, key, now));
        let broken = client.watch_broken || expired;
        end_transaction(client, outcome);
        let mut reply = Writer::new(out, client.protocol);
        if transaction.broken {
            reply.error("EXECABORT Transaction discarded because of previous errors.");
            return;
        }
        if broken {
            reply.null_array();
            return;
        }
        let writes = |command: &Vec<Vec<u8>>| {
            command.first().and_then(|name| self.find(name)).is_some_and(|r| r.1.access.writes())
        };
        if let Some(why) =
            env.refuse_writes.as_ref().filter(|_| transaction.commands.iter().any(writes))
        {
            // They were not refused when the commands were queued.
            reply.error(&format!("EXECABORT Transaction discarded because of: {why}"));
            return;
        }
        reply.array(transaction.commands.len());
        for command in &transaction.commands {
            let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            // Found when it was queued; the table does not change.
            let Some(row) = self.find(args[0]) else { continue };
            if has_room(row.1, stage, &args) {
                call(row, stage, env, client, &args, out, outcome, true);
            } else {
                Writer::new(out, client.protocol).error(TOO_MUCH);
            }
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "the parts of one call, borrowed apart")]
#[inline]
fn call(
    (at, spec): Row,
    stage: &mut Stage,
    env: &mut Environment,
    client: &mut Client,
    args: &[&[u8]],
    out: &mut Vec<u8>,
    outcome: &mut Outcome,
    in_transaction: bool,
) {
    env.commands_processed += 1;
    env.calls[at] += 1;
    let now = stage.now();
    client.last_command = spec.name;
    client.active = now;
    let reply = Writer::new(out, client.protocol);
    (spec.run)(&mut Call { stage, env, client, args, reply, now, outcome, in_transaction });
    session::note(client, stage, spec, args);
}

/// Whether a reader sees the key.
pub fn is_visible(stage: &Stage, key: &[u8], now: Time) -> bool {
    stage.object(key).is_some_and(|o| o.visible(now).is_some())
}

/// Commands that need no data: as with Redis, whoever waits for the data may ask how far it is.
fn answers_while_loading(name: &str) -> bool {
    matches!(
        name,
        "auth" | "hello" | "quit" | "reset" | "info" | "client" | "command" | "config" | "select"
    )
}

/// Commands that act at once although a MULTI is open.
fn is_immediate(name: &str) -> bool {
    matches!(name, "exec" | "discard" | "multi" | "watch" | "quit" | "reset")
}

/// RESP2 has one stream for replies and messages; only what can be told from a message is allowed
/// in it, as with SUBSCRIBE.
fn leaves_feed_alone(name: &str) -> bool {
    matches!(name, "meridian.conflicts" | "meridian" | "ping" | "quit" | "reset" | "hello")
}

const NOT_WHILE_FOLLOWING: &str = "ERR this connection follows conflicts: only MERIDIAN.CONFLICTS, \
                                   PING, HELLO, QUIT and RESET are allowed in RESP2";

/// A command that cannot run spoils the transaction that is open; an EXEC ends it.
fn refuse(client: &mut Client, args: &[&[u8]], error: Vec<u8>, outcome: &mut Outcome) -> Vec<u8> {
    if args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"exec")) {
        end_transaction(client, outcome);
        let reason = error.strip_prefix(b"ERR ").unwrap_or(&error);
        return [b"EXECABORT Transaction discarded because of: ", reason].concat();
    }
    if let Some(transaction) = &mut client.transaction {
        transaction.broken = true;
    }
    error
}

/// Closes a transaction, however it ended.
pub(crate) fn end_transaction(client: &mut Client, outcome: &mut Outcome) {
    client.transaction = None;
    end_watch(client, outcome);
}

/// Forgets what the client watches.
pub(crate) fn end_watch(client: &mut Client, outcome: &mut Outcome) {
    outcome.watch_changed |= !client.watched.is_empty();
    client.watched.clear();
    client.watch_broken = false;
}

fn queue(client: &mut Client, args: &[&[u8]], out: &mut Vec<u8>) {
    let mut reply = Writer::new(out, client.protocol);
    let Some(transaction) = &mut client.transaction else {
        return;
    };
    let bytes: usize = args.iter().map(|a| a.len()).sum();
    let too_many = transaction.commands.len() >= MAX_QUEUED_COMMANDS;
    if too_many || transaction.bytes + bytes > MAX_QUEUED_BYTES {
        transaction.broken = true;
        reply.error("ERR transaction is too large");
        return;
    }
    transaction.bytes += bytes;
    transaction.commands.push(args.iter().map(|a| a.to_vec()).collect());
    reply.simple("QUEUED");
}

/// MULTI.
pub(crate) fn multi(call: &mut Call<'_>) {
    if call.client.transaction.is_some() {
        call.reply.error("ERR MULTI calls can not be nested");
        return;
    }
    call.client.transaction = Some(Transaction::default());
    call.reply.ok();
}

/// DISCARD.
pub(crate) fn discard(call: &mut Call<'_>) {
    if call.client.transaction.is_none() {
        call.reply.error("ERR DISCARD without MULTI");
        return;
    }
    end_transaction(call.client, call.outcome);
    call.reply.ok();
}

/// EXEC is run by the dispatcher; the table only needs its row.
pub(crate) fn exec_row(call: &mut Call<'_>) {
    call.reply.error("ERR EXEC without MULTI");
}

#[inline]
fn check_write(env: &Environment, spec: &Spec, args: &[&[u8]]) -> Result<(), Vec<u8>> {
    if let Some(why) = &env.refuse_writes {
        return Err(why.clone().into_bytes());
    }
    if args.iter().map(|a| a.len()).sum::<usize>() > MAX_ARGUMENT_BYTES {
        return Err(TOO_MUCH.as_bytes().to_vec());
    }
    spec.written_keys(args).try_for_each(check_writable)
}

/// Whether a transaction has room for one more command: its arguments, and a value that it may
/// write whole although they are short (APPEND).
fn has_room(spec: &Spec, stage: &Stage, args: &[&[u8]]) -> bool {
    let bytes = args.iter().map(|a| a.len()).sum::<usize>().max(MAX_VALUE_BYTES);
    let writes = spec.access.writes();
    let commit = !writes || stage.pending_bytes() + bytes < MAX_COMMIT_BYTES;
    commit && spec.written_keys(args).all(|key| stage.room(key) > bytes + COMMAND_SLACK_BYTES)
}

pub(crate) fn check_writable(key: &[u8]) -> Result<(), Vec<u8>> {
    if key.starts_with(MIRROR_PREFIX) {
        let table = String::from_utf8_lossy(mirror_table(key)).into_owned();
        let text = format!(
            "READONLY '{table}' is mirrored from Postgres: change the rows of table {table} there"
        );
        return Err(text.into_bytes());
    }
    if key.starts_with(RESERVED_PREFIX) {
        return Err(b"ERR keys that begin with a zero byte and 'meridian:' are reserved".to_vec());
    }
    Ok(())
}

/// Redis's text, with its limits on what is quoted.
fn unknown_command(name: &[u8], args: &[&[u8]]) -> Vec<u8> {
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(&name[..name.len().min(QUOTED_BYTES)]);
    text.extend_from_slice(b"', with args beginning with: ");
    let mut used = 0;
    for arg in args {
        if used >= QUOTED_BYTES {
            break;
        }
        let shown = &arg[..arg.len().min(QUOTED_BYTES - used)];
        text.push(b'\'');
        text.extend_from_slice(shown);
        text.extend_from_slice(b"' ");
        used += shown.len() + 3;
    }
    text
}
