//! The admin port: health, metrics and status over HTTP, and a page for people.
//!
//! It only reads, but for orders that come from this host (`orders.rs`), and it answers when nothing else does: what the executor does not tell in time
//! is left out, and its silence is what `/healthz` reports.

mod change;
mod facts;
mod health;
mod limits;
mod listener;
mod metrics;
mod orders;
mod page;
mod process;
#[cfg(test)]
mod sample;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, RawQuery, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use meridian_disk::{Checkpoint, LogReader};
use meridian_dns::DnsHandle;
use meridian_failover::Level;
use meridian_mesh::{MeshHandle, NodeCertificate};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
};

use super::{
    backups::BackupDesk,
    capture,
    disk_check::DiskBoard,
    limits::SNAPSHOT_TIMEOUT,
    network::{ExecutorHandle, ToControl},
    plane,
    shared::Shared,
};
use crate::config::{ClusterFile, Region};
use crate::membership::protocol;
use facts::{Desk, Facts};
use listener::BoundedListener;

/// The paths, and what they tell.
const PATHS: [(&str, &str); 8] = [
    ("/", "a page that shows the cluster as this node sees it"),
    ("/healthz", "healthy, degraded (both 200) or unhealthy (503), with reasons; ?plain for text"),
    ("/readyz", "200 once the node has started"),
    ("/status", "everything about this node as JSON"),
    ("/metrics", "for Prometheus"),
    ("/backup", "how backups are going; POST from this host orders one"),
    ("/vectors", "what this node durably has of every region"),
    ("/members", "POST: changes who belongs to the cluster (meridian join, region leave, dead)"),
];

/// Where orders are taken.
const ORDERS: &str = "/backup";

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What the admin port reads.
pub struct Admin {
    /// This region.
    pub region: Region,
    /// The whole cluster.
    pub cluster: ClusterFile,
    /// Proves who this node is, and who may change the members.
    pub certificate: Arc<NodeCertificate>,
    /// Asked to change the members.
    pub control: mpsc::Sender<ToControl>,
    /// Asked for its numbers.
    pub executor: ExecutorHandle,
    /// Positions and counters.
    pub shared: Arc<Shared>,
    /// The control plane's view.
    pub view: plane::SharedView,
    /// The tailer's status.
    pub tailer: capture::SharedStatus,
    /// Sessions with peers.
    pub mesh: MeshHandle,
    /// Counts of queries.
    pub dns: DnsHandle,
    /// Bytes of log that peers have not been sent.
    pub backlog: Arc<Mutex<BTreeMap<u16, u64>>>,
    /// The log.
    pub reader: LogReader,
    /// RocksDB.
    pub checkpoint: Checkpoint,
    /// Backups.
    pub backups: BackupDesk,
    /// What has rotted.
    pub disk: Arc<DiskBoard>,
    /// When the node was started.
    pub started: Instant,
}

/// What requests share.
struct Port {
    admin: Admin,
    desk: Desk,
    requests: Semaphore,
}

impl Admin {
    /// Serves until the node ends.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn run(self) -> Result<()> {
        let address = self.region.admin;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listening for the admin port on {address}"))?;
        self.serve(listener).await
    }

    async fn serve(self, listener: TcpListener) -> Result<()> {
        let listener = BoundedListener::new(listener, limits::CONNECTIONS, limits::IDLE);
        let port = Arc::new(Port::new(self));
        let service = router(port).into_make_service_with_connect_info::<orders::Caller>();
        axum::serve(listener, service).await.context("serving the admin port")
    }
}

impl Port {
    fn new(admin: Admin) -> Port {
        Port {
            admin,
            desk: Desk::new(limits::SNAPSHOT_SHARED, SNAPSHOT_TIMEOUT),
            requests: Semaphore::new(limits::REQUESTS),
        }
    }

    async fn facts(&self) -> Facts {
        Facts::gather(&self.admin, &self.desk).await
    }
}

fn router(port: Arc<Port>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status_json))
        .route("/metrics", get(prometheus))
        .route(ORDERS, get(orders::show).post(orders::order))
        .route("/vectors", get(change::vectors))
        .route("/members", post(change::members))
        .layer(DefaultBodyLimit::max(limits::REQUEST_BYTES))
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(Arc::clone(&port), bound))
        .with_state(port)
}

/// Sends callers away when there are too many, and those who want to change something.
async fn bound(State(port): State<Arc<Port>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_order = *request.method() == Method::POST && (path == ORDERS || path == protocol::PATH);
    if !is_order && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let allow = [(header::ALLOW, "GET, HEAD")];
        return (StatusCode::METHOD_NOT_ALLOWED, allow, "only GET and HEAD\n").into_response();
    }
    let Ok(_permit) = port.requests.try_acquire() else {
        let later = [(header::RETRY_AFTER, "1")];
        return (StatusCode::SERVICE_UNAVAILABLE, later, "too many requests\n").into_response();
    };
    next.run(request).await
}

async fn index() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
    ];
    (headers, page::HTML).into_response()
}

async fn healthz(
    State(port): State<Arc<Port>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let facts = port.facts().await;
    let verdict = health::assess(&facts);
    let code = match verdict.level {
        Level::Healthy | Level::Degraded => StatusCode::OK,
        Level::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let plain = query.is_some_and(|query| query.split('&').any(|part| part.starts_with("plain")))
        || accept.is_some_and(|accept| accept.starts_with("text/plain"));
    if plain {
        let mut text = format!("{}\n", verdict.level);
        for reason in &verdict.reasons {
            text.push_str(&format!("{reason}\n"));
        }
        return answer(code, TEXT, text);
    }
    let document = json!({
        "status": verdict.level.to_string(),
        "region": facts.region,
        "reasons": verdict.reasons,
    });
    answer_json(code, &document)
}

async fn readyz(State(port): State<Arc<Port>>) -> Response {
    match health::is_ready(&port.facts().await) {
        true => answer(StatusCode::OK, TEXT, "ready\n".to_owned()),
        false => answer(
            StatusCode::SERVICE_UNAVAILABLE,
            TEXT,
            "not ready: it starts, joins or leaves\n".to_owned(),
        ),
    }
}

async fn status_json(State(port): State<Arc<Port>>) -> Response {
    answer_json(StatusCode::OK, &status::document(&port.facts().await))
}

async fn prometheus(State(port): State<Arc<Port>>) -> Response {
    match metrics::render(port.facts().await) {
        Ok(text) => answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

async fn unknown() -> Response {
    let mut text = "not found; there are\n".to_owned();
    for (path, what) in PATHS {
        text.push_str(&format!("{path:<10} {what}\n"));
    }
    answer(StatusCode::NOT_FOUND, TEXT, text)
}

fn answer_json(code: StatusCode, document: &Value) -> Response {
    answer(code, JSON, format!("{document:#}\n"))
}

/// What was true a moment ago must not come out of a cache.
fn answer(code: StatusCode, kind: &'static str, text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
    (code, headers, Body::from(text)).into_response()
}
