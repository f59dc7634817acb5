//! [`Digest`]: content named by its hash, and [`Hasher`], which makes one of a stream.
//!
//! The two registered algorithms are known, sha256 and sha512, each in its one spelling: lower-case
//! hexadecimal of exact length. Anything else is refused, because a digest that cannot be verified
//! is no name for content.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest as _, Sha256, Sha512};

/// A registered digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256, which every client speaks.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Characters behind the colon.
    fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(InvalidDigest { text: text.to_owned(), reason: "the algorithms are sha256 and sha512" }),
        }
    }
}

/// `algorithm:hex`, as in `sha256:e3b0c442…`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// The text is not a digest that this registry can verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {text:?}: {reason}")]
pub struct InvalidDigest {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm before the colon.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal digits behind the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = |reason| InvalidDigest { text: text.chars().take(200).collect(), reason };
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| invalid("it must read algorithm:hex"))?;
        let algorithm: Algorithm =
            algorithm.parse().map_err(|InvalidDigest { reason, .. }| invalid(reason))?;
        if hex.len() != algorithm.hex_length() {
            return Err(invalid("it has the wrong length for its algorithm"));
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid("it must be written in lower-case hexadecimal"));
        }
        Ok(Self { algorithm, hex: hex.into() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a stream, and can be put aside between two pieces of it.
#[derive(Debug, Clone)]
pub struct Hasher(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Sha256(Sha256),
    Sha512(Sha512),
}

/// A [`Hasher`] put aside, as it is stored between requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HasherState {
    algorithm: Algorithm,
    /// Which layout `state` has: the library promises none across its releases.
    layout: String,
    /// Base64 of the library's serialised state.
    state: String,
}

/// The layout of sha2 0.11. A state of another layout is not continued, and its upload has to start again.
const LAYOUT: &str = "sha2-0.11";

impl Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => Inner::Sha256(Sha256::new()),
            Algorithm::Sha512 => Inner::Sha512(Sha512::new()),
        })
    }

    /// What it computes.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Inner::Sha256(_) => Algorithm::Sha256,
            Inner::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes in the next bytes. About 0.5 CPU-seconds a GiB: not for an async thread.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Sha256(hasher) => hasher.update(bytes),
            Inner::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        let hex = match self.0 {
            Inner::Sha256(hasher) => hex(&hasher.finalize()),
            Inner::Sha512(hasher) => hex(&hasher.finalize()),
        };
        Digest { algorithm, hex: hex.into() }
    }

    /// The state after everything taken in, to be stored.
    #[must_use]
    pub fn state(&self) -> HasherState {
        let state = match &self.0 {
            Inner::Sha256(hasher) => BASE64.encode(hasher.serialize()),
            Inner::Sha512(hasher) => BASE64.encode(hasher.serialize()),
        };
        HasherState { algorithm: self.algorithm(), layout: LAYOUT.to_owned(), state }
    }

    /// Goes on from a stored state; `None` when it was stored by a release that kept it differently.
    #[must_use]
    pub fn resume(stored: &HasherState) -> Option<Self> {
        if stored.layout != LAYOUT {
            return None;
        }
        let state = BASE64.decode(&stored.state).ok()?;
        Some(Self(match stored.algorithm {
            Algorithm::Sha256 => Inner::Sha256(Sha256::deserialize(&state.as_slice().try_into().ok()?).ok()?),
            Algorithm::Sha512 => Inner::Sha512(Sha512::deserialize(&state.as_slice().try_into().ok()?).ok()?),
        }))
    }
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_published_one() {
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), EMPTY);
        let sha512 = Digest::of(Algorithm::Sha512, b"").to_string();
        assert!(
            sha512.starts_with("sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce")
        );
    }

    #[test]
    fn only_the_one_spelling_is_a_digest() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:baddigeststring",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &EMPTY.to_uppercase(),
            &EMPTY.replace("e3b0", "E3B0"),
            &EMPTY[..EMPTY.len() - 1],
            &format!("{EMPTY}0"),
            &EMPTY.replace("sha256", "sha512"),
            &format!(" {EMPTY}"),
            "sha256:../../../../../../../../../../../../../../../../../../../../etc/passwd",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_state_of_another_layout_is_not_continued() {
        let stored = HasherState { layout: "sha2-9".into(), ..Hasher::new(Algorithm::Sha256).state() };
        assert!(Hasher::resume(&stored).is_none());
        let cut = HasherState { state: "AAAA".into(), ..Hasher::new(Algorithm::Sha512).state() };
        assert!(Hasher::resume(&cut).is_none());
    }

    proptest! {
        #[test]
        fn a_hasher_put_aside_anywhere_gives_the_same_digest(
            bytes in proptest::collection::vec(any::<u8>(), 0..500),
            cut in 0usize..500,
            sha512 in any::<bool>(),
        ) {
            let algorithm = if sha512 { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let cut = cut.min(bytes.len());
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&bytes[..cut]);
            let stored = serde_json::to_string(&hasher.state()).unwrap();
            let mut hasher = Hasher::resume(&serde_json::from_str(&stored).unwrap()).unwrap();
            hasher.update(&bytes[cut..]);
            let digest = hasher.finish();
            prop_assert_eq!(&digest, &Digest::of(algorithm, &bytes));
            prop_assert_eq!(&digest.to_string().parse::<Digest>().unwrap(), &digest);
        }
    }
}
