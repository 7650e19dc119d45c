//! Clients in front of the stage: sessions, the commit, and the release of replies.
//!
//! The order of calls is the discipline: `execute` and `apply_frame` any number of times, then
//! `commit`, which gives the log entry; after it was appended `appended`, and when the log is on
//! disk `synced`. A reply can be taken only from [`Engine::output`], which shows nothing before
//! the commit that covers it has been appended (or, with [`Durability::Always`], synced).

mod later;

use std::collections::{BTreeMap, VecDeque};

use meridian_clock::{Origin, Time, VersionVector};
use meridian_resp::{ProtocolError, Writer};
use meridian_store::LogPosition;

use crate::{
    client::{Client, ClientId, Gate},
    commands::AboutClients,
    dispatch::{Dispatcher, Environment},
    feed::Followers,
    stage::{FrameError, Stage, StageConfig},
    waiting::Waiting,
};

/// When a reply may leave, as Redis's `appendfsync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After the log is on disk.
    Always,
    /// After the log is written; it is synced at least every second.
    #[default]
    Everysec,
}

impl Durability {
    /// Redis's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Durability::Always => "always",
            Durability::Everysec => "everysec",
        }
    }
}

/// What an engine must know.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The stage's part.
    pub stage: StageConfig,
    /// When replies leave.
    pub durability: Durability,
    /// Clients must give this password first, if there is one.
    pub password: Option<String>,
    /// The cluster's name, for INFO.
    pub cluster: String,
    /// This region's name, for INFO and conflicts.
    pub region: String,
    /// The regions' names by ordinal.
    pub regions: BTreeMap<Origin, String>,
}

/// A commit that must be appended to the log before anything of it leaves.
#[must_use = "nothing of a commit may leave before its entry is in the log"]
#[derive(Debug)]
pub struct Commit {
    /// The log entry, complete; none when nothing was written.
    pub entry: Option<Vec<u8>>,
    advanced: Vec<(u16, Origin, Time)>,
}

/// What an appended entry makes durable once the log is synced up to its end.
#[derive(Clone, Debug)]
struct Advance {
    end: LogPosition,
    vectors: Vec<(u16, Origin, Time)>,
    /// Hybrid time when it was appended: all that was stamped by then is in the log before `end`.
    time: Time,
}

/// The data of one region with its clients.
#[derive(Debug)]
pub struct Engine {
    stage: Stage,
    durability: Durability,
    dispatcher: Dispatcher,
    environment: Environment,
    clients: BTreeMap<ClientId, Client>,
    /// Clients with replies from the commit that is being filled.
    replied: Vec<ClientId>,
    /// Clients that have something to send.
    ready: Vec<ClientId>,
    gates: VecDeque<Gate>,
    /// Clients in MERIDIAN.AWAIT.
    waiting: Waiting,
    /// Clients in MERIDIAN.CONFLICTS FOLLOW.
    followers: Followers,
    end: LogPosition,
    synced: LogPosition,
    /// What appended entries will make durable.
    advancing: VecDeque<Advance>,
    durable: Vec<VersionVector>,
    /// Everything stamped at or below this is durable.
    durable_time: Time,
}

impl Engine {
    /// An engine over a stage that has been restored (or is empty), whose log ends at `end`,
    /// all of it durable.
    #[must_use]
    pub fn new(config: EngineConfig, stage: Stage, end: LogPosition) -> Engine {
        Engine {
            durability: config.durability,
            dispatcher: Dispatcher::new(),
            environment: Environment::new(&config),
            clients: BTreeMap::new(),
            replied: Vec::new(),
            ready: Vec::new(),
            gates: VecDeque::new(),
            waiting: Waiting::default(),
            followers: Followers::default(),
            end,
            synced: end,
            advancing: VecDeque::new(),
            durable: stage.vectors(),
            durable_time: Time::ZERO,
            stage,
        }
    }

    /// The data.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The data, to be told what was heard of other regions.
    pub fn stage_mut(&mut self) -> &mut Stage {
        &mut self.stage
    }

