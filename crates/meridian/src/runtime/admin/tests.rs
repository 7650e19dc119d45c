//! The port over real sockets, before a real log, checkpoint, mesh and DNS server. The executor
//! is played by the test, which answers for it or does not.

use std::net::SocketAddr;

use meridian_clock::Origin;
use meridian_disk::{DataDir, DiskOptions};
use meridian_dns::{DnsConfig, DnsServer};
use meridian_failover::{ControlState, DnsTable};
use meridian_mesh::{ClusterCa, Mesh, MeshConfig, MeshEvent, PeerConfig};
use meridian_store::{Identity, LogPosition};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use super::*;
use crate::{
    config::EXAMPLE,
    runtime::{inbound::ToExecutor, snapshot::Snapshot},
};

#[test]
fn the_examples_of_deployments_have_sound_topologies() {
    let compose = include_str!("../../../../../deploy/compose/regions.yaml");
    let kubernetes = include_str!("../../../../../deploy/kubernetes/region.yaml");
    let documents = serde_yaml_ng::Deserializer::from_str(kubernetes);
    let map = documents
        .map(|document| serde_yaml_ng::Value::deserialize(document).unwrap())
        .find(|document| document["kind"] == "ConfigMap")
        .unwrap();
    for topology in [compose, map["data"]["regions.yaml"].as_str().unwrap()] {
        let cluster = ClusterFile::parse(topology).unwrap();
        assert_eq!(cluster.regions.len(), 3);
    }
}

/// A node without an executor.
struct Parts {
    admin: Option<Admin>,
    ca: ClusterCa,
    requests: Option<mpsc::Receiver<ToControl>>,
    questions: mpsc::Receiver<ToExecutor>,
    _poll: mio::Poll,
    _events: mpsc::Receiver<MeshEvent>,
    _dns: DnsServer,
    _directory: tempfile::TempDir,
}

async fn parts() -> Parts {
    let cluster = ClusterFile::parse(EXAMPLE).unwrap();
    let region = cluster.regions[0].clone();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();

    let directory = tempfile::tempdir().unwrap();
    let identity = Identity {
        cluster: cluster.cluster.clone(),
        region: region.name.clone(),
        origin: Origin(region.ordinal),
        partitions: cluster.partitions,
    };
    let path = directory.path().join("data");
    let opened = DataDir::open(&path, &identity, DiskOptions::default()).unwrap();

    let ca = ClusterCa::create().unwrap();
    let certificate = ca.issue(&region.name, &cluster.cluster).unwrap();
    let own = Arc::new(ca.issue(&region.name, &cluster.cluster).unwrap());
    let (control, requests) = mpsc::channel(8);
    let nobody = std::net::UdpSocket::bind(any).unwrap().local_addr().unwrap();
    let peer = &cluster.regions[1];
    let mesh = MeshConfig {
        listen: any,
        cluster: cluster.cluster.clone(),
        ordinal: region.ordinal,
        name: region.name.clone(),
        peers: vec![PeerConfig {
            ordinal: peer.ordinal,
            name: peer.name.clone(),
            address: nobody.to_string(),
        }],
        certificate,
    };
    let (mesh_events, events) = mpsc::channel(8);
    let mesh = Mesh::start(mesh, mesh_events).unwrap();

    let state = ControlState::initial(&cluster.failover_config(region.ordinal)).unwrap();
    let topology = cluster.dns_topology().unwrap();
    let table = DnsTable::compute(&state, &topology, &Default::default());
    let zone = &cluster.dns;
    let dns = DnsConfig {
        listen: any,
        zone: zone.zone.clone(),
        names: zone.names.clone(),
        ttl_s: zone.ttl_s,
    };
    let dns = DnsServer::start(&dns, table).await.unwrap();

    let (sender, questions) = mpsc::channel(8);
    let poll = mio::Poll::new().unwrap();
    let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
    let admin = Admin {
        region,
        cluster,
        certificate: own,
        control,
        executor: ExecutorHandle::new(sender, waker),
        shared: Arc::new(Shared::new(LogPosition(0), LogPosition(0))),
        view: Arc::default(),
        tailer: Arc::default(),
        mesh,
        dns: dns.handle(),
        backlog: Arc::default(),
        reader: opened.reader,
        checkpoint: opened.checkpoint,
        backups: crate::runtime::backups::desk(None).0,
        disk: Arc::default(),
        started: Instant::now(),
    };
    Parts {
        admin: Some(admin),
        ca,
        requests: Some(requests),
        questions,
        _poll: poll,
        _events: events,
        _dns: dns,
        _directory: directory,
    }
}

