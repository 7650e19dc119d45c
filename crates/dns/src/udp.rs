//! Queries over UDP.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use tokio::net::UdpSocket;
use tracing::{debug, error};

use crate::ZoneHandler;
use crate::handle::count;
use crate::limits::{
    MAX_SOCKET_ERRORS, MAX_UDP_ANSWER_BYTES, MAX_UDP_QUERY_BYTES, PLAIN_UDP_ANSWER_BYTES,
};

/// Reads and answers queries until the socket fails for good.
pub(crate) async fn serve(socket: Arc<UdpSocket>, handler: ZoneHandler) {
    let mut buffer = vec![0; MAX_UDP_QUERY_BYTES];
    let mut errors = 0;
    while errors < MAX_SOCKET_ERRORS {
        match socket.recv_from(&mut buffer).await {
            Ok((length, client)) => {
                errors = 0;
                answer(&socket, &handler, &buffer[..length], client).await;
            }
            Err(error) => {
                // Often the echo of an answer to a client that is gone.
                errors += 1;
                debug!(%error, "receiving a DNS query");
                tokio::task::yield_now().await;
            }
        }
    }
    error!(errors, "the DNS socket fails again and again; no more queries are read from it");
}

/// A response code without more for bytes that are not a query; `None` for those that deserve no
/// answer: too short to have an id, or a response (answering those invites loops).
pub(crate) fn complaint(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = Header::read(&mut BinDecoder::new(bytes)).ok()?;
    if header.metadata.message_type == MessageType::Response {
        return None;
    }
    let mut metadata = Metadata::response_from_request(&header.metadata);
    metadata.response_code = ResponseCode::FormErr;
    let header = Header { metadata, counts: HeaderCounts::default() };
    let mut bytes = Vec::new();
    header.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

/// Whether a packet may be answered at all: answers to port zero go nowhere.
fn is_answerable(client: SocketAddr) -> bool {
    client.port() != 0 && !client.ip().is_unspecified() && !client.ip().is_multicast()
}

async fn answer(socket: &Arc<UdpSocket>, handler: &ZoneHandler, bytes: &[u8], client: SocketAddr) {
    let counters = handler.handle().counters();
    count(&counters.udp);
    if !is_answerable(client) {
        count(&counters.malformed);
        return;
    }
    match Request::from_bytes(bytes.to_vec(), client, Protocol::Udp) {
        Ok(request) if request.metadata.message_type == MessageType::Query => {
            let limit = match &request.edns {
                Some(edns) => {
                    edns.max_payload().clamp(PLAIN_UDP_ANSWER_BYTES, MAX_UDP_ANSWER_BYTES)
                }
                None => PLAIN_UDP_ANSWER_BYTES,
            };
            let reply = UdpReply { socket: Arc::clone(socket), client, limit };
            handler.handle_request::<_, TokioTime>(&request, reply).await;
        }
        Ok(_) => count(&counters.malformed),
        Err(error) => {
            count(&counters.malformed);
            debug!(%client, %error, "malformed DNS query");
            if let Some(bytes) = complaint(bytes)
                && socket.send_to(&bytes, client).await.is_err()
            {
                count(&counters.send_failed);
            }
        }
    }
}

#[derive(Clone)]
struct UdpReply {
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    limit: u16,
}

#[async_trait::async_trait]
impl ResponseHandler for UdpReply {
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
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_UDP_ANSWER_BYTES));
        let mut encoder = BinEncoder::new(&mut bytes);
        // What does not fit is left out and marked as truncated; the client then asks over TCP.
        encoder.set_max_size(self.limit);
        let info = response.destructive_emit(&mut encoder)?;
        self.socket.send_to(&bytes, self.client).await?;
        Ok(info)
    }
}