    /// What commands see of the world outside, and what they count.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// What commands see of the world outside: INFO's sections, role, refusal to write.
    pub fn environment_mut(&mut self) -> &mut Environment {
        &mut self.environment
    }

    /// Tells the engine the physical time, in microseconds since 1970.
    pub fn set_physical_us(&mut self, us: u64) {
        self.stage.set_physical_us(us);
    }

    /// A connection was accepted. IDs must not repeat.
    pub fn connect(&mut self, id: ClientId, address: String) {
        let authenticated = self.environment.password.is_none();
        let since_ms = self.stage.clock().physical().as_ms();
        self.clients.insert(id, Client::new(id, address, authenticated, since_ms));
        self.environment.connections_received += 1;
        self.environment.connected = self.clients.len() as u64;
    }

    /// A connection is gone.
    pub fn disconnect(&mut self, id: ClientId) {
        if let Some(mut client) = self.clients.remove(&id) {
            self.stop_waiting(id);
            self.set_follower(id, false);
            self.environment.connected = self.clients.len() as u64;
            if !std::mem::take(&mut client.watched).is_empty() {
                self.forget_watches();
            }
        }
    }

    /// The clients.
    #[must_use]
    pub fn clients(&self) -> &BTreeMap<ClientId, Client> {
        &self.clients
    }

    /// Runs one command of a client. Its reply waits for the commit. A command of a client that
    /// [`Client::waits`] is put off until it no longer does.
    #[inline]
    pub fn execute(&mut self, id: ClientId, args: &[&[u8]]) {
        let Some(client) = self.clients.get_mut(&id).filter(|c| !c.closing) else {
            return;
        };
        if client.waits {
            return self.defer(id, args);
        }
        mark_replied(&mut self.replied, client);
        let outcome = self.dispatcher.run(&mut self.stage, &mut self.environment, client, args);
        self.stage.end_command();
        if !outcome.about_clients.is_empty() {
            self.answer_about_clients(id, outcome.about_clients);
        }
        if outcome.watch_changed {
            self.forget_watches();
        }
        self.break_watches();
        if let Some(follows) = outcome.follow {
            self.set_follower(id, follows);
        }
        if let Some(wait) = outcome.wait {
            self.start_waiting(id, wait);
        }
    }

    /// The client broke the protocol: it gets Redis's error, and the connection closes after it.
    pub fn protocol_error(&mut self, id: ClientId, error: &ProtocolError) {
        if let Some(client) = self.clients.get_mut(&id) {
            let protocol = client.protocol;
            Writer::new(&mut client.out, protocol).protocol_error(error);
            client.closing = true;
            mark_replied(&mut self.replied, client);
        }
    }

    /// Applies a frame that the gate let through.
    ///
    /// # Errors
    /// [`FrameError`]; nothing has been applied then.
    pub fn apply_frame(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        self.stage.apply_frame(bytes)?;
        self.break_watches();
        Ok(())
    }

    /// Applies a repair of a partition, given as its encoded parts.
    ///
    /// # Errors
    /// [`FrameError`]; nothing has been applied then.
    pub fn apply_repair(&mut self, parts: &[Vec<u8>]) -> Result<(), FrameError> {
        self.stage.apply_repair(parts)?;
        self.break_watches();
        Ok(())
    }

