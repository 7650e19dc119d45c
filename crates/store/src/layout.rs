//! Where a cell stands in the checkpoint: `partition u16 | key length u32 | key | element`, all
//! big-endian, so that one key's elements are neighbours and no key is a prefix of another's.

use meridian_codec::Malformed;

const PREFIX_BYTES: usize = 6;

/// The prefix that all elements of `key` share.
#[must_use]
pub fn key_prefix(partition: u16, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES + key.len() + 16);
    out.extend_from_slice(&partition.to_be_bytes());
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// The place of one element (encoded by `meridian-crdt`'s `ElementKey`).
#[must_use]
pub fn element_key(partition: u16, key: &[u8], element: &[u8]) -> Vec<u8> {
    let mut out = key_prefix(partition, key);
    out.extend_from_slice(element);
    out
}

/// Takes a place apart into partition, key and element.
///
/// # Errors
/// [`Malformed`] when it was not made by [`element_key`].
pub fn split_element_key(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), Malformed> {
    let (head, rest) =
        bytes.split_first_chunk::<PREFIX_BYTES>().ok_or(Malformed("short checkpoint key"))?;
    let partition = u16::from_be_bytes([head[0], head[1]]);
    let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
    let (key, element) =
        rest.split_at_checked(length).ok_or(Malformed("checkpoint key past its end"))?;
    Ok((partition, key, element))
}

/// The partition of a slot (of the 16,384) when there are `partitions` of them, a power of two.
#[must_use]
#[inline]
pub fn partition_of_key(slot: u16, partitions: u16) -> u16 {
    slot / (16_384 / partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_round_trip_and_keep_neighbours_together() {
        let place = element_key(3, b"user:1", b"\x02name");
        assert_eq!(split_element_key(&place), Ok((3, &b"user:1"[..], &b"\x02name"[..])));
        assert!(place.starts_with(&key_prefix(3, b"user:1")));
        assert!(!element_key(3, b"user:10", b"").starts_with(&key_prefix(3, b"user:1")));
        assert!(split_element_key(b"\0\0\0\0\0\xff").is_err());
    }

    #[test]
    fn slots_divide_evenly() {
        assert_eq!((partition_of_key(0, 16), partition_of_key(16_383, 16)), (0, 15));
        assert_eq!(partition_of_key(1024, 16), 1);
    }
}
