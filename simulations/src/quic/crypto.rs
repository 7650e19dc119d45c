//! A handshake and keys for QUIC without cryptography: the messages, levels and sizes of TLS 1.3 with
//! certificates on both sides, nothing secret, nothing drawn at random.
//!
//! TLS draws its keys from the system, which no seed governs. What the protocol needs of it is kept:
//! who the other side is comes with its last flight, keys differ by connection, side and level, and a
//! packet of another connection is refused because its checksum does not fit.

use std::{any::Any, sync::Arc};

use bytes::BytesMut;
use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError, TransportErrorCode,
    crypto::{
        self, AeadKey, CryptoError, ExportKeyingMaterialError, HandshakeTokenKey, HeaderKey,
        HmacKey, KeyPair, Keys, PacketKey, UnsupportedVersion,
    },
    transport_parameters::TransportParameters,
};

use crate::random::mix;

/// As long as the tag of AES-GCM.
const TAG_BYTES: usize = 16;

/// About what a chain of two small certificates takes with its signature.
const CERTIFICATE_BYTES: usize = 1100;

/// Who a node says that it is: its place and its ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub place: u16,
    pub origin: u16,
}

/// What a node dials and answers with.
#[derive(Debug)]
pub(crate) struct Plain(pub Identity);

impl crypto::ClientConfig for Plain {
    fn start_session(
        self: Arc<Self>,
        _version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        Ok(Box::new(Session::new(Side::Client, Step::SayHello, self.0, params)))
    }
}

impl crypto::ServerConfig for Plain {
    fn initial_keys(&self, _: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        Ok(keys(fold(0, dst_cid), Side::Server))
    }

    fn retry_tag(&self, _: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        tag(fold(0, orig_dst_cid), 0, &[packet])
    }

    fn start_session(
        self: Arc<Self>,
        _version: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        Box::new(Session::new(Side::Server, Step::AwaitHello, self.0, params))
    }
}

/// What a session does or waits for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    // The caller's.
    SayHello,
    AwaitAnswer,
    TakeHandshakeKeys,
    AwaitFlight,
    SayWho,
    // The called side's.
    AwaitHello,
    Answer,
    SendFlight,
    AwaitWho,
    Done,
}

/// One side of one handshake.
struct Session {
    side: Side,
    step: Step,
    me: Identity,
    /// This side's transport parameters, as they are sent.
    mine: Vec<u8>,
    /// The other side's.
    theirs: Option<Vec<u8>>,
    peer: Option<Identity>,
    /// Handshake bytes that are not a whole message yet.
    input: Vec<u8>,
    /// From what both sides have said.
    secret: u64,
    generation: u64,
}

impl Session {
    fn new(side: Side, step: Step, me: Identity, params: &TransportParameters) -> Session {
        let mut mine = Vec::new();
        params.write(&mut mine);
        Session {
            side,
            step,
            me,
            mine,
            theirs: None,
            peer: None,
            input: Vec::new(),
            secret: 0,
            generation: 0,
        }
    }

    /// Takes in a whole message of the handshake.
    fn heard(&mut self, message: &[u8]) -> Result<(), TransportError> {
        match self.step {
            Step::AwaitHello => {
                self.theirs = Some(message.to_vec());
                self.secret = fold(fold(1, message), &self.mine);
                self.step = Step::Answer;
            }
            Step::AwaitAnswer => {
                self.secret = fold(1, message);
                self.step = Step::TakeHandshakeKeys;
            }
            Step::AwaitFlight => {
                let (identity, params) = who(message)?;
                self.peer = Some(identity);
                self.theirs = Some(params.to_vec());
                self.step = Step::SayWho;
            }
            Step::AwaitWho => {
                self.peer = Some(who(message)?.0);
                self.step = Step::Done;
            }
            _ => return Err(violation("a message out of turn")),
        }
        Ok(())
    }