    /// Bytes in the commit that is being filled.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.stage.pending_bytes()
    }

    /// Ends the commit. Its entry must be appended, then [`Engine::appended`] called.
    pub fn commit(&mut self) -> Commit {
        self.break_watches();
        self.publish();
        match self.stage.take_entry(self.synced) {
            Some((entry, advanced)) => Commit { entry: Some(entry), advanced },
            None => Commit { entry: None, advanced: Vec::new() },
        }
    }

    /// The commit's entry is in the log, which now ends at `end`.
    pub fn appended(&mut self, commit: Commit, end: LogPosition) {
        self.end = end;
        if !commit.advanced.is_empty() {
            let (vectors, time) = (commit.advanced, self.stage.now());
            self.advancing.push_back(Advance { end, vectors, time });
        }
        let wait = self.durability == Durability::Always && self.synced < end;
        for id in std::mem::take(&mut self.replied) {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            client.replied = false;
            if wait {
                self.gates.push_back(Gate { position: end, client: id, upto: client.written() });
            } else {
                client.release(client.written());
                mark_ready(&mut self.ready, client);
            }
        }
    }

    /// The log is on disk up to `position`.
    pub fn synced(&mut self, position: LogPosition) {
        self.synced = position;
        while self.advancing.front().is_some_and(|a| a.end <= position) {
            let Some(advance) = self.advancing.pop_front() else { break };
            for (number, origin, time) in advance.vectors {
                self.durable[usize::from(number)].raise(origin, time);
            }
            self.durable_time = advance.time;
        }
        while self.gates.front().is_some_and(|g| g.position <= position) {
            let Some(gate) = self.gates.pop_front() else { break };
            if let Some(client) = self.clients.get_mut(&gate.client) {
                client.release(gate.upto);
                mark_ready(&mut self.ready, client);
            }
        }
    }

    /// Clients that have something to send, each once.
    pub fn take_ready(&mut self) -> Vec<ClientId> {
        let ready = std::mem::take(&mut self.ready);
        for id in &ready {
            if let Some(client) = self.clients.get_mut(id) {
                client.ready = false;
            }
        }
        ready
    }

    /// The client, to take its output; see [`Client::releasable`] and [`Client::consume`].
    pub fn output(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(&id)
    }

    /// What every partition has applied and made durable: all that may be told to others.
    #[must_use]
    pub fn durable_vectors(&self) -> &[VersionVector] {
        &self.durable
    }

    /// Hybrid time up to which everything written here is durable: a promise to the peers that
    /// nothing more comes from before it.
    #[must_use]
    pub fn durable_time(&self) -> Time {
        let idle = self.advancing.is_empty() && self.stage.pending_bytes() == 0;
        if idle { self.stage.now() } else { self.durable_time }
    }

    /// The log's end and how far it is durable.
    #[must_use]
    pub fn log_bounds(&self) -> (LogPosition, LogPosition) {
        (self.end, self.synced)
    }

    fn break_watches(&mut self) {
        if self.stage.watched_mut().is_empty() {
            return;
        }
        for key in self.stage.take_touched() {
            for client in self.clients.values_mut() {
                client.watch_broken |= client.watched.contains_key(&key);
            }
        }
    }

    fn forget_watches(&mut self) {
        // What was touched while the old watches held must not break the next ones.
        self.break_watches();
        let all = self.clients.values().flat_map(|c| c.watched.keys().cloned());
        *self.stage.watched_mut() = all.collect();
    }

    /// CLIENT LIST and CLIENT KILL look at more than the caller. Clients that were killed show up
    /// in [`Engine::take_ready`], closing.
    fn answer_about_clients(&mut self, id: ClientId, questions: Vec<(usize, AboutClients)>) {
        // From the last to the first: an answer moves what stands behind it.
        for (at, question) in questions.into_iter().rev() {
            let now = self.stage.now();
            let (answer, killed) = question.answer(&self.clients, id, now);
            for killed in killed {
                let Some(client) = self.clients.get_mut(&killed) else { continue };
                client.closing = true;
                mark_replied(&mut self.replied, client);
            }
            if let Some(client) = self.clients.get_mut(&id) {
                client.out.splice(at..at, answer);
            }
        }
    }
}

fn mark_ready(ready: &mut Vec<ClientId>, client: &mut Client) {
    if !client.ready {
        client.ready = true;
        ready.push(client.id);
    }
}

/// Notes that the client gets a reply with the commit that is being filled.
#[inline]
fn mark_replied(replied: &mut Vec<ClientId>, client: &mut Client) {
    if !client.replied {
        client.replied = true;
        replied.push(client.id);
    }
}
