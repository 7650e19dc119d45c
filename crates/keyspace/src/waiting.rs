//! Clients that wait until this region covers their token.
//!
//! A client that waits has no reply yet, and what it sends meanwhile is put off, in order. It is
//! woken by whatever makes the region cover its token (a frame, a watermark) or by its time, at
//! the latest with the next [`Waiting::due`].

use std::collections::{BTreeMap, VecDeque};

use crate::{
    client::ClientId,
    limits::{MAX_DEFERRED_BYTES, MAX_DEFERRED_COMMANDS},
    stage::Stage,
    token::{Need, Token},
};

/// A command that was put off: its arguments.
pub type Deferred = Vec<Vec<u8>>;

/// What a client waits for.
#[derive(Clone, Debug)]
pub struct Wait {
    /// What must be covered.
    pub token: Token,
    /// For how long, in milliseconds.
    pub timeout_ms: u64,
}

/// How a wait ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The region covers the token.
    Covered(Token),
    /// It does not, and the time is up.
    Stale(Token),
}

/// A client that was woken, with what it had sent meanwhile.
#[derive(Debug)]
pub struct Woken {
    /// Who.
    pub client: ClientId,
    /// How its wait ended.
    pub outcome: Outcome,
    /// What is to be run now, in order.
    pub deferred: VecDeque<Deferred>,
}

#[derive(Debug)]
struct Place {
    wait: Wait,
    /// The first thing that was missing at the last look; the token is not covered before it is.
    need: Need,
    /// When the wait ends, by the clock of [`Waiting::due`]; set at the first look.
    until_ms: Option<u64>,
    deferred: VecDeque<Deferred>,
    deferred_bytes: usize,
}

/// All clients that wait.
#[derive(Debug, Default)]
pub struct Waiting {
    places: BTreeMap<ClientId, Place>,
    next_ms: Option<u64>,
}

impl Waiting {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// When the first of them is woken by time at the latest; not later than that is
    /// [`Waiting::due`] to be called.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.next_ms.filter(|_| !self.places.is_empty())
    }

    /// A client waits from now on. `need` is the first thing that is missing.
    pub fn add(&mut self, client: ClientId, wait: Wait, need: Need) {
        let deferred = VecDeque::new();
        let place = Place { wait, need, until_ms: None, deferred, deferred_bytes: 0 };
        self.places.insert(client, place);
    }

    /// A client is gone.
    pub fn remove(&mut self, client: ClientId) {
        self.places.remove(&client);
    }

    /// Puts off a command of a client that waits. False if there is no room for it.
    #[must_use]
    pub fn defer(&mut self, client: ClientId, args: &[&[u8]]) -> bool {
        let Some(place) = self.places.get_mut(&client) else { return false };
        place.deferred_bytes += args.iter().map(|a| a.len()).sum::<usize>();
        let fits = place.deferred.len() < MAX_DEFERRED_COMMANDS
            && place.deferred_bytes <= MAX_DEFERRED_BYTES;
        if fits {
            place.deferred.push_back(args.iter().map(|a| a.to_vec()).collect());
        }
        fits
    }

    /// Takes out the clients whose token is covered, and those whose time is up at `now_ms` (any
    /// steady clock).
    pub fn due(&mut self, stage: &Stage, now_ms: u64) -> Vec<Woken> {
        let mut ended: Vec<(ClientId, bool)> = Vec::new();
        self.next_ms = None;
        for (client, place) in &mut self.places {
            let until_ms = *place.until_ms.get_or_insert(now_ms + place.wait.timeout_ms);
            if place.need.is_met(stage) {
                match place.wait.token.missing(stage) {
                    Some(need) => place.need = need,
                    None => {
                        ended.push((*client, true));
                        continue;
                    }
                }
            }
            if now_ms >= until_ms {
                ended.push((*client, false));
            } else {
                self.next_ms = Some(self.next_ms.map_or(until_ms, |ms| ms.min(until_ms)));
            }
        }
        let woken = ended.into_iter().filter_map(|(client, covered)| {
            let place = self.places.remove(&client)?;
            let (token, deferred) = (place.wait.token, place.deferred);
            let outcome = if covered { Outcome::Covered(token) } else { Outcome::Stale(token) };
            Some(Woken { client, outcome, deferred })
        });
        woken.collect()
    }
}
