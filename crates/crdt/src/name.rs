//! The bytes of a key, a field or a member as the hash tables hold them.
//!
//! A look-up compares names. One that stands in the table's own entry costs no further miss of the
//! processor's caches and no allocation, and most names are short.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// The longest name that needs no memory of its own: as much as fits the place of the long form.
const SHORT_BYTES: usize = 22;

/// An immutable byte string; at most [`SHORT_BYTES`] stand in place. Hashes and compares as the
/// slice that it is.
#[derive(Clone)]
pub struct Name(Form);

#[derive(Clone)]
enum Form {
    Short(u8, [u8; SHORT_BYTES]),
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<Name>() == 24);

impl Name {
    /// The bytes.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            // The length is one that was copied in, so there always are as many.
            Form::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Form::Long(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Name {
    #[inline]
    fn from(name: &[u8]) -> Name {
        let mut bytes = [0; SHORT_BYTES];
        match bytes.get_mut(..name.len()) {
            Some(place) => {
                place.copy_from_slice(name);
                // Not more than SHORT_BYTES.
                Name(Form::Short(name.len() as u8, bytes))
            }
            None => Name(Form::Long(name.into())),
        }
    }
}

impl Deref for Name {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl AsRef<[u8]> for Name {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Borrow<[u8]> for Name {
    #[inline]
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Name {
    #[inline]
    fn eq(&self, other: &Name) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl Hash for Name {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use foldhash::fast::FixedState;

    use super::*;

    #[test]
    fn a_name_is_the_slice_that_it_was_made_of() {
        let hasher = FixedState::with_seed(7);
        let bytes: Vec<u8> = (0..=255).collect();
        for len in [0, 1, SHORT_BYTES - 1, SHORT_BYTES, SHORT_BYTES + 1, 256] {
            let slice = &bytes[..len];
            let name = Name::from(slice);
            assert_eq!(name.as_bytes(), slice);
            assert_eq!(hasher.hash_one(&name), hasher.hash_one(slice));
            assert_eq!(name, name.clone());
            assert_eq!(matches!(name.0, Form::Long(_)), len > SHORT_BYTES);
        }
        assert_ne!(Name::from(&b"a"[..]), Name::from(&b"a\0"[..]));
        assert_eq!(format!("{:?}", Name::from(&b"a\0"[..])), r#"b"a\x00""#);
    }
}
