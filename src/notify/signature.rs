//! [`Secret`]: how a receiver knows that an event is from us, and was not sent long ago.
//!
//! As [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks) has it, so that receivers find a library for it: an
//! HMAC-SHA256 of `<id>.<seconds>.<body>`, in Base64, in the header `webhook-signature`. There may be several, so that a secret can be
//! changed without a moment in which nothing is trusted.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What the specification puts before a secret in text, where people see it.
const PREFIX: &str = "whsec_";

/// Bytes that a secret may have, by the specification.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// What a receiver and we know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// The text is no secret. It is not shown: it may be somebody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret of a webhook is 24 to 64 random bytes in Base64, as `openssl rand -base64 32` makes them, \
     with or without whsec_ before it"
)]
pub struct InvalidSecret;

impl Secret {
    /// The signature of a body that is sent under an id, at some time in seconds since 1970.
    #[must_use]
    pub fn sign(&self, id: &str, seconds: u64, body: &[u8]) -> String {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("any key will do"));
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let text = text.trim();
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX).unwrap_or(text)).map_err(|_| InvalidSecret)?;
        if LENGTHS.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(InvalidSecret) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn a_signature_is_that_of_the_published_example() {
        let secret: Secret = TEXT.parse().unwrap();
        let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn everything_that_is_signed_changes_the_signature() {
        let secret: Secret = TEXT.parse().unwrap();
        let signed = secret.sign("a", 1, b"body");
        for other in [secret.sign("b", 1, b"body"), secret.sign("a", 2, b"body"), secret.sign("a", 1, b"x")] {
            assert_ne!(signed, other);
        }
    }

    #[test]
    fn a_secret_may_stand_with_or_without_its_prefix() {
        assert_eq!(TEXT.parse::<Secret>(), TEXT.strip_prefix(PREFIX).unwrap().parse());
    }

    #[test]
    fn what_is_too_short_or_no_base64_is_refused_and_never_shown() {
        for text in ["", "hunter2", "whsec_", "c2hvcnQ=", &STANDARD.encode([7; 65])] {
            let error = text.parse::<Secret>().unwrap_err().to_string();
            assert!(error.contains("openssl rand"), "{error}");
            assert!(text.len() < 7 || !error.contains(text), "{error}");
        }
        let shown = format!("{:?}", TEXT.parse::<Secret>().unwrap());
        assert_eq!(shown, "Secret(…)");
    }
}
