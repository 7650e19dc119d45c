//! The feed of conflicts: who follows it, and what of it found no room.
//!
//! Messages go behind what the client is still to be sent. A follower that does not read them
//! costs a bounded amount of memory: beyond it events are dropped, and when there is room again the
//! follower is told which.

use std::collections::BTreeMap;

use meridian_resp::Writer;

use crate::{
    client::{Client, ClientId},
    commands::conflict_message,
    conflicts::ConflictEvent,
    dispatch::Environment,
    limits::MAX_FEED_BACKLOG_BYTES,
};

/// A run of events that a follower was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The first one's number.
    pub first: u64,
    /// The last one's number.
    pub last: u64,
}

/// All that follow the feed, and what they have lost and do not know yet.
#[derive(Debug, Default)]
pub struct Followers {
    clients: BTreeMap<ClientId, Option<Lost>>,
}

impl Followers {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// A client follows from now on, or no longer.
    pub fn set(&mut self, client: ClientId, follows: bool) {
        if follows {
            self.clients.entry(client).or_default();
        } else {
            self.clients.remove(&client);
        }
    }

    /// Writes what has happened to every follower's output, as far as it has room; returns those
    /// that got something. `missed` are the numbers of events that were lost before, behind
    /// `events`.
    pub fn publish(
        &mut self,
        events: &[ConflictEvent],
        missed: Option<Lost>,
        clients: &mut BTreeMap<ClientId, Client>,
        env: &mut Environment,
    ) -> Vec<ClientId> {
        let mut told = Vec::new();
        for (id, lost) in &mut self.clients {
            let Some(client) = clients.get_mut(id).filter(|c| !c.closing) else { continue };
            let before = client.out.len();
            for event in events {
                let mut message = Vec::new();
                if let Some(lost) = lost {
                    conflict_message::lost(&mut Writer::new(&mut message, client.protocol), *lost);
                }
                let mut writer = Writer::new(&mut message, client.protocol);
                conflict_message::event(&mut writer, env, event);
                if client.backlog() + message.len() <= MAX_FEED_BACKLOG_BYTES {
                    client.out.extend_from_slice(&message);
                    *lost = None;
                } else {
                    note(lost, Lost { first: event.sequence, last: event.sequence }, env);
                }
            }
            if let Some(missed) = missed {
                note(lost, missed, env);
            }
            if let Some(gone) = *lost
                && client.backlog() <= MAX_FEED_BACKLOG_BYTES / 2
            {
                conflict_message::lost(&mut Writer::new(&mut client.out, client.protocol), gone);
                *lost = None;
            }
            if client.out.len() > before {
                told.push(*id);
            }
        }
        told
    }
}

fn note(lost: &mut Option<Lost>, more: Lost, env: &mut Environment) {
    env.feed_dropped += more.last - more.first + 1;
    lost.get_or_insert(more).last = more.last;
}
