//! What waits to be sent on a lane: bounded in bytes, filled from any thread, emptied in batches.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::framing;
use crate::lane::Lane;
use crate::limits::{
    BATCH_BYTES, BULK_QUEUE_BYTES_MAX, CONTROL_QUEUE_BYTES_MAX, LIVE_QUEUE_BYTES_MAX,
    MESSAGE_BYTES_MAX, MESSAGE_OVERHEAD_BYTES,
};

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The lane holds as much as it may. [`crate::MeshEvent::Writable`] tells when to try again.
    #[error("the lane is full")]
    Full,
    /// There is no such session any more.
    #[error("the session is gone")]
    Gone,
    /// The message is larger than [`MESSAGE_BYTES_MAX`].
    #[error("the message is too large")]
    TooLarge,
}

/// A lane's queue.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Bytes>,
    /// Bytes queued and bytes taken but not yet released, with overheads; at most `bytes_max`.
    charged: usize,
    /// A sender was turned away and waits to hear that there is room.
    is_awaited: bool,
    is_closed: bool,
}

/// Messages taken from an [`Outbox`], framed one after the other.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) framed: Vec<u8>,
    pub(crate) messages: u64,
    charged: usize,
}

impl Outbox {
    pub(crate) fn new(lane: Lane) -> Outbox {
        let bytes_max = match lane {
            Lane::Control => CONTROL_QUEUE_BYTES_MAX,
            Lane::Live => LIVE_QUEUE_BYTES_MAX,
            Lane::Bulk => BULK_QUEUE_BYTES_MAX,
        };
        Outbox { state: Mutex::default(), filled: Notify::new(), bytes_max }
    }

    /// Queues a message; never waits.
    pub(crate) fn push(&self, message: Bytes) -> Result<(), SendError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLarge);
        }
        let mut state = self.lock();
        if state.is_closed {
            return Err(SendError::Gone);
        }
        let charge = charge_of(&message);
        if state.charged + charge > self.bytes_max {
            state.is_awaited = true;
            return Err(SendError::Full);
        }
        state.charged += charge;
        state.queue.push_back(message);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits for messages and takes as many as make a batch; [`Outbox::release`] it when written.
    pub(crate) async fn take(&self) -> Batch {
        loop {
            if let Some(batch) = self.try_take() {
                return batch;
            }
            self.filled.notified().await;
        }
    }

    /// Gives back the room that a batch took. True: someone was turned away, and now there is room
    /// again (half of the queue, so that senders come back for more than one message).
    pub(crate) fn release(&self, batch: Batch) -> bool {
        let mut state = self.lock();
        state.charged -= batch.charged;
        let is_roomy = state.is_awaited && state.charged <= self.bytes_max / 2;
        if is_roomy {
            state.is_awaited = false;
        }
        is_roomy
    }

    /// Refuses messages from now on and forgets those that wait.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.queue.clear();
    }

    /// Bytes that wait or are being written.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().charged
    }

    fn try_take(&self) -> Option<Batch> {
        let mut state = self.lock();
        let mut taken: Vec<Bytes> = Vec::new();
        let (mut size, mut charged) = (0, 0);
        while let Some(message) = state.queue.front() {
            let framed = framing::HEADER_BYTES + message.len();
            if !taken.is_empty() && size + framed > BATCH_BYTES {
                break;
            }
            size += framed;
            charged += charge_of(message);
            taken.extend(state.queue.pop_front());
        }
        // Senders wait for this lock: copy outside it.
        drop(state);
        if taken.is_empty() {
            return None;
        }
        let mut framed = Vec::with_capacity(size);
        taken.iter().for_each(|message| framing::append(&mut framed, message));
        Some(Batch { framed, messages: taken.len() as u64, charged })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn charge_of(message: &Bytes) -> usize {
    message.len() + MESSAGE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> Bytes {
        vec![b'x'; size].into()
    }

    #[test]
    fn many_small_messages_leave_together_and_large_ones_alone() {
        let outbox = Outbox::new(Lane::Live);
        for _ in 0..100 {
            outbox.push(message(10)).expect("room");
        }
        outbox.push(message(MESSAGE_BYTES_MAX)).expect("room");
        outbox.push(message(10)).expect("room");
        let counts: Vec<_> =
            std::iter::from_fn(|| outbox.try_take()).map(|batch| batch.messages).collect();
        assert_eq!(counts, [100, 1, 1]);
    }

    #[test]
    fn is_bounded_and_tells_once_when_there_is_room() {
        let outbox = Outbox::new(Lane::Bulk);
        let size = 100_000;
        let mut accepted = 0;
        while outbox.push(message(size)).is_ok() {
            accepted += 1;
        }
        assert_eq!(accepted, BULK_QUEUE_BYTES_MAX / (size + MESSAGE_OVERHEAD_BYTES));
        assert_eq!(outbox.push(message(size)), Err(SendError::Full));
        let mut told = 0;
        while let Some(batch) = outbox.try_take() {
            // What is being written counts until it is written.
            assert!(outbox.queued_bytes() >= batch.charged);
            told += usize::from(outbox.release(batch));
        }
        assert_eq!((told, outbox.queued_bytes()), (1, 0));
    }

    #[test]
    fn small_messages_are_bounded_too() {
        let outbox = Outbox::new(Lane::Control);
        let accepted = std::iter::repeat_with(|| outbox.push(Bytes::new()))
            .take_while(|pushed| pushed.is_ok())
            .count();
        assert_eq!(accepted, CONTROL_QUEUE_BYTES_MAX / MESSAGE_OVERHEAD_BYTES);
    }

    #[test]
    fn refuses_what_is_too_large_and_everything_once_closed() {
        let outbox = Outbox::new(Lane::Control);
        assert_eq!(outbox.push(message(MESSAGE_BYTES_MAX + 1)), Err(SendError::TooLarge));
        outbox.push(message(1)).expect("room");
        outbox.close();
        assert_eq!(outbox.push(message(1)), Err(SendError::Gone));
        assert!(outbox.try_take().is_none());
    }
}
