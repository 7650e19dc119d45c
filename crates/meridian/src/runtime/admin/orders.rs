//! What may be ordered over the admin port, and by whom: backups, by callers of this host.
//!
//! The port authenticates nobody, so an order must come from a loopback address and carry a header
//! that a web page cannot make a browser send without asking first, which is refused.

use std::path::PathBuf;
use std::sync::Arc;

use axum::{
    body::{Bytes, to_bytes},
    extract::{ConnectInfo, Request, State, connect_info::Connected},
    http::StatusCode,
    response::Response,
    serve::IncomingStream,
};
use serde_json::{Value, json};

use super::{Port, answer_json, limits::ORDER_BYTES_MAX, listener::BoundedListener};
use crate::http::ORDER_HEADER;
use crate::runtime::backups::{State as Backups, told};

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Caller(std::net::SocketAddr);

impl Connected<IncomingStream<'_, BoundedListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Caller {
        Caller(*stream.remote_addr())
    }
}

/// How backups are going.
pub async fn show(State(port): State<Arc<Port>>) -> Response {
    answer_json(StatusCode::OK, &document(&port.admin.backups.board.read()))
}

/// Orders one.
pub async fn order(State(port): State<Arc<Port>>, request: Request) -> Response {
    let refuse = |code, reason: String| answer_json(code, &json!({ "error": reason }));
    let caller = request.extensions().get::<ConnectInfo<Caller>>();
    let is_local = caller.is_some_and(|ConnectInfo(Caller(from))| from.ip().is_loopback());
    if !is_local {
        let reason = "orders are taken from this host only".to_owned();
        return refuse(StatusCode::FORBIDDEN, reason);
    }
    if !request.headers().contains_key(ORDER_HEADER) {
        return refuse(StatusCode::FORBIDDEN, format!("the header {ORDER_HEADER} is missing"));
    }
    let body = to_bytes(request.into_body(), ORDER_BYTES_MAX).await;
    let Some(directory) = body.ok().as_ref().and_then(directory) else {
        let reason = "expected {\"directory\": \"/absolute/path\"}".to_owned();
        return refuse(StatusCode::BAD_REQUEST, reason);
    };
    match port.admin.backups.order(&directory) {
        Ok(number) => answer_json(StatusCode::ACCEPTED, &json!({ "number": number })),
        Err(error) => refuse(StatusCode::CONFLICT, format!("{error:#}")),
    }
}

fn directory(body: &Bytes) -> Option<PathBuf> {
    let order: Value = serde_json::from_slice(body).ok()?;
    order.get("directory")?.as_str().map(PathBuf::from)
}

fn document(state: &Backups) -> Value {
    let running = state.running.as_ref().map(|running| {
        json!({
            "number": running.number,
            "directory": running.directory,
            "text": told(&running.progress),
        })
    });
    let finished: Vec<Value> = state
        .finished
        .iter()
        .map(|done| match &done.outcome {
            Ok(text) => json!({ "number": done.number, "text": text }),
            Err(error) => json!({ "number": done.number, "error": error }),
        })
        .collect();
    json!({ "running": running, "finished": finished })
}
