//! Which of the 16,384 slots a key belongs to, exactly as Redis Cluster computes it.

/// Number of slots.
pub const SLOTS: u16 = 16_384;

const POLYNOMIAL: u16 = 0x1021;

const TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ POLYNOMIAL } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The slot of a key: CRC16 (XMODEM) of what stands between the first `{` and the next `}`, if
/// that is not empty, else of the whole key.
#[must_use]
#[inline]
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) & (SLOTS - 1)
}

#[inline]
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|b| *b == b'{') else {
        return key;
    };
    let inside = &key[open + 1..];
    match inside.iter().position(|b| *b == b'}') {
        Some(length) if length > 0 => &inside[..length],
        _ => key,
    }
}

#[inline]
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_redis_cluster_computes_it() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the check value of the CRC catalogue");
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"{foo}bar"), slot_of(b"foo"));
        assert_eq!(slot_of(b"x{}y"), crc16(b"x{}y") & (SLOTS - 1));
        assert_eq!(slot_of(b"a{b}{c}"), slot_of(b"b"));
    }
}
