//! [`TokenKey`]: what tokens are signed with, and what is derived from it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::{DecodingKey, EncodingKey};
use sha2::Sha256;

use crate::secret_key;

/// A secret that all replicas of a registry share.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey(secret_key::Bytes);

/// The text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key for tokens is 32 random bytes in Base64, as `openssl rand -base64 32` makes them")]
pub struct InvalidTokenKey;

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

impl FromStr for TokenKey {
    type Err = InvalidTokenKey;

    fn from_str(text: &str) -> Result<Self, InvalidTokenKey> {
        secret_key::parse(text).map(Self).ok_or(InvalidTokenKey)
    }
}

impl TokenKey {
    /// A new key.
    #[must_use]
    pub fn random() -> Self {
        Self(secret_key::random())
    }

    /// The key in a file, which is made when it is not there.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        secret_key::of_file(path, Self)
    }

    pub(super) fn encoding(&self) -> EncodingKey {
        EncodingKey::from_secret(&self.0)
    }

    pub(super) fn decoding(&self) -> DecodingKey {
        DecodingKey::from_secret(&self.0)
    }

    /// What tells one text from another, and tells nobody without the key what it is.
    pub(super) fn digest(&self, purpose: &str, parts: &[&str]) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("any key will do"));
        mac.update(b"dvcr ");
        mac.update(purpose.as_bytes());
        for part in parts {
            // With lengths, so that no two lists of parts are one text.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_32_bytes() {
        for text in ["", "x", "AAAA", &STANDARD.encode([0; 31]), &STANDARD.encode([0; 33])] {
            assert_eq!(text.parse::<TokenKey>().unwrap_err(), InvalidTokenKey);
        }
        assert!(STANDARD.encode([7; 32]).parse::<TokenKey>().is_ok());
    }

    #[test]
    fn a_file_without_a_key_gets_one_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token-key");
        let key = TokenKey::of_file(&path).unwrap();
        assert_eq!(TokenKey::of_file(&path).unwrap(), key);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "half").unwrap();
        assert!(TokenKey::of_file(&path).unwrap_err().to_string().contains("openssl rand"));
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", TokenKey::random()), "TokenKey(…)");
    }

    #[test]
    fn digests_of_other_parts_and_purposes_differ() {
        let key = TokenKey::random();
        let all = [
            key.digest("a", &["x", "yz"]),
            key.digest("a", &["xy", "z"]),
            key.digest("a", &["xyz"]),
            key.digest("b", &["xyz"]),
            TokenKey::random().digest("a", &["xyz"]),
        ];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
    }
}
