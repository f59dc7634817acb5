//! [`UploadKey`]: makes and checks the tokens in `/upload/<token>`.
//!
//! A token names one image and the time until which its file may be uploaded, and carries a proof that whoever has the
//! key made it. The registry thus needs no list of tokens and no word with the controller: any replica that has the
//! key takes the upload.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

use crate::secret_key;

/// Bytes of the proof; 128 bits are beyond guessing over a network.
const PROOF: usize = 16;

/// Bytes of the id and of the time.
const CLAIM: usize = 16 + 8;

/// The secret that the controller and the registry share.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadKey(secret_key::Bytes);

/// The token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It was not made with this key, or it is no token.
    #[error("there is no such upload address; `status.imageUploadURLs` of the image has the right one")]
    Unknown,
    /// Its time is over.
    #[error("the upload address has expired")]
    Expired,
}

/// The text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an upload key is 32 random bytes in Base64, as `openssl rand -base64 32` makes them")]
pub struct InvalidKey;

impl std::fmt::Debug for UploadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UploadKey(…)")
    }
}

impl std::str::FromStr for UploadKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        secret_key::parse(text).map(Self).ok_or(InvalidKey)
    }
}

impl UploadKey {
    /// A new key.
    #[must_use]
    pub fn random() -> Self {
        Self(secret_key::random())
    }

    /// The key in a file, which is made when it is not there.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        secret_key::of_file(path, Self)
    }

    /// The key as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        secret_key::to_text(&self.0)
    }

    /// A token for the file of the image with this id. Times are kept in whole seconds.
    #[must_use]
    pub fn token(&self, image: Uuid, expires: SystemTime) -> String {
        let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut token = Vec::with_capacity(CLAIM + PROOF);
        token.extend_from_slice(image.as_bytes());
        token.extend_from_slice(&seconds.to_be_bytes());
        let proof = self.mac(&token).finalize().into_bytes();
        token.extend_from_slice(proof.get(..PROOF).unwrap_or_default());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The image that a token is for, if the token is right and its time is not over.
    pub fn check(&self, token: &str, now: SystemTime) -> Result<Uuid, InvalidToken> {
        let (image, expires) = self.read(token)?;
        if now >= expires { Err(InvalidToken::Expired) } else { Ok(image) }
    }

    /// The image that a token is for and the end of its time, which may be over.
    pub fn read(&self, token: &str) -> Result<(Uuid, SystemTime), InvalidToken> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| InvalidToken::Unknown)?;
        let (claim, proof) = bytes.split_at_checked(CLAIM).ok_or(InvalidToken::Unknown)?;
        if proof.len() != PROOF || self.mac(claim).verify_truncated_left(proof).is_err() {
            return Err(InvalidToken::Unknown);
        }
        let (image, seconds) = claim.split_at(16);
        let image = Uuid::from_slice(image).map_err(|_| InvalidToken::Unknown)?;
        let seconds = seconds.try_into().map(u64::from_be_bytes).map_err(|_| InvalidToken::Unknown)?;
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(InvalidToken::Unknown)?;
        Ok((image, expires))
    }

    fn mac(&self, claim: &[u8]) -> Hmac<Sha256> {
        // A key of any length will do, so that this one always does.
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("any key will do"));
        mac.update(b"dvcr upload v1\0");
        mac.update(claim);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_one_image_until_its_time_is_over() {
        let key = UploadKey::random();
        let (image, now) = (Uuid::new_v4(), SystemTime::now());
        let token = key.token(image, now + Duration::from_secs(10));
        assert_eq!(key.check(&token, now), Ok(image));
        assert_eq!(key.check(&token, now + Duration::from_secs(10)), Err(InvalidToken::Expired));
        let read: UploadKey = key.to_text().parse().unwrap();
        assert_eq!(read.check(&token, now), Ok(image));
    }

    #[test]
    fn a_token_that_was_changed_or_made_with_another_key_opens_nothing() {
        let key = UploadKey::random();
        let now = SystemTime::now();
        let token = key.token(Uuid::new_v4(), now + Duration::from_mins(1));
        assert_eq!(UploadKey::random().check(&token, now), Err(InvalidToken::Unknown));
        for index in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(key.check(&changed, now), Err(InvalidToken::Unknown), "{changed}");
        }
        for text in ["", "A", "..", &token[1..], &format!("{token}A")] {
            assert_eq!(key.check(text, now), Err(InvalidToken::Unknown), "{text}");
        }
    }

    #[test]
    fn a_key_is_32_bytes() {
        for text in ["", "x", "AAAA", &UploadKey::random().to_text()[4..]] {
            assert_eq!(text.parse::<UploadKey>().unwrap_err(), InvalidKey);
        }
    }
}
