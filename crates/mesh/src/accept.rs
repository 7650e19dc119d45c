//! The side that is called: looks at certificates, passes known peers on, turns the others away.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use quinn::{Connection, Endpoint, Incoming};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};

use crate::identity;
use crate::limits::{ESTABLISH_TIMEOUT, HANDSHAKES_BEFORE_RETRY, HANDSHAKES_MAX};
use crate::mesh::MeshEvent;
use crate::peer::{Established, Peer};
use crate::refusal::{self, Refusal, RefusalCounters};
use crate::session::{self, OpenError};

/// What the acceptor knows.
pub(crate) struct Acceptor {
    pub(crate) me: u16,
    pub(crate) cluster: String,
    /// By region name: every peer, and where its calls go if it is the one to call.
    pub(crate) callers: RwLock<BTreeMap<String, Known>>,
    /// Regions that were members and are not any more.
    pub(crate) retired: RwLock<BTreeMap<String, Refusal>>,
    /// Told when this region itself is no member any more. Weak: the mesh ends when nobody
    /// listens.
    pub(crate) events: mpsc::WeakSender<MeshEvent>,
    /// Refused before it was certain who called.
    pub(crate) refused: RefusalCounters,
}

/// A peer, and where its calls go if it is the one to call.
type Known = (Arc<Peer>, Option<mpsc::Sender<Established>>);

/// A known peer, and where its connections go.
type Caller = (Arc<Peer>, mpsc::Sender<Established>);

/// Accepts calls until the endpoint is closed.
pub(crate) async fn run(acceptor: Arc<Acceptor>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut sequence = 0;
    while let Some(incoming) = endpoint.accept().await {
        let remote = incoming.remote_address();
        let under_way = HANDSHAKES_MAX - handshakes.available_permits();
        if under_way >= HANDSHAKES_BEFORE_RETRY && incoming.may_retry() {
            // Costs nothing here and proves that the address is not forged.
            if incoming.retry().is_err() {
                acceptor.count_refusal(Refusal::Overload, remote, "could not ask to retry");
            }
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            acceptor.count_refusal(Refusal::Overload, remote, "too many handshakes");
            continue;
        };
        sequence += 1;
        let acceptor = acceptor.clone();
        let order = sequence;
        tokio::spawn(async move {
            acceptor.answer(incoming, order).await;
            drop(permit);
        });
    }
}

impl Acceptor {
    async fn answer(&self, incoming: Incoming, sequence: u64) {
        let remote = incoming.remote_address();
        let answered = async {
            let connecting = match incoming.accept() {
                Ok(connecting) => connecting,
                Err(error) => {
                    self.count_failure(&error, remote);
                    return None;
                }
            };
            match connecting.await {
                Ok(connection) => self.admit(connection, sequence).await,
                Err(error) => {
                    self.count_failure(&error, remote);
                    None
                }
            }
        };
        let Ok(admitted) = tokio::time::timeout(ESTABLISH_TIMEOUT, answered).await else {
            self.count_refusal(Refusal::Slow, remote, "the handshake did not end");
            return;
        };
        if let Some((calls, established)) = admitted {
            // The peer's task always listens; when it has ended, so has the mesh.
            drop(calls.send(established).await);
        }
    }

    /// Checks who calls, then opens the lanes.
    async fn admit(
        &self,
        connection: Connection,
        sequence: u64,
    ) -> Option<(mpsc::Sender<Established>, Established)> {
        let remote = connection.remote_address();
        let (peer, calls) = match self.caller(&connection) {
            Ok(caller) => caller,
            Err((refusal, detail)) => {
                connection.close(refusal.close_code(), refusal.as_str().as_bytes());
                self.count_refusal(refusal, remote, &detail);
                return None;
            }
        };
        match session::open_lanes(&connection, self.me, peer.ordinal).await {
            Ok(lanes) => Some((calls, Established { connection, lanes, sequence })),
            Err(OpenError::Refused(refusal)) => {
                connection.close(refusal.close_code(), refusal.as_str().as_bytes());
                peer.count_refusal(refusal, "while opening lanes");
                None
            }
            Err(OpenError::Lost(error)) => {
                if let Some(refusal) = refusal::expelled_by(&error)
                    && let Some(events) = self.events.upgrade()
                {
                    peer.count_refusal(refusal, "by the peer");
                    let expelled = MeshEvent::Expelled { peer: peer.ordinal, refusal };
                    drop(events.send(expelled).await);
                } else if let Some(refusal) = refusal::of_connection_error(&error, false) {
                    let detail = refusal::printable(error.to_string().as_bytes());
                    peer.count_refusal(refusal, &detail);
                }
                None
            }
        }
    }

    fn caller(&self, connection: &Connection) -> Result<Caller, (Refusal, String)> {
        let chain = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
        let Some(certificate) = chain.as_ref().and_then(|chain| chain.first()) else {
            return Err((Refusal::NoCertificate, String::new()));
        };
        let region = identity::region_of(certificate, &self.cluster)
            .map_err(|refusal| (refusal, "not a certificate of this cluster".to_owned()))?;
        let callers = self.callers.read().unwrap_or_else(PoisonError::into_inner);
        match callers.get(&region) {
            Some((peer, Some(calls))) => Ok((peer.clone(), calls.clone())),
            Some((_, None)) => Err((Refusal::WrongDirection, region)),
            None => {
                let retired = self.retired.read().unwrap_or_else(PoisonError::into_inner);
                let why = retired.get(&region).copied();
                Err((why.unwrap_or(Refusal::UnknownRegion), region))
            }
        }
    }

    fn count_failure(&self, error: &quinn::ConnectionError, remote: std::net::SocketAddr) {
        let detail = refusal::printable(error.to_string().as_bytes());
        match refusal::of_connection_error(error, false) {
            Some(refusal) => self.count_refusal(refusal, remote, &detail),
            None => tracing::debug!(%remote, detail, "a call ended early"),
        }
    }

    /// Counts a refusal; logs the first, second, fourth and so on: strangers may try for ever.
    fn count_refusal(&self, refusal: Refusal, remote: std::net::SocketAddr, detail: &str) {
        let count = self.refused.add(refusal);
        if count.is_power_of_two() {
            tracing::warn!(%remote, reason = %refusal, count, detail, "a caller was refused");
        }
    }
}