/// Posts a request; the code and the body.
async fn post(address: SocketAddr, body: &str) -> (u16, String) {
    let patience = std::time::Duration::from_secs(30);
    let answer = crate::http::post(address, "/members", body, patience).await.unwrap();
    (answer.status, answer.body)
}

#[tokio::test]
async fn the_members_are_changed_by_who_can_prove_it_only() {
    use crate::membership::protocol::{Joined, MemberRequest, Signed};
    use meridian_failover::MemberChange;

    let mut parts = parts().await;
    let admin = parts.admin.take().unwrap();
    let founders = admin.cluster.founders();
    let config = admin.cluster.failover_config(admin.region.ordinal);
    let state = ControlState::founding(&config, founders).unwrap();
    *admin.view.lock().unwrap() = Some(crate::runtime::admin::sample::view_of(state.clone()));
    let cluster = admin.cluster.cluster.clone();
    let mut requests = parts.requests.take().unwrap();
    tokio::spawn(async move {
        while let Some(ToControl::Member(change, reply)) = requests.recv().await {
            let _ = reply.send(state.after_member(&change).map_err(|e| e.to_string()));
            assert!(!matches!(change, MemberChange::Left { .. }));
        }
    });
    let address = serve(admin).await;
    let at_ms = crate::runtime::unix_ms();
    let join = |name: &str| MemberRequest::Join {
        name: name.to_owned(),
        token: 7,
        mesh: "127.0.0.9:7400".to_owned(),
        redis: "127.0.0.9:7379".parse().unwrap(),
        admin: "127.0.0.9:7500".parse().unwrap(),
        dns: "127.0.0.9:7553".parse().unwrap(),
        clients: vec!["127.0.0.9".parse().unwrap()],
        at_ms,
    };
    let signed = |request: &MemberRequest, ca: &ClusterCa, name: &str| {
        let certificate = ca.issue(name, &cluster).unwrap();
        serde_json::to_string(&Signed::new(request, &certificate).unwrap()).unwrap()
    };
    let (code, body) = post(address, &signed(&join("sa-east"), &parts.ca, "sa-east")).await;
    assert_eq!(code, 200, "{body}");
    let joined: Joined = serde_json::from_str(&body).unwrap();
    assert_eq!(joined.ordinal, 3);
    let (code, body) = post(address, &signed(&join("sa-east"), &parts.ca, "us-east")).await;
    assert!(code == 403 && body.contains("cannot join as"), "{code} {body}");
    let stranger = ClusterCa::create().unwrap();
    let (code, _) = post(address, &signed(&join("sa-east"), &stranger, "sa-east")).await;
    assert_eq!(code, 403);
    let old = MemberRequest::Leave { name: "us-east".into(), at_ms: at_ms - 3_600_000 };
    assert_eq!(post(address, &signed(&old, &parts.ca, "us-east")).await.0, 403);
    let unknown = MemberRequest::Leave { name: "mars".into(), at_ms };
    assert_eq!(post(address, &signed(&unknown, &parts.ca, "us-east")).await.0, 404);
    let alive = MemberRequest::Dead { name: "eu-central".into(), at_ms };
    let (code, body) = post(address, &signed(&alive, &parts.ca, "us-east")).await;
    assert!(code == 409 && body.contains("not down"), "{code} {body}");
    for nonsense in ["", "{}", "[1]", "{\"request\":\"\"}"] {
        assert_eq!(post(address, nonsense).await.0, 400, "{nonsense}");
    }
    assert_eq!(post(address, &"x".repeat(limits::REQUEST_BYTES + 1)).await.0, 413);
}