    /// The place where a certificate and a signature would stand.
    fn certificate(&self) -> Vec<u8> {
        let mut bytes = self.me.place.to_le_bytes().to_vec();
        bytes.extend(self.me.origin.to_le_bytes());
        bytes.resize(CERTIFICATE_BYTES, 0);
        bytes
    }

    fn level(&self, number: u64) -> Keys {
        keys(fold(self.secret, &number.to_le_bytes()), self.side)
    }
}

impl crypto::Session for Session {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        keys(fold(0, dst_cid), side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.peer.map(|peer| Box::new(peer) as Box<dyn Any>)
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.step != Step::Done
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.input.extend_from_slice(bytes);
        while let Some(length) = self.input.first_chunk::<2>() {
            let upto = 2 + usize::from(u16::from_le_bytes(*length));
            if self.input.len() < upto {
                break;
            }
            let message: Vec<u8> = self.input.drain(..upto).skip(2).collect();
            self.heard(&message)?;
        }
        Ok(false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(mut bytes) = self.theirs.as_deref() else { return Ok(None) };
        Ok(Some(TransportParameters::read(self.side, &mut bytes)?))
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        match self.step {
            Step::SayHello => {
                say(out, &[&self.mine]);
                self.step = Step::AwaitAnswer;
                None
            }
            Step::TakeHandshakeKeys => {
                self.step = Step::AwaitFlight;
                Some(self.level(0))
            }
            Step::SayWho => {
                say(out, &[&self.certificate()]);
                self.step = Step::Done;
                Some(self.level(1))
            }
            Step::Answer => {
                // Stands for the key share: both sides make the same secret of it.
                let share = self.secret.to_le_bytes();
                self.secret = fold(1, &share);
                say(out, &[&share]);
                self.step = Step::SendFlight;
                Some(self.level(0))
            }
            Step::SendFlight => {
                say(out, &[&self.certificate(), &self.mine]);
                self.step = Step::AwaitWho;
                Some(self.level(1))
            }
            _ => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.generation += 1;
        Some(self.level(1 + self.generation).packet)
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((body, theirs)) = payload.split_last_chunk::<TAG_BYTES>() else { return false };
        tag(fold(0, orig_dst_cid), 0, &[header, body]) == *theirs
    }

    fn export_keying_material(
        &self,
        _output: &mut [u8],
        _label: &[u8],
        _context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

fn say(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend((length as u16).to_le_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Who sent a flight, and what follows.
fn who(message: &[u8]) -> Result<(Identity, &[u8]), TransportError> {
    let (certificate, rest) = message
        .split_at_checked(CERTIFICATE_BYTES)
        .ok_or_else(|| violation("a flight that is cut short"))?;
    let number = |at: usize| u16::from_le_bytes([certificate[at], certificate[at + 1]]);
    Ok((Identity { place: number(0), origin: number(2) }, rest))
}

fn violation(reason: &str) -> TransportError {
    TransportError {
        code: TransportErrorCode::PROTOCOL_VIOLATION,
        frame: None,
        reason: reason.to_owned(),
    }
}

/// Keys of one level: each side's own for sending.
fn keys(secret: u64, side: Side) -> Keys {
    let ours = fold(secret, &[u8::from(side.is_client())]);
    let theirs = fold(secret, &[u8::from(side.is_server())]);
    Keys {
        header: KeyPair { local: Box::new(Open), remote: Box::new(Open) },
        packet: KeyPair { local: Box::new(Checksum(ours)), remote: Box::new(Checksum(theirs)) },
    }
}

/// Leaves headers as they are.
struct Open;

impl HeaderKey for Open {
    fn decrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn encrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn sample_size(&self) -> usize {
        TAG_BYTES
    }
}

/// Leaves payloads as they are and puts a checksum behind them.
struct Checksum(u64);

impl PacketKey for Checksum {
    fn encrypt(&self, packet: u64, buf: &mut [u8], _header_len: usize) {
        let Some((body, place)) = buf.split_last_chunk_mut::<TAG_BYTES>() else { return };
        *place = tag(self.0, packet, &[body]);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        let (body, theirs) = payload.split_last_chunk::<TAG_BYTES>().ok_or(CryptoError)?;
        if tag(self.0, packet, &[header, body]) != *theirs {
            return Err(CryptoError);
        }
        payload.truncate(payload.len() - TAG_BYTES);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}

/// Signs stateless resets: the same key in every life of a node, as in production.
pub(crate) struct ResetKey(pub u64);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.iter_mut().zip((0..).map(|at: u64| fold(self.0 ^ at, data))).for_each(
            |(byte, sum)| {
                *byte = (sum >> 32) as u8;
            },
        );
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut expected = vec![0; self.signature_len()];
        self.sign(data, &mut expected);
        if expected == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Address validation by tokens is not simulated: a token is never asked for, and never good.
pub(crate) struct NoTokens;

impl HandshakeTokenKey for NoTokens {
    fn aead_from_hkdf(&self, _random_bytes: &[u8]) -> Box<dyn AeadKey> {
        Box::new(NoTokens)
    }
}

impl AeadKey for NoTokens {
    fn seal(&self, _data: &mut Vec<u8>, _additional: &[u8]) -> Result<(), CryptoError> {
        Err(CryptoError)
    }

    fn open<'a>(&self, _data: &'a mut [u8], _more: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        Err(CryptoError)
    }
}

fn tag(secret: u64, packet: u64, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
    let start = fold(secret, &packet.to_le_bytes());
    let sum = parts.iter().fold(start, |sum, part| go_on(sum, part));
    let mut tag = [0; TAG_BYTES];
    tag[..8].copy_from_slice(&mix(sum).to_le_bytes());
    tag[8..].copy_from_slice(&mix(!sum).to_le_bytes());
    tag
}

/// The multiplier of FNV (Fowler, Noll, Vo) for 64 bits.
const MULTIPLIER: u64 = 0x0000_0100_0000_01b3;

/// A number from another one and some bytes.
pub(crate) fn fold(start: u64, bytes: &[u8]) -> u64 {
    mix(go_on(start ^ 0xcbf2_9ce4_8422_2325, bytes))
}

/// FNV-1a: every byte counts, and parts are one run of bytes, however they are cut.
fn go_on(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(MULTIPLIER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_taken_by_whom_it_was_meant_for_and_by_nobody_else() {
        let (ours, theirs) = (keys(7, Side::Client), keys(7, Side::Server));
        let mut packet = b"headerpayload".to_vec();
        packet.resize(packet.len() + TAG_BYTES, 0);
        ours.packet.local.encrypt(3, &mut packet, 6);
        let open = |key: &dyn PacketKey, number, header: &[u8]| {
            let mut payload = BytesMut::from(&packet[6..]);
            key.decrypt(number, header, &mut payload).map(|()| payload.to_vec()).ok()
        };
        assert_eq!(open(&*theirs.packet.remote, 3, b"header").as_deref(), Some(&b"payload"[..]));
        assert_eq!(open(&*theirs.packet.remote, 4, b"header"), None);
        assert_eq!(open(&*theirs.packet.remote, 3, b"hEader"), None);
        assert_eq!(open(&*ours.packet.remote, 3, b"header"), None);
        assert_eq!(open(&*keys(8, Side::Server).packet.remote, 3, b"header"), None);
        let mut short = BytesMut::from(&b"short"[..]);
        assert!(theirs.packet.remote.decrypt(3, b"", &mut short).is_err());
    }

    #[test]
    fn a_reset_is_signed_alike_in_every_life() {
        let sign = |key, data: &[u8]| {
            let mut out = [0; 32];
            ResetKey(key).sign(data, &mut out);
            out
        };
        assert_eq!(sign(1, b"id"), sign(1, b"id"));
        assert_ne!(sign(1, b"id"), sign(2, b"id"));
        assert_ne!(sign(1, b"id"), sign(1, b"di"));
        assert!(ResetKey(1).verify(b"id", &sign(1, b"id")).is_ok());
        assert!(ResetKey(1).verify(b"id", &sign(2, b"id")).is_err());
    }
}
