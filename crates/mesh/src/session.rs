//! One authenticated connection: its lanes are opened, its tasks carry messages until it ends.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::compression::{LaneDecoder, LaneEncoder};
use crate::framing::Framer;
use crate::lane::{self, LANES, Lane};
use crate::limits::{BANDWIDTH_PIECE_BYTES, READ_BYTES};
use crate::mesh::{DownReason, MeshEvent, SessionId};
use crate::outbox::Outbox;
use crate::peer::Peer;
use crate::refusal::{self, Refusal};
use crate::saving::Saving;

/// The streams of a connection, each known to be the peer's.
pub(crate) struct Lanes {
    send: [SendStream; LANES],
    receive: [RecvStream; LANES],
}

/// Why lanes could not be opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Someone said something wrong.
    Refused(Refusal),
    /// The connection ended.
    Lost(ConnectionError),
}

/// Opens this side's lanes and accepts the other's. When it succeeds the other side has accepted
/// this one's certificate: a refusing side opens nothing.
pub(crate) async fn open_lanes(
    connection: &Connection,
    me: u16,
    peer: u16,
) -> Result<Lanes, OpenError> {
    let (send, receive) = tokio::try_join!(
        async {
            let [control, live, bulk] = Lane::ALL;
            Ok::<_, OpenError>([
                open_lane(connection, control, me).await?,
                open_lane(connection, live, me).await?,
                open_lane(connection, bulk, me).await?,
            ])
        },
        accept_lanes(connection, peer),
    )?;
    Ok(Lanes { send, receive })
}

async fn open_lane(connection: &Connection, lane: Lane, me: u16) -> Result<SendStream, OpenError> {
    let mut stream = connection.open_uni().await.map_err(OpenError::Lost)?;
    let malformed = |_| OpenError::Refused(Refusal::Malformed);
    stream.set_priority(lane.priority()).map_err(malformed)?;
    match stream.write_all(&lane::encode_preface(lane, me)).await {
        Ok(()) => Ok(stream),
        Err(quinn::WriteError::ConnectionLost(error)) => Err(OpenError::Lost(error)),
        Err(_) => Err(OpenError::Refused(Refusal::Malformed)),
    }
}

async fn accept_lanes(
    connection: &Connection,
    peer: u16,
) -> Result<[RecvStream; LANES], OpenError> {
    let mut accepted: [Option<RecvStream>; LANES] = Default::default();
    for _ in 0..LANES {
        let mut stream = connection.accept_uni().await.map_err(OpenError::Lost)?;
        let mut preface = [0; lane::PREFACE_BYTES];
        match stream.read_exact(&mut preface).await {
            Ok(()) => {}
            Err(quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => {
                return Err(OpenError::Lost(error));
            }
            Err(_) => return Err(OpenError::Refused(Refusal::Malformed)),
        }
        let lane = lane::decode_preface(&preface, peer).map_err(OpenError::Refused)?;
        if accepted[lane.index()].replace(stream).is_some() {
            return Err(OpenError::Refused(Refusal::Malformed));
        }
    }
    match accepted {
        [Some(control), Some(live), Some(bulk)] => Ok([control, live, bulk]),
        _ => Err(OpenError::Refused(Refusal::Malformed)),
    }
}

/// A connection in use: what senders and readers of statistics hold.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) connection: Connection,
    pub(crate) outboxes: [Outbox; LANES],
}

impl Session {
    pub(crate) fn new(id: SessionId, connection: Connection) -> Session {
        Session { id, connection, outboxes: Lane::ALL.map(Outbox::new) }
    }

    pub(crate) fn rtt(&self) -> Duration {
        self.connection.rtt()
    }
}

/// Why one of a session's tasks ended.
enum TaskEnd {
    /// The connection is gone; it knows why.
    ConnectionLost,
    /// The peer broke the rules.
    Violation(Refusal),
    /// Nobody listens to events any more.
    NobodyListens,
    /// This side cannot go on.
    Failed(io::Error),
}

/// Carries messages both ways until the connection ends, for whatever reason. When it returns
/// no task of the session runs any more: no event of the session follows.
pub(crate) async fn run(
    peer: Arc<Peer>,
    session: Arc<Session>,
    lanes: Lanes,
    events: mpsc::Sender<MeshEvent>,
) -> DownReason {
    let connection = session.connection.clone();
    let context = Context { peer, session, events };
    let mut tasks = JoinSet::new();
    for (lane, stream) in Lane::ALL.into_iter().zip(lanes.send) {
        tasks.spawn(write_lane(context.clone(), lane, stream));
    }
    for (lane, stream) in Lane::ALL.into_iter().zip(lanes.receive) {
        tasks.spawn(read_lane(context.clone(), lane, stream));
    }
    tasks.spawn(read_datagrams(context.clone()));
    let ended = tokio::select! {
        ended = tasks.join_next() => ended,
        _ = connection.closed() => None,
    };
    let reason = match ended {
        None | Some(Ok(TaskEnd::ConnectionLost)) => {
            let error = connection.closed().await;
            DownReason::of(&error)
        }
        Some(Ok(TaskEnd::Violation(refusal))) => {
            context.peer.count_refusal(refusal, "the session ends");
            connection.close(refusal.close_code(), refusal.as_str().as_bytes());
            DownReason::Violation(refusal)
        }
        Some(Ok(TaskEnd::NobodyListens)) => {
            connection.close(refusal::SHUTDOWN_CODE.into(), b"shutdown");
            DownReason::Shutdown
        }
        Some(Ok(TaskEnd::Failed(error))) => {
            tracing::error!(peer = %context.peer.name, %error, "a lane failed");
            connection.close(refusal::DISCONNECTED_CODE.into(), b"a lane failed");
            DownReason::Failed(error.to_string())
        }
        Some(Err(panicked)) => {
            tracing::error!(peer = %context.peer.name, %panicked, "a lane's task failed");
            connection.close(refusal::DISCONNECTED_CODE.into(), b"a lane failed");
            DownReason::Failed(panicked.to_string())
        }
    };
    context.session.outboxes.iter().for_each(Outbox::close);
    tasks.shutdown().await;
    reason
}

