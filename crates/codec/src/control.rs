//! Handshakes and control messages: `bincode` 2 with a size limit on decoding.

use serde::{Serialize, de::DeserializeOwned};

use crate::Malformed;

/// The largest control message that is decoded, in bytes.
pub const MAX_CONTROL_BYTES: usize = 1 << 20;

/// Encodes one message.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(message, bincode::config::standard())
        .expect("encoding into memory fails only for types that refuse to be serialised")
}

/// Decodes one message that fills `bytes` exactly.
///
/// # Errors
/// [`Malformed`] when it is too large, does not decode or leaves bytes over.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    if bytes.len() > MAX_CONTROL_BYTES {
        return Err(Malformed("control message too large"));
    }
    let config = bincode::config::standard().with_limit::<MAX_CONTROL_BYTES>();
    let (message, used) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|_| Malformed("control message does not decode"))?;
    if used != bytes.len() {
        return Err(Malformed("control message leaves bytes over"));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        let message = (7u16, String::from("eu-central"), vec![1u64, 2]);
        let mut bytes = encode(&message);
        assert_eq!(decode::<(u16, String, Vec<u64>)>(&bytes).ok(), Some(message));
        bytes.push(0);
        assert!(decode::<(u16, String, Vec<u64>)>(&bytes).is_err());
        assert!(decode::<Vec<u8>>(&[0xff; 64]).is_err());
        assert!(decode::<Vec<u8>>(&vec![0; MAX_CONTROL_BYTES + 1]).is_err());
    }
}
