//! From a parsed request to a response: everything about the protocol that is not the zone.

use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tracing::debug;

use crate::handle::{Counters, DnsHandle, count};
use crate::limits::MAX_UDP_ANSWER_BYTES;
use crate::subnet::{client_subnet, echoed, locate};
use crate::zone::{Answer, Zone};
use crate::{DnsConfig, Result};

/// The EDNS version that is spoken (RFC 6891).
const EDNS_VERSION: u8 = 0;

/// Answers requests for one zone from the table of its handle.
#[derive(Debug, Clone)]
pub struct ZoneHandler {
    zone: Zone,
    handle: DnsHandle,
}

impl ZoneHandler {
    /// A handler for the zone of `config`.
    pub fn new(config: &DnsConfig, handle: DnsHandle) -> Result<Self> {
        Ok(Self { zone: Zone::new(config)?, handle })
    }

    pub(crate) fn handle(&self) -> &DnsHandle {
        &self.handle
    }

    fn respond(&self, request: &Request) -> (Metadata, Option<Edns>, Answer) {
        let subnet = client_subnet(request.edns.as_ref());
        let answer = match &subnet {
            Err(_) => Answer::empty(ResponseCode::FormErr),
            Ok(subnet) => {
                let client = locate(subnet.as_ref(), request.src().ip());
                self.answer(request, client)
            }
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative =
            matches!(answer.code, ResponseCode::NoError | ResponseCode::NXDomain);
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_ANSWER_BYTES).set_version(EDNS_VERSION);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            if let Ok(Some(subnet)) = subnet {
                count(&self.handle.counters().with_subnet);
                edns.options_mut().insert(echoed(subnet, answer.scope));
            }
            edns
        });
        (metadata, edns, answer)
    }

    fn answer(&self, request: &Request, client: std::net::IpAddr) -> Answer {
        if request.metadata.op_code != OpCode::Query {
            return Answer::empty(ResponseCode::NotImp);
        }
        if request.version() > EDNS_VERSION {
            return Answer::empty(ResponseCode::BADVERS);
        }
        let [query] = request.queries.queries() else {
            return Answer::empty(ResponseCode::FormErr);
        };
        let kind = query.query_type();
        let is_transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) || is_transfer {
            return Answer::empty(ResponseCode::Refused);
        }
        let table = self.handle.table();
        self.zone.answer(&table, query.name(), query.original().name(), kind, client)
    }
}

#[async_trait::async_trait]
impl RequestHandler for ZoneHandler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let (metadata, edns, answer) = self.respond(request);
        let counters = self.handle.counters();
        count_answer(counters, &answer);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response =
            builder.build(metadata, &answer.answers, &answer.authorities, [], &answer.additionals);
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                count(&counters.send_failed);
                debug!(client = %request.src(), %error, "answer not sent");
                let mut metadata =
                    Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}

fn count_answer(counters: &Counters, answer: &Answer) {
    count(match answer.code {
        ResponseCode::NoError if answer.answers.is_empty() => &counters.no_data,
        ResponseCode::NoError => &counters.answered,
        ResponseCode::NXDomain => &counters.no_such_name,
        ResponseCode::FormErr => &counters.malformed,
        _ => &counters.refused,
    });
}