#[derive(Clone)]
struct Context {
    peer: Arc<Peer>,
    session: Arc<Session>,
    events: mpsc::Sender<MeshEvent>,
}

async fn write_lane(context: Context, lane: Lane, mut stream: SendStream) -> TaskEnd {
    let outbox = &context.session.outboxes[lane.index()];
    let mut encoder = match LaneEncoder::new(lane.is_compressed()) {
        Ok(encoder) => encoder,
        Err(error) => return TaskEnd::Failed(error),
    };
    let mut saving = Saving::default();
    loop {
        let mut batch = outbox.take().await;
        let plain = std::mem::take(&mut batch.framed);
        let raw_bytes = plain.len();
        let wire = match compress(&mut encoder, &mut saving, plain) {
            Ok(wire) => wire,
            Err(error) => return TaskEnd::Failed(error),
        };
        context.peer.sent.add_lane(batch.messages, raw_bytes, wire.len());
        match write_paced(&context.peer, lane, &mut stream, Bytes::from(wire)).await {
            Ok(()) => {}
            Err(quinn::WriteError::ConnectionLost(_)) => return TaskEnd::ConnectionLost,
            // Lanes live as long as their connection: who stops one breaks the rules.
            Err(_) => return TaskEnd::Violation(Refusal::Malformed),
        }
        if outbox.release(batch) {
            let event = MeshEvent::Writable {
                peer: context.peer.ordinal,
                session: context.session.id,
                lane,
            };
            if context.events.send(event).await.is_err() {
                return TaskEnd::NobodyListens;
            }
        }
    }
}

fn compress(encoder: &mut LaneEncoder, saving: &mut Saving, plain: Vec<u8>) -> io::Result<Vec<u8>> {
    let raw_bytes = plain.len();
    if !encoder.is_compressing() {
        return encoder.encode(plain);
    }
    if !saving.wants(raw_bytes) {
        return encoder.store(plain);
    }
    let began = Instant::now();
    let wire = encoder.encode(plain)?;
    saving.note(raw_bytes, wire.len(), began.elapsed().as_micros() as u64);
    Ok(wire)
}

/// Writes as fast as the peer's bandwidth allows, in pieces if it is bounded.
async fn write_paced(
    peer: &Peer,
    lane: Lane,
    stream: &mut SendStream,
    mut wire: Bytes,
) -> Result<(), quinn::WriteError> {
    while !wire.is_empty() {
        let bytes = if peer.is_bounded() { BANDWIDTH_PIECE_BYTES } else { wire.len() };
        let piece = wire.split_to(bytes.min(wire.len()));
        // Others may have been quicker after the wait.
        while let Some(wait) = peer.wait_for(lane) {
            tokio::time::sleep(wait).await;
        }
        peer.spend(piece.len());
        stream.write_chunk(piece).await?;
    }
    Ok(())
}

/// Reads only as fast as events are taken: a full channel stops the reading, QUIC's flow control
/// then stops the peer's writing.
async fn read_lane(context: Context, lane: Lane, mut stream: RecvStream) -> TaskEnd {
    let mut decoder = match LaneDecoder::new(lane.is_compressed()) {
        Ok(decoder) => decoder,
        Err(error) => return TaskEnd::Failed(error),
    };
    let mut framer = Framer::default();
    loop {
        let chunk = match stream.read_chunk(READ_BYTES, true).await {
            Ok(Some(chunk)) => chunk.bytes,
            Err(quinn::ReadError::ConnectionLost(_)) => return TaskEnd::ConnectionLost,
            Ok(None) | Err(_) => return TaskEnd::Violation(Refusal::Malformed),
        };
        context.peer.received.add_lane(0, 0, chunk.len());
        let mut input = &chunk[..];
        loop {
            let Ok(progress) = decoder.step(&mut input, &mut framer) else {
                return TaskEnd::Violation(Refusal::Malformed);
            };
            context.peer.received.add_lane(0, progress.unpacked, 0);
            loop {
                let bytes = match framer.next_message() {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => break,
                    Err(_) => return TaskEnd::Violation(Refusal::Oversize),
                };
                context.peer.received.add_lane(1, 0, 0);
                let event = MeshEvent::Message {
                    peer: context.peer.ordinal,
                    session: context.session.id,
                    lane,
                    bytes,
                };
                if context.events.send(event).await.is_err() {
                    return TaskEnd::NobodyListens;
                }
            }
            if progress.is_done {
                break;
            }
        }
    }
}

/// Waits for room like the lanes do; meanwhile QUIC keeps the newest datagrams and drops the rest.
async fn read_datagrams(context: Context) -> TaskEnd {
    while let Ok(bytes) = context.session.connection.read_datagram().await {
        context.peer.received.add_datagram();
        let event = MeshEvent::Datagram { peer: context.peer.ordinal, bytes };
        if context.events.send(event).await.is_err() {
            return TaskEnd::NobodyListens;
        }
    }
    TaskEnd::ConnectionLost
}
