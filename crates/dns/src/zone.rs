//! The zone's contents: a pure function of the table and a question.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use meridian_failover::DnsTable;

use crate::{DnsConfig, Error, Result};

/// Seconds for secondaries, which this zone does not have; the usual values.
const SOA_REFRESH_S: i32 = 3_600;
const SOA_RETRY_S: i32 = 600;
const SOA_EXPIRE_S: i32 = 86_400;
/// Time to live of NS and SOA records, in seconds: they change with the topology only.
const APEX_TTL_S: u32 = 300;

/// A zone with its apex and service names.
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    apex: Name,
    names: Vec<String>,
    ttl_s: u32,
    hostmaster: Name,
}

/// The answer to a question, before it is put into a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
    /// Length of the client's prefix for which it holds; `None` if it does not depend on it.
    pub(crate) scope: Option<u8>,
}

enum Place {
    Outside,
    Apex,
    Service,
    Region(u16),
    Missing,
}

impl Zone {
    pub(crate) fn new(config: &DnsConfig) -> Result<Self> {
        let (apex, names) = config.parse()?;
        let hostmaster = apex
            .prepend_label("hostmaster")
            .map_err(|error| Error::Config(format!("{apex} is too long for a zone: {error}")))?;
        Ok(Self { apex, names, ttl_s: config.ttl_s, hostmaster })
    }

    /// Answers a question of class IN from a client at `client`. `asked` keeps the case of the
    /// question, which the answer's owner name repeats.
    pub(crate) fn answer(
        &self,
        table: &DnsTable,
        name: &LowerName,
        asked: &Name,
        kind: RecordType,
        client: IpAddr,
    ) -> Answer {
        match self.place(table, name) {
            Place::Outside => Answer::empty(ResponseCode::Refused),
            Place::Apex => self.apex_answer(table, asked, kind),
            Place::Missing => self.negative(table, ResponseCode::NXDomain, None),
            Place::Region(region) => {
                let records = addresses(asked, self.ttl_s, kind, table.addresses(region));
                self.positive(table, records, None)
            }
            Place::Service => {
                let route = table.route(client);
                let near = route.regions.iter().flat_map(|&region| table.addresses(region));
                let records = addresses(asked, self.ttl_s, kind, near);
                self.positive(table, records, Some(route.scope))
            }
        }
    }

    fn place(&self, table: &DnsTable, name: &LowerName) -> Place {
        if !self.apex.zone_of(name) {
            return Place::Outside;
        }
        if name.num_labels() == self.apex.num_labels() {
            return Place::Apex;
        }
        if name.num_labels() > self.apex.num_labels() + 1 {
            return Place::Missing;
        }
        let Some(Ok(label)) = name.iter().next().map(std::str::from_utf8) else {
            return Place::Missing;
        };
        if self.names.iter().any(|service| service == label) {
            return Place::Service;
        }
        table.region_named(label).map_or(Place::Missing, Place::Region)
    }

    fn apex_answer(&self, table: &DnsTable, asked: &Name, kind: RecordType) -> Answer {
        let mut answer = Answer::empty(ResponseCode::NoError);
        if matches!(kind, RecordType::SOA | RecordType::ANY) {
            answer.answers.push(self.soa(table, asked, APEX_TTL_S));
        }
        if matches!(kind, RecordType::NS | RecordType::ANY) {
            // Every region serves the zone under its own name.
            for (region, label) in table.names() {
                let Ok(server) = self.apex.prepend_label(label) else { continue };
                let glue = table.addresses(region);
                answer.additionals.extend(addresses(&server, self.ttl_s, RecordType::ANY, glue));
                let data = RData::NS(NS(server));
                answer.answers.push(Record::from_rdata(asked.clone(), APEX_TTL_S, data));
            }
        }
        if answer.answers.is_empty() {
            return self.negative(table, ResponseCode::NoError, None);
        }
        answer
    }

    fn positive(&self, table: &DnsTable, records: Vec<Record>, scope: Option<u8>) -> Answer {
        if records.is_empty() {
            return self.negative(table, ResponseCode::NoError, scope);
        }
        Answer { answers: records, scope, ..Answer::empty(ResponseCode::NoError) }
    }

    /// The SOA tells a resolver for how long it may remember that there is nothing (RFC 2308).
    fn negative(&self, table: &DnsTable, code: ResponseCode, scope: Option<u8>) -> Answer {
        let soa = self.soa(table, &self.apex, self.ttl_s);
        Answer { authorities: vec![soa], scope, ..Answer::empty(code) }
    }

    fn soa(&self, table: &DnsTable, owner: &Name, ttl_s: u32) -> Record {
        let first = table.names().next().map(|(_, label)| label);
        let primary = first.and_then(|label| self.apex.prepend_label(label).ok());
        let data = SOA::new(
            primary.unwrap_or_else(|| self.apex.clone()),
            self.hostmaster.clone(),
            // Serial numbers wrap around by design (RFC 1982).
            (table.epoch() & u64::from(u32::MAX)) as u32,
            SOA_REFRESH_S,
            SOA_RETRY_S,
            SOA_EXPIRE_S,
            self.ttl_s,
        );
        Record::from_rdata(owner.clone(), ttl_s, RData::SOA(data))
    }
}

impl Answer {
    /// A bare response code.
    pub(crate) fn empty(code: ResponseCode) -> Self {
        Self {
            code,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            scope: None,
        }
    }
}

/// The addresses of the family asked for.
fn addresses<'a>(
    owner: &Name,
    ttl_s: u32,
    kind: RecordType,
    addresses: impl IntoIterator<Item = &'a IpAddr>,
) -> Vec<Record> {
    let wants = |family: RecordType| kind == family || kind == RecordType::ANY;
    let data = |address: &IpAddr| match address {
        IpAddr::V4(v4) if wants(RecordType::A) => Some(RData::A(A(*v4))),
        IpAddr::V6(v6) if wants(RecordType::AAAA) => Some(RData::AAAA(AAAA(*v6))),
        _ => None,
    };
    let record = |data: RData| Record::from_rdata(owner.clone(), ttl_s, data);
    addresses.into_iter().filter_map(data).map(record).collect()
}
