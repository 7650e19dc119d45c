//! Writes under which a region dies, and the record of what may be expected of them: which were
//! acknowledged, and which had been seen in another region.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::limits::{CLIENT_TIMEOUT, LOOK_EVERY, PIPELINE, WRITE_EVERY, WRITES_MAX};
use crate::redis_port::Redis;

/// The key of a numbered write.
pub fn key(number: u64) -> String {
    format!("load:{number}")
}

/// The value of a numbered write: it can be nobody else's.
pub fn value(number: u64) -> String {
    format!("written as number {number}")
}

/// Writers to one region, and watchers who look for their writes in others. Every write has a key
/// of its own.
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<Result<BTreeSet<u64>>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    next: AtomicU64,
    acknowledged: Mutex<Vec<u64>>,
}

/// What may be expected.
#[derive(Debug, Default)]
pub struct Record {
    /// Numbers of the writes that were acknowledged.
    pub acknowledged: BTreeSet<u64>,
    /// Those that were also seen in another region.
    pub replicated: BTreeSet<u64>,
}

impl Load {
    /// Starts `writers` threads that write to `target` until it fails them, and a watcher for each
    /// other region.
    ///
    /// # Errors
    /// When a region cannot be connected to.
    pub fn start(target: SocketAddr, others: &[SocketAddr], writers: usize) -> Result<Load> {
        let shared = Arc::new(Shared::default());
        let mut load = Load { shared: Arc::clone(&shared), writers: vec![], watchers: vec![] };
        for _ in 0..writers {
            let (redis, shared) = (Redis::connect(target)?, Arc::clone(&shared));
            load.writers.push(std::thread::spawn(move || write(redis, &shared)));
        }
        for other in others {
            let (redis, shared) = (Redis::connect(*other)?, Arc::clone(&shared));
            load.watchers.push(std::thread::spawn(move || watch(redis, &shared)));
        }
        Ok(load)
    }

    /// How many writes have been acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends everything and gives the record.
    ///
    /// # Errors
    /// When a watcher's region has failed it.
    pub fn stop(self) -> Result<Record> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.join().map_err(|_| anyhow!("a writer has panicked"))?;
        }
        let mut record = Record::default();
        for watcher in self.watchers {
            let seen = watcher.join().map_err(|_| anyhow!("a watcher has panicked"))?;
            record.replicated.extend(seen?);
        }
        let acknowledged = self.shared.acknowledged.lock();
        record.acknowledged =
            acknowledged.unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        Ok(record)
    }
}

/// Which of these writes a region does not hold as they were written.
///
/// # Errors
/// When the region fails.
pub fn missing(redis: &mut Redis, numbers: &BTreeSet<u64>) -> Result<Vec<u64>> {
    let keys: Vec<String> = numbers.iter().map(|number| key(*number)).collect();
    let found = redis.values(&keys)?;
    let pairs = numbers.iter().zip(found);
    Ok(pairs.filter(|(n, found)| found.as_ref() != Some(&value(**n))).map(|(n, _)| *n).collect())
}

fn write(mut redis: Redis, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let written = redis.try_call::<()>(&["SET", &key(number), &value(number)]);
        // Not acknowledged: it may be there or not, and nothing is expected of it.
        if written.is_err() {
            return;
        }
        let mut acknowledged = shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.push(number);
        if acknowledged.len() >= WRITES_MAX {
            return;
        }
        drop(acknowledged);
        std::thread::sleep(WRITE_EVERY);
    }
}

fn watch(mut redis: Redis, shared: &Shared) -> Result<BTreeSet<u64>> {
    let mut seen = BTreeSet::new();
    let mut pending: Vec<u64> = Vec::new();
    let mut taken = 0;
    loop {
        // Asked before the last look, so that the look comes after the end of the writing.
        let is_last = shared.stop.load(Ordering::Relaxed);
        {
            let acknowledged = shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            pending.extend(&acknowledged[taken..]);
            taken = acknowledged.len();
        }
        for chunk in pending.chunks(PIPELINE) {
            let chunk: BTreeSet<u64> = chunk.iter().copied().collect();
            let missing: BTreeSet<u64> = missing(&mut redis, &chunk)?.into_iter().collect();
            seen.extend(chunk.difference(&missing));
        }
        pending.retain(|number| !seen.contains(number));
        if is_last {
            return Ok(seen);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// One client with a list of endpoints: it writes to the first that takes it, and goes on with the
/// next when that fails.
pub struct Client {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Instant, usize)>>,
}

impl Client {
    /// Starts to write under keys that begin with `prefix`.
    pub fn start(prefix: &str, endpoints: Vec<SocketAddr>) -> Client {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, prefix) = (Arc::clone(&stop), prefix.to_owned());
        Client { stop, thread: std::thread::spawn(move || go_on(&prefix, &endpoints, &told)) }
    }

    /// Stops; when each write was acknowledged and by which endpoint of the list.
    ///
    /// # Errors
    /// When the thread has panicked.
    pub fn stop(self) -> Result<Vec<(Instant, usize)>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a client has panicked"))
    }
}

fn go_on(prefix: &str, endpoints: &[SocketAddr], stop: &AtomicBool) -> Vec<(Instant, usize)> {
    let mut acknowledged = Vec::new();
    let mut at = 0;
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) && acknowledged.len() < WRITES_MAX {
        let endpoint = at % endpoints.len();
        let mut redis = match connection.take() {
            Some(redis) => redis,
            None => match Redis::connect_within(endpoints[endpoint], CLIENT_TIMEOUT) {
                Ok(redis) => redis,
                Err(_) => {
                    at += 1;
                    continue;
                }
            },
        };
        let number = acknowledged.len().to_string();
        match redis.try_call::<()>(&["SET", &format!("{prefix}:{number}"), &number]) {
            Ok(()) => {
                acknowledged.push((Instant::now(), endpoint));
                connection = Some(redis);
                std::thread::sleep(WRITE_EVERY);
            }
            Err(_) => at += 1,
        }
    }
    acknowledged
}

/// The longest time between two acknowledgements after `since`.
pub fn longest_gap(acknowledged: &[(Instant, usize)], since: Instant) -> Duration {
    let later = acknowledged.iter().map(|(when, _)| *when).filter(|when| *when >= since);
    let times: Vec<Instant> = std::iter::once(since).chain(later).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_counted_from_the_beginning() {
        let since = Instant::now();
        let at = |ms| since + Duration::from_millis(ms);
        let gap = |times: &[u64]| {
            let acknowledged: Vec<_> = times.iter().map(|ms| (at(*ms), 0)).collect();
            longest_gap(&acknowledged, since).as_millis()
        };
        assert_eq!(gap(&[7, 8, 9]), 7);
        assert_eq!(gap(&[1, 2, 9]), 7);
        assert_eq!(gap(&[]), 0);
        assert_eq!(longest_gap(&[(since, 0), (at(9), 0)], at(5)), Duration::from_millis(4));
    }
}
