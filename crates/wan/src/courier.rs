//! The thread that delivers packets when they are due.
//!
//! One thread for all links, sleeping on a condition variable: runtime timers tick in milliseconds,
//! a futex wakes within some tens of microseconds, and the delay is what this crate is for.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::limits::{BATCH, IN_FLIGHT_BYTES_MAX};
use crate::path::{Path, Shape, Verdict};
use crate::schedule::Schedule;

/// One direction of a link and what has happened on it.
#[derive(Debug)]
pub(crate) struct Line {
    path: Mutex<Path>,
    pub(crate) forwarded: AtomicU64,
    pub(crate) forwarded_bytes: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) cut: AtomicU64,
    pub(crate) overflowed: AtomicU64,
}

impl Line {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        Line {
            path: Mutex::new(Path::new(shape, seed)),
            forwarded: AtomicU64::new(0),
            forwarded_bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        }
    }

    pub(crate) fn path(&self) -> MutexGuard<'_, Path> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A datagram on its way.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) line: Arc<Line>,
    pub(crate) socket: Arc<UdpSocket>,
    /// None: the socket is connected.
    pub(crate) to: Option<SocketAddr>,
    pub(crate) bytes: Box<[u8]>,
}

/// Accepts packets from the receiving tasks and delivers them.
#[derive(Debug)]
pub(crate) struct Courier {
    started: Instant,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug)]
struct Queue {
    schedule: Schedule<Packet>,
    is_stopped: bool,
}

impl Courier {
    /// Starts the delivering thread; it ends after [`Courier::stop`].
    pub(crate) fn start() -> std::io::Result<(Arc<Courier>, JoinHandle<()>)> {
        let courier = Arc::new(Courier {
            started: Instant::now(),
            queue: Mutex::new(Queue {
                schedule: Schedule::new(IN_FLIGHT_BYTES_MAX),
                is_stopped: false,
            }),
            wake: Condvar::new(),
        });
        let delivering = courier.clone();
        let thread = std::thread::Builder::new()
            .name("wan-courier".into())
            .spawn(move || delivering.deliver())?;
        Ok((courier, thread))
    }

    /// Takes packets that arrived just now; the fate of each is the line's to decide.
    pub(crate) fn send(&self, packets: &mut Vec<Packet>) {
        if packets.is_empty() {
            return;
        }
        let now = self.now();
        let mut queue = self.lock();
        let first_due = queue.schedule.next_due();
        for packet in packets.drain(..) {
            let line = packet.line.clone();
            let size = packet.bytes.len();
            let verdict = line.path().admit(now, size);
            match verdict {
                Verdict::Lost => drop(line.lost.fetch_add(1, Relaxed)),
                Verdict::Cut => drop(line.cut.fetch_add(1, Relaxed)),
                Verdict::Deliver(due) => {
                    if queue.schedule.push(due, size, packet).is_err() {
                        line.overflowed.fetch_add(1, Relaxed);
                    }
                }
            }
        }
        let next_due = queue.schedule.next_due();
        drop(queue);
        if next_due != first_due {
            self.wake.notify_one();
        }
    }

    /// Ends the delivering thread; what is in flight is lost.
    pub(crate) fn stop(&self) {
        self.lock().is_stopped = true;
        self.wake.notify_one();
    }

    fn deliver(&self) {
        let mut due = Vec::with_capacity(BATCH);
        let mut queue = self.lock();
        while !queue.is_stopped {
            let now = self.now();
            while due.len() < BATCH
                && let Some((_, packet)) = queue.schedule.pop_due(now)
            {
                due.push(packet);
            }
            if !due.is_empty() {
                drop(queue);
                due.drain(..).for_each(deliver_one);
                queue = self.lock();
                continue;
            }
            queue = match queue.schedule.next_due() {
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let wait = Duration::from_micros(next.saturating_sub(now));
                    self.wake.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Microseconds since the start.
    fn now(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn deliver_one(packet: Packet) {
    let line = &packet.line;
    if line.path().is_cut() {
        line.cut.fetch_add(1, Relaxed);
        return;
    }
    let sent = match packet.to {
        Some(to) => packet.socket.send_to(&packet.bytes, to),
        None => packet.socket.send(&packet.bytes),
    };
    // A full socket buffer drops, as routers do; a closed port at the far end is the far end's news.
    match sent {
        Ok(_) => {
            line.forwarded.fetch_add(1, Relaxed);
            line.forwarded_bytes.fetch_add(packet.bytes.len() as u64, Relaxed);
        }
        Err(_) => drop(line.overflowed.fetch_add(1, Relaxed)),
    }
}