/// Answers for the executor from now on.
fn answer_for_the_executor(mut questions: mpsc::Receiver<ToExecutor>) {
    tokio::spawn(async move {
        while let Some(question) = questions.recv().await {
            let ToExecutor::Snapshot(reply) = question else { continue };
            let _ = reply.send(Snapshot { keys: 42, ..Snapshot::default() });
        }
    });
}

async fn serve(admin: Admin) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin.serve(listener));
    address
}

/// The code, the head in lower case, and the body.
async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn every_path_answers_as_it_says() {
    let mut parts = parts().await;
    answer_for_the_executor(parts.questions);
    let address = serve(parts.admin.take().unwrap()).await;
    let kinds = [
        ("/", "text/html", "<!doctype html>"),
        ("/healthz?plain", "text/plain", "unhealthy\n"),
        ("/status", "application/json", "{"),
        ("/metrics", "application/openmetrics-text", "# HELP "),
    ];
    for (path, kind, beginning) in kinds {
        let (_, head, body) = ask(address, "GET", path).await;
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        assert!(body.starts_with(beginning), "{path}: {body}");
        let (_, head, body) = ask(address, "HEAD", path).await;
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        assert_eq!(body, "", "{path}");
    }
    let (code, _, body) = ask(address, "GET", "/nothing").await;
    assert_eq!(code, 404);
    assert!(PATHS.iter().all(|(path, _)| body.contains(path)), "{body}");
    let (code, head, _) = ask(address, "POST", "/status").await;
    assert_eq!(code, 405);
    assert!(head.contains("allow: get, head"), "{head}");
    let (code, _, body) = ask(address, "POST", "/backup").await;
    assert_eq!(code, 403);
    assert!(body.contains("x-meridian-order"), "{body}");
    let (code, _, body) = ask(address, "GET", "/metrics").await;
    assert_eq!(code, 200);
    assert!(body.contains("\nmeridian_keys 42\n"), "{body}");
}

#[tokio::test]
async fn health_follows_the_control_plane_and_the_peers() {
    let mut parts = parts().await;
    answer_for_the_executor(parts.questions);
    let admin = parts.admin.take().unwrap();
    let view = Arc::clone(&admin.view);
    let address = serve(admin).await;

    let (code, _, body) = ask(address, "GET", "/healthz").await;
    let health: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &health["status"]), (503, &json!("unhealthy")));
    assert_eq!(health["region"], json!("us-east"));
    assert_eq!(health["reasons"][0], json!("the control plane has not reported yet"));
    assert_eq!(ask(address, "GET", "/readyz").await.0, 503);

    *view.lock().unwrap() = sample::well().view;
    let (code, _, body) = ask(address, "GET", "/healthz?plain").await;
    assert_eq!((code, body.as_str()), (200, "degraded\nnot connected to eu-central\n"));
    assert_eq!(ask(address, "GET", "/readyz").await.0, 200);
    let (_, _, body) = ask(address, "GET", "/status").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&status["keys"], &status["epoch"]), (&json!(42), &json!(4)));
    assert_eq!(status["peers"]["eu-central"]["connected"], json!(false));
}

#[tokio::test]
async fn it_answers_when_the_executor_does_not() {
    let mut parts = parts().await;
    let address = serve(parts.admin.take().unwrap()).await;
    let (code, _, body) = ask(address, "GET", "/healthz").await;
    assert_eq!(code, 503);
    assert!(body.contains("the executor does not answer"), "{body}");
    assert!(parts.questions.recv().await.is_some(), "it was asked");
}

#[tokio::test]
async fn too_many_requests_are_sent_away() {
    let mut parts = parts().await;
    let port = Arc::new(Port::new(parts.admin.take().unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(Arc::clone(&port));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let busy = port.requests.acquire_many(limits::REQUESTS as u32).await.unwrap();
    assert_eq!(ask(address, "GET", "/").await.0, 503);
    drop(busy);
    assert_eq!(ask(address, "GET", "/").await.0, 200);
}
