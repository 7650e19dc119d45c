//! How a simulated node configures QUIC: as the mesh does, but for what would draw at random.

use std::{sync::Arc, time::Duration};

use quinn_proto::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, NoneTokenLog,
    NoneTokenStore, ServerConfig, TransportConfig, ValidationTokenConfig, VarInt,
};

use super::{
    crypto::{Identity, NoTokens, Plain, ResetKey, fold},
    limits::{self, LANES},
};

/// How much may be under way: as in production, or next to nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    pub stream: u32,
    pub connection: u32,
    /// What may wait for QUIC to take it on the live lane.
    pub live_queue: usize,
}

impl Windows {
    /// The mesh's own.
    pub const PRODUCTION: Windows = Windows {
        stream: limits::STREAM_WINDOW_BYTES,
        connection: limits::CONNECTION_WINDOW_BYTES,
        live_queue: limits::LIVE_QUEUE_BYTES_MAX,
    };

    /// A lane holds only so much, so that senders have to wait.
    pub fn narrow(bytes: u32) -> Windows {
        Windows { stream: bytes, connection: LANES as u32 * bytes, live_queue: bytes as usize }
    }
}

/// What a host must know.
#[derive(Clone, Debug)]
pub(crate) struct HostConfig {
    pub me: Identity,
    /// The ordinal of every place, its own included.
    pub origins: Vec<u16>,
    pub windows: Windows,
    /// Where its chances come from: another one in every life.
    pub seed: u64,
    /// Signs its resets: the same in all of its lives.
    pub reset_key: u64,
    /// Names its sessions, and those of no other life.
    pub first_session: u64,
}

fn transport(windows: Windows) -> Arc<TransportConfig> {
    let idle = VarInt::from_u32(limits::IDLE_TIMEOUT_MS as u32);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(0u32.into())
        .max_concurrent_uni_streams((LANES as u32).into())
        .stream_receive_window(windows.stream.into())
        .receive_window(windows.connection.into())
        .send_window(u64::from(windows.connection))
        .datagram_receive_buffer_size(Some(limits::DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(limits::DATAGRAM_BUFFER_BYTES)
        .keep_alive_interval(Some(Duration::from_millis(limits::KEEP_ALIVE_MS)))
        .max_idle_timeout(Some(idle.into()))
        .initial_rtt(Duration::from_millis(limits::INITIAL_RTT_MS));
    Arc::new(config)
}

pub(super) fn endpoint(config: &HostConfig) -> Arc<EndpointConfig> {
    let mut endpoint = EndpointConfig::new(Arc::new(ResetKey(config.reset_key)));
    let seed = config.seed;
    let mut bytes = [0; 32];
    for (at, word) in bytes.chunks_mut(8).enumerate() {
        word.copy_from_slice(&fold(seed, &[at as u8]).to_le_bytes());
    }
    endpoint.rng_seed(Some(bytes));
    endpoint.cid_generator(move || Box::new(Ids { seed, given: 0 }));
    Arc::new(endpoint)
}

pub(super) fn server(config: &HostConfig) -> Arc<ServerConfig> {
    let mut server = ServerConfig::new(Arc::new(Plain(config.me)), Arc::new(NoTokens));
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0).log(Arc::new(NoneTokenLog));
    server.validation_token_config(tokens).transport_config(transport(config.windows));
    Arc::new(server)
}

/// For the connection of this number.
pub(super) fn client(config: &HostConfig, number: u64) -> ClientConfig {
    let mut client = ClientConfig::new(Arc::new(Plain(config.me)));
    let id = ConnectionId::new(&fold(config.seed ^ 1, &number.to_le_bytes()).to_le_bytes());
    client
        .transport_config(transport(config.windows))
        .token_store(Arc::new(NoneTokenStore))
        .initial_dst_cid_provider(Arc::new(move || id));
    client
}

/// Names connections one after the other.
struct Ids {
    seed: u64,
    given: u64,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.given += 1;
        ConnectionId::new(&fold(self.seed, &self.given.to_le_bytes()).to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
