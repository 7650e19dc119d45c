//! Queries over TCP: a length of two bytes before every message (RFC 1035 §4.2.2).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::MessageType;
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error};

use crate::ZoneHandler;
use crate::handle::count;
use crate::limits::{
    MAX_QUERIES_PER_CONNECTION, MAX_SOCKET_ERRORS, MAX_TCP_CONNECTIONS, MAX_TCP_QUERY_BYTES,
    TCP_IDLE,
};
use crate::udp::complaint;

/// Accepts connections until the listener fails for good. Dropping the future ends them all.
pub(crate) async fn serve(listener: TcpListener, handler: ZoneHandler) {
    let slots = Arc::new(Semaphore::new(MAX_TCP_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut errors = 0;
    while errors < MAX_SOCKET_ERRORS {
        // A slot first: connections beyond the limit wait in the kernel.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                errors = 0;
                let handler = handler.clone();
                connections.spawn(async move {
                    if let Err(error) = converse(stream, client, &handler).await {
                        debug!(%client, %error, "DNS connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                errors += 1;
                debug!(%error, "accepting a DNS connection");
                tokio::task::yield_now().await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    error!(errors, "the DNS listener fails again and again; no more connections are accepted");
}

async fn converse(stream: TcpStream, client: SocketAddr, handler: &ZoneHandler) -> io::Result<()> {
    let (mut reader, writer) = stream.into_split();
    let writer = Arc::new(Mutex::new(writer));
    let counters = handler.handle().counters();
    for _ in 0..MAX_QUERIES_PER_CONNECTION {
        let Some(bytes) = timeout(TCP_IDLE, read_message(&mut reader)).await?? else {
            return Ok(());
        };
        count(&counters.tcp);
        match Request::from_bytes(bytes.clone(), client, Protocol::Tcp) {
            Ok(request) if request.metadata.message_type == MessageType::Query => {
                let reply = TcpReply { writer: Arc::clone(&writer) };
                handler.handle_request::<_, TokioTime>(&request, reply).await;
            }
            result => {
                count(&counters.malformed);
                debug!(%client, error = ?result.err(), "malformed DNS query");
                let Some(bytes) = complaint(&bytes) else { return Ok(()) };
                write_message(&writer, &bytes).await?;
            }
        }
    }
    Ok(())
}

/// The next message; `None` at the end of the stream.
async fn read_message(reader: &mut OwnedReadHalf) -> io::Result<Option<Vec<u8>>> {
    let length = match reader.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > MAX_TCP_QUERY_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "query too large"));
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

async fn write_message(writer: &Mutex<OwnedWriteHalf>, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "answer too large"))?;
    let framed = [&length.to_be_bytes(), bytes].concat();
    timeout(TCP_IDLE, writer.lock().await.write_all(&framed)).await?
}

#[derive(Clone)]
struct TcpReply {
    writer: Arc<Mutex<OwnedWriteHalf>>,
}

#[async_trait::async_trait]
impl ResponseHandler for TcpReply {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        write_message(&self.writer, &bytes).await?;
        Ok(info)
    }
}
