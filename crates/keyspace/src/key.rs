//! A key as the tables hold it. Most keys are short; held in place they cost neither an
//! allocation nor the cache miss of following a pointer at every look-up.

use std::hash::{Hash, Hasher};

/// The longest key that is held in place, in bytes.
const IN_PLACE_BYTES: usize = 22;

/// A key's bytes.
#[derive(Clone)]
pub struct Key(Place);

#[derive(Clone)]
enum Place {
    Here { len: u8, bytes: [u8; IN_PLACE_BYTES] },
    Heap(Box<[u8]>),
}

const _: () = assert!(size_of::<Key>() == 24, "as large as a vector");

impl Key {
    /// The bytes.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Here { len, bytes } => &bytes[..usize::from(*len)],
            Place::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Key {
    #[inline]
    fn from(key: &[u8]) -> Key {
        if key.len() > IN_PLACE_BYTES {
            return Key(Place::Heap(key.into()));
        }
        let mut bytes = [0; IN_PLACE_BYTES];
        bytes[..key.len()].copy_from_slice(key);
        Key(Place::Here { len: key.len() as u8, bytes })
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

// Look-ups by bytes: the hash above is that of the bytes.
impl std::borrow::Borrow<[u8]> for Key {
    #[inline]
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_lengths_are_kept() {
        for len in 0..60u8 {
            let bytes: Vec<u8> = (0..len).collect();
            let key = Key::from(bytes.as_slice());
            assert_eq!(key.as_bytes(), bytes);
            assert_eq!(key, key.clone());
        }
    }
}
