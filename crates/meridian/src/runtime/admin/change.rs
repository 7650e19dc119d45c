//! `POST /members`: an operator's request to change who belongs to the cluster, vouched for by a
//! certificate of the cluster; and `GET /vectors`, what this node has of everybody.

use std::sync::Arc;

use axum::{body::Bytes, extract::State, http::StatusCode, response::Response};
use meridian_failover::{ControlState, MemberAddresses, MemberChange};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::{
    JSON, Port, TEXT, answer, answer_json,
    limits::{REQUEST_AGE_MS, REQUEST_TIMEOUT},
};
use crate::membership::protocol::{Joined, MemberRequest, Signed, to_hex};
use crate::runtime::{executor::unix_us, network::ToControl};

/// Why a request is refused: the status and a text for the operator.
type Refused = (StatusCode, String);

/// `POST /members`.
pub async fn members(State(port): State<Arc<Port>>, body: Bytes) -> Response {
    match change(&port, &body).await {
        Ok(document) => answer(StatusCode::OK, JSON, document),
        Err((code, text)) => answer(code, TEXT, format!("{text}\n")),
    }
}

async fn change(port: &Port, body: &[u8]) -> Result<String, Refused> {
    let admin = &port.admin;
    let bad = |text: String| (StatusCode::BAD_REQUEST, text);
    let forbidden = |text: String| (StatusCode::FORBIDDEN, text);
    let signed: Signed = serde_json::from_slice(body).map_err(|e| bad(e.to_string()))?;
    let (signer, request) = signed
        .open(&admin.certificate, &admin.cluster.cluster)
        .map_err(|error| forbidden(format!("{error:#}")))?;
    if request.at_ms().abs_diff(unix_us() / 1000) > REQUEST_AGE_MS {
        return Err(forbidden("the request is old, or a clock is off".to_owned()));
    }
    let (change, joins) = translate(port, &signer, request)?;
    let (reply, decided) = oneshot::channel();
    let asked = admin.control.send(ToControl::Member(change, reply)).await;
    asked.map_err(|_| unavailable("the control plane has ended"))?;
    let decided = tokio::time::timeout(REQUEST_TIMEOUT, decided).await;
    let state = match decided {
        Ok(Ok(decided)) => decided.map_err(|text| (StatusCode::CONFLICT, text))?,
        Ok(Err(_)) | Err(_) => return Err(unavailable("the control plane does not answer")),
    };
    tracing::info!(by = signer, epoch = state.epoch, "the members were changed on request");
    let document = match joins {
        Some((name, token)) => joined(port, &state, &name, token)?,
        None => json!({ "epoch": state.epoch }),
    };
    Ok(document.to_string())
}

/// The request as a change of the list; and who joins, if it is that.
fn translate(
    port: &Port,
    signer: &str,
    request: MemberRequest,
) -> Result<(MemberChange, Option<(String, u64)>), Refused> {
    let region = |name: &str| {
        let view = port.admin.view.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let view = view.as_ref().ok_or_else(|| unavailable("this node is starting"))?;
        let found = view.state.members.named(name).map(|(ordinal, _)| ordinal);
        found.ok_or_else(|| (StatusCode::NOT_FOUND, format!("there is no region {name}")))
    };
    Ok(match request {
        MemberRequest::Leave { name, .. } => (MemberChange::Leave { region: region(&name)? }, None),
        MemberRequest::Dead { name, .. } => (MemberChange::Dead { region: region(&name)? }, None),
        MemberRequest::Join { name, token, mesh, redis, admin, dns, clients, .. } => {
            if name != signer {
                let text = format!("{signer} cannot join as {name}");
                return Err((StatusCode::FORBIDDEN, text));
            }
            let (redis, admin, dns) = (Some(redis), Some(admin), Some(dns));
            let addresses = MemberAddresses { mesh, redis, admin, dns, clients };
            let joins = Some((name.clone(), token));
            (MemberChange::Add { name, token, addresses }, joins)
        }
    })
}

/// What a region that joins is told.
fn joined(port: &Port, state: &ControlState, name: &str, token: u64) -> Result<Value, Refused> {
    let internal = |text: String| (StatusCode::INTERNAL_SERVER_ERROR, text);
    let mut cluster = port.admin.cluster.clone();
    // Paths are of this machine.
    cluster.data_dir = None;
    cluster.regions.iter_mut().for_each(|region| region.certificates = None);
    let topology = serde_yaml_ng::to_string(&cluster).map_err(|e| internal(e.to_string()))?;
    let ordinal = state.members.joined_as(name, token);
    let ordinal = ordinal.ok_or_else(|| internal("the new region is not there".to_owned()))?;
    let told = Joined { ordinal, state: to_hex(&state.encode()), topology };
    serde_json::to_value(told).map_err(|e| internal(e.to_string()))
}

/// `GET /vectors`: for each partition, by ordinal, the stamp up to which this node durably has all
/// that the origin wrote.
pub async fn vectors(State(port): State<Arc<Port>>) -> Response {
    let facts = port.facts().await;
    let Some(snapshot) = &facts.snapshot else {
        let text = "the executor does not answer\n".to_owned();
        return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text);
    };
    let vector = |vector: &meridian_clock::VersionVector| {
        let times = vector.iter().map(|(origin, time)| (origin.to_string(), json!(time.0)));
        Value::Object(times.collect::<Map<_, _>>())
    };
    let vectors: Vec<Value> = snapshot.vectors.iter().map(vector).collect();
    answer_json(StatusCode::OK, &json!({ "cluster": facts.cluster, "vectors": vectors }))
}

fn unavailable(text: &str) -> Refused {
    (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
}
