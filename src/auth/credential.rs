//! [`Credential`]: what stands in `Authorization`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, GeneralPurpose};

/// Some clients leave the padding out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How somebody says who they are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password.
    Basic {
        /// Who.
        user: String,
        /// The proof.
        password: String,
    },
    /// A token.
    Bearer(String),
}

/// The header says nothing that we understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Authorization must be Basic or Bearer")]
pub struct InvalidCredential;

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

impl Credential {
    /// Reads the value of the header.
    pub fn parse(header: &[u8]) -> Result<Self, InvalidCredential> {
        let header = std::str::from_utf8(header).map_err(|_| InvalidCredential)?;
        let (scheme, rest) = header.trim().split_once(' ').ok_or(InvalidCredential)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return if rest.is_empty() { Err(InvalidCredential) } else { Ok(Self::Bearer(rest.to_owned())) };
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(InvalidCredential);
        }
        let decoded = LENIENT.decode(rest).map_err(|_| InvalidCredential)?;
        let text = String::from_utf8(decoded).map_err(|_| InvalidCredential)?;
        let (user, password) = text.split_once(':').ok_or(InvalidCredential)?;
        Ok(Self::Basic { user: user.to_owned(), password: password.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_neither_basic_nor_bearer_is_refused() {
        for header in ["", "Basic", "Bearer ", "Digest x", "Basic !!", "Basic YWxpY2U=", "Token abc"] {
            assert_eq!(Credential::parse(header.as_bytes()), Err(InvalidCredential), "{header}");
        }
        assert!(Credential::parse(b"\xff\xfe").is_err());
        assert_eq!(Credential::parse(b"bearer  abc "), Ok(Credential::Bearer("abc".to_owned())));
    }

    #[test]
    fn a_credential_is_not_shown() {
        let basic = Credential::Basic { user: "alice".to_owned(), password: "hidden".to_owned() };
        assert!(!format!("{basic:?} {:?}", Credential::Bearer("hidden".to_owned())).contains("hidden"));
    }

    proptest! {
        #[test]
        fn a_password_may_be_anything(user in "[^:]{0,20}", password in "\\PC{0,40}") {
            let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            let basic = Credential::Basic { user, password };
            let header = format!("Basic {encoded}");
            prop_assert_eq!(Credential::parse(header.as_bytes()), Ok(basic.clone()));
            let unpadded = header.trim_end_matches('=').to_owned();
            prop_assert_eq!(Credential::parse(unpadded.as_bytes()), Ok(basic));
        }
    }
}
