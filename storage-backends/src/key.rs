//! [`Key`]: where an object is kept. It can only hold names that every backend stores as they are.

use std::fmt;

/// The path of an object below the root of a store, such as `blobs/sha256/ab/abcd`.
///
/// Segments are separated by `/` and hold only `A-Z a-z 0-9 . _ - ! =`. None is empty, `.` or `..`, so
/// a key cannot leave the root of a filesystem, and needs no escaping on any backend.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// The text is not a [`Key`].
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("invalid storage key {key:?}: segments hold A-Z a-z 0-9 . _ - ! = and are not empty, '.' or '..'")]
pub struct InvalidKey {
    /// The text that was refused.
    pub key: String,
}

impl Key {
    /// Checks `key` against the rules above.
    pub fn parse(key: impl Into<String>) -> Result<Self, InvalidKey> {
        let key = key.into();
        let valid = key.split('/').all(|segment| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-!=".contains(&b))
        });
        if valid { Ok(Self(key)) } else { Err(InvalidKey { key }) }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn to_path(&self) -> object_store::path::Path {
        object_store::path::Path::from(self.0.as_str())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_cannot_climb_out_of_the_root() {
        for text in ["..", "a/../b", "/a", "a/", "a//b", ".", "a/.", "", "a\0b", "a\\b", "a b", "a#1", "ä"] {
            assert!(Key::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_stored_under_its_own_name(text in "[A-Za-z0-9._!=-]{1,8}(/[A-Za-z0-9._!=-]{1,8}){0,3}") {
            if let Ok(key) = Key::parse(text.clone()) {
                let path = key.to_path();
                prop_assert_eq!(path.as_ref(), text.as_str());
            }
        }
    }
}
