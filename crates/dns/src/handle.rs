//! What the rest of a node sees of its DNS server: a table to replace and counters to read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use meridian_failover::DnsTable;

/// Publishes tables and reads counters. Clones refer to the same server.
#[derive(Debug, Clone)]
pub struct DnsHandle {
    shared: Arc<Shared>,
}

/// Queries since the start, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DnsCounts {
    /// Received over UDP.
    pub udp: u64,
    /// Received over TCP.
    pub tcp: u64,
    /// Answered with records.
    pub answered: u64,
    /// The name exists, but not with the type asked for.
    pub no_data: u64,
    /// The name does not exist.
    pub no_such_name: u64,
    /// Outside of the zone, or nothing that this server does.
    pub refused: u64,
    /// Not a DNS query.
    pub malformed: u64,
    /// With a client subnet.
    pub with_subnet: u64,
    /// The answer could not be sent.
    pub send_failed: u64,
}

#[derive(Debug)]
pub(crate) struct Shared {
    /// Replaced as a whole; a query keeps the one that it began with.
    table: RwLock<Arc<DnsTable>>,
    pub(crate) counters: Counters,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) udp: AtomicU64,
    pub(crate) tcp: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) no_data: AtomicU64,
    pub(crate) no_such_name: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) with_subnet: AtomicU64,
    pub(crate) send_failed: AtomicU64,
}

impl DnsHandle {
    pub(crate) fn new(table: DnsTable) -> Self {
        let shared = Shared { table: RwLock::new(Arc::new(table)), counters: Counters::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Answers from `table` from the next query on.
    pub fn publish(&self, table: DnsTable) {
        let table = Arc::new(table);
        *self.shared.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// The table in use.
    pub fn table(&self) -> Arc<DnsTable> {
        // Nothing can panic under this lock, and a table is whole or absent.
        Arc::clone(&self.shared.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The counters now.
    pub fn counts(&self) -> DnsCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = self.counters();
        DnsCounts {
            udp: read(&counters.udp),
            tcp: read(&counters.tcp),
            answered: read(&counters.answered),
            no_data: read(&counters.no_data),
            no_such_name: read(&counters.no_such_name),
            refused: read(&counters.refused),
            malformed: read(&counters.malformed),
            with_subnet: read(&counters.with_subnet),
            send_failed: read(&counters.send_failed),
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
