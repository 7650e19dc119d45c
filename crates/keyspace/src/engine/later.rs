//! Clients that are written to later than they asked: those that wait in MERIDIAN.AWAIT, and those
//! that follow conflicts.

use meridian_resp::Writer;

use super::{Engine, mark_replied};
use crate::{
    client::ClientId,
    commands::tokens,
    feed::Lost,
    session,
    waiting::{Outcome, Wait},
};

impl Engine {
    /// Wakes the clients whose token is covered by now, and those that have waited long enough.
    /// To be called after frames and watermarks, and at [`Engine::next_wake_ms`] at the latest;
    /// `now_ms` is any steady clock. Commit afterwards.
    pub fn wake(&mut self, now_ms: u64) {
        if self.waiting.len() == 0 {
            return;
        }
        for woken in self.waiting.due(&self.stage, now_ms) {
            self.environment.waiting = self.waiting.len() as u64;
            let Some(client) = self.clients.get_mut(&woken.client) else { continue };
            client.waits = false;
            if client.closing {
                continue;
            }
            mark_replied(&mut self.replied, client);
            match woken.outcome {
                Outcome::Covered(token) => {
                    session::begin(client, &self.stage).join(&token);
                    self.environment.awaits.waited += 1;
                    Writer::new(&mut client.out, client.protocol).ok();
                }
                Outcome::Stale(token) => {
                    let mut reply = Writer::new(&mut client.out, client.protocol);
                    tokens::stale(&mut reply, &self.stage, &mut self.environment, &token);
                }
            }
            for command in woken.deferred {
                let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                self.execute(woken.client, &args);
            }
        }
    }

    /// When [`Engine::wake`] must be called though nothing has arrived.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.waiting.next_ms()
    }

    /// What a client sends while it waits is run afterwards. One that sends more than may wait is
    /// disconnected.
    pub(super) fn defer(&mut self, id: ClientId, args: &[&[u8]]) {
        if self.waiting.defer(id, args) {
            return;
        }
        if let Some(client) = self.clients.get_mut(&id) {
            Writer::new(&mut client.out, client.protocol)
                .error("ERR too many commands behind MERIDIAN.AWAIT");
            client.closing = true;
            mark_replied(&mut self.replied, client);
        }
        self.stop_waiting(id);
    }

    pub(super) fn stop_waiting(&mut self, id: ClientId) {
        self.waiting.remove(id);
        self.environment.waiting = self.waiting.len() as u64;
    }

    pub(super) fn start_waiting(&mut self, id: ClientId, wait: Wait) {
        let Some(need) = wait.token.missing(&self.stage) else { return };
        self.waiting.add(id, wait, need);
        self.environment.waiting = self.waiting.len() as u64;
        if let Some(client) = self.clients.get_mut(&id) {
            client.waits = true;
        }
    }

    pub(super) fn set_follower(&mut self, id: ClientId, follows: bool) {
        // What happened before concerns those who followed before.
        self.publish();
        self.followers.set(id, follows);
        self.environment.followers = self.followers.len() as u64;
        self.stage.conflicts_mut().follow(self.followers.len() > 0);
    }

    /// Tells followers what has happened to conflicts in the commit that is being filled.
    pub(super) fn publish(&mut self) {
        if self.followers.len() == 0 {
            return;
        }
        let (events, missed) = self.stage.conflicts_mut().take_events();
        let missed = missed.map(|(first, last)| Lost { first, last });
        let (clients, env) = (&mut self.clients, &mut self.environment);
        for id in self.followers.publish(&events, missed, clients, env) {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            mark_replied(&mut self.replied, client);
        }
    }
}
